//! Causal depthwise convolution over a sequence: the short filter before a state-space or DeltaNet scan.
#![expect(unsafe_code, reason = "tasks write disjoint rows")]

use crate::isa::Isa;
use crate::math::sigmoid;
use crate::pool::{Parts, Pool};
use crate::state::{Columns, StateRows, check};
use crate::twin::twin;

/// Rows of a task.
const ROWS: usize = 32;

/// A filter of `taps` taps per channel.
#[derive(Clone, Copy, Debug)]
pub struct Conv<'a> {
    /// `[taps × width]`, the oldest row's tap first (see [`taps_first`]).
    pub w: &'a [f32],
    /// `[width]`.
    pub bias: Option<&'a [f32]>,
    /// How many rows a result depends on, its own included.
    pub taps: usize,
    /// Whether `silu` follows.
    pub silu: bool,
}

/// Files hold a filter as `[width × taps]`; kernels want `[taps × width]`.
pub fn taps_first(w: &[f32], taps: usize) -> Vec<f32> {
    let width = w.len() / taps;
    (0..w.len()).map(|i| w[i % width * taps + i / width]).collect()
}

/// `out[t] = act(bias + Σ_j w[j] · x[t - taps + 1 + j])` in each sequence, the sum in order of `j`. `states` is a pool
/// of `[(taps - 1) × width]`: the last input rows, oldest first, zero at a sequence's start. `out` is `[rows × width]`.
///
/// # Panics
/// When shapes do not fit or two sequences share a state.
pub fn conv1d(
    pool: &Pool,
    isa: Isa,
    conv: &Conv<'_>,
    x: Columns<'_>,
    seqs: &[StateRows],
    states: &mut [f32],
    out: &mut [f32],
) {
    let width = x.width();
    let past = (conv.taps - 1) * width;
    check(seqs, states.len(), past, out.len(), width);
    let tasks: Vec<(usize, usize)> =
        seqs.iter().enumerate().flat_map(|(s, q)| q.rows.clone().step_by(ROWS).map(move |t| (s, t))).collect();
    let parts = Parts::new(out);
    let old = &*states;
    pool.run(tasks.len(), |i| {
        let (s, first) = tasks[i];
        let seq = &seqs[s];
        for t in first..(first + ROWS).min(seq.rows.end) {
            // SAFETY: a row belongs to one task.
            let out = unsafe { parts.part(t * width, width) };
            match conv.bias {
                Some(bias) => out.copy_from_slice(bias),
                None => out.fill(0.0),
            }
            for (j, w) in conv.w.chunks_exact(width).enumerate() {
                // The input row `j` taps after the oldest, counted from the state's first.
                let at = t - seq.rows.start + j;
                let row = if at < conv.taps - 1 {
                    &old[seq.slot * past + at * width..][..width]
                } else {
                    x.row(seq.rows.start + at - (conv.taps - 1))
                };
                tap(isa, w, row, out);
            }
            if conv.silu {
                silu(isa, out);
            }
        }
    });
    for seq in seqs {
        let state = &mut states[seq.slot * past..][..past];
        let n = seq.rows.len().min(conv.taps - 1);
        state.copy_within(n * width.., 0);
        for (row, t) in state[past - n * width..].chunks_exact_mut(width).zip(seq.rows.end - n..) {
            row.copy_from_slice(x.row(t));
        }
    }
}

twin! {
    fn tap(w: &[f32], x: &[f32], out: &mut [f32]) {
        for ((o, w), x) in out.iter_mut().zip(w).zip(x) {
            *o = w.mul_add(*x, *o);
        }
    }
}

twin! {
    fn silu(x: &mut [f32]) {
        for v in x {
            *v *= sigmoid(*v);
        }
    }
}
