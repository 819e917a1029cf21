//! Adjoints of the recurrences, one channel of state at a time: the states of all rows are computed again, then the
//! derivative walks back through them. What channels share (B and C, queries and keys) is summed over them in order.

use crate::{
    isa::Isa,
    lanes::{LANES, tree},
    math::{exp, sigmoid, softplus},
    pool::{Parts, Pool},
    twin::twin,
};
use std::ops::Range;

/// Inputs of a state-space scan, all `[rows × …]`: Mamba's (each channel has its own time step and `[state]` of A) or
/// Mamba-2's (a head's channels share a time step and a number).
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    /// `[rows × channels]`
    pub x: &'a [f32],
    /// Before bias and softplus: `[rows × heads]`.
    pub dt: &'a [f32],
    /// `[rows × groups · state]`
    pub b: &'a [f32],
    /// Likewise.
    pub c: &'a [f32],
    /// Derivative by the result, `[rows × channels]`.
    pub dy: &'a [f32],
    /// `[heads · a_state]`, negative.
    pub a: &'a [f32],
    /// `[heads]`
    pub d: &'a [f32],
    /// `[heads]`
    pub dt_bias: &'a [f32],
    /// Bounds on the time step.
    pub dt_limit: (f32, f32),
    /// Channels that share a time step: 1 for Mamba.
    pub head_dim: usize,
    /// Groups of heads that share B and C.
    pub groups: usize,
    /// Elements of a channel's state.
    pub state: usize,
    /// Elements of A for each head: the state's for Mamba, 1 for Mamba-2.
    pub a_state: usize,
}

/// Where the derivatives by a scan's inputs are added, and those by its weights.
#[derive(Debug)]
pub struct ScanGradients<'a> {
    /// By x, dt, B, C.
    pub inputs: [&'a mut [f32]; 4],
    /// By A, D and the bias of dt.
    pub weights: [&'a mut [f32]; 3],
}

/// The adjoint of [`crate::ssm::mamba`] and [`crate::ssm::mamba2`] over whole sequences. A head is one task.
pub fn scan(pool: &Pool, isa: Isa, s: &Scan<'_>, sequences: &[Range<usize>], g: ScanGradients<'_>) {
    let (heads, n) = (s.dt_bias.len(), s.state);
    let (rows, inner) = (s.dt.len() / heads.max(1), heads * s.head_dim);
    let [dx, ddt, db, dc] = g.inputs;
    let [da, dd, dbias] = g.weights;
    // Heads are walked in batches, so that what they add to B and C can be summed in order.
    let batch = (4 * pool.threads()).max(8);
    let mut shared = vec![0f32; batch.min(heads) * 2 * rows * n];
    let (dx, ddt) = (Parts::new(dx), Parts::new(ddt));
    let (da, dd, dbias) = (Parts::new(da), Parts::new(dd), Parts::new(dbias));
    for first in (0..heads).step_by(batch) {
        let count = batch.min(heads - first);
        shared.fill(0.0);
        let parts = Parts::new(&mut shared);
        pool.run(count, |i| {
            let h = first + i;
            #[expect(unsafe_code, reason = "tasks write disjoint heads")]
            // SAFETY: a head's buffers and weights belong to one task.
            let (shared, da, dd, dbias) = unsafe {
                let shared = parts.part(i * 2 * rows * n, 2 * rows * n);
                (shared, da.part(h * s.a_state, s.a_state), dd.part(h, 1), dbias.part(h, 1))
            };
            let (db, dc) = shared.split_at_mut(rows * n);
            for seq in sequences {
                let mut w = Walk::new(s, seq, h);
                for p in 0..s.head_dim {
                    let column: Vec<f32> = seq.clone().map(|t| s.x[t * inner + h * s.head_dim + p]).collect();
                    let dy: Vec<f32> = seq.clone().map(|t| s.dy[t * inner + h * s.head_dim + p]).collect();
                    let part = seq.start * n..seq.end * n;
                    let d_column = w.channel(isa, s, (&column, &dy), &mut db[part.clone()], &mut dc[part]);
                    for ((t, d), (x, dy)) in seq.clone().zip(d_column).zip(column.iter().zip(&dy)) {
                        #[expect(unsafe_code, reason = "tasks write disjoint columns")]
                        // SAFETY: as above.
                        let dx = unsafe { dx.part(t * inner + h * s.head_dim + p, 1) };
                        dx[0] += d + s.d[h] * dy;
                        dd[0] += dy * x;
                    }
                }
                w.end(s, |t, d| {
                    #[expect(unsafe_code, reason = "tasks write disjoint columns")]
                    // SAFETY: as above.
                    let ddt = unsafe { ddt.part((seq.start + t) * heads + h, 1) };
                    ddt[0] += d;
                    dbias[0] += d;
                });
                for (j, v) in w.da.iter().enumerate() {
                    da[j % s.a_state] += v;
                }
            }
        });
        let per_group = heads / s.groups;
        for (i, part) in shared.chunks_exact(2 * rows * n).enumerate().take(count) {
            let group = (first + i) / per_group;
            let (b, c) = part.split_at(rows * n);
            for (from, to) in [(b, &mut *db), (c, &mut *dc)] {
                for (from, to) in from.chunks_exact(n).zip(to.chunks_exact_mut(s.groups * n)) {
                    to[group * n..(group + 1) * n].iter_mut().zip(from).for_each(|(to, v)| *to += v);
                }
            }
        }
    }
}

/// One head of one sequence.
struct Walk<'a> {
    /// dt plus bias, and the time step.
    raw: Vec<f32>,
    delta: Vec<f32>,
    d_delta: Vec<f32>,
    a: Vec<f32>,
    da: Vec<f32>,
    b: Vec<&'a [f32]>,
    c: Vec<&'a [f32]>,
    /// The decays and states of every row, `[rows × state]`.
    decay: Vec<f32>,
    states: Vec<f32>,
}

