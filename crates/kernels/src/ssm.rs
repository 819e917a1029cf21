//! Selective state-space scans: Mamba (Gu & Dao 2023, arXiv:2312.00752) and Mamba-2 (Dao & Gu 2024, arXiv:2405.21060),
//! in their recurrent form. Tokens are taken one after the other and channels side by side, so a prompt gives the same
//! bytes whole, in chunks or token by token.
#![expect(unsafe_code, reason = "tasks write disjoint channels")]

use crate::isa::Isa;
use crate::lanes::{LANES, tree};
use crate::math::{exp, softplus};
use crate::pool::{Parts, Pool};
use crate::state::{Columns, StateRows, check};
use crate::twin::twin;

/// Channels of a Mamba task.
const CHANNELS: usize = 32;

/// Mamba's parameters that do not depend on the input.
#[derive(Clone, Copy, Debug)]
pub struct Mamba<'a> {
    /// `-exp(A_log)`, `[d_inner × d_state]`.
    pub a: &'a [f32],
    /// `[d_inner]`.
    pub d: &'a [f32],
    /// Added to the time step before `softplus`, `[d_inner]`.
    pub dt_bias: &'a [f32],
}

/// Mamba's scan. Per channel `c` and state `n`: `Δ = softplus(dt + dt_bias)`, `h ← h · exp(Δ A) + Δ x B`, `y = D x +
/// Σₙ C h`. `x` and `dt` have `d_inner` columns, `b` and `c` have `d_state`; `states` is a pool of `[d_inner ×
/// d_state]`; `out` is `[rows × d_inner]`. The gate `silu(z)` is left to the caller.
///
/// # Panics
/// When shapes do not fit or two sequences share a state.
pub fn mamba(
    pool: &Pool,
    isa: Isa,
    params: &Mamba<'_>,
    [x, dt, b, c]: [Columns<'_>; 4],
    seqs: &[StateRows],
    states: &mut [f32],
    out: &mut [f32],
) {
    let (inner, n) = (x.width(), b.width());
    check(seqs, states.len(), inner * n, out.len(), inner);
    let blocks = inner.div_ceil(CHANNELS);
    let (states, out) = (Parts::new(states), Parts::new(out));
    pool.run(seqs.len() * blocks, |task| {
        let (seq, first) = (&seqs[task / blocks], task % blocks * CHANNELS);
        let count = CHANNELS.min(inner - first);
        // SAFETY: sequences have states of their own, and blocks have channels of their own.
        let h = unsafe { states.part((seq.slot * inner + first) * n, count * n) };
        let channels = first..first + count;
        let a = &params.a[first * n..][..count * n];
        for t in seq.rows.clone() {
            // SAFETY: as above.
            let y = unsafe { out.part(t * inner + first, count) };
            let x = &x.row(t)[channels.clone()];
            let mut step = [0f32; CHANNELS];
            for ((s, dt), bias) in step.iter_mut().zip(&dt.row(t)[channels.clone()]).zip(&params.dt_bias[first..]) {
                *s = dt + bias;
            }
            mamba_token(isa, h, a, &mut step, x, b.row(t), c.row(t));
            for ((y, s), (x, d)) in y.iter_mut().zip(&step).zip(x.iter().zip(&params.d[first..])) {
                *y = d.mul_add(*x, *s);
            }
        }
    });
}

/// `h ← h · decay(a) + u · b`, returning `Σ c h`: one row of states. `decay` is per element or common.
macro_rules! advance {
    ($h:expr, $b:expr, $c:expr, $u:expr, |$i:ident| $decay:expr) => {{
        let (h, b, c, u): (&mut [f32], &[f32], &[f32], f32) = ($h, $b, $c, $u);
        let mut lanes = [0f32; LANES];
        let whole = h.len() / LANES * LANES;
        for at in (0..whole).step_by(LANES) {
            for j in 0..LANES {
                let $i = at + j;
                h[$i] = u.mul_add(b[$i], h[$i] * $decay);
                lanes[j] = c[$i].mul_add(h[$i], lanes[j]);
            }
        }
        for (j, $i) in (whole..h.len()).enumerate() {
            h[$i] = u.mul_add(b[$i], h[$i] * $decay);
            lanes[j] = c[$i].mul_add(h[$i], lanes[j]);
        }
        tree(lanes)
    }};
}

twin! {
    /// One token of a block of channels; `step` holds the time steps before `softplus` and receives `Σ C h`.
    fn mamba_token(h: &mut [f32], a: &[f32], step: &mut [f32; CHANNELS], x: &[f32], b: &[f32], c: &[f32]) {
        for s in step.iter_mut() {
            *s = softplus(*s);
        }
        let n = b.len();
        for (((h, a), x), s) in h.chunks_exact_mut(n).zip(a.chunks_exact(n)).zip(x).zip(step) {
            let (b, c, delta) = (&b[..n], &c[..n], *s);
            *s = advance!(h, b, c, delta * x, |i| exp(delta * a[i]));
        }
    }
}

/// Mamba-2's parameters that do not depend on the input.
#[derive(Clone, Copy, Debug)]
pub struct Mamba2<'a> {
    /// Elements of a head.
    pub head_dim: usize,
    /// Heads that share `b` and `c` are `heads / groups`.
    pub groups: usize,
    /// `-exp(A_log)`, `[heads]`.
    pub a: &'a [f32],
    /// `[heads]`.
    pub d: &'a [f32],
    /// Added to the time step before `softplus`, `[heads]`.
    pub dt_bias: &'a [f32],
    /// Bounds of the time step after `softplus` (`time_step_limit`).
    pub dt_limit: (f32, f32),
}

