//! One operation after the other: each takes its values from the arena and hands them to a kernel.

use crate::{Cpu, arena::views, weights::Prepared};
use allod_kernels::{act, attention, elementwise, isa::Isa, linear, math, norm, pool::Pool, rope, rows::for_rows};
use allod_plan::{
    Act, Attend, CacheInfo, GateOrder, LinearPart, Mask, Node, Norm, NormKind, Op, Param, Pool as Pooling, Rope,
    RopeStyle, Rows, Step, StepError, Value,
};
use std::ops::Range;

impl Cpu {
    pub(crate) fn vocabulary(&self) -> usize {
        let table = self.program.plan.nodes().iter().find_map(|n| match n.op {
            Op::Embed { table } => self.program.plan.param(table).shape.first().copied(),
            _ => None,
        });
        table.unwrap_or(usize::MAX)
    }

    /// Fills what all operations of a step share: positions, rotary angles.
    pub(crate) fn prepare_step(&mut self, step: &Step<'_>) {
        let positions = &mut self.scratch.positions;
        positions.clear();
        for s in step.sequences {
            positions.extend(s.start..s.start + s.rows.len() as u32);
        }
        self.adapters.prepare_step(step);
        for (frequencies, magnitude, table) in &mut self.scratch.rope {
            rope::angles(self.isa, positions, frequencies, *magnitude, table);
        }
    }

    /// Whether a step has rows for it. An attention also writes keys and values where no query is wanted.
    pub(crate) fn has_rows(&self, n: &Node) -> bool {
        matches!(n.op, Op::Attend(_)) || self.rows(n.outputs[0]) > 0
    }

    pub(crate) fn node(&mut self, n: &Node, step: &Step<'_>) -> Result<(), StepError> {
        if !self.has_rows(n) {
            return Ok(());
        }
        let (ins, outs) = (&n.inputs, &n.outputs);
        let (first, out) = (ins.first().copied(), outs[0]);
        match (&n.op, first) {
            (Op::Embed { table }, _) => {
                self.embed(*table, out, |t, _| step.tokens[t] as usize)?;
                let (width, range, rows) =
                    (self.width(out), self.range(out, self.last), self.program.plan.param(*table).shape[0]);
                self.adapters.add_to_table(*table, step.tokens, rows, &mut self.arena[range], width);
                Ok(())
            }
            (Op::EmbedPositions { table, offset }, _) => self.embed(*table, out, |_, p| p as usize + *offset),
            (Op::Linear { parts }, Some(x)) => self.linear(parts, x, outs),
            (Op::HeadLinear { weight }, Some(x)) => self.head_linear(*weight, x, out),
            (Op::Attend(a), Some(_)) => self.attend(a, ins, out, None, step),
            (Op::Route(r), Some(x)) => self.route(r, x, [out, outs[1]]),
            (Op::Conv1d(c), Some(x)) => self.conv1d(c, x, out, step),
            (Op::SelectiveScan(s), Some(x)) => self.selective_scan(s, [x, ins[1], ins[2], ins[3]], out, step),
            (Op::StateSpaceDual(s), Some(x)) => self.state_space_dual(s, [x, ins[1], ins[2], ins[3]], out, step),
            (Op::DeltaRule(r), Some(q)) => self.delta_rule(r, [q, ins[1], ins[2], ins[3], ins[4]], out, step),
            (Op::Experts(e), Some(x)) => self.experts(e, [x, ins[1], ins[2]], outs),
            (Op::GatherOutputs, Some(x)) => self.gather(x, out, step),
            (Op::Pool(p), Some(x)) => self.pool_rows(*p, x, out, step),
            (Op::Concat { groups }, _) => self.concat(*groups, ins, out),
            (Op::Glu(a), Some(x)) => self.binary(x, ins[1], out, |isa, x, y, _| gate(*a).apply(isa, x, y)),
            (Op::Add, Some(x)) => self.binary(x, ins[1], out, |isa, x, y, _| elementwise::add(isa, x, y)),
            (Op::Mul, Some(x)) => self.binary(x, ins[1], out, |isa, x, y, group| match group {
                1 => elementwise::mul(isa, x, y),
                _ => elementwise::scale_rows(isa, x, y, group),
            }),
            (Op::GatedNorm { group, eps, weight, order }, Some(x)) => {
                self.gated_norm((x, ins[1], out), *group, *eps, *weight, *order)
            }
            (op, Some(x)) => self.unary(op, x, out, step),
            (op, None) => Err(StepError::Inconsistent(format!("{op:?} has no input"))),
        }
    }

