//! How attention is cut into tasks: a tile is a few positions of a sequence times the query heads of one key-value
//! head, or of several where they are few, and sees its keys split by split. With tiles to spare, a task is a tile; else
//! (decoding) a task is one split of a tile, and the splits' partial results are merged afterwards.

#![expect(unsafe_code, reason = "tasks write disjoint rows and parts")]

use std::cell::RefCell;
use std::ops::Range;

use super::cache::{BLOCK, PAGE, rotate};
use super::coded::{Query, Scores};
use super::product::{DIRECT_ROWS, KEY_PAGES, Keys, MAX_ROWS, Product, Values, max_rows};
use super::{AttendParams, KvCache, KvType, SPLIT, SeqRows, integer, unpack};
use crate::elementwise::{scale, scaled};
use crate::isa::{Isa, Job, is_zen_4};
use crate::lanes::{LANES, max, tree};
use crate::math::{exp, tanh};
use crate::pool::{Parts, Pool};
use crate::twin::twin;

/// Rows (positions × heads) of a tile: enough that unpacking keys is lost beside multiplying them.
const TILE_ROWS: usize = 96;

/// Rows up to which products read the cache itself, a few at a time: converting a key once more for other rows costs
/// less than storing it. With AVX-512 that holds for any number of them, but for types that are converted on a port that
/// multiplies.
fn few_rows(isa: Isa, dtype: KvType) -> usize {
    match (isa, dtype) {
        (Isa::Avx512, KvType::F32 | KvType::Q8_0 | KvType::Q4_0) => TILE_ROWS,
        _ => 48,
    }
}

/// Pages of values that are taken together.
const VALUE_PAGES: usize = 8;
/// Value planes, in the order in which few rows read them, between those that are multiplied and those that are asked for.
const AHEAD: usize = 4;
/// Distance of score rows: off a power of two, so that they do not fight for the same cache sets.
const SCORES: usize = SPLIT + PAGE;
/// Tasks per thread that are wanted.
const TASKS_PER_THREAD: usize = 4;

/// Some positions of a sequence and the query heads of some key-value heads, or some of one's. Rows are in the order of
/// key-value heads, then positions, then query heads.
#[derive(Clone, Copy)]
struct Tile<'a> {
    seq: &'a SeqRows<'a>,
    kv_head: usize,
    /// Key-value heads from `kv_head` on.
    kv_heads: usize,
    head: usize,
    /// Query heads of each key-value head.
    heads: usize,
    first: u32,
    positions: usize,
}

impl Tile<'_> {
    fn rows(&self) -> usize {
        self.kv_heads * self.rows_per_head()
    }

    /// Rows that share keys and values.
    fn rows_per_head(&self) -> usize {
        self.positions * self.heads
    }

    fn position(&self, row: usize) -> u32 {
        self.first + (row / self.heads % self.positions) as u32
    }

    fn head_of(&self, row: usize) -> usize {
        self.head + row / self.rows_per_head() * self.heads + row % self.heads
    }

    /// Index of `row` among all rows × heads of the step.
    fn index(&self, p: &AttendParams<'_>, row: usize) -> usize {
        let step_row = self.seq.rows.start + (self.position(row) - self.seq.start) as usize;
        step_row * p.heads + self.head_of(row)
    }

    /// Positions that any of `rows` sees, which share a key-value head or are all; ranges start and end in order of position.
    fn visible(&self, p: &AttendParams<'_>, rows: Range<usize>) -> Range<usize> {
        let low = p.visible(self.position(rows.start), self.seq.end()).start;
        let high = p.visible(self.position(rows.end - 1), self.seq.end()).end;
        low as usize..high as usize
    }

    fn splits(&self, p: &AttendParams<'_>) -> Range<usize> {
        let visible = self.visible(p, 0..self.rows());
        visible.start / SPLIT..visible.end.div_ceil(SPLIT)
    }
}

/// Sizes of a call.
#[derive(Clone, Copy)]
struct Shape {
    /// Elements of a key, those that fill its last block included.
    k_dim: usize,
    /// Elements of an output.
    v_dim: usize,
    /// The same in whole blocks.
    v_pad: usize,
}