impl<'a> Walk<'a> {
    fn new(s: &Scan<'a>, seq: &Range<usize>, h: usize) -> Walk<'a> {
        let (heads, n) = (s.dt_bias.len(), s.state);
        let raw: Vec<f32> = seq.clone().map(|t| s.dt[t * heads + h] + s.dt_bias[h]).collect();
        let delta: Vec<f32> = raw.iter().map(|&v| softplus(v).clamp(s.dt_limit.0, s.dt_limit.1)).collect();
        let group = h / (heads / s.groups) * n;
        let row = |data: &'a [f32], t: usize| -> &'a [f32] { &data[t * s.groups * n + group..][..n] };
        let a: Vec<f32> = (0..n).map(|j| s.a[h * s.a_state + j % s.a_state]).collect();
        let decay = delta.iter().flat_map(|d| a.iter().map(move |a| exp(d * a))).collect();
        Walk {
            d_delta: vec![0.0; raw.len()],
            raw,
            delta,
            da: vec![0.0; n],
            a,
            b: seq.clone().map(|t| row(s.b, t)).collect(),
            c: seq.clone().map(|t| row(s.c, t)).collect(),
            decay,
            states: vec![0.0; seq.len() * n],
        }
    }

    /// One channel: adds to the derivatives by B, C, A and the time steps, and returns that by x.
    fn channel(
        &mut self,
        isa: Isa,
        s: &Scan<'_>,
        (x, dy): (&[f32], &[f32]),
        db: &mut [f32],
        dc: &mut [f32],
    ) -> Vec<f32> {
        let (n, rows) = (s.state, x.len());
        let zero = vec![0f32; n];
        for t in 0..rows {
            let (before, rest) = self.states.split_at_mut(t * n);
            let before = if t == 0 { &zero[..] } else { &before[(t - 1) * n..] };
            let decay = &self.decay[t * n..(t + 1) * n];
            step(isa, before, decay, self.b[t], self.delta[t] * x[t], &mut rest[..n]);
        }
        let (mut g, mut dx) = (vec![0f32; n], vec![0f32; rows]);
        for t in (0..rows).rev() {
            let at = t * n..(t + 1) * n;
            let before = if t == 0 { &zero[..] } else { &self.states[(t - 1) * n..t * n] };
            let row = Row {
                state: &self.states[at.clone()],
                before,
                decay: &self.decay[at.clone()],
                a: &self.a,
                b: self.b[t],
                c: self.c[t],
                x: x[t],
                dy: dy[t],
                delta: self.delta[t],
            };
            let (d_x, d_delta) = back(isa, row, &mut g, &mut db[at.clone()], &mut dc[at], &mut self.da);
            dx[t] = d_x;
            self.d_delta[t] += d_delta;
        }
        dx
    }

    /// From time steps to what came before softplus and bounds.
    fn end(&self, s: &Scan<'_>, mut add: impl FnMut(usize, f32)) {
        for (t, (raw, d)) in self.raw.iter().zip(&self.d_delta).enumerate() {
            let step = softplus(*raw);
            let free = step >= s.dt_limit.0 && step <= s.dt_limit.1;
            add(t, if free { d * sigmoid(*raw) } else { 0.0 });
        }
    }
}

twin! {
    fn step(before: &[f32], decay: &[f32], b: &[f32], u: f32, out: &mut [f32]) {
        for (((o, h), d), b) in out.iter_mut().zip(before).zip(decay).zip(b) {
            *o = u.mul_add(*b, h * d);
        }
    }
}

/// One row of one channel.
struct Row<'a> {
    state: &'a [f32],
    before: &'a [f32],
    decay: &'a [f32],
    a: &'a [f32],
    b: &'a [f32],
    c: &'a [f32],
    x: f32,
    dy: f32,
    delta: f32,
}