    /// Rows of a value in the step that runs.
    pub(crate) fn rows(&self, v: Value) -> usize {
        self.last.of(self.program.plan.value(v).rows)
    }

    pub(crate) fn width(&self, v: Value) -> usize {
        self.program.plan.value(v).width
    }

    fn embed(&mut self, table: Param, out: Value, row: impl Fn(usize, u32) -> usize + Sync) -> Result<(), StepError> {
        let (width, range) = (self.width(out), self.range(out, self.last));
        let (weights, positions) = (&self.weights[table.index()], &self.scratch.positions);
        let rows = self.program.plan.param(table).shape[0];
        if let Some(p) = (0..self.last.tokens).map(|t| row(t, positions[t])).find(|&r| r >= rows) {
            return Err(StepError::Outside { what: "row of an embedding table", found: p, limit: rows });
        }
        for_rows(&self.pool, self.last.tokens, width, &mut self.arena[range], |range, out| {
            for (t, out) in range.zip(out.chunks_exact_mut(width)) {
                weights.row(row(t, positions[t]), out);
            }
        });
        Ok(())
    }

    fn linear(&mut self, parts: &[LinearPart], x: Value, outs: &[Value]) -> Result<(), StepError> {
        let kind = self.program.plan.value(x).rows;
        let (rows, cols) = (self.last.of(kind), self.width(x));
        for (parts, outs) in parts.chunks(4).zip(outs.chunks(4)) {
            let ranges: [Range<usize>; 5] = std::array::from_fn(|i| match i {
                0 => self.range(x, self.last),
                _ => outs.get(i - 1).map_or(0..0, |&o| self.range(o, self.last)),
            });
            let [x, mut ys @ ..] = views(&mut self.arena, ranges)?;
            let mut input = linear::Input::new(&mut self.scratch.linear, x, rows, cols);
            let products = parts.iter().zip(&mut ys).filter_map(|(p, y)| {
                let w = matrix(&self.weights, p.weight)?;
                let bias = p.bias.map(|b| self.weights[b.index()].vector());
                Some(linear::Product { w, bias, y, stride: w.rows() })
            });
            let mut products: Vec<_> = products.collect();
            linear::linear(&self.pool, self.isa, &mut input, &mut products);
            for (p, y) in parts.iter().zip(ys) {
                let bias = p.bias.map(|b| self.weights[b.index()].vector());
                let scratch = (&mut self.scratch.adapters, &mut self.scratch.linear);
                self.adapters.add((p.weight, bias), kind, (x, y), (&self.pool, self.isa), scratch);
            }
        }
        Ok(())
    }

    /// Every head is an expert that its own part of each row goes to.
    fn head_linear(&mut self, weight: Param, x: Value, out: Value) -> Result<(), StepError> {
        let (rows, cols) = (self.rows(x), self.width(x));
        let ranges = self.ranges([x, out]);
        let [x, y] = views(&mut self.arena, ranges)?;
        let Some(w) = matrix(&self.weights, weight) else { return Ok(()) };
        let heads = w.experts();
        let chosen: Vec<u32> = (0..rows * heads).map(|i| (i % heads) as u32).collect();
        self.scratch.routes.fill(&chosen, 1, heads);
        let mut input = linear::Input::new(&mut self.scratch.linear, x, rows * heads, cols / heads);
        let product = linear::Product { w, bias: None, y, stride: w.rows() };
        linear::experts(&self.pool, self.isa, &mut input, linear::From::Slot, &self.scratch.routes, &mut [product]);
        Ok(())
    }

