//! IQ1, IQ2 and IQ3 as bytes.

use super::{
    candidates::{CANDIDATES, Candidates, GRID, Scales, fit_scales},
    codebook::{Book, Sums},
    lanes::LANES,
};
use allod_formats::codec::codebook as table;
use std::sync::LazyLock;

/// How a type with signs apart arranges its values in groups of `W`.
struct Signed<const W: usize> {
    book: Book<W>,
    /// Blocks' scales are this many times an odd number.
    unit: f32,
    /// Whether only seven of eight signs are stored, and the eighth makes the number of minus signs even.
    even: bool,
}

const TWO_BIT: [(i8, f32); 3] = [(8, 8.0), (25, 25.0), (43, 43.0)];

static IQ2_XXS: LazyLock<Signed<8>> =
    LazyLock::new(|| Signed { book: Book::new(&table::IQ2_XXS, &TWO_BIT), unit: 0.125, even: true });
static IQ2_XS: LazyLock<Signed<8>> =
    LazyLock::new(|| Signed { book: Book::new(&table::IQ2_XS, &TWO_BIT), unit: 0.125, even: true });
static IQ2_S: LazyLock<Signed<8>> =
    LazyLock::new(|| Signed { book: Book::new(&table::IQ2_S, &TWO_BIT), unit: 0.125, even: false });
static IQ3_XXS: LazyLock<Signed<4>> = LazyLock::new(|| {
    let levels = [4, 12, 20, 28, 36, 44, 52, 62].map(|v| (v, f32::from(v)));
    Signed { book: Book::new(&table::IQ3_XXS, &levels), unit: 0.25, even: true }
});
static IQ3_S: LazyLock<Signed<4>> = LazyLock::new(|| {
    let levels = [1, 3, 5, 7, 9, 11, 13, 15].map(|v| (v, f32::from(v)));
    Signed { book: Book::new(&table::IQ3_S, &levels), unit: 1.0, even: false }
});

/// A super-block ready to be packed.
struct Fitted {
    scales: Scales,
    rows: [u16; 64],
    signs: [u8; 32],
}

/// Signs of eight values, a set bit for minus.
#[inline(always)]
fn signs_of(x: &[f32; 8]) -> u8 {
    x.iter().enumerate().fold(0, |bits, (i, v)| bits | u8::from(*v < 0.0) << i)
}

/// The two values whose signs cost least to be wrong, cheapest first.
#[inline(always)]
fn cheapest(x: &[f32; 8], w: &[f32; 8]) -> [usize; 2] {
    let mut order = [0, 1, 2, 3, 4, 5, 6, 7];
    order.sort_by(|&a, &b| (w[a] * x[a].abs()).total_cmp(&(w[b] * x[b].abs())));
    [order[0], order[1]]
}

/// Values without the signs.
#[inline(always)]
fn unsigned(x: &[f32; 8], signs: u8) -> [f32; 8] {
    std::array::from_fn(|i| if signs >> i & 1 == 1 { -x[i] } else { x[i] })
}

impl<const W: usize> Signed<W> {
    /// The signs to try for eight values.
    #[inline(always)]
    fn signs(&self, x: &[f32; 8], w: &[f32; 8]) -> [u8; 2] {
        let signs = signs_of(x);
        if self.even && signs.count_ones() % 2 == 1 { cheapest(x, w).map(|i| signs ^ 1 << i) } else { [signs; 2] }
    }

    #[inline(always)]
    fn fit<const BLOCKS: usize>(&self, x: &[f32; 256], w: &[f32; 256]) -> Fitted {
        let mut values = *x;
        for (v, w) in values.as_chunks_mut::<8>().0.iter_mut().zip(w.as_chunks::<8>().0) {
            *v = unsigned(v, self.signs(v, w)[0]);
        }
        let size = 256 / BLOCKS;
        let groups = size / W;
        let mut sums = vec![Sums::NONE; 256 / W];
        let mut c = Candidates::new(1, groups, CANDIDATES);
        let mut expected = [0.0; LANES];
        for (j, e) in expected[..BLOCKS].iter_mut().enumerate() {
            *e = self.book.expected(&values[j * size..(j + 1) * size], &w[j * size..(j + 1) * size]);
        }
        let (grouped, weights) = (values.as_chunks::<W>().0, w.as_chunks::<W>().0);
        for (i, sums) in sums.iter_mut().enumerate() {
            self.book.sums(&grouped[i], &weights[i], sums);
            let (block, group) = (i / groups, i % groups);
            for (slot, part) in GRID.iter().enumerate() {
                let found = self.book.best(sums, expected[block] * part);
                c.put(0, group, slot, block, &found);
                c.put(0, group, CANDIDATES - 1, block, &found);
            }
        }
        let real = c.best_scales(&expected);
        for (i, sums) in sums.iter().enumerate() {
            let (block, group) = (i / groups, i % groups);
            c.put(0, group, CANDIDATES - 1, block, &self.book.best(sums, real[block]));
        }
        let scales = fit_scales::<BLOCKS>(&c, &c.best_scales(&expected), self.unit, 15.0);
        self.choose(x, w, scales, size)
    }

