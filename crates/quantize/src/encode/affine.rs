//! Blocks with scale and minimum under super-block scales: Q2_K, Q4_K, Q5_K.
//!
//! Minimized is the weighted squared error of `d * scale * q - dmin * min` over everything that is stored. Each block
//! first finds its best real scale and minimum: codes from a grid of ranges, least squares for the codes, codes again.
//! Then all blocks together: whole-number scales and minima around the real ones, least squares for `d` and `dmin`
//! under them, and again; the best state met counts.

use super::sums::{Codes, clamp, codes, error, half, inverse, moments, round};

/// A super-block of `BLOCKS` blocks of `N` values, ready to be packed.
pub(super) struct Affine<const BLOCKS: usize> {
    pub(super) d: [u8; 2],
    pub(super) dmin: [u8; 2],
    pub(super) scales: [u8; BLOCKS],
    pub(super) mins: [u8; BLOCKS],
    pub(super) q: [u8; 256],
}

/// What a type can store, and how hard to look.
pub(super) struct Limits {
    /// Greatest code.
    pub(super) q: f32,
    /// Greatest scale and minimum.
    pub(super) scale: f32,
    /// By how many steps of the codes a block's range is cut on either side, to try.
    pub(super) cuts: &'static [f32],
    /// Super-block scales to start from, in parts of the one that just holds the greatest block scale.
    pub(super) starts: &'static [f32],
    /// Whether the whole range may lie above zero: whether minima may be negative.
    pub(super) above_zero: bool,
}

/// A block's best scale and minimum in real numbers, and the mean of its codes under them.
#[derive(Clone, Copy, Default)]
struct Real {
    scale: f32,
    min: f32,
    mean: f32,
}

/// Super-block scales and the whole numbers under them.
#[derive(Clone, Copy)]
struct State<const BLOCKS: usize> {
    d: f32,
    dmin: f32,
    scales: [f32; BLOCKS],
    mins: [f32; BLOCKS],
    error: f32,
}

/// Times that whole numbers and super-block scales are fitted to each other.
const ROUNDS: usize = 3;

#[inline(always)]
pub(super) fn fit<const N: usize, const BLOCKS: usize>(x: &[f32; 256], w: &[f32; 256], l: &Limits) -> Affine<BLOCKS> {
    let (x, w) = (x.as_chunks::<N>().0, w.as_chunks::<N>().0);
    let mut real = [Real::default(); BLOCKS];
    for j in 0..BLOCKS {
        real[j] = real_fit(&x[j], &w[j], l);
    }
    let greatest = |of: fn(&Real) -> f32| real.iter().map(of).fold(0.0, f32::max) / l.scale;
    let (d, dmin) = (greatest(|r| r.scale), greatest(|r| r.min));
    let mut best: Option<State<BLOCKS>> = None;
    for start in l.starts {
        let (mut d, mut dmin) = (half(d * start).1, half(dmin * start).1);
        for _ in 0..ROUNDS {
            let state = whole_numbers(x, w, &real, d, dmin, l);
            (d, dmin) = refit(x, w, &state, l);
            if best.as_ref().is_none_or(|b| state.error < b.error) {
                best = Some(state);
            }
            if (d, dmin) == (state.d, state.dmin) {
                break;
            }
        }
    }
    finish::<N, BLOCKS>(x, best, l)
}

/// The best scale and minimum of a block that stands alone.
#[inline(always)]
pub(super) fn best_pair<const N: usize>(x: &[f32; N], w: &[f32; N], l: &Limits) -> (f32, f32) {
    let real = real_fit(x, w, l);
    (real.scale, real.min)
}

/// The best scale and minimum of one block.
#[inline(always)]
fn real_fit<const N: usize>(x: &[f32; N], w: &[f32; N], l: &Limits) -> Real {
    let (sw, sx, sxx) = moments(x, w);
    let most = if l.above_zero { f32::INFINITY } else { 0.0 };
    let low = x.iter().fold(most, |m: f32, &v| if v < m { v } else { m });
    let high = x.iter().fold(low, |m, &v| if v > m { v } else { m });
    if high <= low || sw <= 0.0 {
        return Real { scale: 0.0, min: -low, mean: 0.0 };
    }
    let mut best = (f32::INFINITY, Real::default());
    let mut consider = |c: Codes| {
        // Least squares for scale and minimum; a minimum below zero cannot be stored.
        let det = sw * c.qq - c.q * c.q;
        let mut scale = (sw * c.xq - sx * c.q) * inverse(det);
        let mut shift = (sx - scale * c.q) / sw;
        if shift > 0.0 && !l.above_zero || det <= 0.0 {
            (scale, shift) = (c.xq * inverse(c.qq), 0.0);
        }
        let error = sxx - scale * c.xq - shift * sx;
        if error < best.0 && scale > 0.0 {
            best = (error, Real { scale, min: -shift, mean: c.q / sw });
        }
        best.1
    };
    let step = (high - low) / l.q;
    let mut now = Real::default();
    for a in l.cuts {
        for b in l.cuts {
            let (from, to) = (low + a * step, high - b * step);
            let inverse = l.q / (to - from);
            now = consider(codes(x, w, inverse, -from * inverse, 0.0, l.q));
        }
    }
    for _ in 0..2 {
        let i = inverse(now.scale);
        now = consider(codes(x, w, i, now.min * i, 0.0, l.q));
    }
    now
}

