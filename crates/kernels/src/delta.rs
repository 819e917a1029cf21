//! The gated delta rule (Yang et al. 2024, arXiv:2412.06464), as Qwen3-Next uses it, in recurrent form: the same bytes
//! for a prompt whole, in chunks or token by token.
#![expect(unsafe_code, reason = "tasks write disjoint columns of states and rows")]

use crate::isa::Isa;
use crate::math::{exp, sigmoid, softplus};
use crate::pool::{Parts, Pool};
use crate::state::{Columns, StateRows, check};
use crate::twin::twin;

/// Value columns of a task: their sums stay in registers, and their part of the state in the first cache.
const COLUMNS: usize = 32;

/// Shapes of the rule.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Delta {
    /// Value heads; each has a state. Head `h` reads query and key head `h / (v_heads / k_heads)`, or where they are
    /// `tiled`, head `h % k_heads`.
    pub v_heads: usize,
    /// Query and key heads.
    pub k_heads: usize,
    /// Elements of a query or key.
    pub k_dim: usize,
    /// Elements of a value.
    pub v_dim: usize,
    /// Factor on the result, `1/√k_dim`.
    pub scale: f32,
    /// Value heads of one key head are not neighbours, but `k_heads` apart (GGUF's Qwen3.5).
    pub tiled: bool,
}

twin! {
    /// The rule's gates per row and head: decay exponents `g = a_neg · softplus(a + dt_bias)` with `a_neg =
    /// -exp(A_log)`, in place of `a`, and rates `β = σ(b)`, in place of `b`. Both are `[rows × a_neg.len()]`.
    pub fn gates(a_neg: &[f32], dt_bias: &[f32], a: &mut [f32], b: &mut [f32]) {
        for row in a.chunks_exact_mut(a_neg.len().max(1)) {
            for ((a, n), bias) in row.iter_mut().zip(a_neg).zip(dt_bias) {
                *a = n * softplus(*a + bias);
            }
        }
        for b in b {
            *b = sigmoid(*b);
        }
    }
}

/// Per value head: `S ← eᵍ S`, `S ← S + k ⊗ β (v - Sᵀk)`, `o = scale · Sᵀq`. `q` and `k` (normalized by the caller) have
/// `k_heads · k_dim` columns, `v` has `v_heads · v_dim`, `g` and `beta` have `v_heads`; `states` is a pool of
/// `v_heads · k_dim · v_dim` numbers, zero at a sequence's start; `out` is `[rows × v_heads · v_dim]`.
///
/// # Panics
/// When shapes do not fit or two sequences share a state.
pub fn gated_delta(
    pool: &Pool,
    isa: Isa,
    shape: &Delta,
    [q, k, v, g, beta]: [Columns<'_>; 5],
    seqs: &[StateRows],
    states: &mut [f32],
    out: &mut [f32],
) {
    let Delta { v_heads, k_heads, k_dim, v_dim, scale, tiled } = *shape;
    let (width, state) = (v_heads * v_dim, v_heads * k_dim * v_dim);
    check(seqs, states.len(), state, out.len(), width);
    assert!(v_heads.is_multiple_of(k_heads), "{v_heads} value heads for {k_heads} key heads");
    let blocks = v_dim.div_ceil(COLUMNS);
    let (states, out) = (Parts::new(states), Parts::new(out));
    pool.run(seqs.len() * v_heads * blocks, |task| {
        let (seq, head, first) = (&seqs[task / blocks / v_heads], task / blocks % v_heads, task % blocks * COLUMNS);
        let count = COLUMNS.min(v_dim - first);
        let key = if tiled { head % k_heads } else { head / (v_heads / k_heads) } * k_dim;
        let at = seq.slot * state + (head * v_dim + first) * k_dim;
        // SAFETY: sequences have states of their own, and blocks of columns have parts of their own in them.
        let s = unsafe { states.part(at, k_dim * count) };
        for t in seq.rows.clone() {
            let (q, k) = (&q.row(t)[key..][..k_dim], &k.row(t)[key..][..k_dim]);
            let at = head * v_dim + first;
            let v = &v.row(t)[at..][..count];
            // SAFETY: as above.
            let o = unsafe { out.part(t * width + at, count) };
            token(isa, s, (q, k, v), (exp(g.row(t)[head]), beta.row(t)[head], scale), o);
        }
    });
}

/// One token of a block of `n` columns, `s` being `[k_dim × n]`.
#[inline(always)]
fn columns(n: usize, s: &mut [f32], qkv: (&[f32], &[f32], &[f32]), gates: (f32, f32, f32), o: &mut [f32]) {
    let ((q, k, v), (decay, beta, scale)) = (qkv, gates);
    let mut sums = [0f32; COLUMNS];
    for (row, k) in s.chunks_exact_mut(n).zip(k) {
        for (s, sum) in row.iter_mut().zip(&mut sums) {
            *s *= decay;
            *sum = s.mul_add(*k, *sum);
        }
    }
    let mut change = [0f32; COLUMNS];
    for ((c, v), sum) in change.iter_mut().zip(v).zip(&sums) {
        *c = (v - sum) * beta;
    }
    let mut sums = [0f32; COLUMNS];
    for ((row, k), q) in s.chunks_exact_mut(n).zip(k).zip(q) {
        for ((s, c), sum) in row.iter_mut().zip(&change).zip(&mut sums) {
            *s = k.mul_add(*c, *s);
            *sum = s.mul_add(*q, *sum);
        }
    }
    for (o, sum) in o.iter_mut().zip(&sums) {
        *o = sum * scale;
    }
}

twin! {
    fn token(s: &mut [f32], qkv: (&[f32], &[f32], &[f32]), gates: (f32, f32, f32), o: &mut [f32]) {
        // A width known to the compiler keeps the sums in registers.
        match o.len() {
            COLUMNS => columns(COLUMNS, s, qkv, gates, o),
            n => columns(n, s, qkv, gates, o),
        }
    }
}
