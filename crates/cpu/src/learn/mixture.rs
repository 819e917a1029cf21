//! Mixtures of experts, forwards and backwards: rows are gathered by expert, so that each expert's matrices meet all
//! its rows at once.

use super::{Learner, adjoint::pairs, linear::apart, products::Gradients};
use crate::run::{activation, gate as gate_of};
use allod_kernels::{act, elementwise, gradient, rows::for_rows};
use allod_plan::{Act, Adjoint, Experts, LinearPart, Route, Score, StepError, Value, Weigh};
use std::ops::Range;

/// Keeps a sum of weights above 0, as the forward kernel does.
const SMALLEST: f32 = 1e-20;

/// The slots (choices of tokens) of each expert, in order.
fn slots(ids: &[f32], experts: usize) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]; experts];
    for (slot, id) in ids.iter().enumerate() {
        if let Some(list) = all.get_mut(id.to_bits() as usize) {
            list.push(slot);
        }
    }
    all
}

fn gather(x: &[f32], width: usize, rows: impl Iterator<Item = usize>) -> Vec<f32> {
    rows.flat_map(|r| x[r * width..(r + 1) * width].iter().copied()).collect()
}

fn scatter(from: &[f32], width: usize, rows: &[usize], to: &mut [f32]) {
    for (from, &r) in from.chunks_exact(width.max(1)).zip(rows) {
        to[r * width..(r + 1) * width].copy_from_slice(from);
    }
}

/// Hidden rows of the chosen experts.
fn hidden(isa: crate::Isa, a: Act, gate: Option<&[f32]>, up: &[f32]) -> Vec<f32> {
    let mut out = gate.unwrap_or(up).to_vec();
    match gate {
        Some(_) => gate_of(a).apply(isa, &mut out, up),
        None => act::activate(isa, activation(a), &mut out),
    }
    out
}

/// Gradients of one expert: its part of each stack.
fn part(g: &mut [Option<Vec<f32>>; 5], expert: usize, experts: usize) -> Gradients<'_> {
    let [w, bias, a, b, _] = g;
    let cut = |v: &mut Option<Vec<f32>>| -> Option<Range<usize>> {
        let len = v.as_ref()?.len() / experts;
        Some(expert * len..(expert + 1) * len)
    };
    let (rw, rbias, ra, rb) = (cut(w), cut(bias), cut(a), cut(b));
    Gradients {
        w: w.as_deref_mut().zip(rw).map(|(v, r)| &mut v[r]),
        bias: bias.as_deref_mut().zip(rbias).map(|(v, r)| &mut v[r]),
        a: a.as_deref_mut().zip(ra).map(|(v, r)| &mut v[r]),
        b: b.as_deref_mut().zip(rb).map(|(v, r)| &mut v[r]),
    }
}

impl Learner {
    fn experts_of(&self, e: &Experts) -> usize {
        self.cpu.plan().param(e.up.weight).shape[0]
    }

    /// Products of one expert's rows with one of its matrices; what its adapter's first half gives is kept.
    fn project(
        &mut self,
        p: &LinearPart,
        expert: usize,
        x: &[f32],
        (list, kept): (&[usize], Option<Value>),
    ) -> Result<Vec<f32>, StepError> {
        let kept = kept.map(|v| self.range(v));
        self.at_desk(|l, arena, desk| {
            let p = l.projection(p, expert)?;
            let mut xs = vec![];
            if let Some(low) = &p.low {
                xs.resize(list.len() * low.rank, 0.0);
                desk.down(low, x, list.len(), &mut xs);
                if let Some(kept) = kept {
                    scatter(&xs, low.rank, list, &mut arena[kept]);
                }
            }
            let mut y = vec![0.0; list.len() * p.w.rows()];
            desk.up(&p, x, list.len(), &xs, &mut y);
            Ok(y)
        })
    }

