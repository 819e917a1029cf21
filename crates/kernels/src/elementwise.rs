//! Sums, products and copies of rows.

use crate::twin::twin;

twin! {
    /// `x += y`.
    pub fn add(x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}

twin! {
    /// `out = x + y`.
    pub fn sum(x: &[f32], y: &[f32], out: &mut [f32]) {
        for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
            *out = x + y;
        }
    }
}

twin! {
    /// `x *= y`.
    pub fn mul(x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x *= y;
        }
    }
}

twin! {
    /// `x *= factor`.
    pub fn scale(x: &mut [f32], factor: f32) {
        for x in x {
            *x *= factor;
        }
    }
}

twin! {
    /// `out = factor · x`.
    pub fn scaled(x: &[f32], factor: f32, out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x * factor;
        }
    }
}

twin! {
    /// `x += factor · y`, fused.
    pub fn add_scaled(x: &mut [f32], y: &[f32], factor: f32) {
        for (x, y) in x.iter_mut().zip(y) {
            *x = factor.mul_add(*y, *x);
        }
    }
}

twin! {
    /// `x += b` in each row; `x` is `[rows × b.len()]`.
    pub fn add_bias(x: &mut [f32], b: &[f32]) {
        for row in x.chunks_exact_mut(b.len().max(1)) {
            for (x, b) in row.iter_mut().zip(b) {
                *x += b;
            }
        }
    }
}

twin! {
    /// `x *= w` in each row; `x` is `[rows × w.len()]`.
    pub fn mul_rows(x: &mut [f32], w: &[f32]) {
        for row in x.chunks_exact_mut(w.len().max(1)) {
            for (x, w) in row.iter_mut().zip(w) {
                *x *= w;
            }
        }
    }
}

twin! {
    /// Row `t` of `x` times `factor[t]`; `x` is `[factor.len() × width]`.
    pub fn scale_rows(x: &mut [f32], factor: &[f32], width: usize) {
        for (row, f) in x.chunks_exact_mut(width).zip(factor) {
            for x in row {
                *x *= f;
            }
        }
    }
}

twin! {
    /// Bounds every element to `low..=high`; NaN stays.
    pub fn clamp(x: &mut [f32], low: f32, high: f32) {
        for x in x {
            let v = if *x < low { low } else { *x };
            *x = if v > high { high } else { v };
        }
    }
}

/// Copies rows `ids` of `x` (`[n × width]`) to `out` (`[ids.len() × width]`).
///
/// # Panics
/// When an id is not below `n`.
pub fn gather(x: &[f32], width: usize, ids: &[u32], out: &mut [f32]) {
    for (out, &id) in out.chunks_exact_mut(width).zip(ids) {
        let start = id as usize * width;
        out.copy_from_slice(&x[start..start + width]);
    }
}

/// Writes the row of each token to `out` (`[ids.len() × width]`); `decode(id, row)` fills one row from a table of any
/// element type.
pub fn embed(ids: &[u32], width: usize, out: &mut [f32], decode: impl Fn(u32, &mut [f32])) {
    for (row, &id) in out.chunks_exact_mut(width).zip(ids) {
        decode(id, row);
    }
}
