//! What matrices are multiplied with: the inputs of Linears and experts, shown to whoever wants to know.

use crate::Cpu;
use allod_plan::{Node, Op, Value, Weigh};

/// Called after each product with its inputs.
pub type Observer = Box<dyn FnMut(&Inputs<'_>) + Send>;

/// The inputs of matrices that share them.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// Names of the matrices.
    pub weights: &'a [&'a str],
    /// Columns of each of them.
    pub columns: usize,
    /// `[rows × columns]`.
    pub rows: &'a [f32],
    /// Which of the matrices that a stacked tensor holds a row goes to.
    pub reach: Reach<'a>,
}

/// Which matrices rows go to.
#[derive(Clone, Copy, Debug)]
pub enum Reach<'a> {
    /// There is one matrix.
    One,
    /// Row `i` goes to matrix `i mod n`: heads.
    Heads(usize),
    /// Each row goes to `chosen.len() / rows` of `count` matrices.
    Experts {
        /// Matrices stacked in the tensor.
        count: usize,
        /// Matrices of the first row, then those of the second.
        chosen: &'a [u32],
        /// What the row is multiplied with on its way to each of them, where it is.
        factors: Option<&'a [f32]>,
    },
}

impl Cpu {
    /// Shows the inputs of every matrix product from now on; `None` ends that. Only rows that are computed are shown:
    /// the output matrix sees those whose results are wanted.
    pub fn observe(&mut self, observer: Option<Observer>) {
        self.observer = observer;
    }

    /// Shows what `node`, which has just run, took in. Its inputs and working space still lie in the arena.
    pub(crate) fn show(&self, node: &Node, observer: &mut Observer) {
        let plan = &self.program.plan;
        let name = |p: allod_plan::Param| plan.param(p).name.as_str();
        let rows = |v: Value| &self.arena[self.range(v, self.last)];
        match &node.op {
            Op::Linear { parts } => {
                let (weights, x) = (parts.iter().map(|p| name(p.weight)).collect::<Vec<_>>(), node.inputs[0]);
                observer(&Inputs { weights: &weights, columns: self.width(x), rows: rows(x), reach: Reach::One });
            }
            Op::HeadLinear { weight } => {
                let (x, heads) = (node.inputs[0], plan.param(*weight).shape[0]);
                let columns = self.width(x) / heads;
                observer(&Inputs { weights: &[name(*weight)], columns, rows: rows(x), reach: Reach::Heads(heads) });
            }
            Op::Experts(e) => {
                let [x, ids, weights] = [0, 1, 2].map(|i| node.inputs[i]);
                let (count, hidden) = (plan.param(e.up.weight).shape[0], node.outputs[1]);
                let chosen: &[u32] = bytemuck::cast_slice(rows(ids));
                let factors = (e.weigh == Weigh::Input).then(|| rows(weights));
                let up: Vec<&str> = e.gate.iter().chain([&e.up]).map(|p| name(p.weight)).collect();
                let reach = Reach::Experts { count, chosen, factors };
                observer(&Inputs { weights: &up, columns: self.width(x), rows: rows(x), reach });
                let columns = plan.param(e.down.weight).shape[2];
                let reach = Reach::Experts { count, chosen, factors: None };
                observer(&Inputs { weights: &[name(e.down.weight)], columns, rows: rows(hidden), reach });
            }
            _ => {}
        }
    }
}
