//! Adjoints of convolutions and scans, over whole sequences that begin with empty states.

use super::Learner;
use crate::{recurrent::delta_shape, run::activation};
use allod_kernels::gradient::{self, Scan, ScanGradients};
use allod_plan::{Adjoint, Conv1d, DeltaRule, Param, SelectiveScan, StateSpaceDual, Step, StepError, Value};

/// What Mamba's and Mamba-2's scans differ in.
struct Shape {
    weights: [Param; 3],
    dt_limit: (f32, f32),
    head_dim: usize,
    groups: usize,
    a_state: usize,
}

impl Learner {
    /// Adds to the gradients of inputs what `grads` hold, in order.
    fn add_all(&mut self, a: &Adjoint, grads: &[Vec<f32>]) {
        for (d, g) in a.d_inputs.iter().zip(grads) {
            self.add_to(*d, g);
        }
    }

    fn zeros(&self, values: &[Value]) -> Vec<Vec<f32>> {
        values.iter().map(|&v| vec![0.0; self.range(v).len()]).collect()
    }

    pub(super) fn conv1d_adjoint(
        &mut self,
        c: &Conv1d,
        a: &Adjoint,
        dy: Value,
        step: &Step<'_>,
    ) -> Result<(), StepError> {
        let (width, taps, isa) = (self.width(dy), c.kernel, self.cpu.isa);
        let (x, dy) = (self.range(a.of.node.inputs[0]), self.range(dy));
        let mut dx = vec![0.0; x.len()];
        let (mut dw, mut db) = (self.take_gradient(Some(c.weight)), self.take_gradient(c.bias));
        let w = self.vector(c.weight);
        let (x, dy) = (&self.cpu.arena[x], &self.cpu.arena[dy]);
        for s in step.sequences {
            let row = |t: usize| t * width..(t + 1) * width;
            for t in s.rows.clone() {
                let first = (t + 1).saturating_sub(taps).max(s.rows.start);
                // The tap that the row `u` meets in the result of row `t`.
                let tap = |u: usize| u + taps - 1 - t;
                let mut d = dy[row(t)].to_vec();
                if let Some(activated) = c.act {
                    let mut pre = c.bias.map_or_else(|| vec![0.0; width], |b| self.vector(b).to_vec());
                    for u in first..=t {
                        let weights = &w[row(tap(u))];
                        pre.iter_mut().zip(weights).zip(&x[row(u)]).for_each(|((p, w), x)| *p += w * x);
                    }
                    let mut through = vec![0.0; width];
                    gradient::act(isa, activation(activated), &pre, &d, &mut through);
                    d = through;
                }
                for u in first..=t {
                    let weights = &w[row(tap(u))];
                    dx[row(u)].iter_mut().zip(weights).zip(&d).for_each(|((dx, w), d)| *dx += w * d);
                    if let Some(dw) = &mut dw {
                        // The file's order: a channel's taps together.
                        let grads = dw.chunks_exact_mut(taps);
                        grads.zip(&d).zip(&x[row(u)]).for_each(|((g, d), x)| g[tap(u)] += d * x);
                    }
                }
                if let Some(db) = &mut db {
                    db.iter_mut().zip(&d).for_each(|(b, d)| *b += d);
                }
            }
        }
        self.put_gradient(Some(c.weight), dw);
        self.put_gradient(c.bias, db);
        self.add_all(a, &[dx]);
        Ok(())
    }

    pub(super) fn selective_scan_adjoint(
        &mut self,
        s: &SelectiveScan,
        a: &Adjoint,
        dy: Value,
        step: &Step<'_>,
    ) -> Result<(), StepError> {
        let state = self.width(a.of.node.inputs[2]);
        let dt_limit = (0.0, f32::INFINITY);
        let shape = Shape { weights: [s.a, s.d, s.dt_bias], dt_limit, head_dim: 1, groups: 1, a_state: state };
        self.scan_adjoint(&shape, a, dy, step)
    }

    pub(super) fn state_space_dual_adjoint(
        &mut self,
        s: &StateSpaceDual,
        a: &Adjoint,
        dy: Value,
        step: &Step<'_>,
    ) -> Result<(), StepError> {
        let (weights, head_dim) = ([s.a, s.d, s.dt_bias], self.width(dy) / s.heads);
        let shape = Shape { weights, dt_limit: s.dt_limit, head_dim, groups: s.groups, a_state: 1 };
        self.scan_adjoint(&shape, a, dy, step)
    }

    fn scan_adjoint(&mut self, s: &Shape, a: &Adjoint, dy: Value, step: &Step<'_>) -> Result<(), StepError> {
        let sequences = self.sequences(step);
        let ins = &a.of.node.inputs;
        let mut inputs = self.zeros(ins);
        let mut taken = s.weights.map(|p| self.take_gradient(Some(p)));
        // The kernel adds to every weight's gradient, wanted or not.
        let mut weights: Vec<Vec<f32>> = s.weights.iter().map(|p| vec![0.0; self.vector(*p).len()]).collect();
        let arena = &self.cpu.arena;
        let [x, dt, b, c] = [ins[0], ins[1], ins[2], ins[3]].map(|v| &arena[self.range(v)]);
        let [va, vd, dt_bias] = s.weights.map(|p| self.vector(p));
        let scan = Scan {
            x,
            dt,
            b,
            c,
            dy: &arena[self.range(dy)],
            a: va,
            d: vd,
            dt_bias,
            dt_limit: s.dt_limit,
            head_dim: s.head_dim,
            groups: s.groups,
            state: self.width(ins[2]) / s.groups,
            a_state: s.a_state,
        };
        if let ([dx, ddt, db, dc], [da, dd, dbias]) = (&mut inputs[..], &mut weights[..]) {
            let g = ScanGradients { inputs: [dx, ddt, db, dc], weights: [da, dd, dbias] };
            gradient::scan(&self.cpu.pool, self.cpu.isa, &scan, &sequences, g);
        }
        for ((p, taken), new) in s.weights.into_iter().zip(&mut taken).zip(&weights) {
            if let Some(g) = taken {
                g.iter_mut().zip(new).for_each(|(g, n)| *g += n);
            }
            self.put_gradient(Some(p), taken.take());
        }
        self.add_all(a, &inputs);
        Ok(())
    }

    pub(super) fn delta_rule_adjoint(
        &mut self,
        r: &DeltaRule,
        a: &Adjoint,
        dy: Value,
        step: &Step<'_>,
    ) -> Result<(), StepError> {
        let shape = delta_shape(r);
        let sequences = self.sequences(step);
        let ins = &a.of.node.inputs;
        let mut grads = self.zeros(ins);
        let arena = &self.cpu.arena;
        let inputs = [ins[0], ins[1], ins[2], ins[3], ins[4]].map(|v| &arena[self.range(v)]);
        let dy = &arena[self.range(dy)];
        if let [dq, dk, dv, d_beta, d_decay] = &mut grads[..] {
            let d = [&mut dq[..], &mut dk[..], &mut dv[..], &mut d_beta[..], &mut d_decay[..]];
            gradient::delta(&self.cpu.pool, self.cpu.isa, &shape, inputs, dy, &sequences, d);
        }
        self.add_all(a, &grads);
        Ok(())
    }
}
