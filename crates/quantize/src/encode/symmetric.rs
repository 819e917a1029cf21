//! Blocks with signed scales under one super-block scale: Q3_K, Q6_K, IQ4_XS.
//!
//! Levels reach one further down than up, so a block's scale takes the sign that suits its extreme value. As with
//! [`super::affine`]: best real scales, whole numbers around them, least squares for the scale of scales, again.

use super::{
    lanes::{Batch, LANES, Lanes, each, once, together},
    levels::{self, Levels},
    sums::{clamp, extreme, half, inverse, round},
};

/// Super-blocks ready to be packed. Everything stands once for a block.
pub(super) struct Symmetric<const VALUES: usize> {
    pub(super) d: Lanes,
    pub(super) scales: [i8; LANES],
    pub(super) q: [u8; VALUES],
}

/// Times that whole numbers and the super-block scale are fitted to each other.
const ROUNDS: usize = 3;

#[derive(Clone, Copy)]
struct State {
    d: Lanes,
    scales: Lanes,
    /// Of the super-block.
    error: Lanes,
}

/// Scales are whole numbers from minus `most` to `most` less one. `starts` are super-block scales to start from, in
/// parts of the one that just holds the greatest block scale.
#[inline(always)]
pub(super) fn fit<L: Levels, const N: usize, const BLOCKS: usize, const VALUES: usize>(
    x: &[f32; VALUES],
    w: &[f32; VALUES],
    most: f32,
    starts: &[f32],
) -> Symmetric<VALUES> {
    let b = Batch::<N>::new(x, w);
    let real = levels::best_scale::<L, N>(&b);
    let d = once::<BLOCKS>(|i| -extreme(&real[i..i + BLOCKS]) / most);
    let mut best = State { d, scales: [0.0; LANES], error: [f32::INFINITY; LANES] };
    for start in starts {
        let mut d = once::<BLOCKS>(|i| half(d[i] * start).1);
        for _ in 0..ROUNDS {
            let state = whole_numbers::<L, N, BLOCKS>(&b, &real, d, most);
            d = refit::<L, N, BLOCKS>(&b, &state);
            best = better(&state, &best);
            if d == state.d {
                break;
            }
        }
    }
    finish::<L, N, VALUES>(&b, &best)
}

#[inline(always)]
fn better(a: &State, b: &State) -> State {
    let pick = |x: &Lanes, y: &Lanes| each(|l| if a.error[l] < b.error[l] { x[l] } else { y[l] });
    State { d: pick(&a.d, &b.d), scales: pick(&a.scales, &b.scales), error: pick(&a.error, &b.error) }
}

#[inline(always)]
fn whole_numbers<L: Levels, const N: usize, const BLOCKS: usize>(
    b: &Batch<N>,
    real: &Lanes,
    d: Lanes,
    most: f32,
) -> State {
    let (mut scales, mut error) = ([0.0; LANES], [f32::INFINITY; LANES]);
    let near = each(|l| round(real[l] * inverse(d[l])));
    for step in [0.0, -1.0, 1.0] {
        let scale = each(|l| clamp(near[l] + step, -most, most - 1.0));
        let e = levels::errors::<L, N>(b, &each(|l| d[l] * scale[l]));
        for l in 0..LANES {
            let good = e[l] < error[l];
            error[l] = if good { e[l] } else { error[l] };
            scales[l] = if good { scale[l] } else { scales[l] };
        }
    }
    State { d, scales, error: together::<BLOCKS>(&error) }
}

#[inline(always)]
fn refit<L: Levels, const N: usize, const BLOCKS: usize>(b: &Batch<N>, s: &State) -> Lanes {
    let inverses = each(|l| inverse(s.d[l] * s.scales[l]));
    let c = b.codes(|l, x| L::nearest(x * inverses[l]));
    let aa = together::<BLOCKS>(&each(|l| s.scales[l] * s.scales[l] * c.qq[l]));
    let xa = together::<BLOCKS>(&each(|l| s.scales[l] * c.xq[l]));
    once::<BLOCKS>(|l| half(xa[l] * inverse(aa[l])).1)
}

#[inline(always)]
fn finish<L: Levels, const N: usize, const VALUES: usize>(b: &Batch<N>, s: &State) -> Symmetric<VALUES> {
    let mut q = [0; VALUES];
    let inverse = each(|l| inverse(s.d[l] * s.scales[l]));
    b.write(&mut q, |l, x| L::code(x * inverse[l]));
    Symmetric { d: s.d, scales: s.scales.map(|v| v as i8), q }
}