    fn unary(&mut self, op: &Op, x: Value, out: Value, step: &Step<'_>) -> Result<(), StepError> {
        let kind = self.program.plan.value(x).rows;
        let (rows, win, wout) = (self.last.of(kind), self.width(x), self.width(out));
        let ranges = self.ranges([x, out]);
        let (isa, weights) = (self.isa, &self.weights);
        let at = Places { scratch: &self.scratch, wanted: (kind == Rows::Outputs).then_some(step.outputs) };
        if ranges[0] == ranges[1] {
            let y = &mut self.arena[ranges[1].clone()];
            for_rows(&self.pool, rows, wout, y, |range, y| in_place(isa, op, weights, &at, range, y));
            return Ok(());
        }
        let [x, y] = views(&mut self.arena, ranges)?;
        let x = &*x;
        for_rows(&self.pool, rows, wout, y, |range, y| {
            let x = &x[range.start * win..range.end * win];
            match op {
                Op::Norm(n) => normalize(isa, n, weights, x, y),
                Op::Columns { group, start, width } => {
                    let from = x.chunks_exact(*group).map(|g| &g[*start..start + width]);
                    y.chunks_exact_mut(*width).zip(from).for_each(|(y, x)| y.copy_from_slice(x));
                }
                _ => {
                    y.copy_from_slice(x);
                    in_place(isa, op, weights, &at, range, y);
                }
            }
        });
        Ok(())
    }

    /// `f` brings `b` to the result, which is `a` before.
    fn binary(
        &mut self,
        a: Value,
        b: Value,
        out: Value,
        f: impl Fn(Isa, &mut [f32], &[f32], usize) + Sync,
    ) -> Result<(), StepError> {
        let (rows, wa, wb) = (self.rows(a), self.width(a), self.width(b));
        let isa = self.isa;
        let run = |pool: &Pool, x: Option<&[f32]>, z: &[f32], y: &mut [f32]| {
            for_rows(pool, rows, wa, y, |r, y| {
                if let Some(x) = x {
                    y.copy_from_slice(&x[r.start * wa..r.end * wa]);
                }
                f(isa, y, &z[r.start * wb..r.end * wb], wa / wb);
            });
        };
        let (ra, rb, ro) = (self.range(a, self.last), self.range(b, self.last), self.range(out, self.last));
        if a == b {
            let [x, y] = views(&mut self.arena, [ra, ro])?;
            run(&self.pool, Some(x), x, y);
        } else if ra == ro {
            let [y, z] = views(&mut self.arena, [ro, rb])?;
            run(&self.pool, None, z, y);
        } else {
            let [x, z, y] = views(&mut self.arena, [ra, rb, ro])?;
            run(&self.pool, Some(x), z, y);
        }
        Ok(())
    }

    fn gated_norm(
        &mut self,
        (x, z, out): (Value, Value, Value),
        group: usize,
        eps: f32,
        weight: Param,
        order: GateOrder,
    ) -> Result<(), StepError> {
        let (rows, width, ranges) = (self.rows(x), self.width(x), self.ranges([x, z, out]));
        let [x, z, y] = views(&mut self.arena, ranges)?;
        let (x, z, isa, w) = (&*x, &*z, self.isa, self.weights[weight.index()].vector());
        for_rows(&self.pool, rows, width, y, |r, y| {
            let (x, z) = (&x[r.start * width..r.end * width], &z[r.start * width..r.end * width]);
            let gate = match order {
                GateOrder::GateThenNorm => norm::Gate::Before(z),
                GateOrder::NormThenGate => norm::Gate::After(z),
            };
            norm::rms_norm_gated(isa, x, Some(w), gate, eps, group, y);
        });
        Ok(())
    }

    /// `turn` gives the keys their rotary positions first.
    pub(crate) fn attend(
        &mut self,
        a: &Attend,
        ins: &[Value],
        out: Value,
        turn: Option<&Rope>,
        step: &Step<'_>,
    ) -> Result<(), StepError> {
        let info = self.program.plan.caches()[a.cache.index()];
        let ranges: [Range<usize>; 4] = std::array::from_fn(|i| match i {
            0 => self.range(out, self.last),
            _ => ins.get(i - 1).map_or(0..0, |&v| self.range(v, self.last)),
        });
        let [y, q, k, v] = views(&mut self.arena, ranges)?;
        let queries = self.program.plan.value(ins[0]).rows;
        let sequences = step.sequences.iter();
        let sequences = sequences.map(|s| attention::SeqRows { rows: s.rows.clone(), start: s.start, pages: s.pages });
        let mut sequences: Vec<_> = sequences.collect();
        let cache = &mut self.caches[a.cache.index()];
        if ins.len() > 1 {
            let turn = turn.and_then(|r| {
                let (dims, pairing) = (2 * r.frequencies.len(), pairing(r.style));
                Some(attention::Turn { dims, pairing, table: self.scratch.table(r)? })
            });
            cache.write_turned(&self.pool, self.isa, k, v, turn, &sequences);
        }
        if queries == Rows::Outputs {
            sequences = wanted_rows(step);
        }
        let sinks = a.sinks.map(|p| self.weights[p.index()].vector());
        let params = attend_params(a, &info, sinks);
        attention::attend(&self.pool, self.isa, &params, q, cache, &sequences, y);
        Ok(())
    }