    /// The best signs and rows under scales that stand.
    #[inline(always)]
    fn choose(&self, x: &[f32; 256], w: &[f32; 256], scales: Scales, size: usize) -> Fitted {
        let mut out = Fitted { scales, rows: [0; 64], signs: [0; 32] };
        let mut sums = Sums::NONE;
        let per_eight = 8 / W;
        for (i, (x, w)) in x.as_chunks::<8>().0.iter().zip(w.as_chunks::<8>().0).enumerate() {
            let scale = out.scales.of(i * 8 / size, self.unit);
            let [first, second] = self.signs(x, w);
            let mut least = f32::INFINITY;
            for signs in [first, second].into_iter().take(if first == second { 1 } else { 2 }) {
                let values = unsigned(x, signs);
                let mut rows = [0; 2];
                let mut cost = 0.0;
                for (g, (x, w)) in values.as_chunks::<W>().0.iter().zip(w.as_chunks::<W>().0).enumerate() {
                    self.book.sums(x, w, &mut sums);
                    let found = self.book.best(&sums, scale);
                    (rows[g], cost) = (found.row, cost + found.cost);
                }
                if cost < least {
                    least = cost;
                    out.signs[i] = signs;
                    out.rows[i * per_eight..(i + 1) * per_eight].copy_from_slice(&rows[..per_eight]);
                }
            }
        }
        out
    }
}

/// Four times seven signs and a scale.
#[inline(always)]
fn signs_and_scale(signs: &[u8], scale: u8) -> [u8; 4] {
    let signs = signs.iter().enumerate().fold(0, |bits, (i, s)| bits | u32::from(s & 127) << (7 * i));
    (signs | u32::from(scale) << 28).to_le_bytes()
}

#[inline(always)]
pub(super) fn iq2_xxs(x: &[f32; 256], w: &[f32; 256]) -> [u8; 66] {
    let f = IQ2_XXS.fit::<8>(x, w);
    let mut b = [0; 66];
    b[..2].copy_from_slice(&f.scales.bytes);
    for (g, b) in b[2..].chunks_exact_mut(8).enumerate() {
        for (b, row) in b.iter_mut().zip(&f.rows[g * 4..g * 4 + 4]) {
            *b = *row as u8;
        }
        b[4..].copy_from_slice(&signs_and_scale(&f.signs[g * 4..g * 4 + 4], f.scales.numbers[g]));
    }
    b
}

#[inline(always)]
pub(super) fn iq2_xs(x: &[f32; 256], w: &[f32; 256]) -> [u8; 74] {
    let f = IQ2_XS.fit::<16>(x, w);
    let mut b = [0; 74];
    b[..2].copy_from_slice(&f.scales.bytes);
    for i in 0..32 {
        let word = f.rows[i] | u16::from(f.signs[i] & 127) << 9;
        b[2 + i * 2..4 + i * 2].copy_from_slice(&word.to_le_bytes());
    }
    put_nibbles(&mut b[66..], &f.scales.numbers);
    b
}

/// The first of two low, the second high.
#[inline(always)]
fn put_nibbles(b: &mut [u8], numbers: &[u8]) {
    for (b, n) in b.iter_mut().zip(numbers.chunks_exact(2)) {
        *b = n[0] | n[1] << 4;
    }
}

#[inline(always)]
pub(super) fn iq2_s(x: &[f32; 256], w: &[f32; 256]) -> [u8; 82] {
    let f = IQ2_S.fit::<16>(x, w);
    let mut b = [0; 82];
    b[..2].copy_from_slice(&f.scales.bytes);
    for i in 0..32 {
        b[2 + i] = f.rows[i] as u8;
        b[66 + i / 4] |= ((f.rows[i] >> 8) as u8) << (i % 4 * 2);
    }
    b[34..66].copy_from_slice(&f.signs);
    put_nibbles(&mut b[74..], &f.scales.numbers);
    b
}

#[inline(always)]
pub(super) fn iq3_xxs(x: &[f32; 256], w: &[f32; 256]) -> [u8; 98] {
    let f = IQ3_XXS.fit::<8>(x, w);
    let mut b = [0; 98];
    b[..2].copy_from_slice(&f.scales.bytes);
    for i in 0..64 {
        b[2 + i] = f.rows[i] as u8;
    }
    for (g, b) in b[66..].chunks_exact_mut(4).enumerate() {
        b.copy_from_slice(&signs_and_scale(&f.signs[g * 4..g * 4 + 4], f.scales.numbers[g]));
    }
    b
}