/// What one split, or all splits so far, say about a row: the maximum score, the sum of weights, the weighted values.
struct Partial<'a> {
    top: &'a mut [f32],
    total: &'a mut [f32],
    /// `[rows × v_pad]`.
    sums: &'a mut [f32],
}

impl<'a> Partial<'a> {
    fn size(rows: usize, shape: Shape) -> usize {
        rows * (2 + shape.v_pad)
    }

    fn over(buffer: &'a mut [f32], rows: usize) -> Partial<'a> {
        let (top, rest) = buffer.split_at_mut(rows);
        let (total, sums) = rest.split_at_mut(rows);
        Partial { top, total, sums }
    }
}

thread_local! {
    /// Working memory of a thread, kept between calls.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// A tile's queries for keys of integers.
    static QUERY: RefCell<Query> = RefCell::default();
    /// A tile's weights for values of integers.
    static WEIGHTS: RefCell<Weights> = RefCell::default();
    /// Partial results of the splits, owned by the thread that calls.
    static PARTIALS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Working memory of [`Call::integer_values`].
#[derive(Default)]
struct Weights {
    /// `[rows × SCORES]`.
    codes: Vec<i16>,
    /// What one of a row's is worth.
    worth: Vec<f32>,
    /// Of a head's values in a split, and which of them are not finite.
    scales: Vec<f32>,
    lost: Vec<usize>,
    /// Value planes made of key planes.
    turned: Vec<u8>,
}

/// The first `len` numbers of `buffer`, grown if need be. What they hold is unspecified.
fn take(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// Softmax-weighted values of every row: `q` is `[rows × heads · k_dim]`, `out` `[rows × heads · v_dim]` where `v_dim`
/// is the cache's, or the prefix. [`reference`](super::reference()) defines the result, byte for byte.
///
/// # Panics
/// When slices or page tables are too short or a page does not exist.
pub fn attend(
    pool: &Pool,
    isa: Isa,
    p: &AttendParams<'_>,
    q: &[f32],
    cache: &KvCache,
    seqs: &[SeqRows<'_>],
    out: &mut [f32],
) {
    let layout = cache.layout();
    let v_dim = p.v_prefix.unwrap_or(layout.v_dim);
    assert!(p.v_prefix.is_none() || layout.v_dim == 0, "values stand in the cache and in its keys");
    let shape = Shape { k_dim: layout.dtype.whole(layout.k_dim), v_dim, v_pad: v_dim.next_multiple_of(BLOCK) };
    let rows = seqs.iter().map(|s| s.rows.end).max().unwrap_or(0);
    assert!(q.len() >= rows * p.heads * layout.k_dim && out.len() >= rows * p.heads * v_dim, "q or out is too short");
    let call = Call { isa, p, q, cache, shape, out: Parts::new(out) };
    let wanted = if pool.threads() == 1 { 1 } else { TASKS_PER_THREAD * pool.threads() };
    let tiles = tiles(p, layout.kv_heads, seqs, wanted);
    if tiles.len() >= wanted || tiles.iter().all(|t| t.splits(p).len() <= 1) {
        pool.run(tiles.len(), |i| call.whole(tiles[i]));
    } else {
        call.by_splits(pool, &tiles);
    }
}

/// The tiles of a step. A tile of few rows has as many key-value heads as leave `wanted` tasks.
fn tiles<'a>(p: &AttendParams<'_>, kv_heads: usize, seqs: &'a [SeqRows<'a>], wanted: usize) -> Vec<Tile<'a>> {
    let mut together = kv_heads;
    loop {
        let tiles = tiles_of(p.heads / kv_heads, kv_heads, together, seqs);
        if together == 1 || tiles.iter().map(|t| t.splits(p).len()).sum::<usize>() >= wanted {
            return tiles;
        }
        together = together.div_ceil(2);
    }
}

fn tiles_of<'a>(group: usize, kv_heads: usize, together: usize, seqs: &'a [SeqRows<'a>]) -> Vec<Tile<'a>> {
    let heads = group.min(TILE_ROWS);
    let most = (TILE_ROWS / heads).max(1);
    let mut tiles = Vec::new();
    for seq in seqs {
        for at in (0..seq.rows.len()).step_by(most) {
            let positions = most.min(seq.rows.len() - at);
            let together = together.min(TILE_ROWS / (positions * heads)).max(1);
            for kv_head in (0..kv_heads).step_by(together) {
                let kv_heads = together.min(kv_heads - kv_head);
                for skip in (0..group).step_by(heads) {
                    let (head, heads) = (kv_head * group + skip, heads.min(group - skip));
                    let first = seq.start + at as u32;
                    tiles.push(Tile { seq, kv_head, kv_heads, head, heads, first, positions });
                }
            }
        }
    }
    tiles
}

struct Call<'a> {
    isa: Isa,
    p: &'a AttendParams<'a>,
    q: &'a [f32],
    cache: &'a KvCache,
    shape: Shape,
    out: Parts<'a, f32>,
}

impl Call<'_> {
    /// All splits of a tile, one after the other.
    fn whole(&self, tile: Tile<'_>) {
        SCRATCH.with_borrow_mut(|scratch| {
            let size = Partial::size(tile.rows(), self.shape);
            let scratch = take(scratch, 2 * size + self.split_scratch(tile.rows()));
            let (state, scratch) = scratch.split_at_mut(size);
            let (part, scratch) = scratch.split_at_mut(size);
            let mut state = self.start(tile, state);
            for s in tile.splits(self.p) {
                self.split(tile, s, part, scratch);
                self.merge(tile, s, &mut state, part);
            }
            self.finish(tile, &mut state);
        });
    }