twin! {
    /// `g` is the derivative by the state: that of the next row comes in, that of the row before goes out. Returns the
    /// derivatives by x and by the time step.
    fn back(r: Row<'_>, g: &mut [f32], db: &mut [f32], dc: &mut [f32], da: &mut [f32]) -> (f32, f32) {
        let n = g.len();
        let (state, before, decay) = (&r.state[..n], &r.before[..n], &r.decay[..n]);
        let (a, b, c, db, dc, da) = (&r.a[..n], &r.b[..n], &r.c[..n], &mut db[..n], &mut dc[..n], &mut da[..n]);
        let (mut by_x, mut by_delta) = ([0f32; LANES], [0f32; LANES]);
        for j in 0..n {
            let lane = j % LANES;
            let d = c[j].mul_add(r.dy, g[j]);
            dc[j] = r.dy.mul_add(state[j], dc[j]);
            db[j] = d.mul_add(r.delta * r.x, db[j]);
            let past = d * decay[j] * before[j];
            da[j] = past.mul_add(r.delta, da[j]);
            by_x[lane] = d.mul_add(b[j], by_x[lane]);
            by_delta[lane] = past.mul_add(a[j], by_delta[lane]);
            g[j] = d * decay[j];
        }
        let by_x = tree(by_x);
        (by_x * r.delta, by_x.mul_add(r.x, tree(by_delta)))
    }
}

