//! The adjoint of each operation: finds its values and hands them to a kernel.

use super::{Learner, linear::apart};
use crate::{
    arena::views,
    run::{activation, attend_params},
};
use allod_kernels::{elementwise, gradient, norm::Gate, rows::for_rows};
use allod_plan::{Act, Adjoint, Attend, GateOrder, Norm, NormKind, Op, Param, Pool, Step, StepError, Value};
use std::ops::Range;

impl Learner {
    pub(super) fn adjoint(&mut self, a: &Adjoint, step: &Step<'_>) -> Result<(), StepError> {
        for &v in &a.begins {
            let range = self.range(v);
            for_rows(&self.cpu.pool, range.len(), 1, &mut self.cpu.arena[range], |_, d| d.fill(0.0));
        }
        let (n, dy) = (&a.of.node, a.d_outputs[0]);
        match (&n.op, dy) {
            (Op::Linear { parts }, _) => self.linear_adjoint(parts, a),
            (Op::Route(r), _) => self.route_adjoint(r, a),
            (_, None) => Ok(()),
            (Op::HeadLinear { weight }, _) => self.head_linear_adjoint(*weight, a),
            (Op::Embed { table }, Some(dy)) => self.embed_adjoint(*table, dy, |t, _| step.tokens[t] as usize),
            (Op::EmbedPositions { table, offset }, Some(dy)) => {
                self.embed_adjoint(*table, dy, |_, p| p as usize + *offset)
            }
            (Op::Norm(norm), Some(dy)) => self.norm_adjoint(norm, a, dy),
            (Op::GatedNorm { group, eps, weight, order }, Some(dy)) => {
                self.gated_norm_adjoint((*group, *eps, *weight, *order), a, dy)
            }
            (Op::Attend(at), Some(dy)) => self.attend_adjoint(at, a, dy, step),
            (Op::Glu(act), Some(dy)) => self.glu_adjoint(*act, a, dy),
            (Op::Experts(e), Some(dy)) => self.experts_adjoint(e, a, dy),
            (Op::Conv1d(c), Some(dy)) => self.conv1d_adjoint(c, a, dy, step),
            (Op::SelectiveScan(s), Some(dy)) => self.selective_scan_adjoint(s, a, dy, step),
            (Op::StateSpaceDual(s), Some(dy)) => self.state_space_dual_adjoint(s, a, dy, step),
            (Op::DeltaRule(r), Some(dy)) => self.delta_rule_adjoint(r, a, dy, step),
            (op, Some(dy)) => self.elementwise_adjoint(op, a, dy, step),
        }
    }

    /// Takes the gradient of a weight trained whole out of the list, so that the rest can be read.
    pub(super) fn take_gradient(&mut self, p: Option<Param>) -> Option<Vec<f32>> {
        let i = self.links[p?.index()].whole?;
        Some(std::mem::take(&mut self.tensors[i].gradient))
    }

    pub(super) fn put_gradient(&mut self, p: Option<Param>, g: Option<Vec<f32>>) {
        if let (Some(i), Some(g)) = (p.and_then(|p| self.links[p.index()].whole), g) {
            self.tensors[i].gradient = g;
        }
    }

    fn embed_adjoint(&mut self, table: Param, dy: Value, row: impl Fn(usize, u32) -> usize) -> Result<(), StepError> {
        let (width, dy) = (self.width(dy), self.range(dy));
        if let Some(mut g) = self.take_gradient(Some(table)) {
            for (t, dy) in self.cpu.arena[dy].chunks_exact(width).enumerate() {
                let at = row(t, self.cpu.scratch.positions[t]) * width;
                elementwise::add(self.cpu.isa, &mut g[at..at + width], dy);
            }
            self.put_gradient(Some(table), Some(g));
        }
        Ok(())
    }

