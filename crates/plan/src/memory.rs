//! How much memory a plan takes: a fixed arena for activations by liveness, and estimates before anything is loaded.

use crate::{Group, PAGE, Plan, Rows, Value};
use allod_tensor::DType;

/// Most rows of each kind that a step may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLimits {
    /// Tokens of a step.
    pub tokens: usize,
    /// Rows whose results are wanted.
    pub outputs: usize,
    /// Sequences in a step.
    pub sequences: usize,
}

impl RowLimits {
    /// The limit for one kind.
    pub fn of(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.tokens,
            Rows::Outputs => self.outputs,
            Rows::Sequences => self.sequences,
        }
    }
}

/// Where each value lies in one arena of 4-byte elements; values whose lives do not overlap share space.
#[derive(Clone, Debug)]
pub struct Arena {
    offsets: Vec<usize>,
    len: usize,
}

/// Starts of values are multiples of this many elements: one cache line.
const ALIGN: usize = 16;

impl Arena {
    /// Places every value of `plan`, each for itself. The result and the values in `keep` stay readable after the step.
    pub fn new(plan: &Plan, limits: RowLimits, keep: &[Value]) -> Arena {
        Arena::place(plan, limits, keep, None)
    }

    /// Places every value of `plan` for a backend that runs `groups`: what a group reads stays until the group ends,
    /// and an operation that can work in place ([`crate::Op::in_place`]) gets its first input's place when nothing else
    /// needs that any more.
    pub fn grouped(plan: &Plan, limits: RowLimits, keep: &[Value], groups: &[Group]) -> Arena {
        Arena::place(plan, limits, keep, Some(groups))
    }

    fn place(plan: &Plan, limits: RowLimits, keep: &[Value], groups: Option<&[Group]>) -> Arena {
        let size = |v: Value| {
            let info = plan.value(v);
            (limits.of(info.rows) * info.width).next_multiple_of(ALIGN)
        };
        let mut end: Vec<usize> = (0..plan.nodes.len()).collect();
        let mut alone = vec![groups.is_some(); plan.nodes.len()];
        for group in groups.unwrap_or_default() {
            let nodes = group.nodes();
            end[nodes.clone()].fill(nodes.end - 1);
            alone[nodes.clone()].fill(nodes.len() == 1);
        }
        let mut last = vec![0; plan.values.len()];
        for (i, n) in plan.nodes.iter().enumerate() {
            for v in n.inputs.iter().chain(&n.outputs) {
                last[v.index()] = end[i];
            }
        }
        for v in keep.iter().chain(&plan.result) {
            last[v.index()] = usize::MAX;
        }
        let mut offsets = vec![usize::MAX; plan.values.len()];
        let mut live: Vec<(usize, usize, usize)> = Vec::new();
        let mut len = 0;
        for (i, n) in plan.nodes.iter().enumerate() {
            let place = n.inputs.first().filter(|&&x| {
                let dies = last[x.index()] == i && n.inputs.iter().filter(|&&y| y == x).count() == 1;
                alone[i] && n.op.in_place() && dies && size(x) == size(n.outputs[0])
            });
            if let Some(x) = place {
                let (v, at) = (n.outputs[0], offsets[x.index()]);
                offsets[v.index()] = at;
                live.retain(|l| l.0 != at || l.1 == at);
                live.push((at, at + size(v), last[v.index()]));
                live.sort_unstable();
                live.retain(|&(_, _, end)| end > i);
                continue;
            }
            for &v in &n.outputs {
                let need = size(v);
                let at = gap(&live, need);
                offsets[v.index()] = at;
                live.push((at, at + need, last[v.index()]));
                live.sort_unstable();
                len = len.max(at + need);
            }
            live.retain(|&(_, _, end)| end > i);
        }
        Arena { offsets, len }
    }

    /// Places `values` values, of `size` elements each, that `steps` read and write in order. A value lives from the
    /// first step that writes it to the last that names it.
    pub(crate) fn of_steps(values: usize, size: impl Fn(Value) -> usize, steps: &[(Vec<Value>, Vec<Value>)]) -> Arena {
        let mut last = vec![0; values];
        for (i, (reads, writes)) in steps.iter().enumerate() {
            reads.iter().chain(writes).for_each(|v| last[v.index()] = i);
        }
        let mut offsets = vec![usize::MAX; values];
        let mut live: Vec<(usize, usize, usize)> = Vec::new();
        let mut len = 0;
        for (i, (_, writes)) in steps.iter().enumerate() {
            for &v in writes {
                let need = size(v).next_multiple_of(ALIGN);
                let at = gap(&live, need);
                offsets[v.index()] = at;
                live.push((at, at + need, last[v.index()]));
                live.sort_unstable();
                len = len.max(at + need);
            }
            live.retain(|&(_, _, end)| end > i);
        }
        Arena { offsets, len }
    }

    /// Elements in all.
    pub fn len(&self) -> usize {
        self.len
    }
    /// True when nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Where a value starts.
    pub fn offset(&self, v: Value) -> usize {
        self.offsets[v.index()]
    }
}

/// The first place between the live ranges, which are in order, for `need` elements.
fn gap(live: &[(usize, usize, usize)], need: usize) -> usize {
    let mut at = 0;
    for &(start, end, _) in live {
        if start >= at + need {
            break;
        }
        at = at.max(end);
    }
    at
}

/// Bytes a model takes when run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Weights, as stored in the source.
    pub weights: usize,
    /// Key-value cache for one sequence at the given length.
    pub cache: usize,
    /// Recurrent state of one sequence.
    pub state: usize,
    /// Activations of one step.
    pub activations: usize,
}

impl Estimate {
    /// Everything together.
    pub fn total(&self) -> usize {
        self.weights + self.cache + self.state + self.activations
    }
}

impl Plan {
    /// Sizes the plan: `weight_bytes` tells each weight's stored size, `context` the positions cached in `cache_type`.
    pub fn estimate(
        &self,
        weight_bytes: impl Fn(&str) -> usize,
        context: usize,
        cache_type: DType,
        limits: RowLimits,
    ) -> Estimate {
        let cache = self.caches.iter().map(|c| {
            let positions = c.horizon.map_or(context, |h| context.min(h + limits.tokens)).next_multiple_of(PAGE);
            let blocks = c.width().div_ceil(cache_type.block());
            positions * blocks * cache_type.block_bytes()
        });
        Estimate {
            weights: self.params.iter().map(|p| weight_bytes(&p.name)).sum(),
            cache: cache.sum(),
            state: self.states.iter().sum::<usize>() * 4,
            activations: Arena::grouped(self, limits, &[], &self.groups(&[])).len() * 4,
        }
    }
}
