//! Products with keys that are integers: the query is rounded like the keys, to 16 or to eight bits, a block's products are
//! summed as integers, exactly, and blocks are combined in order. A key is then read as it lies, and no number is ever
//! unpacked.

#![expect(clippy::needless_range_loop, reason = "rows, pages and blocks each index several arrays")]
#![expect(unsafe_code, reason = "vector instructions chosen at run time")]

use super::KvType;
use super::cache::{BLOCK, PAGE, bytes, largest};
use super::integer::{Scale, word};
use super::product::side_by_side;
use super::source::{Coded, with_coded, with_wide};
use super::wide::Sixteen;
use crate::isa::Isa;
use crate::twin::twin;

/// Rounded queries, `[rows × k_dim]`.
#[derive(Default)]
pub(super) struct Query {
    /// Four elements each, or two.
    codes: Vec<i32>,
    /// Of each block of 32, or each row.
    scales: Vec<f32>,
    /// Sum of each block's codes.
    sums: Vec<i32>,
}

impl Query {
    /// Rounds `q`, whose rows are whole blocks, for keys of `dtype`.
    pub(super) fn fill(&mut self, isa: Isa, dtype: KvType, q: &[f32], k_dim: usize) {
        let (block, in_word) = with_coded!(dtype, S => (S::block(k_dim).0 * S::IN_WORD, S::IN_WORD));
        self.codes.resize(q.len() / in_word, 0);
        self.scales.resize(q.len() / block, 0.0);
        self.sums.resize(q.len() / block, 0);
        if dtype == KvType::I16 {
            pairs(isa, q, k_dim, &mut self.codes, &mut self.scales);
        } else {
            round(isa, q, &mut self.codes, &mut self.scales, &mut self.sums);
        }
    }
}

twin! {
    fn pairs(q: &[f32], k_dim: usize, codes: &mut [i32], scales: &mut [f32]) {
        let rows = q.chunks_exact(k_dim).zip(codes.chunks_exact_mut(k_dim / 2));
        for ((q, codes), to) in rows.zip(scales) {
            let scale = Scale::of(q, true);
            for (codes, q) in codes.chunks_mut(PAGE).zip(q.chunks(2 * PAGE)) {
                let integers = scale.integers::<{ 2 * PAGE }>(q);
                for (code, [a, b]) in codes.iter_mut().zip(integers.as_chunks::<2>().0) {
                    *code = word(*a, *b);
                }
            }
            *to = scale.value;
        }
    }
}

twin! {
    fn round(q: &[f32], codes: &mut [i32], scales: &mut [f32], sums: &mut [i32]) {
        let out = codes.as_chunks_mut::<{ BLOCK / 4 }>().0.iter_mut().zip(scales).zip(sums);
        for (q, ((codes, scale), sum)) in q.as_chunks::<BLOCK>().0.iter().zip(out) {
            *scale = largest(q) / 127.0;
            let bytes = bytes(q, *scale);
            *sum = bytes.iter().map(|b| i32::from(*b)).sum();
            for (code, four) in codes.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *code = i32::from_le_bytes(four.map(|b| b as u8));
            }
        }
    }
}

/// `⟨q, k⟩` of a few rows with the keys of some pages.
pub(super) struct Scores<'a> {
    pub(super) dtype: KvType,
    pub(super) query: &'a Query,
    /// The first of the query's rows.
    pub(super) first: usize,
    /// At most [`DIRECT_ROWS`](super::product::DIRECT_ROWS); of I16 at most [`max_rows`](super::product::max_rows).
    pub(super) rows: usize,
    pub(super) k_dim: usize,
    /// The pages' key planes.
    pub(super) planes: &'a [&'a [u8]],
    /// What will be read next, where that is to be asked for; as many.
    pub(super) ahead: Option<&'a [&'a [u8]]>,
    /// `[rows × 16 · planes]`, rows `c_stride` apart.
    pub(super) c: &'a mut [f32],
    pub(super) c_stride: usize,
}

impl Scores<'_> {
    /// Computes it.
    ///
    /// # Panics
    /// When a slice is shorter than the sizes say.
    pub(super) fn run(self, isa: Isa) {
        let n = self.planes.len();
        let (bytes, words) = with_coded!(self.dtype, S => {
            let (words, bytes) = S::block(self.k_dim);
            let blocks = self.k_dim / (words * S::IN_WORD);
            (blocks * bytes, blocks * words)
        });
        assert!((self.first + self.rows) * words <= self.query.codes.len());
        assert!(self.ahead.is_none_or(|ahead| ahead.len() == n));
        assert!(self.planes.iter().all(|p| p.len() >= bytes));
        assert!((self.rows - 1) * self.c_stride + n * PAGE <= self.c.len());
        let c = self.c.as_mut_ptr();
        let x = &self;
        // SAFETY: the machine has what its `Isa` says; the assertions prove every access, for the query's scales and sums
        // are as many as its codes say.
        unsafe {
            with_coded!(x.dtype, S => side_by_side!(isa, scores::<S>(x: &Scores<'_>, n, c);
                1: 4 4, 2: 2 4, 3: 1 4, 4: 1 2, 5: 1 2, 6: 1 2, 7: 1 2, 8: 1 2))
        }
    }
}

#[inline(always)]
unsafe fn scores<V: Sixteen, S: Coded, const ROWS: usize, const N: usize>(x: &Scores<'_>, page: usize, c: *mut f32) {
    // SAFETY: pages, rows and blocks stay below what `run` checked.
    unsafe {
        let (words, bytes) = S::block(x.k_dim);
        let blocks = x.k_dim / (words * S::IN_WORD);
        let skip = x.first * blocks;
        let codes = x.query.codes.as_ptr().add(skip * words);
        let (scales, sums) = (x.query.scales.as_ptr().add(skip), x.query.sums.as_ptr().add(skip));
        let c = c.add(page * PAGE);
        let mut acc = [[V::splat(0.0); N]; ROWS];
        for block in 0..blocks {
            let start = block * bytes;
            let mut of_block = [[V::sums(0); N]; ROWS];
            for r in 0..ROWS {
                of_block[r] = [V::sums(-S::above::<V>() * *sums.add(r * blocks + block)); N];
            }
            for g in 0..words {
                for n in 0..N {
                    let plane = x.planes[page + n].as_ptr().add(start);
                    if let Some(ahead) = x.ahead
                        && g * S::ROW % 64 == 0
                    {
                        V::prefetch(ahead[page + n].as_ptr().wrapping_add(start + g * S::ROW));
                    }
                    let keys = S::codes::<V>(plane.add(S::SCALES), g);
                    for r in 0..ROWS {
                        let q = *codes.add((r * blocks + block) * words + g);
                        of_block[r][n] = S::dot::<V>(of_block[r][n], keys, q);
                    }
                }
            }
            // The scales, too, moved on what is read next.
            if let Some(ahead) = x.ahead {
                for rest in (words * S::ROW..bytes - 63).step_by(64) {
                    for n in 0..N {
                        V::prefetch(ahead[page + n].as_ptr().wrapping_add(start + rest));
                    }
                }
            }
            for n in 0..N {
                let scale = S::scales::<V>(x.planes[page + n].as_ptr().add(start));
                for r in 0..ROWS {
                    let scale = V::splat(*scales.add(r * blocks + block)).mul(scale);
                    acc[r][n] = V::from_sums(of_block[r][n]).mul_add(scale, acc[r][n]);
                }
            }
        }
        for r in 0..ROWS {
            for n in 0..N {
                acc[r][n].store(c.add(r * x.c_stride + n * PAGE));
            }
        }
    }
}
