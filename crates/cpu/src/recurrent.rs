//! Operations that carry state from step to step: convolutions and scans. States lie in slots, one for each sequence.

use crate::{Cpu, arena::views, run::activation};
use allod_kernels::{
    act, conv, delta, ssm,
    state::{Columns, StateRows},
};
use allod_plan::{Act, Conv1d, DeltaRule, SelectiveScan, StateSpaceDual, Step, StepError, Value};

/// The rows of each sequence and the slot of its state.
fn rows(step: &Step<'_>) -> Vec<StateRows> {
    step.sequences.iter().map(|s| StateRows { rows: s.rows.clone(), slot: s.state as usize }).collect()
}

impl Cpu {
    pub(crate) fn conv1d(&mut self, c: &Conv1d, x: Value, out: Value, step: &Step<'_>) -> Result<(), StepError> {
        let (width, ranges) = (self.width(x), self.ranges([x, out]));
        let [x, y] = views(&mut self.arena, ranges)?;
        let filter = conv::Conv {
            w: self.weights[c.weight.index()].vector(),
            bias: c.bias.map(|b| self.weights[b.index()].vector()),
            taps: c.kernel,
            silu: c.act == Some(Act::Silu),
        };
        let states = &mut self.states[c.state.index()];
        conv::conv1d(&self.pool, self.isa, &filter, Columns::all(x, width), &rows(step), states, y);
        if let Some(a) = c.act.filter(|&a| a != Act::Silu) {
            act::activate(self.isa, activation(a), y);
        }
        Ok(())
    }

    pub(crate) fn selective_scan(
        &mut self,
        s: &SelectiveScan,
        ins: [Value; 4],
        out: Value,
        step: &Step<'_>,
    ) -> Result<(), StepError> {
        let widths = ins.map(|v| self.width(v));
        let [x, dt, b, c] = ins;
        let ranges = self.ranges([x, dt, b, c, out]);
        let [x, dt, b, c, y] = views(&mut self.arena, ranges)?;
        let [a, d, dt_bias] = [s.a, s.d, s.dt_bias].map(|p| self.weights[p.index()].vector());
        let params = ssm::Mamba { a, d, dt_bias };
        let inputs = columns([x, dt, b, c], widths);
        let states = &mut self.states[s.state.index()];
        ssm::mamba(&self.pool, self.isa, &params, inputs, &rows(step), states, y);
        Ok(())
    }

    pub(crate) fn state_space_dual(
        &mut self,
        s: &StateSpaceDual,
        ins: [Value; 4],
        out: Value,
        step: &Step<'_>,
    ) -> Result<(), StepError> {
        let widths = ins.map(|v| self.width(v));
        let [x, dt, b, c] = ins;
        let ranges = self.ranges([x, dt, b, c, out]);
        let [x, dt, b, c, y] = views(&mut self.arena, ranges)?;
        let [a, d, dt_bias] = [s.a, s.d, s.dt_bias].map(|p| self.weights[p.index()].vector());
        let head_dim = widths[0] / s.heads;
        let params = ssm::Mamba2 { head_dim, groups: s.groups, a, d, dt_bias, dt_limit: s.dt_limit };
        let inputs = columns([x, dt, b, c], widths);
        let states = &mut self.states[s.state.index()];
        ssm::mamba2(&self.pool, self.isa, &params, inputs, &rows(step), states, y);
        Ok(())
    }

    pub(crate) fn delta_rule(
        &mut self,
        r: &DeltaRule,
        ins: [Value; 5],
        out: Value,
        step: &Step<'_>,
    ) -> Result<(), StepError> {
        let widths = ins.map(|v| self.width(v));
        let [q, k, v, beta, decay] = ins;
        let ranges = self.ranges([q, k, v, decay, beta, out]);
        let [q, k, v, decay, beta, y] = views(&mut self.arena, ranges)?;
        let shape = delta_shape(r);
        let inputs = columns([q, k, v, decay, beta], widths);
        let states = &mut self.states[r.state.index()];
        delta::gated_delta(&self.pool, self.isa, &shape, inputs, &rows(step), states, y);
        Ok(())
    }
}

fn columns<const N: usize>(values: [&mut [f32]; N], widths: [usize; N]) -> [Columns<'_>; N] {
    let mut widths = widths.into_iter();
    values.map(|v| Columns::all(v, widths.next().unwrap_or(0)))
}

/// A delta rule as the kernels know it.
pub(crate) fn delta_shape(r: &DeltaRule) -> delta::Delta {
    delta::Delta {
        v_heads: r.value_heads,
        k_heads: r.key_heads,
        k_dim: r.key_dim,
        v_dim: r.value_dim,
        scale: r.scale,
        tiled: r.tiled,
    }
}