    /// `outs` are the sum and, for each choice of each token, gate, up and down rows.
    pub(super) fn experts(
        &mut self,
        e: &Experts,
        ins: &[Value],
        outs: &[Value],
        kept: &[Option<Value>],
    ) -> Result<(), StepError> {
        let (width, top, experts) = (self.width(ins[0]), self.width(ins[1]), self.experts_of(e));
        let [x, ids, weights] = [ins[0], ins[1], ins[2]].map(|v| self.range(v));
        let [y, gates, ups, downs] = [outs[0], outs[1], outs[2], outs[3]].map(|v| self.range(v));
        let lists = slots(&self.cpu.arena[ids.clone()], experts);
        let isa = self.cpu.isa;
        for (expert, list) in lists.iter().enumerate().filter(|(_, l)| !l.is_empty()) {
            let mut input = gather(&self.cpu.arena[x.clone()], width, list.iter().map(|s| s / top));
            if e.weigh == Weigh::Input {
                let weights: Vec<f32> = gather(&self.cpu.arena[weights.clone()], 1, list.iter().copied());
                elementwise::scale_rows(isa, &mut input, &weights, width);
            }
            let up = self.project(&e.up, expert, &input, (list, kept[1]))?;
            let wide = up.len() / list.len();
            scatter(&up, wide, list, &mut self.cpu.arena[ups.clone()]);
            let gate = match &e.gate {
                Some(p) => {
                    let gate = self.project(p, expert, &input, (list, kept[0]))?;
                    scatter(&gate, wide, list, &mut self.cpu.arena[gates.clone()]);
                    Some(gate)
                }
                None => None,
            };
            let rows = hidden(isa, e.act, gate.as_deref(), &up);
            let down = self.project(&e.down, expert, &rows, (list, kept[2]))?;
            scatter(&down, width, list, &mut self.cpu.arena[downs.clone()]);
        }
        let mut arena = std::mem::take(&mut self.cpu.arena);
        let (y, rest) = apart(&mut arena, &y);
        let (down, ids, weights) = (rest.get(&downs), rest.get(&ids), rest.get(&weights));
        let scale = e.down_scale.map(|p| self.vector(p));
        for_rows(&self.cpu.pool, y.len() / width, width, y, |range, y| {
            for (t, y) in range.zip(y.chunks_exact_mut(width)) {
                y.fill(0.0);
                for slot in t * top..(t + 1) * top {
                    let factor = scale.map_or(1.0, |s| s[ids[slot].to_bits() as usize]);
                    let factor = if e.weigh == Weigh::Output { weights[slot] * factor } else { factor };
                    elementwise::add_scaled(isa, y, &down[slot * width..][..width], factor);
                }
            }
        });
        self.cpu.arena = arena;
        Ok(())
    }

    pub(super) fn experts_adjoint(&mut self, e: &Experts, a: &Adjoint, dy: Value) -> Result<(), StepError> {
        let n = &a.of.node;
        let (width, top, experts) = (self.width(n.inputs[0]), self.width(n.inputs[1]), self.experts_of(e));
        let [x, ids, weights] = [n.inputs[0], n.inputs[1], n.inputs[2]].map(|v| self.range(v));
        let [gates, ups, downs] = [n.outputs[1], n.outputs[2], n.outputs[3]].map(|v| self.range(v));
        let dy = self.range(dy);
        let lists = slots(&self.cpu.arena[ids.clone()], experts);
        let isa = self.cpu.isa;
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; weights.len()]);
        let mut d_scale = self.take_gradient(e.down_scale);
        for (expert, list) in lists.iter().enumerate().filter(|(_, l)| !l.is_empty()) {
            let arena = &self.cpu.arena;
            let scale = e.down_scale.map_or(1.0, |p| self.vector(p)[expert]);
            let weight: Vec<f32> = gather(&arena[weights.clone()], 1, list.iter().copied());
            let mut d_down = gather(&arena[dy.clone()], width, list.iter().map(|s| s / top));
            for (i, &slot) in list.iter().enumerate() {
                let row = &mut d_down[i * width..(i + 1) * width];
                let along = dot(row, &arena[downs.clone()][slot * width..][..width]);
                let factor = if e.weigh == Weigh::Output { weight[i] } else { 1.0 };
                if e.weigh == Weigh::Output {
                    dw[slot] += along * scale;
                }
                if let Some(d) = &mut d_scale {
                    d[expert] += along * factor;
                }
                elementwise::scale(isa, row, factor * scale);
            }
            let wide = self.width(n.outputs[2]) / top;
            let up = gather(&arena[ups.clone()], wide, list.iter().copied());
            let gate = e.gate.map(|_| gather(&arena[gates.clone()], wide, list.iter().copied()));
            let mut input = gather(&arena[x.clone()], width, list.iter().map(|s| s / top));
            if e.weigh == Weigh::Input {
                elementwise::scale_rows(isa, &mut input, &weight, width);
            }
            let rows = hidden(isa, e.act, gate.as_deref(), &up);
            let mut d_rows = vec![0.0; rows.len()];
            self.project_adjoint(&e.down, expert, (&rows, &d_down), (list, a.of.kept[2]), &mut d_rows)?;
            let (mut d_gate, mut d_up) = (vec![0.0; up.len()], vec![0.0; up.len()]);
            match &gate {
                Some(gate) => pairs(&self.cpu.pool, isa, e.act, (gate, &up, &d_rows), &mut d_gate, &mut d_up),
                None => gradient::act(isa, activation(e.act), &up, &d_rows, &mut d_up),
            }
            let mut d_input = vec![0.0; input.len()];
            if let Some(p) = &e.gate {
                self.project_adjoint(p, expert, (&input, &d_gate), (list, a.of.kept[0]), &mut d_input)?;
            }
            self.project_adjoint(&e.up, expert, (&input, &d_up), (list, a.of.kept[1]), &mut d_input)?;
            for (i, &slot) in list.iter().enumerate() {
                let (t, row) = (slot / top, &d_input[i * width..(i + 1) * width]);
                let at = t * width..(t + 1) * width;
                if e.weigh == Weigh::Input {
                    dw[slot] += dot(row, &self.cpu.arena[x.clone()][at.clone()]);
                }
                let factor = if e.weigh == Weigh::Input { weight[i] } else { 1.0 };
                elementwise::add_scaled(isa, &mut dx[at], row, factor);
            }
        }
        self.put_gradient(e.down_scale, d_scale);
        self.add_to(a.d_inputs[0], &dx);
        self.add_to(a.d_inputs[2], &dw);
        Ok(())
    }

    /// The adjoint of [`Learner::project`].
    fn project_adjoint(
        &mut self,
        p: &LinearPart,
        expert: usize,
        (x, dy): (&[f32], &[f32]),
        (list, kept): (&[usize], Option<Value>),
        dx: &mut [f32],
    ) -> Result<(), StepError> {
        let mut grads = self.take_gradients(p);
        let kept = kept.map(|v| self.range(v));
        let experts = self.cpu.plan().param(p.weight).shape[0];
        self.at_desk(|l, arena, desk| {
            let p = l.projection(p, expert)?;
            let xs = match (&p.low, kept) {
                (Some(low), Some(kept)) => gather(&arena[kept], low.rank, list.iter().copied()),
                _ => vec![],
            };
            desk.adjoint(&p, (x, &xs, dy), list.len(), Some(dx), part(&mut grads, expert, experts));
            Ok::<_, StepError>(())
        })?;
        self.put_gradients(p, grads);
        Ok(())
    }

    /// Through the weights of the chosen experts; which are chosen is not differentiable.
    pub(super) fn route_adjoint(&mut self, r: &Route, a: &Adjoint) -> Result<(), StepError> {
        let (Some(dw), Some(d)) = (a.d_outputs[1], a.d_inputs[0]) else { return Ok(()) };
        let n = &a.of.node;
        let (experts, top) = (self.width(n.inputs[0]), r.top);
        let [logits, ids, dw, d] = [n.inputs[0], n.outputs[0], dw, d].map(|v| self.range(v));
        let (d, rest) = apart(&mut self.cpu.arena, &d);
        let rows = rest.get(&logits).chunks_exact(experts).zip(rest.get(&ids).chunks_exact(top));
        let grads = rest.get(&dw).chunks_exact(top).zip(d.chunks_exact_mut(experts));
        for ((logits, ids), (dw, d)) in rows.zip(grads) {
            let ids: Vec<usize> = ids.iter().map(|i| i.to_bits() as usize).collect();
            route_row(r, logits, &ids, dw, d);
        }
        Ok(())
    }
}

