//! Which pages of the key-value cache are held, which are free, and which are free but still worth something.
//!
//! A page is *held* by the sequences whose tables name it. A page that is complete can be published under the
//! [`PageHash`] of all tokens up to its end; whoever needs the same tokens finds it, be it held by a running sequence
//! or left behind by one that ended. Published pages that nobody holds count as free and are given up last, the
//! longest unused first.

use crate::{Error, PageHash};
use allod_plan::PAGE;
use std::collections::{BTreeMap, HashMap};

/// The pages of a backend, handed out and taken back by number.
#[derive(Debug)]
pub struct PagePool {
    pages: Vec<Page>,
    /// Pages with nothing in them.
    empty: Vec<u32>,
    /// Published pages that nobody holds, by the time they were let go.
    idle: BTreeMap<u64, u32>,
    published: HashMap<PageHash, u32>,
    clock: u64,
    /// Published pages that were given up since somebody asked, if anybody does.
    evicted: Option<Vec<(PageHash, u32)>>,
}

#[derive(Clone, Debug, Default)]
struct Page {
    holders: u32,
    hash: Option<PageHash>,
    /// Key in `idle` while nobody holds it.
    let_go: u64,
}

impl PagePool {
    /// A pool of `total` pages, all free.
    pub fn new(total: usize) -> PagePool {
        PagePool {
            pages: vec![Page::default(); total],
            empty: (0..total as u32).rev().collect(),
            idle: BTreeMap::new(),
            published: HashMap::new(),
            clock: 0,
            evicted: None,
        }
    }

    /// Remembers from now on which published pages are given up.
    pub fn note_evictions(&mut self) {
        self.evicted.get_or_insert_default();
    }

    /// Names and numbers of the published pages that were given up since this was last called. Each still holds what
    /// its name says until the backend writes to it next.
    pub fn take_evicted(&mut self) -> Vec<(PageHash, u32)> {
        self.evicted.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Names and numbers of all published pages.
    pub fn published(&self) -> impl Iterator<Item = (PageHash, u32)> + '_ {
        self.published.iter().map(|(&hash, &page)| (hash, page))
    }

    /// Number of pages.
    pub fn total(&self) -> usize {
        self.pages.len()
    }

    /// Number of pages that nobody holds.
    pub fn free(&self) -> usize {
        self.empty.len() + self.idle.len()
    }

    /// Number of pages that nobody holds and that a later sequence may find.
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// How many tables name the page.
    pub fn holders(&self, page: u32) -> u32 {
        self.pages[page as usize].holders
    }

    /// Whether the page can be found by its hash.
    pub fn is_published(&self, page: u32) -> bool {
        self.pages[page as usize].hash.is_some()
    }

    /// Lengthens a page table until it covers `positions` positions.
    ///
    /// # Errors
    /// [`Error::NoPages`] when too few are free; the table is as before then.
    pub fn cover(&mut self, table: &mut Vec<u32>, positions: usize) -> Result<(), Error> {
        let wanted = positions.div_ceil(PAGE).saturating_sub(table.len());
        let held = table.len();
        for _ in 0..wanted {
            match self.take() {
                Some(page) => table.push(page),
                None => {
                    let free = self.free() + table.len() - held;
                    self.let_go(table, held);
                    return Err(Error::NoPages { wanted, free, total: self.pages.len() });
                }
            }
        }
        Ok(())
    }

    /// Shortens a page table to what `positions` positions need and lets the rest go.
    pub fn shrink(&mut self, table: &mut Vec<u32>, positions: usize) {
        self.let_go(table, positions.div_ceil(PAGE));
    }

    /// Lets the page go in the name of one holder.
    pub fn release(&mut self, page: u32) {
        let entry = &mut self.pages[page as usize];
        debug_assert!(entry.holders > 0, "page {page} is let go by someone who does not hold it");
        entry.holders = entry.holders.saturating_sub(1);
        if entry.holders > 0 {
            return;
        }
        if entry.hash.is_some() {
            self.clock += 1;
            entry.let_go = self.clock;
            self.idle.insert(self.clock, page);
        } else {
            self.empty.push(page);
        }
    }

    /// Holds the page once more, for a table that shares it.
    pub fn share(&mut self, page: u32) {
        let entry = &mut self.pages[page as usize];
        if entry.holders == 0 {
            self.idle.remove(&entry.let_go);
        }
        entry.holders += 1;
    }

    /// The page published under `hash`. It is not held by this.
    pub fn find(&self, hash: &PageHash) -> Option<u32> {
        self.published.get(hash).copied()
    }

    /// Publishes a complete page that the caller holds. Where another page has the same content already, the caller
    /// holds that one from now on and its own is let go: equal tokens give equal bytes.
    pub fn publish(&mut self, page: &mut u32, hash: PageHash) {
        match self.find(&hash) {
            Some(same) if same == *page => {}
            Some(same) => {
                self.share(same);
                self.release(std::mem::replace(page, same));
            }
            None => {
                self.unpublish(*page);
                self.pages[*page as usize].hash = Some(hash);
                self.published.insert(hash, *page);
            }
        }
    }

    /// Makes a page that the caller holds safe to write. Where others hold it too, the caller gets a page of its own
    /// and the pair `(from, to)`, to be copied by the backend before it writes.
    ///
    /// # Errors
    /// [`Error::NoPages`] when a copy is needed and no page is free.
    pub fn own(&mut self, page: &mut u32) -> Result<Option<(u32, u32)>, Error> {
        if self.holders(*page) <= 1 {
            self.unpublish(*page);
            return Ok(None);
        }
        let copy = self.take().ok_or(Error::NoPages { wanted: 1, free: 0, total: self.pages.len() })?;
        let shared = std::mem::replace(page, copy);
        self.release(shared);
        Ok(Some((shared, copy)))
    }

    /// A page that holds nothing of value, else the one let go longest ago.
    fn take(&mut self) -> Option<u32> {
        let page = match self.empty.pop() {
            Some(page) => page,
            None => {
                let (_, page) = self.idle.pop_first()?;
                if let (Some(evicted), Some(hash)) = (&mut self.evicted, self.pages[page as usize].hash) {
                    evicted.push((hash, page));
                }
                self.unpublish(page);
                page
            }
        };
        self.pages[page as usize].holders = 1;
        Some(page)
    }

    fn unpublish(&mut self, page: u32) {
        if let Some(hash) = self.pages[page as usize].hash.take() {
            self.published.remove(&hash);
        }
    }

    /// The end of a chain goes first, so that it is also given up first: a page is of no use without those before it.
    fn let_go(&mut self, table: &mut Vec<u32>, kept: usize) {
        while table.len() > kept {
            let Some(page) = table.pop() else { return };
            self.release(page);
        }
    }
}