    fn gather(&mut self, x: Value, out: Value, step: &Step<'_>) -> Result<(), StepError> {
        let width = self.width(x);
        let ranges = self.ranges([x, out]);
        let [x, y] = views(&mut self.arena, ranges)?;
        elementwise::gather(x, width, step.outputs, y);
        Ok(())
    }

    fn pool_rows(&mut self, how: Pooling, x: Value, out: Value, step: &Step<'_>) -> Result<(), StepError> {
        let width = self.width(x);
        let ranges = self.ranges([x, out]);
        let [x, y] = views(&mut self.arena, ranges)?;
        for (s, y) in step.sequences.iter().zip(y.chunks_exact_mut(width)) {
            let rows = &x[s.rows.start * width..s.rows.end * width];
            match how {
                Pooling::First => y.copy_from_slice(&rows[..width]),
                Pooling::Last => y.copy_from_slice(&rows[rows.len() - width..]),
                Pooling::Mean => {
                    y.fill(0.0);
                    rows.chunks_exact(width).for_each(|r| elementwise::add(self.isa, y, r));
                    elementwise::scale(self.isa, y, 1.0 / s.rows.len() as f32);
                }
            }
        }
        Ok(())
    }

    fn concat(&mut self, groups: usize, ins: &[Value], out: Value) -> Result<(), StepError> {
        let whole = self.width(out) / groups;
        let mut start = 0;
        for &v in ins {
            let width = self.width(v) / groups;
            let ranges = self.ranges([v, out]);
            let [x, y] = views(&mut self.arena, ranges)?;
            for (y, x) in y.chunks_exact_mut(whole).zip(x.chunks_exact(width)) {
                y[start..start + width].copy_from_slice(x);
            }
            start += width;
        }
        Ok(())
    }
}

/// The wanted rows of a step in runs of neighbours, each of them one sequence for the attention.
fn wanted_rows<'a>(step: &Step<'a>) -> Vec<attention::SeqRows<'a>> {
    let (mut runs, mut row) = (Vec::with_capacity(step.sequences.len()), 0);
    for s in step.sequences {
        let end = step.outputs.partition_point(|&token| (token as usize) < s.rows.end);
        for run in step.outputs[row..end].chunk_by(|a, b| a + 1 == *b) {
            let start = s.start + (run[0] as usize - s.rows.start) as u32;
            runs.push(attention::SeqRows { rows: row..row + run.len(), start, pages: s.pages });
            row += run.len();
        }
    }
    runs
}

pub(crate) fn matrix(weights: &[Prepared], p: Param) -> Option<&linear::Weights> {
    match &weights[p.index()] {
        Prepared::Matrix(w) => Some(w),
        Prepared::Table(_) | Prepared::Vector(_) => None,
    }
}

/// An attention as the kernels know it.
pub(crate) fn attend_params<'a>(
    a: &'a Attend,
    info: &CacheInfo,
    sinks: Option<&'a [f32]>,
) -> attention::AttendParams<'a> {
    let (window, chunk, causal) = match a.mask {
        Mask::Causal => (None, None, true),
        Mask::Window(n) => (Some(n as u32), None, true),
        Mask::Chunk(n) => (None, Some(n as u32), true),
        Mask::Full => (None, None, false),
        Mask::Local(n) => (Some(n as u32), None, false),
    };
    attention::AttendParams {
        heads: a.heads,
        scale: a.scale,
        softcap: a.softcap,
        window,
        chunk,
        causal,
        sinks,
        alibi: a.alibi.as_deref(),
        v_prefix: info.value_in_key.then_some(info.value_dim),
    }
}

pub(crate) fn activation(a: Act) -> act::Act {
    match a {
        Act::Silu => act::Act::Silu,
        Act::Gelu => act::Act::Gelu,
        Act::GeluTanh => act::Act::GeluTanh,
        Act::GeluQuick => act::Act::QuickGelu,
        Act::Relu => act::Act::Relu,
        Act::Relu2 => act::Act::Relu2,
        Act::Sigmoid => act::Act::Sigmoid,
        Act::Softplus => act::Act::Softplus,
        Act::Tanh => act::Act::Tanh,
        Act::ClampedSwiglu { .. } => act::Act::Identity,
    }
}

