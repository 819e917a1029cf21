//! Linears and experts, forwards and backwards.

use super::{
    Learner,
    init::mix,
    products::{Desk, Gradients, LowRank, Projection, columns},
    weights::Low,
};
use crate::weights::Prepared;
use allod_kernels::{elementwise, gradient::Matrix, rows::for_rows};
use allod_plan::{Adjoint, LinearPart, Param, StepError, Value};
use std::ops::Range;

/// A part of the arena that is not the one being written.
#[derive(Clone, Copy)]
pub(super) struct Rest<'a> {
    before: &'a [f32],
    after: &'a [f32],
    end: usize,
}

impl<'a> Rest<'a> {
    pub(super) fn get(&self, r: &Range<usize>) -> &'a [f32] {
        if r.start >= self.end { &self.after[r.start - self.end..r.end - self.end] } else { &self.before[r.clone()] }
    }
}

/// The part of `arena` at `range`, and the rest.
pub(super) fn apart<'a>(arena: &'a mut [f32], range: &Range<usize>) -> (&'a mut [f32], Rest<'a>) {
    let (before, rest) = arena.split_at_mut(range.start);
    let (part, after) = rest.split_at_mut(range.len());
    (part, Rest { before, after, end: range.end })
}

impl Learner {
    /// A weight as a matrix: number `expert` of a stack.
    pub(super) fn matrix(&self, p: Param, expert: usize) -> Result<Matrix<'_>, StepError> {
        let shape = &self.cpu.plan().param(p).shape;
        let experts = if shape.len() == 3 { shape[0] } else { 1 };
        if self.links[p.index()].whole.is_some() {
            let (data, cols) = (self.cpu.weights[p.index()].vector(), shape.last().copied().unwrap_or(1));
            let len = data.len() / experts;
            return Ok(Matrix::Numbers { data: &data[expert * len..(expert + 1) * len], cols });
        }
        let missing = || StepError::Inconsistent(format!("{} is not held as a matrix", self.cpu.plan().param(p).name));
        self.held[p.index()].matrix(expert, experts).ok_or_else(missing)
    }

    pub(super) fn low(&self, p: Param) -> Option<Low> {
        self.links[p.index()].adapter.filter(|_| self.batch.adapted)
    }

    pub(super) fn projection(&self, part: &LinearPart, expert: usize) -> Result<Projection<'_>, StepError> {
        let w = self.matrix(part.weight, expert)?;
        let bias = part.bias.map(|b| {
            let all = self.cpu.weights[b.index()].vector();
            &all[expert * w.rows()..(expert + 1) * w.rows()]
        });
        let low = self.low(part.weight).map(|l| {
            let (a, b) = (l.rank * w.cols(), l.rank * w.rows());
            LowRank {
                a: &self.tensors[l.a].data[expert * a..(expert + 1) * a],
                b: &self.tensors[l.b].data[expert * b..(expert + 1) * b],
                rank: l.rank,
                scale: l.scale,
            }
        });
        Ok(Projection { w, bias, low })
    }

    /// Runs `f` with the arena and a desk apart from the rest.
    pub(super) fn at_desk<R>(&mut self, f: impl FnOnce(&mut Self, &mut [f32], &mut Desk<'_>) -> R) -> R {
        let (mut arena, mut turned) = (std::mem::take(&mut self.cpu.arena), std::mem::take(&mut self.turned));
        let pool = std::sync::Arc::clone(&self.cpu.pool);
        let r = f(self, &mut arena, &mut Desk { pool: &pool, isa: self.cpu.isa, turned: &mut turned });
        (self.cpu.arena, self.turned) = (arena, turned);
        r
    }

    /// `[m / ‖W + scale · B A‖]` of each row.
    fn dora(&self, p: &Projection<'_>, low: &Low) -> Vec<f32> {
        let Some((m, l)) = low.magnitude.map(|m| &self.tensors[m].data).zip(p.low) else { return vec![] };
        let width = p.w.cols();
        let mut factors = vec![0.0; p.w.rows()];
        let isa = self.cpu.isa;
        for_rows(&self.cpu.pool, factors.len(), 1, &mut factors, |range, out| {
            let mut row = vec![0.0; width];
            for (o, f) in range.zip(out) {
                for start in (0..width).step_by(256) {
                    let end = width.min(start + 256);
                    p.w.read(o, start..end, &mut row[start..end]);
                }
                for (j, b) in l.b[o * l.rank..(o + 1) * l.rank].iter().enumerate() {
                    elementwise::add_scaled(isa, &mut row, &l.a[j * width..(j + 1) * width], l.scale * b);
                }
                *f = m[o] / super::init::norm(&row);
            }
        });
        factors
    }

    /// What dropout leaves of the adapter's input, or nothing where there is none.
    fn dropped(&self, p: Param, low: &Low, x: &[f32], width: usize) -> Option<Vec<f32>> {
        if low.dropout <= 0.0 || !self.batch.training {
            return None;
        }
        let mut out = x.to_vec();
        self.mask(p, low, &mut out, width);
        Some(out)
    }

    /// What dropout does not reach of DoRA: PEFT computes `W x + (f − 1) W x' + f s B A x'`, x' being what dropout leaves
    /// of x, which is `f (W + s B A) x' + W (x − x')`. This is the latter.
    fn left_out(&self, desk: &Desk<'_>, p: &Projection<'_>, x: &[f32], dropped: &[f32], rows: usize) -> Vec<f32> {
        let rest: Vec<f32> = x.iter().zip(dropped).map(|(x, d)| x - d).collect();
        let mut y = vec![0.0; rows * p.w.rows()];
        desk.up(&Projection { bias: None, low: None, ..*p }, &rest, rows, &[], &mut y);
        y
    }

    /// Drops elements, and scales the others up.
    fn mask(&self, p: Param, low: &Low, x: &mut [f32], width: usize) {
        let seed = mix(self.batch.seed ^ mix(p.index() as u64 + 1));
        let limit = (f64::from(low.dropout) * (1u64 << 32) as f64) as u64;
        let scale = 1.0 / (1.0 - low.dropout);
        for_rows(&self.cpu.pool, x.len() / width, width, x, |range, x| {
            for (i, v) in (range.start * width..).zip(x) {
                *v *= if mix(seed ^ i as u64) >> 32 < limit { 0.0 } else { scale };
            }
        });
    }

    pub(super) fn linear(
        &mut self,
        parts: &[LinearPart],
        x: Value,
        outs: &[Value],
        kept: &[Option<Value>],
        only_kept: bool,
    ) -> Result<(), StepError> {
        let (rows, x, width) = (self.rows(x), self.range(x), self.width(x));
        self.at_desk(|l, arena, desk| {
            for ((part, &out), kept) in parts.iter().zip(outs).zip(kept) {
                let p = l.projection(part, 0)?;
                let (mut xs, mut dropped) = (0..0, None);
                if let (Some(low), Some(v), Some(adapter)) = (&p.low, kept, l.low(part.weight)) {
                    xs = l.range(*v);
                    let (xs, rest) = apart(arena, &xs);
                    dropped = l.dropped(part.weight, &adapter, rest.get(&x), width);
                    desk.down(low, dropped.as_deref().unwrap_or(rest.get(&x)), rows, xs);
                }
                if only_kept {
                    continue;
                }
                let (y, rest) = apart(arena, &l.range(out));
                let factors = l.low(part.weight).map_or_else(Vec::new, |low| l.dora(&p, &low));
                let bare = Projection { bias: p.bias.filter(|_| factors.is_empty()), ..p };
                let input = dropped.as_deref().filter(|_| !factors.is_empty()).unwrap_or(rest.get(&x));
                match l.held[part.weight.index()].packed() {
                    Some(w) => desk.served(w, &bare, input, rows, rest.get(&xs), y),
                    None => desk.up(&bare, input, rows, rest.get(&xs), y),
                }
                if !factors.is_empty() {
                    let (isa, n) = (l.cpu.isa, factors.len());
                    for_rows(&l.cpu.pool, rows, n, y, |_, y| {
                        elementwise::mul_rows(isa, y, &factors);
                        p.bias.iter().for_each(|b| elementwise::add_bias(isa, y, b));
                    });
                    if let Some(dropped) = &dropped {
                        elementwise::add(isa, y, &l.left_out(desk, &p, rest.get(&x), dropped, rows));
                    }
                }
            }
            Ok(())
        })
    }

    pub(super) fn linear_adjoint(&mut self, parts: &[LinearPart], a: &Adjoint) -> Result<(), StepError> {
        let n = &a.of.node;
        let (rows, width, x) = (self.rows(n.inputs[0]), self.width(n.inputs[0]), self.range(n.inputs[0]));
        self.at_desk(|l, arena, desk| {
            for (i, part) in parts.iter().enumerate() {
                let Some(dy) = a.d_outputs[i] else { continue };
                let (dy, xs) = (l.range(dy), a.of.kept[i].map_or(0..0, |v| l.range(v)));
                let mut grads = l.take_gradients(part);
                let p = l.projection(part, 0)?;
                let low = l.low(part.weight);
                let out = p.w.rows();
                let dora = low.filter(|low| low.magnitude.is_some());
                let through = grads.iter().any(Option::is_some);
                let (dx, rest) = match a.d_inputs[0] {
                    Some(d) => {
                        let (dx, rest) = apart(arena, &l.range(d));
                        (Some(dx), rest)
                    }
                    None => (None, apart(arena, &(0..0)).1),
                };
                // What is not trained reads no input, which may be gone.
                let input = if through { rest.get(&x) } else { &[] };
                let dropped = match &low {
                    Some(low) => l.dropped(part.weight, low, input, width),
                    None => None,
                };
                let whole = rest.get(&dy);
                let mut dy_slice = whole;
                let scaled;
                if let Some(low) = dora {
                    let mut y = std::borrow::Cow::Borrowed(rest.get(&l.range(n.outputs[i])));
                    if let Some(dropped) = &dropped {
                        let left = l.left_out(desk, &p, input, dropped, rows);
                        y.to_mut().iter_mut().zip(left).for_each(|(y, l)| *y -= l);
                    }
                    if let Some(db) = grads[1].take() {
                        let mut db = db;
                        columns(desk.pool, dy_slice, out, &mut db);
                        grads[1] = Some(db);
                    }
                    scaled = l.dora_adjoint(&p, &low, &y, dy_slice, grads[4].as_deref_mut());
                    dy_slice = &scaled;
                }
                let [gw, gb, ga, gl, _] = &mut grads;
                let g = Gradients {
                    w: gw.as_deref_mut(),
                    bias: gb.as_deref_mut().filter(|_| dora.is_none()),
                    a: ga.as_deref_mut(),
                    b: gl.as_deref_mut(),
                };
                let xs = rest.get(&xs);
                match (&dropped, dx, low) {
                    (Some(dropped), dx, Some(low)) => {
                        let d = desk.adjoint(&p, (dropped, xs, dy_slice), rows, None, g);
                        if let (Some(dx), Some(lr)) = (dx, &p.low) {
                            let mut back = vec![0.0; rows * width];
                            desk.back(lr, &d, rows, &mut back);
                            if dora.is_some() {
                                let change: Vec<f32> = dy_slice.iter().zip(whole).map(|(f, w)| f - w).collect();
                                desk.through(p.w, &change, rows, &mut back);
                            }
                            l.mask(part.weight, &low, &mut back, width);
                            desk.through(p.w, whole, rows, dx);
                            elementwise::add(l.cpu.isa, dx, &back);
                        }
                    }
                    (_, dx, _) => drop(desk.adjoint(&p, (input, xs, dy_slice), rows, dx, g)),
                }
                l.put_gradients(part, grads);
            }
            Ok(())
        })
    }

    /// Through DoRA's factors: adds to the gradient of the magnitudes and returns the derivative by the product.
    fn dora_adjoint(&self, p: &Projection<'_>, low: &Low, y: &[f32], dy: &[f32], dm: Option<&mut [f32]>) -> Vec<f32> {
        let (factors, out) = (self.dora(p, low), p.w.rows());
        let Some(m) = low.magnitude.map(|m| &self.tensors[m].data) else { return vec![] };
        if let Some(dm) = dm {
            for_rows(&self.cpu.pool, out, 1, dm, |range, dm| {
                for (y, dy) in y.chunks_exact(out).zip(dy.chunks_exact(out)) {
                    for (o, dm) in range.clone().zip(dm.iter_mut()) {
                        let product = y[o] - p.bias.map_or(0.0, |b| b[o]);
                        *dm += if m[o] == 0.0 { 0.0 } else { dy[o] * product / m[o] };
                    }
                }
            });
        }
        let mut scaled = dy.to_vec();
        let isa = self.cpu.isa;
        for_rows(&self.cpu.pool, scaled.len() / out, out, &mut scaled, |_, d| elementwise::mul_rows(isa, d, &factors));
        scaled
    }

    /// Gradients of weight, bias, A, B and magnitudes of a part, out of the list, so that the rest can be read.
    pub(super) fn take_gradients(&mut self, part: &LinearPart) -> [Option<Vec<f32>>; 5] {
        self.places(part).map(|i| i.map(|i| std::mem::take(&mut self.tensors[i].gradient)))
    }

    pub(super) fn put_gradients(&mut self, part: &LinearPart, gradients: [Option<Vec<f32>>; 5]) {
        for (i, g) in self.places(part).into_iter().zip(gradients) {
            if let (Some(i), Some(g)) = (i, g) {
                self.tensors[i].gradient = g;
            }
        }
    }

    fn places(&self, part: &LinearPart) -> [Option<usize>; 5] {
        let link = &self.links[part.weight.index()];
        let bias = part.bias.and_then(|b| self.links[b.index()].whole);
        let low = link.adapter;
        [link.whole, bias, low.map(|l| l.a), low.map(|l| l.b), low.and_then(|l| l.magnitude)]
    }

    pub(super) fn head_linear(&mut self, weight: Param, x: Value, out: Value) -> Result<(), StepError> {
        let heads = self.cpu.plan().param(weight).shape[0];
        let (rows, win, wout) = (self.rows(x), self.width(x), self.width(out));
        let (x, out) = (self.range(x), self.range(out));
        self.at_desk(|l, arena, desk| {
            let (y, rest) = apart(arena, &out);
            for h in 0..heads {
                let w = allod_kernels::gradient::ByRows(l.matrix(weight, h)?);
                let (a, k) = (&rest.get(&x)[h * win / heads..], win / heads);
                let term = allod_kernels::gradient::Term { a, stride: win, k, b: &w };
                let c = (&mut y[h * wout / heads..], wout);
                let start = allod_kernels::gradient::Start::Zero;
                allod_kernels::gradient::product(desk.pool, desk.isa, &[term], start, c, (rows, wout / heads));
            }
            Ok(())
        })
    }

    pub(super) fn head_linear_adjoint(&mut self, weight: Param, a: &Adjoint) -> Result<(), StepError> {
        use allod_kernels::gradient::{ByColumns, Start, Term, product};
        let n = &a.of.node;
        let Some(dy) = a.d_outputs[0] else { return Ok(()) };
        let heads = self.cpu.plan().param(weight).shape[0];
        let (rows, win, wout) = (self.rows(dy), self.width(n.inputs[0]), self.width(dy));
        let (x, dy) = (self.range(n.inputs[0]), self.range(dy));
        let (k, m) = (win / heads, wout / heads);
        let part = LinearPart { weight, bias: None };
        let mut grads = self.take_gradients(&part);
        self.at_desk(|l, arena, desk| {
            for h in 0..heads {
                let w = l.matrix(weight, h)?;
                if let Some(d) = a.d_inputs[0] {
                    let (dx, rest) = apart(arena, &l.range(d));
                    let term = Term { a: &rest.get(&dy)[h * m..], stride: wout, k: m, b: &ByColumns(w) };
                    product(desk.pool, desk.isa, &[term], Start::Held, (&mut dx[h * k..], win), (rows, k));
                }
                if let Some(dw) = &mut grads[0] {
                    let cut = |r: &Range<usize>, width: usize, part: usize| -> Vec<f32> {
                        arena[r.clone()].chunks_exact(width).flat_map(|r| r[h * part..][..part].to_vec()).collect()
                    };
                    let (x, dy) = (cut(&x, win, k), cut(&dy, wout, m));
                    let g = Gradients { w: Some(&mut dw[h * m * k..(h + 1) * m * k]), ..Gradients::default() };
                    desk.adjoint(&Projection { w, bias: None, low: None }, (&x, &[], &dy), rows, None, g);
                }
            }
            Ok::<_, StepError>(())
        })?;
        self.put_gradients(&part, grads);
        Ok(())
    }

    /// The numbers of a vector.
    pub(super) fn vector(&self, p: Param) -> &[f32] {
        match &self.cpu.weights[p.index()] {
            Prepared::Vector(v) => v,
            _ => &[],
        }
    }
}
