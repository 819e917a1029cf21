//! The page pool against a model that knows the content of every page.

use allod_engine::{PageHash, PagePool};
use allod_plan::PAGE;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Act {
    /// Makes table `.0` so long.
    Cover(usize, usize),
    Shrink(usize, usize),
    /// Publishes page `.1` of table `.0` as the content `.2`.
    Publish(usize, usize, u32),
    /// Appends the page with content `.1` to table `.0`, if it is found.
    Find(usize, u32),
    /// Replaces table `.1` by a copy of `.0`.
    Fork(usize, usize),
    /// Writes to page `.1` of table `.0`.
    Write(usize, usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let table = || 0usize..4;
    let act = prop_oneof![
        (table(), 0usize..8).prop_map(|(t, n)| Act::Cover(t, n)),
        (table(), 0usize..8).prop_map(|(t, n)| Act::Shrink(t, n)),
        (table(), 0usize..8, 0u32..12).prop_map(|(t, i, c)| Act::Publish(t, i, c)),
        (table(), 0u32..12).prop_map(|(t, c)| Act::Find(t, c)),
        (table(), table()).prop_map(|(a, b)| Act::Fork(a, b)),
        (table(), 0usize..8).prop_map(|(t, i)| Act::Write(t, i)),
    ];
    prop::collection::vec(act, 1..120)
}

fn hash(content: u32) -> PageHash {
    PageHash::root(b"test", None).next(&[content; PAGE])
}

const TOTAL: usize = 14;

/// Content of each page (0: not known) and the tables, kept beside the pool.
struct Model {
    pool: PagePool,
    content: Vec<u32>,
    tables: Vec<Vec<u32>>,
}

impl Model {
    fn held(&self) -> usize {
        (0..TOTAL as u32).filter(|p| self.tables.iter().flatten().any(|q| q == p)).count()
    }

    fn act(&mut self, act: &Act) -> Result<(), TestCaseError> {
        match *act {
            Act::Cover(t, pages) => {
                let (before, free) = (self.tables[t].clone(), self.pool.free());
                let wanted = pages.saturating_sub(before.len());
                let fits = self.pool.cover(&mut self.tables[t], pages * PAGE).is_ok();
                prop_assert_eq!(fits, wanted <= free);
                prop_assert_eq!(&self.tables[t][..before.len()], &before[..]);
                prop_assert_eq!(self.tables[t].len(), before.len() + if fits { wanted } else { 0 });
                for &page in &self.tables[t][before.len()..] {
                    prop_assert_eq!(self.pool.holders(page), 1, "a page was handed out twice");
                    prop_assert!(!self.pool.is_published(page));
                    self.content[page as usize] = 0;
                }
            }
            Act::Shrink(t, pages) => self.pool.shrink(&mut self.tables[t], pages * PAGE),
            Act::Publish(t, i, content) => {
                let Some(page) = self.tables[t].get_mut(i) else { return Ok(()) };
                // Only a page of its own that is not yet published can come to hold something new.
                if self.pool.holders(*page) == 1 && !self.pool.is_published(*page) {
                    self.content[*page as usize] = content + 1;
                    self.pool.publish(page, hash(content));
                }
            }
            Act::Find(t, content) => {
                if let Some(page) = self.pool.find(&hash(content)) {
                    prop_assert_eq!(self.content[page as usize], content + 1, "found something else");
                    self.pool.share(page);
                    self.tables[t].push(page);
                }
            }
            Act::Fork(from, to) if from != to => {
                self.pool.shrink(&mut self.tables[to], 0);
                self.tables[to] = self.tables[from].clone();
                self.tables[to].iter().for_each(|&page| self.pool.share(page));
            }
            Act::Fork(..) => {}
            Act::Write(t, i) => {
                let Some(&before) = self.tables[t].get(i) else { return Ok(()) };
                match self.pool.own(&mut self.tables[t][i]) {
                    Ok(Some((from, to))) => {
                        prop_assert_eq!((from, to), (before, self.tables[t][i]));
                        prop_assert!(from != to);
                    }
                    Ok(None) => prop_assert_eq!(self.tables[t][i], before),
                    Err(_) => {
                        prop_assert_eq!(self.pool.free(), 0);
                        return Ok(());
                    }
                }
                let page = self.tables[t][i];
                prop_assert_eq!(self.pool.holders(page), 1, "someone else would see the write");
                prop_assert!(!self.pool.is_published(page), "the write would falsify what is published");
                self.content[page as usize] = 0;
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for page in 0..TOTAL as u32 {
            let holders = self.tables.iter().flatten().filter(|&&p| p == page).count();
            prop_assert_eq!(self.pool.holders(page) as usize, holders, "page {}", page);
        }
        prop_assert_eq!(self.pool.free() + self.held(), TOTAL, "a page is lost or counted twice");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn no_page_is_lost_handed_out_twice_or_overwritten(acts in acts()) {
        let mut model = Model { pool: PagePool::new(TOTAL), content: vec![0; TOTAL], tables: vec![Vec::new(); 4] };
        for act in &acts {
            model.act(act)?;
            model.check()?;
        }
        for table in &mut model.tables {
            model.pool.shrink(table, 0);
        }
        prop_assert_eq!(model.pool.free(), TOTAL);
        let mut all = Vec::new();
        model.pool.cover(&mut all, TOTAL * PAGE).unwrap();
        all.sort_unstable();
        prop_assert_eq!(all, (0..TOTAL as u32).collect::<Vec<_>>());
    }
}

#[test]
fn what_was_let_go_longest_ago_is_given_up_first() {
    let mut pool = PagePool::new(3);
    let mut tables = [Vec::new(), Vec::new(), Vec::new()];
    for (table, content) in tables.iter_mut().zip(0..) {
        pool.cover(table, 1).unwrap();
        pool.publish(&mut table[0], hash(content));
    }
    for i in [1, 0, 2] {
        pool.shrink(&mut tables[i], 0);
    }
    // Using content 1 again makes it the youngest.
    let page = pool.find(&hash(1)).unwrap();
    pool.share(page);
    pool.release(page);
    let mut table = Vec::new();
    pool.cover(&mut table, 2 * PAGE).unwrap();
    let left: Vec<bool> = (0..3).map(|content| pool.find(&hash(content)).is_some()).collect();
    assert_eq!(left, [false, true, false]);
}

#[test]
fn equal_pages_become_one() {
    let mut pool = PagePool::new(2);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    pool.cover(&mut a, PAGE).unwrap();
    pool.cover(&mut b, PAGE).unwrap();
    pool.publish(&mut a[0], hash(7));
    pool.publish(&mut b[0], hash(7));
    assert_eq!((a[0], pool.holders(a[0]), pool.free()), (b[0], 2, 1));
}

#[test]
fn a_name_depends_on_all_tokens_before_and_on_the_salt() {
    let name = |salt: &[u8], pages: &[u32]| pages.iter().fold(PageHash::root(salt, None), |h, &t| h.next(&[t; PAGE]));
    assert_eq!(name(b"", &[1, 2]), name(b"", &[1, 2]));
    let others = [name(b"", &[1, 2]), name(b"", &[3, 2]), name(b"x", &[1, 2]), name(b"", &[2]), name(b"", &[1, 2, 2])];
    for (i, a) in others.iter().enumerate() {
        assert!(others[..i].iter().all(|b| a != b));
    }
}