    fn norm_adjoint(&mut self, n: &Norm, a: &Adjoint, dy: Value) -> Result<(), StepError> {
        let (width, isa) = (self.width(dy), self.cpu.isa);
        let (x, dy) = (self.range(a.of.node.inputs[0]), self.range(dy));
        if let Some(d) = a.d_inputs[0] {
            let d = self.range(d);
            let mut arena = std::mem::take(&mut self.cpu.arena);
            let (dx, rest) = apart(&mut arena, &d);
            let (x, dy) = (rest.get(&x), rest.get(&dy));
            let w = n.weight.map(|p| self.vector(p));
            for_rows(&self.cpu.pool, x.len() / width, width, dx, |r, dx| {
                let r = r.start * width..r.end * width;
                let (x, dy) = (&x[r.clone()], &dy[r]);
                match n.kind {
                    NormKind::Rms => gradient::rms_norm(isa, x, w, n.eps, n.group, dy, dx),
                    NormKind::Layer => gradient::layer_norm(isa, x, w, n.eps, n.group, dy, dx),
                    NormKind::L2 => gradient::l2_norm(isa, x, n.eps, n.group, dy, dx),
                }
            });
            self.cpu.arena = arena;
        }
        let (mut dw, mut db) = (self.take_gradient(n.weight), self.take_gradient(n.bias));
        if dw.is_some() || db.is_some() {
            let (x, dy) = (&self.cpu.arena[x], &self.cpu.arena[dy]);
            match (n.kind, dw.as_deref_mut()) {
                (NormKind::Rms, Some(dw)) => gradient::rms_norm_weight(isa, x, n.eps, n.group, dy, dw),
                (NormKind::Layer, dw) => {
                    gradient::layer_norm_weight(isa, x, n.eps, n.group, dy, dw, db.as_deref_mut());
                }
                _ => {}
            }
        }
        self.put_gradient(n.weight, dw);
        self.put_gradient(n.bias, db);
        Ok(())
    }

    fn gated_norm_adjoint(
        &mut self,
        (group, eps, weight, order): (usize, f32, Param, GateOrder),
        a: &Adjoint,
        dy: Value,
    ) -> Result<(), StepError> {
        let isa = self.cpu.isa;
        let [x, z] = [a.of.node.inputs[0], a.of.node.inputs[1]].map(|v| self.range(v));
        let dy = self.range(dy);
        let mut dw = self.take_gradient(Some(weight));
        let (mut dx, mut dz) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        {
            let arena = &self.cpu.arena;
            let (x, z, dy) = (&arena[x], &arena[z], &arena[dy]);
            let gate = match order {
                GateOrder::GateThenNorm => Gate::Before(z),
                GateOrder::NormThenGate => Gate::After(z),
            };
            let d = [&mut dx[..], &mut dz[..]];
            gradient::gated_norm(isa, x, Some(self.vector(weight)), gate, (group, eps), dy, d);
            if let Some(dw) = dw.as_deref_mut() {
                gradient::gated_norm_weight(isa, x, gate, eps, group, dy, dw);
            }
        }
        self.put_gradient(Some(weight), dw);
        self.add_to(a.d_inputs[0], &dx);
        self.add_to(a.d_inputs[1], &dz);
        Ok(())
    }

    /// Adds `d` to a gradient, where it is wanted.
    pub(super) fn add_to(&mut self, v: Option<Value>, d: &[f32]) {
        let Some(range) = v.map(|v| self.range(v)) else { return };
        let isa = self.cpu.isa;
        for_rows(&self.cpu.pool, range.len(), 1, &mut self.cpu.arena[range], |r, out| {
            elementwise::add(isa, out, &d[r]);
        });
    }

    pub(super) fn attend(
        &mut self,
        at: &Attend,
        ins: &[Value],
        out: Value,
        lse: Option<Value>,
        step: &Step<'_>,
    ) -> Result<(), StepError> {
        let sequences = self.sequences(step);
        let (q, k) = (self.range(ins[0]), self.range(ins[1]));
        let v = ins.get(2).map(|&v| self.range(v));
        let (y, lse) = (self.range(out), lse.map_or(0..0, |v| self.range(v)));
        let mut lses = vec![0.0; lse.len()];
        let mut arena = std::mem::take(&mut self.cpu.arena);
        {
            let (y, rest) = apart(&mut arena, &y);
            let shape = self.attention(at);
            let (q, k, v) = (rest.get(&q), rest.get(&k), v.map(|v| rest.get(&v)));
            gradient::attend(&self.cpu.pool, self.cpu.isa, &shape, q, k, v, &sequences, y, &mut lses);
        }
        arena[lse].copy_from_slice(&lses);
        self.cpu.arena = arena;
        Ok(())
    }

