//! Blocks with signed scales under one super-block scale: Q3_K, Q6_K, IQ4_XS.
//!
//! Levels reach one further down than up, so a block's scale takes the sign that suits its extreme value. As with
//! [`super::affine`]: best real scales, whole numbers around them, least squares for the scale of scales, again.

use super::{
    levels::{self, Levels},
    sums::{clamp, extreme, half, inverse, round},
};

/// A super-block ready to be packed.
pub(super) struct Symmetric<const BLOCKS: usize> {
    pub(super) d: [u8; 2],
    pub(super) scales: [i8; BLOCKS],
    pub(super) q: [u8; 256],
}

/// Times that whole numbers and the super-block scale are fitted to each other.
const ROUNDS: usize = 3;

#[derive(Clone, Copy)]
struct State<const BLOCKS: usize> {
    d: f32,
    scales: [f32; BLOCKS],
    error: f32,
}

/// Scales are whole numbers from minus `most` to `most` less one. `starts` are super-block scales to start from, in
/// parts of the one that just holds the greatest block scale.
#[inline(always)]
pub(super) fn fit<L: Levels, const N: usize, const BLOCKS: usize>(
    x: &[f32; 256],
    w: &[f32; 256],
    most: f32,
    starts: &[f32],
) -> Symmetric<BLOCKS> {
    let (x, w) = (x.as_chunks::<N>().0, w.as_chunks::<N>().0);
    let mut real = [0.0; BLOCKS];
    for j in 0..BLOCKS {
        real[j] = levels::best_scale::<L, N>(&x[j], &w[j]);
    }
    let d = -extreme(&real) / most;
    let mut best: Option<State<BLOCKS>> = None;
    for start in starts {
        let mut d = half(d * start).1;
        for _ in 0..ROUNDS {
            let state = whole_numbers::<L, N, BLOCKS>(x, w, &real, d, most);
            d = refit::<L, N, BLOCKS>(x, w, &state);
            if best.as_ref().is_none_or(|b| state.error < b.error) {
                best = Some(state);
            }
            if d == state.d {
                break;
            }
        }
    }
    finish::<L, N, BLOCKS>(x, best)
}

#[inline(always)]
fn whole_numbers<L: Levels, const N: usize, const BLOCKS: usize>(
    x: &[[f32; N]],
    w: &[[f32; N]],
    real: &[f32; BLOCKS],
    d: f32,
    most: f32,
) -> State<BLOCKS> {
    let mut state = State { d, scales: [0.0; BLOCKS], error: 0.0 };
    let id = inverse(d);
    for j in 0..BLOCKS {
        let near = round(real[j] * id);
        let mut best = (f32::INFINITY, 0.0);
        for scale in [near, near - 1.0, near + 1.0].map(|s| clamp(s, -most, most - 1.0)) {
            let e = levels::error::<L, N>(&x[j], &w[j], d * scale);
            if e < best.0 {
                best = (e, scale);
            }
        }
        state.scales[j] = best.1;
        state.error += best.0;
    }
    state
}

#[inline(always)]
fn refit<L: Levels, const N: usize, const BLOCKS: usize>(x: &[[f32; N]], w: &[[f32; N]], s: &State<BLOCKS>) -> f32 {
    let (mut aa, mut xa) = (0.0, 0.0);
    for j in 0..BLOCKS {
        let scale = s.scales[j];
        let c = levels::codes::<L, N>(&x[j], &w[j], inverse(s.d * scale));
        aa += scale * scale * c.qq;
        xa += scale * c.xq;
    }
    half(xa * inverse(aa)).1
}

#[inline(always)]
fn finish<L: Levels, const N: usize, const BLOCKS: usize>(
    x: &[[f32; N]],
    state: Option<State<BLOCKS>>,
) -> Symmetric<BLOCKS> {
    let mut out = Symmetric { d: [0; 2], scales: [0; BLOCKS], q: [L::code(0.0); 256] };
    let Some(s) = state else { return out };
    out.d = half(s.d).0;
    for (j, q) in out.q.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        out.scales[j] = s.scales[j] as i8;
        let inverse = inverse(s.d * s.scales[j]);
        for (q, x) in q.iter_mut().zip(&x[j]) {
            *q = L::code(x * inverse);
        }
    }
    out
}
