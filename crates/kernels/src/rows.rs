//! Row-wise work spread over the pool.

use crate::pool::{Parts, Pool};
use std::ops::Range;

/// Elements below which handing a piece to another thread costs more than doing it.
const WORTH: usize = 8 << 10;

/// Calls `f` with ranges that together cover `0..rows` and with the rows of `out` (each `width` long) that belong to
/// them. What a row gets must not depend on the range it came in.
pub fn for_rows(pool: &Pool, rows: usize, width: usize, out: &mut [f32], f: impl Fn(Range<usize>, &mut [f32]) + Sync) {
    let piece = (WORTH / width.max(1)).max(1);
    if rows <= piece {
        return f(0..rows, &mut out[..rows * width]);
    }
    let parts = Parts::new(out);
    pool.run(rows.div_ceil(piece), |i| {
        let range = i * piece..rows.min((i + 1) * piece);
        #[expect(unsafe_code, reason = "tasks write disjoint rows")]
        // SAFETY: the ranges of different tasks do not overlap.
        let out = unsafe { parts.part(range.start * width, range.len() * width) };
        f(range, out);
    });
}

/// [`for_rows`] with two results of the same width.
pub fn for_row_pairs(
    pool: &Pool,
    rows: usize,
    width: usize,
    [a, b]: [&mut [f32]; 2],
    f: impl Fn(Range<usize>, &mut [f32], &mut [f32]) + Sync,
) {
    assert!(b.len() >= rows * width, "a result shorter than its rows");
    let b = Parts::new(b);
    for_rows(pool, rows, width, a, |range, a| {
        #[expect(unsafe_code, reason = "tasks write disjoint rows")]
        // SAFETY: the ranges of different tasks do not overlap.
        let b = unsafe { b.part(range.start * width, range.len() * width) };
        f(range, a, b);
    });
}
