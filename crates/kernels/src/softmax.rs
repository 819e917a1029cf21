//! Softmax over rows.

use crate::lanes::{max, sum};
use crate::math::exp;
use crate::twin::twin;

/// Softmax of one row in place; returns `(maximum, Σ exp(x - maximum))`.
#[inline(always)]
pub(crate) fn softmax_row(x: &mut [f32]) -> (f32, f32) {
    let m = max(x);
    for v in x.iter_mut() {
        *v = exp(*v - m);
    }
    let total = sum(x);
    let inverse = 1.0 / total;
    for v in x.iter_mut() {
        *v *= inverse;
    }
    (m, total)
}

twin! {
    /// `exp(x - max x) / Σ` over each `width` elements, in place.
    pub fn softmax(x: &mut [f32], width: usize) {
        for row in x.chunks_exact_mut(width) {
            softmax_row(row);
        }
    }
}

twin! {
    /// `x - ln Σ exp x` over each `width` elements, in place.
    pub fn log_softmax(x: &mut [f32], width: usize) {
        for row in x.chunks_exact_mut(width) {
            let m = max(row);
            let mut lanes = [0f32; crate::lanes::LANES];
            for block in row.chunks(crate::lanes::LANES) {
                for (l, v) in lanes.iter_mut().zip(block) {
                    *l += exp(*v - m);
                }
            }
            let shift = m + crate::math::ln(crate::lanes::tree(lanes));
            for v in row {
                *v -= shift;
            }
        }
    }
}