fn softmax(x: &[f32]) -> Vec<f32> {
    let max = x.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    let e: Vec<f32> = x.iter().map(|v| allod_kernels::math::exp(v - max)).collect();
    let sum: f32 = e.iter().sum();
    e.into_iter().map(|v| v / sum).collect()
}

fn route_row(r: &Route, logits: &[f32], ids: &[usize], dw: &[f32], d: &mut [f32]) {
    let chosen: Vec<f32> = ids.iter().map(|&i| logits[i]).collect();
    let all = if r.score == Score::Softmax { softmax(logits) } else { vec![] };
    let scores: Vec<f32> = match r.score {
        Score::Softmax => ids.iter().map(|&i| all[i]).collect(),
        Score::Sigmoid => chosen.iter().map(|&v| allod_kernels::math::sigmoid(v)).collect(),
        Score::SoftmaxOfChosen => softmax(&chosen),
    };
    let mut ds: Vec<f32> = dw.iter().map(|d| d * r.scale).collect();
    if r.normalize {
        let sum = scores.iter().sum::<f32>() + SMALLEST;
        let mean = dot(&ds, &scores) / sum;
        ds.iter_mut().for_each(|d| *d = (*d - mean) / sum);
    }
    let along = dot(&ds, &scores);
    match r.score {
        Score::Softmax => {
            d.iter_mut().zip(&all).for_each(|(d, p)| *d -= p * along);
            ids.iter().zip(&ds).zip(&scores).for_each(|((&i, ds), s)| d[i] += ds * s);
        }
        Score::Sigmoid => ids.iter().zip(&ds).zip(&scores).for_each(|((&i, ds), s)| d[i] += ds * s * (1.0 - s)),
        Score::SoftmaxOfChosen => {
            ids.iter().zip(&ds).zip(&scores).for_each(|((&i, ds), s)| d[i] += s * (ds - along));
        }
    }
}

/// Eight running sums, added in order. Not fused: that is a call where the instruction set is not known when compiling.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(s, (a, b))| *s += a * b);
    }
    sums.iter().sum::<f32>() + rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum::<f32>()
}
