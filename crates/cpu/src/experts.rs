//! Mixtures of experts: rows are bucketed by expert, so that an expert's weights are read once for all its rows.

use crate::{
    Cpu,
    arena::views,
    run::{activation, gate as joined, matrix},
};
use allod_kernels::{act, elementwise, linear, moe, rows::for_rows};
use allod_plan::{Experts, Groups, Route, Score, StepError, Value, Weigh};

/// Keeps a sum of weights above 0, as DeepSeek V3 does; too small to change any other.
const SMALLEST: f32 = 1e-20;

impl Cpu {
    /// `outs` are the ids and the weights of the chosen experts.
    pub(crate) fn route(&mut self, r: &Route, logits: Value, outs: [Value; 2]) -> Result<(), StepError> {
        let (experts, ranges) = (self.width(logits), self.ranges([logits, outs[0], outs[1]]));
        let [logits, ids, weights] = views(&mut self.arena, ranges)?;
        let router = moe::Router {
            top_k: r.top,
            score: match r.score {
                Score::Softmax => moe::Score::Softmax,
                Score::Sigmoid => moe::Score::Sigmoid,
                Score::SoftmaxOfChosen => moe::Score::SoftmaxOfChosen,
            },
            normalize: r.normalize.then_some(SMALLEST),
            scale: r.scale,
            bias: r.bias.map(|p| self.weights[p.index()].vector()),
            groups: r.groups.map(|Groups { count, top, best }| moe::Groups {
                count,
                keep: top,
                by: if best == 1 { moe::GroupScore::Best } else { moe::GroupScore::BestTwo },
            }),
        };
        moe::route(self.isa, &router, logits, experts, bytemuck::cast_slice_mut(ids), weights);
        Ok(())
    }

    /// `outs` are the sum and the working space for gate, up and down rows, one for each choice of each token.
    pub(crate) fn experts(&mut self, e: &Experts, ins: [Value; 3], outs: &[Value]) -> Result<(), StepError> {
        let [x, ids, weights] = ins;
        let (tokens, width, top) = (self.rows(x), self.width(x), self.width(ids));
        let ranges = self.ranges([x, ids, weights, outs[0], outs[1], outs[3]]);
        let [x, ids, weights, y, gate, down] = views(&mut self.arena, ranges)?;
        let (ids, weights): (&[u32], &[f32]) = (bytemuck::cast_slice(ids), weights);
        let (pool, isa, prepared, scratch) = (&*self.pool, self.isa, &self.weights, &mut self.scratch);
        let product = |p: &allod_plan::LinearPart| {
            let w = matrix(prepared, p.weight)?;
            Some((w, p.bias.map(|b| prepared[b.index()].vector())))
        };
        let Some(((up_w, up_b), (down_w, down_b))) = product(&e.up).zip(product(&e.down)) else { return Ok(()) };
        let hidden = up_w.rows();
        let routes = &mut scratch.routes;
        routes.fill(ids, top, up_w.experts());

        let (input, from) = match e.weigh {
            Weigh::Output => (&*x, linear::From::Token),
            Weigh::Input => {
                for (slot, row) in down.chunks_exact_mut(width).enumerate() {
                    row.copy_from_slice(&x[slot / top * width..][..width]);
                    elementwise::scale(isa, row, weights[slot]);
                }
                (&*down, linear::From::Slot)
            }
        };
        let mut rows = linear::Input::new(&mut scratch.linear, input, input.len() / width, width);
        match e.gate.as_ref().and_then(product) {
            Some(gated) => {
                let (up, glu) = ((up_w, up_b), joined(e.act));
                let mut gated = linear::Gated { gate: gated, up, glu, y: &mut *gate, stride: hidden };
                linear::gated_experts(pool, isa, &mut rows, from, routes, &mut gated);
            }
            None => {
                let product = linear::Product { w: up_w, bias: up_b, y: &mut *gate, stride: hidden };
                linear::experts(pool, isa, &mut rows, from, routes, &mut [product]);
                for_rows(pool, tokens * top, hidden, gate, |_, out| act::activate(isa, activation(e.act), out));
            }
        }
        let mut rows = linear::Input::new(&mut scratch.linear, gate, tokens * top, hidden);
        let down_product = linear::Product { w: down_w, bias: down_b, y: &mut *down, stride: width };
        linear::experts(pool, isa, &mut rows, linear::From::Slot, routes, &mut [down_product]);

        let (down, scale) = (&*down, e.down_scale.map(|p| prepared[p.index()].vector()));
        for_rows(pool, tokens, width, y, |range, y| {
            for (t, y) in range.zip(y.chunks_exact_mut(width)) {
                y.fill(0.0);
                for slot in t * top..(t + 1) * top {
                    let factor = scale.map_or(1.0, |s| s[ids[slot] as usize]);
                    let factor = if e.weigh == Weigh::Output { weights[slot] * factor } else { factor };
                    elementwise::add_scaled(isa, y, &down[slot * width..][..width], factor);
                }
            }
        });
        Ok(())
    }
}
