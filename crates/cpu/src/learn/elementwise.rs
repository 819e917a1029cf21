//! Adjoints that go element by element, or only move rows and columns; and the noise on embeddings.

use super::{Learner, init::Random, linear::apart};
use crate::{Isa, Scratch, run::activation};
use allod_kernels::{
    elementwise, gradient, math,
    rope::{self, Pairing},
    rows::for_rows,
};
use allod_plan::{Adjoint, Op, Param, Rope, RopeStyle, Step, StepError, Value};
use std::ops::Range;

impl Learner {
    pub(super) fn elementwise_adjoint(
        &mut self,
        op: &Op,
        a: &Adjoint,
        dy: Value,
        step: &Step<'_>,
    ) -> Result<(), StepError> {
        match op {
            Op::ScaleBy(p) => self.vector_adjoint(*p, 0, a, dy, true),
            Op::AddRow { table, row } => self.vector_adjoint(*table, *row, a, dy, false),
            _ => {}
        }
        for (i, d) in a.d_inputs.iter().enumerate() {
            let Some(d) = *d else { continue };
            match op {
                Op::Concat { groups } => self.concat_adjoint(*groups, a, i, d, dy),
                Op::Mul => self.mul_adjoint(a, i, d, dy),
                Op::Pool(how) => self.pool_adjoint(*how, d, dy, step),
                Op::GatherOutputs => {
                    let (width, d, dy) = (self.width(dy), self.range(d), self.range(dy));
                    let (dx, rest) = apart(&mut self.cpu.arena, &d);
                    for (&row, dy) in step.outputs.iter().zip(rest.get(&dy).chunks_exact(width)) {
                        elementwise::add(self.cpu.isa, &mut dx[row as usize * width..][..width], dy);
                    }
                }
                op => self.unary_adjoint(op, a.of.node.inputs[0], d, dy)?,
            }
        }
        Ok(())
    }