#[inline(always)]
pub(super) fn iq3_s(x: &[f32; 256], w: &[f32; 256]) -> [u8; 110] {
    let f = IQ3_S.fit::<8>(x, w);
    let mut b = [0; 110];
    b[..2].copy_from_slice(&f.scales.bytes);
    for i in 0..64 {
        b[2 + i] = f.rows[i] as u8;
        b[66 + i / 8] |= ((f.rows[i] >> 8) as u8) << (i % 8);
    }
    b[74..106].copy_from_slice(&f.signs);
    put_nibbles(&mut b[106..], &f.scales.numbers);
    b
}

/// IQ1's rows above and below the whole numbers.
static IQ1: LazyLock<[Book<8>; 2]> = LazyLock::new(|| {
    let above = Book::new(&table::IQ1, &[-1i8, 0, 1].map(|v| (v, f32::from(v) + table::DELTA)));
    let below = above.with(&[-1.0, 0.0, 1.0].map(|v| v - table::DELTA));
    [above, below]
});

/// Rows and signs of IQ1's shift (1 below), and scales.
struct Shifted {
    scales: Scales,
    rows: [u16; 32],
    below: [u8; 32],
}

/// Fits `BLOCKS` blocks; `common` means one shift for a block.
#[inline(always)]
fn fit_shifted<const BLOCKS: usize>(x: &[f32; 256], w: &[f32; 256], common: bool) -> Shifted {
    let size = 256 / BLOCKS;
    let groups = size / 8;
    // Both shifts are either ways of a whole block or more candidates of a group.
    let (ways, per_group) = if common { (2, GRID.len()) } else { (1, 2 * GRID.len()) };
    let mut c = Candidates::new(ways, groups, per_group);
    let mut sums = vec![[Sums::NONE, Sums::NONE]; 32];
    let mut expected = [0.0; LANES];
    for (j, e) in expected[..BLOCKS].iter_mut().enumerate() {
        *e = IQ1[0].expected(&x[j * size..(j + 1) * size], &w[j * size..(j + 1) * size]);
    }
    let (grouped, weights) = (x.as_chunks::<8>().0, w.as_chunks::<8>().0);
    for (i, sums) in sums.iter_mut().enumerate() {
        let (block, group) = (i / groups, i % groups);
        for v in 0..2 {
            IQ1[v].sums(&grouped[i], &weights[i], &mut sums[v]);
            for (slot, part) in GRID.iter().enumerate() {
                let found = IQ1[v].best(&sums[v], expected[block] * part);
                let (way, slot) = if common { (v, slot) } else { (0, v * GRID.len() + slot) };
                c.put(way, group, slot, block, &found);
            }
        }
    }
    let scales = fit_scales::<BLOCKS>(&c, &c.best_scales(&expected), 1.0, 7.0);
    let mut out = Shifted { scales, rows: [0; 32], below: [0; 32] };
    for (i, sums) in sums.iter().enumerate() {
        let block = i / groups;
        let scale = out.scales.of(block, 1.0);
        let mut least = f32::INFINITY;
        for v in (0..2).filter(|&v| !common || v == usize::from(out.scales.ways[block])) {
            let found = IQ1[v].best(&sums[v], scale);
            if found.cost < least {
                least = found.cost;
                (out.rows[i], out.below[i]) = (found.row, v as u8);
            }
        }
    }
    out
}

#[inline(always)]
pub(super) fn iq1_s(x: &[f32; 256], w: &[f32; 256]) -> [u8; 50] {
    let f = fit_shifted::<8>(x, w, true);
    let mut b = [0; 50];
    b[..2].copy_from_slice(&f.scales.bytes);
    for g in 0..8 {
        let mut word = u16::from(f.scales.numbers[g]) << 12 | u16::from(f.below[g * 4]) << 15;
        for l in 0..4 {
            b[2 + g * 4 + l] = f.rows[g * 4 + l] as u8;
            word |= f.rows[g * 4 + l] >> 8 << (3 * l);
        }
        b[34 + g * 2..36 + g * 2].copy_from_slice(&word.to_le_bytes());
    }
    b
}

#[inline(always)]
pub(super) fn iq1_m(x: &[f32; 256], w: &[f32; 256]) -> [u8; 56] {
    let f = fit_shifted::<16>(x, w, false);
    let mut b = [0; 56];
    for i in 0..32 {
        b[i] = f.rows[i] as u8;
        b[32 + i / 2] |= ((f.rows[i] >> 8) as u8 | f.below[i] << 3) << (i % 2 * 4);
    }
    let d = u16::from_le_bytes(f.scales.bytes);
    for k in 0..4 {
        let scales = (0..4).fold(0, |word, j| word | u16::from(f.scales.numbers[k * 4 + j]) << (3 * j));
        b[48 + k * 2..50 + k * 2].copy_from_slice(&(scales | (d >> (4 * k)) << 12).to_le_bytes());
    }
    b
}
