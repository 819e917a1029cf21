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
        let mut room = Room::new(plan.values.len());
        for (i, n) in plan.nodes.iter().enumerate() {
            let place = n.inputs.first().filter(|&&x| {
                let dies = last[x.index()] == i && n.inputs.iter().filter(|&&y| y == x).count() == 1;
                alone[i] && n.op.in_place() && dies && size(x) == size(n.outputs[0])
            });
            if let Some(&x) = place {
                room.pass_on(x, n.outputs[0], size(x), last[n.outputs[0].index()]);
            } else {
                n.outputs.iter().for_each(|&v| room.take(v, size(v), last[v.index()]));
            }
            room.give_up(i);
        }
        room.arena
    }

    /// Places `values` values, of `size` elements each, that `steps` read and write in order. A value lives from the
    /// first step that writes it to the last that names it.
    pub(crate) fn of_steps(values: usize, size: impl Fn(Value) -> usize, steps: &[(Vec<Value>, Vec<Value>)]) -> Arena {
        let mut last = vec![0; values];
        for (i, (reads, writes)) in steps.iter().enumerate() {
            reads.iter().chain(writes).for_each(|v| last[v.index()] = i);
        }
        let mut room = Room::new(values);
        for (i, (_, writes)) in steps.iter().enumerate() {
            writes.iter().for_each(|&v| room.take(v, size(v).next_multiple_of(ALIGN), last[v.index()]));
            room.give_up(i);
        }
        room.arena
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

/// An arena while its values are placed one after the other.
struct Room {
    arena: Arena,
    /// Start, end and last use of what still lives, in order.
    live: Vec<(usize, usize, usize)>,
}

impl Room {
    fn new(values: usize) -> Room {
        Room { arena: Arena { offsets: vec![usize::MAX; values], len: 0 }, live: Vec::new() }
    }

    /// Gives `v` the first `need` elements that are free.
    fn take(&mut self, v: Value, need: usize, last: usize) {
        let mut at = 0;
        for &(start, end, _) in &self.live {
            if start >= at + need {
                break;
            }
            at = at.max(end);
        }
        self.put(v, at, need, last);
    }

    /// Gives `v` the place of `from`, which nothing needs any more.
    fn pass_on(&mut self, from: Value, v: Value, need: usize, last: usize) {
        let at = self.arena.offset(from);
        self.live.retain(|l| l.0 != at || l.1 == at);
        self.put(v, at, need, last);
    }

    fn put(&mut self, v: Value, at: usize, need: usize, last: usize) {
        self.arena.offsets[v.index()] = at;
        self.arena.len = self.arena.len.max(at + need);
        self.live.push((at, at + need, last));
        self.live.sort_unstable();
    }

    /// Frees what is used at step `i` for the last time.
    fn give_up(&mut self, i: usize) {
        self.live.retain(|&(_, _, end)| end > i);
    }
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
            positions * c.bytes(cache_type)
        });
        Estimate {
            weights: self.params.iter().map(|p| weight_bytes(&p.name)).sum(),
            cache: cache.sum(),
            state: self.states.iter().sum::<usize>() * 4,
            activations: Arena::grouped(self, limits, &[], &self.groups(&[])).len() * 4,
        }
    }
}