    /// One input of the width of the output, or columns of it.
    fn unary_adjoint(&mut self, op: &Op, x: Value, d: Value, dy: Value) -> Result<(), StepError> {
        let (win, wout, rows) = (self.width(d), self.width(dy), self.rows(d));
        // The input may be gone where the adjoint does not read it.
        let reads = matches!(op, Op::Act(_) | Op::Softcap(_) | Op::Clamp(_));
        let (x, d, dy) = (if reads { self.range(x) } else { 0..0 }, self.range(d), self.range(dy));
        let mut arena = std::mem::take(&mut self.cpu.arena);
        let (dx, rest) = apart(&mut arena, &d);
        let (x, dy, isa) = (rest.get(&x), rest.get(&dy), self.cpu.isa);
        let (weights, scratch) = (&self.cpu.weights, &self.cpu.scratch);
        for_rows(&self.cpu.pool, rows, win, dx, |r, dx| {
            let dy = &dy[r.start * wout..r.end * wout];
            let x = if reads { &x[r.start * win..r.end * win] } else { x };
            match op {
                Op::Add => elementwise::add(isa, dx, dy),
                Op::AddRow { .. } => elementwise::add(isa, dx, dy),
                Op::Scale(k) => elementwise::add_scaled(isa, dx, dy, *k),
                Op::Act(act) => gradient::act(isa, activation(*act), x, dy, dx),
                Op::Softcap(cap) => gradient::soft_cap(isa, *cap, x, dy, dx),
                Op::Clamp(limit) => gradient::clamp(isa, *limit, x, dy, dx),
                Op::ScaleBy(p) => scaled(isa, weights[p.index()].vector(), dy, dx),
                Op::Rope(rope) => rotated_back(isa, rope, scratch, r, dy, dx),
                Op::PositionScale { floor, scale } => {
                    for ((dx, dy), &p) in dx.chunks_exact_mut(win).zip(dy.chunks_exact(win)).zip(&scratch.positions[r])
                    {
                        let steps = ((p as f32 + 1.0) / floor).floor();
                        elementwise::add_scaled(isa, dx, dy, 1.0 + scale * math::ln(1.0 + steps));
                    }
                }
                Op::Columns { group, start, width } => {
                    for (dx, dy) in dx.chunks_exact_mut(*group).zip(dy.chunks_exact(*width)) {
                        dx[*start..start + width].iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy);
                    }
                }
                _ => {}
            }
        });
        self.cpu.arena = arena;
        Ok(())
    }

    fn concat_adjoint(&mut self, groups: usize, a: &Adjoint, i: usize, d: Value, dy: Value) {
        let widths: Vec<usize> = a.of.node.inputs.iter().map(|&v| self.width(v) / groups).collect();
        let (start, whole): (usize, usize) = (widths[..i].iter().sum(), widths.iter().sum());
        let (d, dy) = (self.range(d), self.range(dy));
        let (dx, rest) = apart(&mut self.cpu.arena, &d);
        for (dx, dy) in dx.chunks_exact_mut(widths[i]).zip(rest.get(&dy).chunks_exact(whole)) {
            dx.iter_mut().zip(&dy[start..]).for_each(|(dx, dy)| *dx += dy);
        }
    }

    /// Input 0 of a product is as wide as the output, input 1 may be narrower: each element scales a group.
    fn mul_adjoint(&mut self, a: &Adjoint, i: usize, d: Value, dy: Value) {
        let (wa, wb) = (self.width(a.of.node.inputs[0]), self.width(a.of.node.inputs[1]));
        let (other, d, dy) = (self.range(a.of.node.inputs[1 - i]), self.range(d), self.range(dy));
        let (dx, rest) = apart(&mut self.cpu.arena, &d);
        let (other, dy, group) = (rest.get(&other), rest.get(&dy), wa / wb);
        for_rows(&self.cpu.pool, dx.len(), 1, dx, |r, dx| match (group, i) {
            (1, _) => dx.iter_mut().zip(&dy[r.clone()]).zip(&other[r]).for_each(|((dx, dy), o)| *dx += dy * o),
            (_, 0) => dx.iter_mut().zip(&dy[r.clone()]).zip(r).for_each(|((dx, dy), at)| *dx += dy * other[at / group]),
            _ => {
                for (dx, at) in dx.iter_mut().zip(r) {
                    let part = at * group..(at + 1) * group;
                    *dx += dy[part.clone()].iter().zip(&other[part]).fold(0.0, |s, (a, b)| s + a * b);
                }
            }
        });
    }

    /// Gradient of a vector that every row is scaled by, or that is added to every row.
    fn vector_adjoint(&mut self, p: Param, row: usize, a: &Adjoint, dy: Value, scales: bool) {
        let Some(mut g) = self.take_gradient(Some(p)) else { return };
        let width = self.width(dy);
        let arena = &self.cpu.arena;
        let dy = &arena[self.range(dy)];
        let x = if scales { &arena[self.range(a.of.node.inputs[0])] } else { &[] };
        let at = if scales { 0 } else { row * width };
        let len = if scales { g.len() } else { width };
        for (t, dy) in dy.chunks_exact(width).enumerate() {
            for (j, dy) in dy.iter().enumerate() {
                g[at + j % len] += if scales { dy * x[t * width + j] } else { *dy };
            }
        }
        self.put_gradient(Some(p), Some(g));
    }

    /// NEFTune's noise on the rows of each sequence.
    pub(super) fn noise(&mut self, out: Value, step: &Step<'_>) {
        let (width, range) = (self.width(out), self.range(out));
        let mut random = Random(self.batch.seed ^ 0x6e65_6674_756e_6500);
        let rows = &mut self.cpu.arena[range];
        for s in step.sequences {
            let bound = self.batch.noise / ((s.rows.len() * width) as f32).sqrt();
            for v in &mut rows[s.rows.start * width..s.rows.end * width] {
                *v += bound * (2.0 * random.unit() - 1.0);
            }
        }
    }
}

fn scaled(isa: Isa, w: &[f32], dy: &[f32], dx: &mut [f32]) {
    match w {
        [factor] => elementwise::add_scaled(isa, dx, dy, *factor),
        w => {
            for (dx, dy) in dx.chunks_exact_mut(w.len()).zip(dy.chunks_exact(w.len())) {
                dx.iter_mut().zip(dy).zip(w).for_each(|((dx, dy), w)| *dx += dy * w);
            }
        }
    }
}

/// The inverse rotation, with the same factor.
fn rotated_back(isa: Isa, r: &Rope, scratch: &Scratch, rows: Range<usize>, dy: &[f32], dx: &mut [f32]) {
    let dims = 2 * r.frequencies.len();
    let heads = dy.len() / rows.len().max(1) / r.head_dim;
    let pairing = match r.style {
        RopeStyle::Half => Pairing::Half,
        RopeStyle::Interleaved => Pairing::Interleaved,
    };
    let mut turned = dy.to_vec();
    if let Some((_, _, table)) = scratch.rope.iter().find(|t| t.0 == r.frequencies && t.1 == r.magnitude) {
        let mut table = table[rows.start * dims..rows.end * dims].to_vec();
        for row in table.chunks_exact_mut(dims.max(1)) {
            row[dims / 2..].iter_mut().for_each(|sin| *sin = -*sin);
        }
        rope::apply(isa, &mut turned, heads, r.head_dim, dims, pairing, &table);
    }
    elementwise::add(isa, dx, &turned);
}