/// Mamba-2's scan. Per head, element `p` and state `n`: `Δ = clamp(softplus(dt + dt_bias))`, `h ← h · exp(Δ A) + Δ x
/// B`, `y = Σₙ C h + D x`. `x` has `heads · head_dim` columns, `dt` has `heads`, `b` and `c` have `groups · d_state`;
/// `states` is a pool of `[heads × head_dim × d_state]`; `out` is `[rows × heads · head_dim]`.
///
/// # Panics
/// When shapes do not fit or two sequences share a state.
pub fn mamba2(
    pool: &Pool,
    isa: Isa,
    params: &Mamba2<'_>,
    [x, dt, b, c]: [Columns<'_>; 4],
    seqs: &[StateRows],
    states: &mut [f32],
    out: &mut [f32],
) {
    let (inner, heads, dim) = (x.width(), dt.width(), params.head_dim);
    let n = b.width() / params.groups;
    check(seqs, states.len(), inner * n, out.len(), inner);
    assert!(heads * dim == inner && heads.is_multiple_of(params.groups), "{heads} heads of {dim} in {inner} columns");
    let (states, out) = (Parts::new(states), Parts::new(out));
    pool.run(seqs.len() * heads, |task| {
        let (seq, head) = (&seqs[task / heads], task % heads);
        let group = head / (heads / params.groups) * n;
        // SAFETY: sequences have states of their own, and so have heads.
        let h = unsafe { states.part((seq.slot * heads + head) * dim * n, dim * n) };
        for t in seq.rows.clone() {
            let delta = softplus(dt.row(t)[head] + params.dt_bias[head]);
            let delta = delta.clamp(params.dt_limit.0, params.dt_limit.1);
            let x = &x.row(t)[head * dim..][..dim];
            // SAFETY: as above.
            let y = unsafe { out.part(t * inner + head * dim, dim) };
            let (b, c) = (&b.row(t)[group..][..n], &c.row(t)[group..][..n]);
            mamba2_token(isa, h, (delta, exp(delta * params.a[head]), params.d[head]), x, b, c, y);
        }
    });
}

twin! {
    /// One token of a head; `step` is the time step, the decay and `D`.
    fn mamba2_token(h: &mut [f32], step: (f32, f32, f32), x: &[f32], b: &[f32], c: &[f32], y: &mut [f32]) {
        let (delta, decay, d) = step;
        let n = b.len();
        for ((h, x), y) in h.chunks_exact_mut(n).zip(x).zip(y) {
            let (b, c) = (&b[..n], &c[..n]);
            let sum = advance!(h, b, c, delta * x, |i| decay);
            *y = d.mul_add(*x, sum);
        }
    }
}
