//! Groups of operations in one pass (see [`Group`]); the bytes are those of the operations one by one.

use crate::{
    Cpu,
    arena::views,
    run::{gate, matrix, normalize},
};
use allod_kernels::{elementwise, linear, rows::for_row_pairs};
use allod_plan::{Group, Node, Norm, Op, Step, StepError, Value};
use std::ops::Range;

impl Cpu {
    pub(crate) fn group(&mut self, nodes: &[Node], group: &Group, step: &Step<'_>) -> Result<(), StepError> {
        if !self.has_rows(&nodes[group.nodes().end - 1]) {
            return Ok(());
        }
        match *group {
            Group::One(i) => self.node(&nodes[i], step),
            Group::Linear { norm: None, linear, glu: None, .. } => self.node(&nodes[linear], step),
            Group::Linear { add, norm, linear, glu } => {
                let at = |i: Option<usize>| i.map(|i| &nodes[i]);
                self.fused_linear(at(add), at(norm), &nodes[linear], at(glu))
            }
            Group::ResidualNorm { add, norm } => self.residual_norm(&nodes[add], &nodes[norm]),
            Group::Attend { rope, attend } => match (&nodes[rope].op, &nodes[attend].op) {
                (Op::Rope(turn), Op::Attend(a)) => {
                    let mut inputs = nodes[attend].inputs.clone();
                    inputs[1] = nodes[rope].inputs[0];
                    self.attend(a, &inputs, nodes[attend].outputs[0], Some(turn), step)
                }
                _ => [rope, attend].iter().try_for_each(|&i| self.node(&nodes[i], step)),
            },
        }
    }

    fn residual_norm(&mut self, add: &Node, norm: &Node) -> Result<(), StepError> {
        let Op::Norm(n) = &norm.op else { return Ok(()) };
        let (rows, width) = (self.rows(add.outputs[0]), self.width(add.outputs[0]));
        let ranges = self.ranges([add.inputs[0], add.inputs[1], add.outputs[0], norm.outputs[0]]);
        let [a, b, sum, y] = views(&mut self.arena, ranges)?;
        let (a, b, isa, weights) = (&*a, &*b, self.isa, &self.weights);
        for_row_pairs(&self.pool, rows, width, [sum, y], |r, sum, y| {
            let r = r.start * width..r.end * width;
            elementwise::sum(isa, &a[r.clone()], &b[r], sum);
            normalize(isa, n, weights, sum, y);
        });
        Ok(())
    }

    /// Products whose input rows are summed and normed as they are turned into eight bits, and gated before they are
    /// written.
    fn fused_linear(
        &mut self,
        add: Option<&Node>,
        norm: Option<&Node>,
        linear: &Node,
        glu: Option<&Node>,
    ) -> Result<(), StepError> {
        let Op::Linear { parts } = &linear.op else { return Ok(()) };
        let x = add.or(norm).unwrap_or(linear).inputs[0];
        let (rows, cols) = (self.rows(x), self.width(x));
        let outs = glu.map_or(&linear.outputs, |g| &g.outputs);
        let range = |v: Option<Value>| v.map_or(0..0, |v| self.range(v, self.last));
        let ranges: [Range<usize>; 7] = std::array::from_fn(|i| match i {
            0 => range(Some(x)),
            1 => range(add.map(|n| n.inputs[1])),
            2 => range(add.map(|n| n.outputs[0])),
            _ => range(outs.get(i - 3).copied()),
        });
        let [x, residual, sum, ys @ ..] = views(&mut self.arena, ranges)?;
        let (x, residual, isa, weights) = (&*x, &*residual, self.isa, &self.weights);
        let norm: Option<&Norm> = norm.and_then(|n| match &n.op {
            Op::Norm(norm) => Some(norm),
            _ => None,
        });
        let row = |t: usize, sum: &mut [f32], out: &mut [f32]| {
            let (x, Some(norm)) = (&x[t * cols..][..cols], norm) else { return };
            if sum.is_empty() {
                return normalize(isa, norm, weights, x, out);
            }
            elementwise::sum(isa, x, &residual[t * cols..][..cols], sum);
            normalize(isa, norm, weights, sum, out);
        };
        let scratch = &mut self.scratch.linear;
        let mut input = match norm {
            Some(_) => linear::Input::computed(scratch, rows, cols, sum, &row),
            None => linear::Input::new(scratch, x, rows, cols),
        };
        let product = |p: &allod_plan::LinearPart| {
            Some((matrix(weights, p.weight)?, p.bias.map(|b| weights[b.index()].vector())))
        };
        if let (Some(Op::Glu(act)), [first, second]) = (glu.map(|g| &g.op), &parts[..]) {
            let (Some(first), Some(up), Some(y)) = (product(first), product(second), ys.into_iter().next()) else {
                return Ok(());
            };
            let stride = first.0.rows();
            let mut gated = linear::Gated { gate: first, up, glu: gate(*act), y, stride };
            linear::gated(&self.pool, isa, &mut input, &mut gated);
            return Ok(());
        }
        let products = parts.iter().zip(ys).filter_map(|(p, y)| {
            let (w, bias) = product(p)?;
            Some(linear::Product { w, bias, y, stride: w.rows() })
        });
        let mut products: Vec<_> = products.collect();
        linear::linear(&self.pool, isa, &mut input, &mut products);
        Ok(())
    }
}
