//! Blocks with scale and minimum: Q4_1 and Q5_1, and under super-block scales Q2_K, Q4_K, Q5_K.
//!
//! Minimized is the weighted squared error of `d * scale * q - dmin * min` over everything that is stored. Each block
//! first finds its best real scale and minimum: codes from a grid of ranges, least squares for the codes, codes again.
//! Then all blocks together: whole-number scales and minima around the real ones, at several super-block scales; from
//! the best of these on, least squares for `d` and `dmin` and a wider search around the real ones, twice.

use super::{
    lanes::{Batch, Codes, LANES, Lanes, Moments, each, once, together},
    sums::{clamp, half, inverse, round},
};

/// Super-blocks ready to be packed. Everything stands once for a block.
pub(super) struct Affine<const VALUES: usize> {
    pub(super) d: Lanes,
    pub(super) dmin: Lanes,
    pub(super) scales: [u8; LANES],
    pub(super) mins: [u8; LANES],
    pub(super) q: [u8; VALUES],
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

/// Blocks' best scales and minima in real numbers, and the means of their codes under them.
#[derive(Clone, Copy)]
pub(super) struct Real {
    pub(super) scale: Lanes,
    pub(super) min: Lanes,
    mean: Lanes,
}

/// Super-block scales and the whole numbers under them.
#[derive(Clone, Copy)]
struct State {
    d: Lanes,
    dmin: Lanes,
    scales: Lanes,
    mins: Lanes,
    /// Of the super-block, once all its blocks are fitted.
    error: Lanes,
}

/// Steps around the nearest whole numbers to try: of scales, and of minima under each of them.
struct Reach(&'static [f32], &'static [f32]);
const NARROW: Reach = Reach(&[0.0, -1.0, 1.0], &[0.0]);
const WIDE: Reach = Reach(&[0.0, -1.0, 1.0, -2.0, 2.0], &[0.0, -1.0, 1.0]);

/// Times that whole numbers and super-block scales are fitted to each other in the end.
const ROUNDS: usize = 2;

#[inline(always)]
pub(super) fn fit<const N: usize, const BLOCKS: usize, const VALUES: usize>(
    x: &[f32; VALUES],
    w: &[f32; VALUES],
    l: &Limits,
) -> Affine<VALUES> {
    let b = Batch::<N>::new(x, w);
    let m = b.moments();
    let real = real_fit(&b, &m, l);
    let greatest = |of: &Lanes| {
        once::<BLOCKS>(|first| {
            of[first..first + BLOCKS].iter().fold(0.0, |m: f32, &v| if v > m { v } else { m }) / l.scale
        })
    };
    let (d, dmin) = (greatest(&real.scale), greatest(&real.min));
    let mut best = State { d, dmin, scales: [0.0; LANES], mins: [0.0; LANES], error: [f32::INFINITY; LANES] };
    for start in l.starts {
        let halved = |d: &Lanes| once::<BLOCKS>(|i| half(d[i] * start).1);
        let state = whole_numbers::<N, BLOCKS>(&b, &real, halved(&d), halved(&dmin), l, &NARROW);
        best = better(&state, &best);
    }
    for _ in 0..ROUNDS {
        let (d, dmin) = refit::<N, BLOCKS>(&b, &m, &best, l);
        best = better(&whole_numbers::<N, BLOCKS>(&b, &real, d, dmin, l, &WIDE), &best);
    }
    finish(&b, &best, l)
}

#[inline(always)]
fn better(a: &State, b: &State) -> State {
    let pick = |x: &Lanes, y: &Lanes| each(|l| if a.error[l] < b.error[l] { x[l] } else { y[l] });
    State {
        d: pick(&a.d, &b.d),
        dmin: pick(&a.dmin, &b.dmin),
        scales: pick(&a.scales, &b.scales),
        mins: pick(&a.mins, &b.mins),
        error: pick(&a.error, &b.error),
    }
}

/// The best scale and minimum of every block for itself.
#[inline(always)]
pub(super) fn real_fit<const N: usize>(b: &Batch<N>, m: &Moments, l: &Limits) -> Real {
    let most = if l.above_zero { f32::INFINITY } else { 0.0 };
    let low = b.x.iter().fold([most; LANES], |m, x| each(|l| if x[l] < m[l] { x[l] } else { m[l] }));
    let high = b.x.iter().fold(low, |m, x| each(|l| if x[l] > m[l] { x[l] } else { m[l] }));
    let mut best = Real { scale: [0.0; LANES], min: low.map(|v| -v), mean: [0.0; LANES] };
    let mut least = [f32::INFINITY; LANES];
    for from in l.cuts {
        for to in l.cuts {
            let inverse = each(|i| inverse((high[i] - low[i]) * ((l.q - from - to) / (l.q * l.q))));
            let offset = each(|i| -(low[i] * inverse[i] + from));
            let c = b.codes(|i, x| clamp(round(x.mul_add(inverse[i], offset[i])), 0.0, l.q));
            consider(&c, m, l, &mut least, &mut best);
        }
    }
    for _ in 0..2 {
        let inverse = best.scale.map(inverse);
        let offset = each(|i| best.min[i] * inverse[i]);
        let c = b.codes(|i, x| clamp(round(x.mul_add(inverse[i], offset[i])), 0.0, l.q));
        consider(&c, m, l, &mut least, &mut best);
    }
    best
}

/// Least squares for scale and minimum under codes; the best counts. A minimum below zero cannot be stored.
#[inline(always)]
fn consider(c: &Codes, m: &Moments, limits: &Limits, least: &mut Lanes, best: &mut Real) {
    for (l, least) in least.iter_mut().enumerate() {
        let det = m.w[l] * c.qq[l] - c.q[l] * c.q[l];
        let slope = (m.w[l] * c.xq[l] - m.x[l] * c.q[l]) * inverse(det);
        let offset = (m.x[l] - slope * c.q[l]) / m.w[l];
        let through_zero = offset > 0.0 && !limits.above_zero || det <= 0.0;
        let scale = if through_zero { c.xq[l] * inverse(c.qq[l]) } else { slope };
        let shift = if through_zero { 0.0 } else { offset };
        let error = m.xx[l] - scale * c.xq[l] - shift * m.x[l];
        let good = error < *least && scale > 0.0;
        *least = if good { error } else { *least };
        best.scale[l] = if good { scale } else { best.scale[l] };
        best.min[l] = if good { -shift } else { best.min[l] };
        best.mean[l] = if good { c.q[l] / m.w[l] } else { best.mean[l] };
    }
}

/// Weighted squared errors under whole-number scales and minima.
#[inline(always)]
fn errors<const N: usize>(b: &Batch<N>, s: &State, scale: &Lanes, min: &Lanes, l: &Limits) -> Lanes {
    let (scale, min) = (each(|i| s.d[i] * scale[i]), each(|i| s.dmin[i] * min[i]));
    let inverse = scale.map(inverse);
    b.squares(|i, x| {
        let shifted = x + min[i];
        clamp(round(shifted * inverse[i]), 0.0, l.q).mul_add(-scale[i], shifted)
    })
}

/// The best whole-number scales and minima near the real ones.
#[inline(always)]
fn whole_numbers<const N: usize, const BLOCKS: usize>(
    b: &Batch<N>,
    real: &Real,
    d: Lanes,
    dmin: Lanes,
    l: &Limits,
    reach: &Reach,
) -> State {
    let (id, idmin) = (d.map(inverse), dmin.map(inverse));
    let whole = |v: f32| clamp(round(v), 0.0, l.scale);
    let near = |step: f32| {
        let scale = each(|i| clamp(round(real.scale[i] * id[i]) + step, 0.0, l.scale));
        // With another scale the centre stays where it is.
        let min = each(|i| whole((real.min[i] + (d[i] * scale[i] - real.scale[i]) * real.mean[i]) * idmin[i]));
        (scale, min)
    };
    let mut s = State { d, dmin, scales: [0.0; LANES], mins: [0.0; LANES], error: [f32::INFINITY; LANES] };
    for step in reach.0 {
        let (scale, min) = near(*step);
        for step in reach.1 {
            try_numbers(b, &mut s, &scale, &each(|i| clamp(min[i] + step, 0.0, l.scale)), l);
        }
    }
    for step in [-1.0, 1.0] {
        let (scale, min) = (s.scales, each(|i| clamp(s.mins[i] + step, 0.0, l.scale)));
        try_numbers(b, &mut s, &scale, &min, l);
    }
    s.error = together::<BLOCKS>(&s.error);
    s
}

/// Takes a scale and minimum where they lower a block's error.
#[inline(always)]
fn try_numbers<const N: usize>(b: &Batch<N>, s: &mut State, scale: &Lanes, min: &Lanes, l: &Limits) {
    let e = errors(b, s, scale, min, l);
    for i in 0..LANES {
        let good = e[i] < s.error[i];
        s.error[i] = if good { e[i] } else { s.error[i] };
        s.scales[i] = if good { scale[i] } else { s.scales[i] };
        s.mins[i] = if good { min[i] } else { s.mins[i] };
    }
}

/// Least squares for the super-block scales under the codes that a state leads to.
#[inline(always)]
fn refit<const N: usize, const BLOCKS: usize>(b: &Batch<N>, m: &Moments, s: &State, l: &Limits) -> (Lanes, Lanes) {
    let (scale, min) = (each(|i| s.d[i] * s.scales[i]), each(|i| s.dmin[i] * s.mins[i]));
    let inverses = scale.map(inverse);
    let offset = each(|i| min[i] * inverses[i]);
    let c = b.codes(|i, x| clamp(round(x.mul_add(inverses[i], offset[i])), 0.0, l.q));
    // Normal equations of x = d * a - dmin * b.
    let sum = |f: &dyn Fn(usize) -> f32| together::<BLOCKS>(&each(f));
    let aa = sum(&|i| s.scales[i] * s.scales[i] * c.qq[i]);
    let ab = sum(&|i| s.scales[i] * s.mins[i] * c.q[i]);
    let bb = sum(&|i| s.mins[i] * s.mins[i] * m.w[i]);
    let xa = sum(&|i| s.scales[i] * c.xq[i]);
    let xb = sum(&|i| s.mins[i] * m.x[i]);
    let det = each(|i| aa[i] * bb[i] - ab[i] * ab[i]);
    let d = each(|i| (xa[i] * bb[i] - xb[i] * ab[i]) * inverse(det[i]));
    let dmin = each(|i| (xa[i] * ab[i] - xb[i] * aa[i]) * inverse(det[i]));
    // With next to no minima the equations say nothing about them.
    let single = |i: usize| det[i] <= 1e-6 * aa[i] * bb[i] || d[i] <= 0.0 || dmin[i] <= 0.0;
    let alone = |i: usize| (xa[i] + s.dmin[i] * ab[i]) * inverse(aa[i]);
    (
        once::<BLOCKS>(|i| half(if single(i) { alone(i) } else { d[i] }.max(0.0)).1),
        once::<BLOCKS>(|i| half(if single(i) { s.dmin[i] } else { dmin[i] }.max(0.0)).1),
    )
}

#[inline(always)]
fn finish<const N: usize, const VALUES: usize>(b: &Batch<N>, s: &State, l: &Limits) -> Affine<VALUES> {
    let mut q = [0; VALUES];
    let inverse = each(|i| inverse(s.d[i] * s.scales[i]));
    b.write(&mut q, |i, x| clamp(round((x + s.dmin[i] * s.mins[i]) * inverse[i]), 0.0, l.q) as u8);
    Affine { d: s.d, dmin: s.dmin, scales: s.scales.map(|v| v as u8), mins: s.mins.map(|v| v as u8), q }
}