/// The adjoint of [`crate::delta::gated_delta`] over whole sequences: `inputs` are q, k, v, beta, decay (a logarithm),
/// `d` receives what is added to their derivatives, in the same order. A key head, with the value heads that read it,
/// is one task.
pub fn delta(
    pool: &Pool,
    isa: Isa,
    shape: &crate::delta::Delta,
    inputs: [&[f32]; 5],
    dy: &[f32],
    sequences: &[Range<usize>],
    d: [&mut [f32]; 5],
) {
    let (kd, vd) = (shape.k_dim, shape.v_dim);
    let (keys, values) = (shape.k_heads * kd, shape.v_heads * vd);
    let [q, k, v, beta, decay] = inputs;
    let [dq, dk, dv, d_beta, d_decay] = d.map(Parts::new);
    let longest = sequences.iter().map(Range::len).max().unwrap_or(0);
    pool.run(shape.k_heads, |key| {
        let mut states = vec![0f32; (longest + 1) * kd];
        let mut g = vec![0f32; kd];
        let reads = |h: usize| if shape.tiled { h % shape.k_heads } else { h / (shape.v_heads / shape.k_heads) };
        for h in (0..shape.v_heads).filter(|&h| reads(h) == key) {
            for (seq, column) in sequences.iter().flat_map(|s| (0..vd).map(move |c| (s, c))) {
                let head_row = |data: &'_ [f32], t: usize| data[t * shape.v_heads + h];
                let key_row = |t: usize| t * keys + key * kd..t * keys + (key + 1) * kd;
                states[..kd].fill(0.0);
                let mut changes = vec![0f32; seq.len()];
                for (i, t) in seq.clone().enumerate() {
                    let (before, rest) = states[i * kd..(i + 2) * kd].split_at_mut(kd);
                    let gates = (exp(head_row(decay, t)), head_row(beta, t), v[t * values + h * vd + column]);
                    changes[i] = advance(isa, before, &k[key_row(t)], gates, rest);
                }
                g.fill(0.0);
                for (i, t) in seq.clone().enumerate().rev() {
                    #[expect(unsafe_code, reason = "tasks write disjoint heads")]
                    // SAFETY: a key head and the value heads that read it belong to one task.
                    let (dq, dk, dv, d_beta, d_decay) = unsafe {
                        let at = t * keys + key * kd;
                        let gate = t * shape.v_heads + h;
                        let value = dv.part(t * values + h * vd + column, 1);
                        (dq.part(at, kd), dk.part(at, kd), value, d_beta.part(gate, 1), d_decay.part(gate, 1))
                    };
                    let row = DeltaRow {
                        before: &states[i * kd..(i + 1) * kd],
                        state: &states[(i + 1) * kd..(i + 2) * kd],
                        q: &q[key_row(t)],
                        k: &k[key_row(t)],
                        decay: exp(head_row(decay, t)),
                        beta: head_row(beta, t),
                        change: changes[i],
                        dy: dy[t * values + h * vd + column] * shape.scale,
                    };
                    let (value, rate, log_decay) = delta_back(isa, row, &mut g, dq, dk);
                    dv[0] += value;
                    d_beta[0] += rate;
                    d_decay[0] += log_decay;
                }
            }
        }
    });
}

twin! {
    /// `s = decay · before`, `c = v - ⟨s, k⟩`, `out = s + β c k`; returns c.
    fn advance(before: &[f32], k: &[f32], gates: (f32, f32, f32), out: &mut [f32]) -> f32 {
        let (decay, beta, v) = gates;
        let mut sums = [0f32; LANES];
        for (j, ((o, s), k)) in out.iter_mut().zip(before).zip(k).enumerate() {
            *o = s * decay;
            sums[j % LANES] = o.mul_add(*k, sums[j % LANES]);
        }
        let change = v - tree(sums);
        for (o, k) in out.iter_mut().zip(k) {
            *o = k.mul_add(beta * change, *o);
        }
        change
    }
}

/// One row of one column of the delta rule's state.
struct DeltaRow<'a> {
    before: &'a [f32],
    state: &'a [f32],
    q: &'a [f32],
    k: &'a [f32],
    decay: f32,
    beta: f32,
    change: f32,
    dy: f32,
}

twin! {
    /// Returns the derivatives by the value, by β and by the logarithm of the decay.
    fn delta_back(r: DeltaRow<'_>, g: &mut [f32], dq: &mut [f32], dk: &mut [f32]) -> (f32, f32, f32) {
        let mut sums = [0f32; LANES];
        for (j, (((g, q), k), (dq, s))) in g.iter_mut().zip(r.q).zip(r.k).zip(dq.iter_mut().zip(r.state)).enumerate() {
            *g = q.mul_add(r.dy, *g);
            *dq = s.mul_add(r.dy, *dq);
            sums[j % LANES] = g.mul_add(*k, sums[j % LANES]);
        }
        let d_update = tree(sums);
        let d_change = d_update * r.beta;
        let update = r.beta * r.change;
        let mut sums = [0f32; LANES];
        for (j, (((g, k), dk), before)) in g.iter_mut().zip(r.k).zip(dk.iter_mut()).zip(r.before).enumerate() {
            let decayed = before * r.decay;
            *dk += *g * update - d_change * decayed;
            let d = *g - d_change * k;
            sums[j % LANES] = d.mul_add(decayed, sums[j % LANES]);
            *g = d * r.decay;
        }
        (d_change, d_update * r.change, tree(sums))
    }
}