    /// Splits as tasks, then merges as tasks.
    fn by_splits(&self, pool: &Pool, tiles: &[Tile<'_>]) {
        let tasks: Vec<(usize, usize)> =
            tiles.iter().enumerate().flat_map(|(t, tile)| tile.splits(self.p).map(move |s| (t, s))).collect();
        // Where each task's partial result lies.
        let mut starts = Vec::with_capacity(tasks.len() + 1);
        let mut end = 0;
        for &(t, _) in &tasks {
            starts.push(end);
            end += Partial::size(tiles[t].rows(), self.shape);
        }
        starts.push(end);
        PARTIALS.with_borrow_mut(|partials| {
            let partials = Parts::new(take(partials, end));
            pool.run(tasks.len(), |i| {
                let (t, s) = tasks[i];
                // SAFETY: each task has its own part.
                let part = unsafe { partials.part(starts[i], starts[i + 1] - starts[i]) };
                SCRATCH.with_borrow_mut(|scratch| {
                    self.split(tiles[t], s, part, take(scratch, self.split_scratch(tiles[t].rows())));
                });
            });
            pool.run(tiles.len(), |t| {
                let tile = tiles[t];
                let first = tasks.partition_point(|task| task.0 < t);
                SCRATCH.with_borrow_mut(|scratch| {
                    let mut state = self.start(tile, take(scratch, Partial::size(tile.rows(), self.shape)));
                    for (i, s) in (first..).zip(tile.splits(self.p)) {
                        // SAFETY: only the tile's task reads its splits' parts, which are complete.
                        let part = unsafe { partials.part(starts[i], starts[i + 1] - starts[i]) };
                        self.merge(tile, s, &mut state, part);
                    }
                    self.finish(tile, &mut state);
                });
            });
        });
    }

    fn start<'b>(&self, tile: Tile<'_>, buffer: &'b mut [f32]) -> Partial<'b> {
        let state = Partial::over(buffer, tile.rows());
        for r in 0..tile.rows() {
            (state.top[r], state.total[r]) = match self.p.sinks {
                Some(sinks) => (sinks[tile.head_of(r)], 1.0),
                None => (f32::NEG_INFINITY, 0.0),
            };
        }
        state.sums.fill(0.0);
        state
    }

    fn merge(&self, tile: Tile<'_>, s: usize, state: &mut Partial<'_>, part: &mut [f32]) {
        let part = Partial::over(part, tile.rows());
        for r in 0..tile.rows() {
            let seen = tile.visible(self.p, r..r + 1);
            if seen.start.max(s * SPLIT) < seen.end.min((s + 1) * SPLIT) {
                let n = self.shape.v_pad;
                merge_row(
                    self.isa,
                    (&mut state.top[r], &mut state.total[r]),
                    &mut state.sums[r * n..][..n],
                    (part.top[r], part.total[r]),
                    &part.sums[r * n..][..n],
                );
            }
        }
    }

    fn finish(&self, tile: Tile<'_>, state: &mut Partial<'_>) {
        let Shape { v_dim, v_pad, .. } = self.shape;
        for (r, sums) in state.sums.chunks_exact_mut(v_pad).take(tile.rows()).enumerate() {
            let inverse = if state.total[r] > 0.0 { 1.0 / state.total[r] } else { 0.0 };
            let at = tile.index(self.p, r) * v_dim;
            // SAFETY: a row and head belong to one tile.
            let out = unsafe { self.out.part(at, v_dim) };
            match self.cache.rotation().values {
                None => scaled(self.isa, &sums[..v_dim], inverse, out),
                turned => {
                    scale(self.isa, sums, inverse);
                    rotate(self.isa, sums, turned);
                    out.copy_from_slice(&sums[..v_dim]);
                }
            }
        }
    }

    fn split_scratch(&self, rows: usize) -> usize {
        let Shape { k_dim, v_pad, .. } = self.shape;
        rows * (k_dim + SCORES) + (2 * k_dim + VALUE_PAGES * v_pad) * PAGE
    }

    /// One split of a tile into `part`.
    fn split(&self, tile: Tile<'_>, s: usize, part: &mut [f32], scratch: &mut [f32]) {
        let k_dim = self.shape.k_dim;
        let (q, scratch) = scratch.split_at_mut(tile.rows() * k_dim);
        let (scores, panels) = scratch.split_at_mut(tile.rows() * SCORES);
        let given = self.cache.layout().k_dim;
        for (r, q) in q.chunks_exact_mut(k_dim).enumerate() {
            let (q, filling) = q.split_at_mut(given);
            q.copy_from_slice(&self.q[tile.index(self.p, r) * given..][..given]);
            filling.fill(0.0);
        }
        rotate(self.isa, q, self.cache.rotation().keys);
        let seen = tile.visible(self.p, 0..tile.rows());
        // Whole pages that some row sees, within the split.
        let pages = seen.start.max(s * SPLIT) / PAGE..seen.end.min((s + 1) * SPLIT).div_ceil(PAGE);
        let part = Partial::over(part, tile.rows());
        let dtype = self.cache.layout().dtype;
        let direct = tile.rows_per_head() <= few_rows(self.isa, dtype) && self.p.v_prefix.is_none();
        if dtype.is_coded() {
            self.coded_scores(tile, s, pages.clone(), q, scores);
        } else if direct {
            self.direct_scores(tile, s, pages.clone(), q, scores);
        } else {
            self.scores(tile, s, pages.clone(), q, scores, panels);
        }
        for r in 0..tile.rows() {
            (part.top[r], part.total[r]) = self.weights(tile, s, pages.clone(), r, &mut scores[r * SCORES..][..SPLIT]);
        }
        part.sums.fill(0.0);
        if dtype == KvType::I16 {
            self.integer_values(tile, s, pages, scores, part.total, part.sums);
        } else if direct {
            self.direct_values(tile, s, pages, scores, part.sums);
        } else {
            self.values(tile, s, pages, scores, panels, part.sums);
        }
    }

    /// The key plane of the tile's key-value head `head` in page `i` of its sequence.
    fn keys_of(&self, tile: Tile<'_>, head: usize, i: usize) -> &[u8] {
        self.cache.keys(tile.seq.pages[i], tile.kv_head + head)
    }

    fn values_of(&self, tile: Tile<'_>, head: usize, i: usize) -> &[u8] {
        self.cache.values(tile.seq.pages[i], tile.kv_head + head)
    }

    /// Where the scales of the values of page `i` stand.
    fn values_plane(&self, tile: Tile<'_>, head: usize, i: usize) -> &[u8] {
        if self.p.v_prefix.is_some() { self.keys_of(tile, head, i) } else { self.values_of(tile, head, i) }
    }

    /// Key planes of up to [`KEY_PAGES`] pages from `page` on, and what is read after them: the next head's, the pages that
    /// follow, then the first values.
    fn planes(
        &self,
        tile: Tile<'_>,
        head: usize,
        page: usize,
        pages: &Range<usize>,
    ) -> (usize, [[&[u8]; KEY_PAGES]; 2]) {
        let n = KEY_PAGES.min(pages.end - page);
        let planes = std::array::from_fn(|i| self.keys_of(tile, head, page + i.min(n - 1)));
        let ahead = std::array::from_fn(|i| match page + n + i {
            _ if head + 1 < tile.kv_heads => self.keys_of(tile, head + 1, page + i.min(n - 1)),
            next if next < pages.end => self.keys_of(tile, 0, next),
            _ if self.p.v_prefix.is_some() => self.keys_of(tile, head, page),
            _ => self.values_of(tile, 0, pages.start + i.min(n - 1)),
        });
        (n, [planes, ahead])
    }

    /// Calls `f(rows, first, planes, ahead)` for a few rows and pages at a time: `first` is where their scores begin.
    fn key_blocks(
        &self,
        tile: Tile<'_>,
        s: usize,
        pages: Range<usize>,
        step: usize,
        mut f: impl FnMut(Range<usize>, usize, &[&[u8]], &[&[u8]]),
    ) {
        for page in pages.clone().step_by(KEY_PAGES) {
            for head in 0..tile.kv_heads {
                let (n, [planes, ahead]) = self.planes(tile, head, page, &pages);
                self.blocks(tile, head, page..page + n, step, |rows, seen| {
                    let first = rows.start * SCORES + (seen.start * PAGE - s * SPLIT);
                    let seen = seen.start - page..seen.end - page;
                    f(rows, first, &planes[seen.clone()], &ahead[seen]);
                });
            }
        }
    }

    /// [`scores`](Self::scores) from the cache itself.
    fn direct_scores(&self, tile: Tile<'_>, s: usize, pages: Range<usize>, q: &[f32], scores: &mut [f32]) {
        let (dtype, k_dim) = (self.cache.layout().dtype, self.shape.k_dim);
        self.key_blocks(tile, s, pages, DIRECT_ROWS, |rows, first, planes, ahead| {
            let (q, c) = (&q[rows.start * k_dim..], &mut scores[first..]);
            Keys { dtype, q, rows: rows.len(), k_dim, planes, ahead, c, c_stride: SCORES }.run(self.isa);
        });
    }

    /// Whether a tile's planes of I16 are asked for before they are read. Zen 4 sees for itself what comes next, and is slower when
    /// asked, where each load is a line.
    fn asks(&self, tile: Tile<'_>) -> bool {
        tile.rows_per_head() <= DIRECT_ROWS && !(self.isa == Isa::Avx512 && is_zen_4())
    }

    /// [`scores`](Self::scores) with keys of integers.
    fn coded_scores(&self, tile: Tile<'_>, s: usize, pages: Range<usize>, q: &[f32], scores: &mut [f32]) {
        let (dtype, k_dim) = (self.cache.layout().dtype, self.shape.k_dim);
        QUERY.with_borrow_mut(|query| {
            query.fill(self.isa, dtype, q, k_dim);
            let query = &*query;
            let step = if dtype == KvType::I16 { max_rows(self.isa) } else { DIRECT_ROWS };
            self.key_blocks(tile, s, pages, step, |rows, at, planes, ahead| {
                let (first, rows, c) = (rows.start, rows.len(), &mut scores[at..]);
                // Where heads are read side by side the machine sees for itself what comes next, and is slower when asked.
                let ask = if dtype == KvType::I16 { self.asks(tile) } else { tile.kv_heads == 1 };
                let ahead = ask.then_some(ahead);
                Scores { dtype, query, first, rows, k_dim, planes, ahead, c, c_stride: SCORES }.run(self.isa);
            });
        });
    }

    /// [`values`](Self::values) from the cache itself.
    fn direct_values(&self, tile: Tile<'_>, s: usize, pages: Range<usize>, weights: &[f32], sums: &mut [f32]) {
        let v_pad = self.shape.v_pad;
        // Few rows wait for memory, which likes to be read in order.
        let step = if tile.rows_per_head() > DIRECT_ROWS { VALUE_PAGES } else { 1 };
        for page in pages.clone().step_by(step) {
            let some = page..pages.end.min(page + step);
            for head in 0..tile.kv_heads {
                let (mut planes, mut ahead) = ([&[][..]; VALUE_PAGES], [&[][..]; VALUE_PAGES]);
                let later = head + AHEAD;
                for i in 0..some.len() {
                    planes[i] = self.values_of(tile, head, page + i);
                    let next = (page + i + later / tile.kv_heads).min(pages.end - 1);
                    ahead[i] = self.values_of(tile, later % tile.kv_heads, next);
                }
                self.blocks(tile, head, some.clone(), DIRECT_ROWS, |rows, seen| {
                    let w = &weights[rows.start * SCORES + (seen.start * PAGE - s * SPLIT)..];
                    let seen = seen.start - page..seen.end - page;
                    Values {
                        dtype: self.cache.layout().dtype,
                        w,
                        w_stride: SCORES,
                        rows: rows.len(),
                        planes: &planes[seen.clone()],
                        ahead: &ahead[seen],
                        panels: v_pad / PAGE,
                        c: &mut sums[rows.start * v_pad..],
                    }
                    .run(self.isa);
                });
            }
        }
    }

    /// [`values`](Self::values) of integers, whose weights come to `totals`.
    fn integer_values(
        &self,
        tile: Tile<'_>,
        s: usize,
        pages: Range<usize>,
        weights: &mut [f32],
        totals: &[f32],
        sums: &mut [f32],
    ) {
        let (v_pad, rows) = (self.shape.v_pad, tile.rows_per_head());
        let seen = pages.start * PAGE - s * SPLIT..pages.end * PAGE - s * SPLIT;
        WEIGHTS.with_borrow_mut(|Weights { codes, worth, scales, lost, turned }| {
            codes.resize(tile.rows() * SCORES, 0);
            worth.resize(tile.rows(), 0.0);
            for head in 0..tile.kv_heads {
                scales.clear();
                for page in pages.clone() {
                    scales.extend(integer::scales(self.keys_of(tile, head, page), self.p.v_prefix.is_some()));
                }
                // What is not finite counts where it has weight.
                lost.clear();
                lost.extend((0..scales.len()).filter(|&i| !scales[i].is_finite()));
                lost.iter().for_each(|&i| scales[i] = 0.0);
                for r in head * rows..(head + 1) * rows {
                    let weights = &mut weights[r * SCORES..][seen.clone()];
                    let is_lost = totals[r].is_nan() || lost.iter().any(|&i| weights[i] != 0.0);
                    worth[r] = integer::weigh(self.isa, weights, scales, &mut codes[r * SCORES..][seen.clone()]);
                    if is_lost {
                        worth[r] = f32::NAN;
                    }
                }
            }
            // Few rows wait for memory, which likes to be read in order.
            let step = if rows <= DIRECT_ROWS { 1 } else { VALUE_PAGES / 2 };
            for page in pages.clone().step_by(step) {
                let some = page..pages.end.min(page + step);
                for head in 0..tile.kv_heads {
                    let later = head + AHEAD;
                    let next = (page + later / tile.kv_heads).min(pages.end - 1);
                    let ask = self.asks(tile) && self.p.v_prefix.is_none();
                    let ahead = ask.then(|| self.values_of(tile, later % tile.kv_heads, next));
                    let mut planes = [&[][..]; VALUE_PAGES];
                    if self.p.v_prefix.is_some() {
                        let size = 2 * PAGE * v_pad;
                        turned.resize(step * size, 0);
                        for (page, turned) in some.clone().zip(turned.chunks_exact_mut(size)) {
                            integer::values_from_keys(self.isa, self.keys_of(tile, head, page), turned);
                        }
                        planes.iter_mut().zip(turned.chunks_exact(size)).for_each(|(plane, turned)| *plane = turned);
                    } else {
                        let of_pages = some.clone().map(|page| self.values_of(tile, head, page));
                        planes.iter_mut().zip(of_pages).for_each(|(plane, of_page)| *plane = of_page);
                    }
                    self.blocks(tile, head, some.clone(), max_rows(self.isa), |rows, seen| {
                        integer::Values {
                            w: &codes[rows.start * SCORES + (seen.start * PAGE - s * SPLIT)..],
                            w_stride: SCORES,
                            rows: rows.len(),
                            planes: &planes[seen.start - page..seen.end - page],
                            ahead,
                            panels: v_pad / PAGE,
                            c: &mut sums[rows.start * v_pad..],
                        }
                        .run(self.isa);
                    });
                }
            }
            for (sums, worth) in sums.chunks_exact_mut(v_pad).zip(worth) {
                scale(self.isa, sums, *worth);
            }
        });
    }

    /// `⟨q, k⟩` of all rows and the keys of `pages`, except for rows that see none of a page.
    fn scores(&self, tile: Tile<'_>, s: usize, pages: Range<usize>, q: &[f32], scores: &mut [f32], panels: &mut [f32]) {
        let (dtype, k_dim) = (self.cache.layout().dtype, self.shape.k_dim);
        let b_stride = k_dim * PAGE;
        for (page, head) in pages.clone().step_by(2).flat_map(|page| (0..tile.kv_heads).map(move |head| (page, head))) {
            let some = page..pages.end.min(page + 2);
            for (panel, page) in panels.chunks_exact_mut(b_stride).zip(some.clone()) {
                unpack::keys(self.isa, dtype, self.keys_of(tile, head, page), panel);
            }
            self.blocks(tile, head, some, max_rows(self.isa), |rows, seen| {
                Product {
                    a: &q[rows.start * k_dim..],
                    a_stride: k_dim,
                    b: &panels[(seen.start - page) * b_stride..],
                    b_stride,
                    panels: seen.len(),
                    c: &mut scores[rows.start * SCORES + (seen.start * PAGE - s * SPLIT)..],
                    c_stride: SCORES,
                    rows: rows.len(),
                    depth: k_dim,
                    accumulate: false,
                }
                .run(self.isa);
            });
        }
    }

    /// Turns a row's scores into weights, 0 where it sees nothing; returns their maximum and sum.
    fn weights(&self, tile: Tile<'_>, s: usize, pages: Range<usize>, r: usize, scores: &mut [f32]) -> (f32, f32) {
        let seen = tile.visible(self.p, r..r + 1);
        let base = s * SPLIT;
        let keys = pages.start * PAGE - base..pages.end * PAGE - base;
        let low = seen.start.max(base + keys.start) - base;
        let high = seen.end.min(base + keys.end).saturating_sub(base);
        if low >= high {
            scores[keys].fill(0.0);
            return (f32::NEG_INFINITY, 0.0);
        }
        let head = tile.head_of(r);
        let bias = self.p.alibi.map(|slopes| (slopes[head], (base + low) as i32 - tile.position(r) as i32));
        bend(self.isa, &mut scores[low..high], self.p.scale, self.p.softcap, bias);
        scores[keys.start..low].fill(f32::NEG_INFINITY);
        scores[high..keys.end].fill(f32::NEG_INFINITY);
        exponentials(self.isa, &mut scores[keys])
    }

    /// `sums += weights · values` over the keys of `pages`.
    fn values(
        &self,
        tile: Tile<'_>,
        s: usize,
        pages: Range<usize>,
        weights: &[f32],
        panels: &mut [f32],
        sums: &mut [f32],
    ) {
        let Shape { k_dim, v_pad, .. } = self.shape;
        let (spare, panels) = panels.split_at_mut(2 * k_dim * PAGE);
        let dtype = self.cache.layout().dtype;
        // A panel holds 16 elements of the values of `VALUE_PAGES` pages.
        let stride = VALUE_PAGES * PAGE * PAGE;
        let mut scaled = [0.0; MAX_ROWS * VALUE_PAGES * PAGE];
        let chunks = pages.clone().step_by(VALUE_PAGES);
        for (page, head) in chunks.flat_map(|page| (0..tile.kv_heads).map(move |head| (page, head))) {
            let some = page..pages.end.min(page + VALUE_PAGES);
            for i in some.clone() {
                let out = &mut panels[(i - page) * PAGE * PAGE..];
                match self.p.v_prefix {
                    Some(_) => {
                        let spare = &mut spare[..v_pad.min(k_dim) * PAGE];
                        unpack::values_from_keys(self.isa, dtype, self.keys_of(tile, head, i), spare, out, stride);
                    }
                    None => unpack::values(self.isa, dtype, self.values_of(tile, head, i), out, stride),
                }
            }
            for first in (0..v_pad / PAGE).step_by(2) {
                self.blocks(tile, head, some.clone(), max_rows(self.isa), |rows, seen| {
                    let weights = &weights[rows.start * SCORES + (seen.start * PAGE - s * SPLIT)..];
                    let (a, a_stride) = if dtype.is_coded() {
                        for (i, page) in seen.clone().enumerate() {
                            let scales =
                                unpack::scales(self.isa, dtype, self.values_plane(tile, head, page), first / 2);
                            for r in 0..rows.len() {
                                let weights = &weights[r * SCORES + i * PAGE..][..PAGE];
                                let scaled = &mut scaled[(r * VALUE_PAGES + i) * PAGE..][..PAGE];
                                for ((x, w), scale) in scaled.iter_mut().zip(weights).zip(scales) {
                                    *x = w * scale;
                                }
                            }
                        }
                        (&scaled[..], VALUE_PAGES * PAGE)
                    } else {
                        (weights, SCORES)
                    };
                    Product {
                        a,
                        a_stride,
                        b: &panels[first * stride + (seen.start - page) * PAGE * PAGE..],
                        b_stride: stride,
                        panels: 2,
                        c: &mut sums[rows.start * v_pad + first * PAGE..],
                        c_stride: v_pad,
                        rows: rows.len(),
                        depth: seen.len() * PAGE,
                        accumulate: true,
                    }
                    .run(self.isa);
                });
            }
        }
    }

    /// Calls `f(rows, pages)` for blocks of at most `step` rows of a key-value head, with those of `pages` that any of
    /// them sees.
    fn blocks(
        &self,
        tile: Tile<'_>,
        head: usize,
        pages: Range<usize>,
        step: usize,
        mut f: impl FnMut(Range<usize>, Range<usize>),
    ) {
        let per_head = tile.rows_per_head();
        let (begin, end) = (head * per_head, (head + 1) * per_head);
        for start in (begin..end).step_by(step) {
            let rows = start..(start + step).min(end);
            let seen = tile.visible(self.p, rows.clone());
            let seen = pages.start.max(seen.start / PAGE)..pages.end.min(seen.end.div_ceil(PAGE));
            if seen.start < seen.end {
                f(rows, seen);
            }
        }
    }
}

twin! {
    /// Scale, cap, and bias `slope · distance` of consecutive keys, the first at `bias.1`.
    fn bend(x: &mut [f32], scale: f32, softcap: Option<f32>, bias: Option<(f32, i32)>) {
        for v in x.iter_mut() {
            *v *= scale;
        }
        if let Some(cap) = softcap {
            for v in x.iter_mut() {
                *v = cap * tanh(*v / cap);
            }
        }
        if let Some((slope, first)) = bias {
            for (i, v) in x.iter_mut().enumerate() {
                *v = slope.mul_add((first + i as i32) as f32, *v);
            }
        }
    }
}

/// `x = exp(x - max x)`; returns the maximum and the sum, which is that of [`crate::lanes::sum`].
fn exponentials(isa: Isa, x: &mut [f32]) -> (f32, f32) {
    isa.run(Exponentials(x))
}

struct Exponentials<'a>(&'a mut [f32]);

