//! Normalizations of rows, or of equal groups within a row (a head, a Mamba-2 group). `x` and `out` are `[rows ×
//! width]`, row-major; a weight covers one group, or the whole row, and is then repeated.

use crate::lanes::{sum, sum_squares, sum_squares_around};
use crate::math::sigmoid;
use crate::twin::twin;

/// `out = x · scale [· w]`.
#[inline(always)]
fn scale_into(x: &[f32], w: Option<&[f32]>, scale: f32, out: &mut [f32]) {
    match w {
        Some(w) => {
            for ((o, v), w) in out.iter_mut().zip(x).zip(w) {
                *o = v * scale * w;
            }
        }
        None => {
            for (o, v) in out.iter_mut().zip(x) {
                *o = v * scale;
            }
        }
    }
}

/// `1 / √(mean x² + eps)`.
#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_squares(x) / x.len() as f32 + eps).sqrt()
}

/// The part of `w` that belongs to group `i`: weights as long as one group serve every group.
#[inline(always)]
pub(crate) fn weight_of(w: Option<&[f32]>, i: usize, group: usize) -> Option<&[f32]> {
    w.map(|w| {
        let groups = (w.len() / group).max(1);
        let start = i % groups * group;
        &w[start..start + group]
    })
}

twin! {
    /// `x / √(mean x² + eps) · w` over each `group` consecutive elements (Zhang & Sennrich 2019, arXiv:1910.07467).
    /// `w` is `[group]`, or `[n · group]` where n groups have weights of their own.
    pub fn rms_norm(x: &[f32], w: Option<&[f32]>, eps: f32, group: usize, out: &mut [f32]) {
        for (i, (x, out)) in x.chunks_exact(group).zip(out.chunks_exact_mut(group)).enumerate() {
            scale_into(x, weight_of(w, i, group), inverse_rms(x, eps), out);
        }
    }
}

twin! {
    /// [`rms_norm`] in place.
    pub fn rms_norm_in_place(x: &mut [f32], w: Option<&[f32]>, eps: f32, group: usize) {
        for (i, x) in x.chunks_exact_mut(group).enumerate() {
            let scale = inverse_rms(x, eps);
            match weight_of(w, i, group) {
                Some(w) => x.iter_mut().zip(w).for_each(|(v, w)| *v = *v * scale * w),
                None => x.iter_mut().for_each(|v| *v *= scale),
            }
        }
    }
}

twin! {
    /// `(x - mean) / √(variance + eps) · w + b` over each `group` (Ba et al. 2016, arXiv:1607.06450); OLMo 1 has
    /// neither weight nor bias.
    pub fn layer_norm(x: &[f32], w: Option<&[f32]>, b: Option<&[f32]>, eps: f32, group: usize, out: &mut [f32]) {
        let n = group as f32;
        for (i, (x, out)) in x.chunks_exact(group).zip(out.chunks_exact_mut(group)).enumerate() {
            let mean = sum(x) / n;
            let scale = 1.0 / (sum_squares_around(x, mean) / n + eps).sqrt();
            for (o, v) in out.iter_mut().zip(x) {
                *o = (v - mean) * scale;
            }
            if let Some(w) = weight_of(w, i, group) {
                out.iter_mut().zip(w).for_each(|(o, w)| *o *= w);
            }
            if let Some(b) = weight_of(b, i, group) {
                out.iter_mut().zip(b).for_each(|(o, b)| *o += b);
            }
        }
    }
}

twin! {
    /// `x / √(Σ x² + eps)` over each `group`, as flash-linear-attention normalizes DeltaNet's queries and keys.
    pub fn l2_norm(x: &[f32], eps: f32, group: usize, out: &mut [f32]) {
        for (x, out) in x.chunks_exact(group).zip(out.chunks_exact_mut(group)) {
            scale_into(x, None, 1.0 / (sum_squares(x) + eps).sqrt(), out);
        }
    }
}

/// The gate `silu(z)` of a gated norm, and where it acts; `z` has `x`'s shape.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Gate<'a> {
    /// `norm(x · silu(z)) · w`: Mamba-2, Nemotron-H, Granite 4.
    Before(&'a [f32]),
    /// `norm(x) · w · silu(z)`: Qwen3-Next's DeltaNet.
    After(&'a [f32]),
}

twin! {
    /// Root-mean-square norm of each `group`, gated.
    pub fn rms_norm_gated(x: &[f32], w: Option<&[f32]>, gate: Gate<'_>, eps: f32, group: usize, out: &mut [f32]) {
        let (Gate::Before(z) | Gate::After(z)) = gate;
        let groups = x.chunks_exact(group).zip(z.chunks_exact(group)).zip(out.chunks_exact_mut(group));
        for (i, ((x, z), out)) in groups.enumerate() {
            let w = weight_of(w, i, group);
            if matches!(gate, Gate::After(_)) {
                scale_into(x, w, inverse_rms(x, eps), out);
                for (o, z) in out.iter_mut().zip(z) {
                    *o *= z * sigmoid(*z);
                }
                continue;
            }
            for ((o, v), z) in out.iter_mut().zip(x).zip(z) {
                *o = v * (z * sigmoid(*z));
            }
            let scale = inverse_rms(out, eps);
            match w {
                Some(w) => out.iter_mut().zip(w).for_each(|(o, w)| *o = *o * scale * w),
                None => out.iter_mut().for_each(|o| *o *= scale),
            }
        }
    }
}