/// The best whole-number scales and minima near the real ones.
#[inline(always)]
fn whole_numbers<const N: usize, const BLOCKS: usize>(
    x: &[[f32; N]],
    w: &[[f32; N]],
    real: &[Real; BLOCKS],
    d: f32,
    dmin: f32,
    l: &Limits,
) -> State<BLOCKS> {
    let mut state = State { d, dmin, scales: [0.0; BLOCKS], mins: [0.0; BLOCKS], error: 0.0 };
    let (id, idmin) = (inverse(d), inverse(dmin));
    for j in 0..BLOCKS {
        let r = &real[j];
        let near = round(r.scale * id);
        // With another scale the centre stays where it is.
        let centred = |scale: f32| {
            let scale = clamp(scale, 0.0, l.scale);
            let min = r.min + (d * scale - r.scale) * r.mean;
            (scale, clamp(round(min * idmin), 0.0, l.scale))
        };
        let flat = (0.0, clamp(round(r.min * idmin), 0.0, l.scale));
        let mut best = (f32::INFINITY, 0.0, 0.0);
        for (scale, min) in [centred(near), centred(near - 1.0), centred(near + 1.0), flat] {
            let e = error(&x[j], &w[j], d * scale, dmin * min, 0.0, l.q);
            if e < best.0 {
                best = (e, scale, min);
            }
        }
        for step in [-1.0, 1.0] {
            let (scale, min) = (best.1, clamp(best.2 + step, 0.0, l.scale));
            let e = error(&x[j], &w[j], d * scale, dmin * min, 0.0, l.q);
            if e < best.0 {
                best = (e, scale, min);
            }
        }
        let (e, scale, min) = best;
        (state.scales[j], state.mins[j]) = (scale, min);
        state.error += e;
    }
    state
}

/// Least squares for the super-block scales under the codes that a state leads to.
#[inline(always)]
fn refit<const N: usize, const BLOCKS: usize>(
    x: &[[f32; N]],
    w: &[[f32; N]],
    s: &State<BLOCKS>,
    l: &Limits,
) -> (f32, f32) {
    // Normal equations of x = d * a - dmin * b.
    let (mut aa, mut ab, mut bb, mut xa, mut xb) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for j in 0..BLOCKS {
        let (scale, min) = (s.scales[j], s.mins[j]);
        let i = inverse(s.d * scale);
        let c = codes(&x[j], &w[j], i, s.dmin * min * i, 0.0, l.q);
        let (sw, sx, _) = moments(&x[j], &w[j]);
        aa += scale * scale * c.qq;
        ab += scale * min * c.q;
        bb += min * min * sw;
        xa += scale * c.xq;
        xb += min * sx;
    }
    let det = aa * bb - ab * ab;
    let (mut d, mut dmin) = ((xa * bb - xb * ab) * inverse(det), (xa * ab - xb * aa) * inverse(det));
    // With next to no minima the equations say nothing about them.
    if det <= 1e-6 * aa * bb || d <= 0.0 || dmin <= 0.0 {
        (d, dmin) = ((xa + s.dmin * ab) * inverse(aa), s.dmin);
    }
    (half(d.max(0.0)).1, half(dmin.max(0.0)).1)
}

#[inline(always)]
fn finish<const N: usize, const BLOCKS: usize>(
    x: &[[f32; N]],
    state: Option<State<BLOCKS>>,
    l: &Limits,
) -> Affine<BLOCKS> {
    let mut out = Affine { d: [0; 2], dmin: [0; 2], scales: [0; BLOCKS], mins: [0; BLOCKS], q: [0; 256] };
    let Some(s) = state else { return out };
    (out.d, out.dmin) = (half(s.d).0, half(s.dmin).0);
    for (j, q) in out.q.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        (out.scales[j], out.mins[j]) = (s.scales[j] as u8, s.mins[j] as u8);
        let (inverse, min) = (inverse(s.d * s.scales[j]), s.dmin * s.mins[j]);
        for (q, x) in q.iter_mut().zip(&x[j]) {
            *q = clamp(round((x + min) * inverse), 0.0, l.q) as u8;
        }
    }
    out
}