impl Job for Exponentials<'_> {
    type Out = (f32, f32);

    #[inline(always)]
    fn run(self) -> (f32, f32) {
        let top = max(self.0);
        let mut lanes = [0f32; LANES];
        let (blocks, tail) = self.0.as_chunks_mut::<{ 2 * LANES }>();
        for block in blocks {
            // Added up before they are stored: halves of a store cannot be loaded at once.
            let mut weights = [0.0; 2 * LANES];
            for (weight, v) in weights.iter_mut().zip(&*block) {
                *weight = exp(v - top);
            }
            for half in weights.as_chunks::<LANES>().0 {
                for (lane, v) in lanes.iter_mut().zip(half) {
                    *lane += v;
                }
            }
            *block = weights;
        }
        for (i, v) in tail.iter_mut().enumerate() {
            *v = exp(*v - top);
            lanes[i % LANES] += *v;
        }
        (top, tree(lanes))
    }
}

twin! {
    /// Brings both sides to the larger maximum and adds them.
    fn merge_row(state: (&mut f32, &mut f32), sums: &mut [f32], part: (f32, f32), part_sums: &[f32]) {
        let top = if part.0 > *state.0 { part.0 } else { *state.0 };
        let (old, new) = (exp(*state.0 - top), exp(part.0 - top));
        *state.1 = part.1.mul_add(new, *state.1 * old);
        *state.0 = top;
        for (s, p) in sums.iter_mut().zip(part_sums) {
            *s = p.mul_add(new, *s * old);
        }
    }
}