    fn attend_adjoint(&mut self, at: &Attend, a: &Adjoint, dy: Value, step: &Step<'_>) -> Result<(), StepError> {
        let sequences = self.sequences(step);
        let n = &a.of.node;
        let ranges: Vec<Range<usize>> = n.inputs.iter().map(|&v| self.range(v)).collect();
        let (out, lse) = (self.range(n.outputs[0]), a.of.kept[0].map_or(0..0, |v| self.range(v)));
        let dy = self.range(dy);
        let mut grads: Vec<Vec<f32>> = ranges.iter().map(|r| vec![0.0; r.len()]).collect();
        grads.resize(3, vec![]);
        let mut d_sinks = self.take_gradient(at.sinks);
        {
            let arena = &self.cpu.arena;
            let attended = gradient::Attended {
                q: &arena[ranges[0].clone()],
                k: &arena[ranges[1].clone()],
                v: ranges.get(2).map(|r| &arena[r.clone()]),
                out: &arena[out],
                lse: &arena[lse],
                d_out: &arena[dy],
            };
            let [dq, dk, dv] = &mut grads[..] else { return Ok(()) };
            let shape = self.attention(at);
            let d = [&mut dq[..], &mut dk[..], &mut dv[..]];
            let sinks = d_sinks.as_deref_mut();
            gradient::attend_adjoint(&self.cpu.pool, self.cpu.isa, &shape, &attended, &sequences, d, sinks);
        }
        self.put_gradient(at.sinks, d_sinks);
        for (d, g) in a.d_inputs.iter().zip(&grads) {
            self.add_to(*d, g);
        }
        Ok(())
    }

    pub(super) fn sequences(&self, step: &Step<'_>) -> Vec<Range<usize>> {
        step.sequences.iter().map(|s| s.rows.clone()).collect()
    }

    fn attention<'a>(&'a self, a: &'a Attend) -> gradient::Attention<'a> {
        let info = self.cpu.plan().caches()[a.cache.index()];
        let params = attend_params(a, &info, a.sinks.map(|p| self.vector(p)));
        let (kv_heads, key_dim, value_dim) = (info.kv_heads, info.key_dim, info.value_dim);
        gradient::Attention { params, kv_heads, key_dim, value_dim }
    }

    fn glu_adjoint(&mut self, act: Act, a: &Adjoint, dy: Value) -> Result<(), StepError> {
        let [g, u] = [a.of.node.inputs[0], a.of.node.inputs[1]].map(|v| self.range(v));
        let dy = self.range(dy);
        let isa = self.cpu.isa;
        if let (Some(dg), Some(du)) = (a.d_inputs[0], a.d_inputs[1])
            && dg != du
        {
            let (dg, du) = (self.range(dg), self.range(du));
            let [g, u, dy, dg, du] = views(&mut self.cpu.arena, [g, u, dy, dg, du])?;
            pairs(&self.cpu.pool, isa, act, (g, u, dy), dg, du);
            return Ok(());
        }
        let (mut dg, mut du) = (vec![0.0; g.len()], vec![0.0; g.len()]);
        let arena = &self.cpu.arena;
        pairs(&self.cpu.pool, isa, act, (&arena[g], &arena[u], &arena[dy]), &mut dg, &mut du);
        self.add_to(a.d_inputs[0], &dg);
        self.add_to(a.d_inputs[1], &du);
        Ok(())
    }
}

/// The adjoint of a gated unit.
pub(super) fn pairs(
    pool: &crate::Pool,
    isa: crate::Isa,
    act: Act,
    (g, u, dy): (&[f32], &[f32], &[f32]),
    dg: &mut [f32],
    du: &mut [f32],
) {
    let half = |dg: &mut [f32], du: &mut [f32], r: Range<usize>| {
        let (g, u, dy) = (&g[r.clone()], &u[r.clone()], &dy[r]);
        match act {
            Act::ClampedSwiglu { alpha, limit } => gradient::swiglu_clamped(isa, (alpha, limit), g, u, dy, dg, du),
            act => gradient::glu(isa, activation(act), g, u, dy, dg, du),
        }
    };
    allod_kernels::rows::for_row_pairs(pool, dg.len(), 1, [dg, du], |r, dg, du| half(dg, du, r));
}

impl Learner {
    /// Operations whose adjoint goes element by element, or moves rows and columns.
    pub(super) fn pool_adjoint(&mut self, how: Pool, d: Value, dy: Value, step: &Step<'_>) {
        let (width, d, dy) = (self.width(dy), self.range(d), self.range(dy));
        let (dx, rest) = apart(&mut self.cpu.arena, &d);
        for (s, dy) in step.sequences.iter().zip(rest.get(&dy).chunks_exact(width)) {
            let rows = &mut dx[s.rows.start * width..s.rows.end * width];
            let last = rows.len() - width;
            match how {
                Pool::First => elementwise::add(self.cpu.isa, &mut rows[..width], dy),
                Pool::Last => elementwise::add(self.cpu.isa, &mut rows[last..], dy),
                Pool::Mean => {
                    let share = 1.0 / s.rows.len() as f32;
                    rows.chunks_exact_mut(width).for_each(|r| elementwise::add_scaled(self.cpu.isa, r, dy, share));
                }
            }
        }
    }
}