pub(crate) fn gate(a: Act) -> act::Glu {
    match a {
        Act::ClampedSwiglu { alpha, limit } => act::Glu::Clamped { alpha, limit },
        a => act::Glu::Act(activation(a)),
    }
}

pub(crate) fn normalize(isa: Isa, n: &Norm, weights: &[Prepared], x: &[f32], y: &mut [f32]) {
    let vector = |p: Option<Param>| p.map(|p| weights[p.index()].vector());
    let (w, b) = (vector(n.weight), vector(n.bias));
    match n.kind {
        NormKind::Rms => norm::rms_norm(isa, x, w, n.eps, n.group, y),
        NormKind::Layer => norm::layer_norm(isa, x, w, b, n.eps, n.group, y),
        NormKind::L2 => norm::l2_norm(isa, x, n.eps, n.group, y),
    }
}

fn pairing(style: RopeStyle) -> rope::Pairing {
    match style {
        RopeStyle::Half => rope::Pairing::Half,
        RopeStyle::Interleaved => rope::Pairing::Interleaved,
    }
}

impl crate::Scratch {
    /// The angles of a rotation, for the rows of the step.
    fn table(&self, r: &Rope) -> Option<&[f32]> {
        let found = self.rope.iter().find(|t| t.0 == r.frequencies && t.1 == r.magnitude);
        found.map(|t| &t.2[..])
    }
}

/// Which tokens of the step the rows of a value belong to.
struct Places<'a> {
    scratch: &'a crate::Scratch,
    /// The wanted ones, or all.
    wanted: Option<&'a [u32]>,
}

fn rotate(isa: Isa, r: &Rope, at: &Places<'_>, rows: Range<usize>, y: &mut [f32]) {
    let (dims, width) = (2 * r.frequencies.len(), y.len() / rows.len().max(1));
    let Some(table) = at.scratch.table(r) else { return };
    let apply = |y: &mut [f32], tokens: Range<usize>| {
        let angles = &table[tokens.start * dims..tokens.end * dims];
        rope::apply(isa, y, width / r.head_dim, r.head_dim, dims, pairing(r.style), angles);
    };
    match at.wanted {
        None => apply(y, rows),
        Some(wanted) => {
            for (y, &token) in y.chunks_exact_mut(width).zip(&wanted[rows]) {
                apply(y, token as usize..token as usize + 1);
            }
        }
    }
}

fn in_place(isa: Isa, op: &Op, weights: &[Prepared], at: &Places<'_>, rows: Range<usize>, y: &mut [f32]) {
    let width = y.len() / rows.len().max(1);
    match op {
        Op::Rope(r) => rotate(isa, r, at, rows, y),
        // Only this kind is asked to work in place.
        Op::Norm(n) => {
            let weight = n.weight.map(|p| weights[p.index()].vector());
            norm::rms_norm_in_place(isa, y, weight, n.eps, n.group);
        }
        Op::Act(a) => act::activate(isa, activation(*a), y),
        Op::Scale(k) => elementwise::scale(isa, y, *k),
        Op::Clamp(limit) => elementwise::clamp(isa, y, -limit, *limit),
        Op::Softcap(cap) => act::soft_cap(isa, *cap, y),
        Op::ScaleBy(p) => match weights[p.index()].vector() {
            [factor] => elementwise::scale(isa, y, *factor),
            w => elementwise::mul_rows(isa, y, w),
        },
        Op::AddRow { table, row } => {
            let mut bias = vec![0.0; width];
            weights[table.index()].row(*row, &mut bias);
            elementwise::add_bias(isa, y, &bias);
        }
        Op::PositionScale { floor, scale } => {
            for (y, row) in y.chunks_exact_mut(width).zip(rows) {
                let p = at.scratch.positions[at.wanted.map_or(row, |wanted| wanted[row] as usize)];
                let steps = ((p as f32 + 1.0) / floor).floor();
                elementwise::scale(isa, y, 1.0 + scale * math::ln(1.0 + steps));
            }
        }
        _ => {}
    }
}
