//! Reverse-mode differentiation of a plan: the order in which operations run forwards, and in which their adjoints run
//! backwards, with the values that each reads and adds to. Memory then follows from liveness, as for a plan.
//!
//! The adjoints are not further operations of the vocabulary: each belongs to one operation and one kernel, reads what
//! [`kept`] says, and *adds* to the gradients of its inputs. So a value that is used twice needs no sum of its own, and
//! nothing differentiates an adjoint.

use crate::{Arena, LinearPart, Node, Op, Param, Plan, RowLimits, Rows, Value, ValueInfo};
use std::collections::{HashMap, HashSet};

/// What training wants to know of each weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// It is trained whole.
    pub whole: bool,
    /// It has an adapter of this rank.
    pub rank: Option<usize>,
    /// The adapter is a DoRA.
    pub magnitude: bool,
}

impl Wanted {
    /// Whether something is learned through it.
    pub fn any(&self) -> bool {
        self.whole || self.rank.is_some()
    }
}

/// A plan and its adjoint.
#[derive(Clone, Debug)]
pub struct Program {
    /// Values of the plan, then those kept for the adjoint, recomputed ones and gradients.
    pub values: Vec<ValueInfo>,
    /// Forwards, up to the head.
    pub forward: Vec<Forward>,
    /// What the program ends with.
    pub end: End,
    /// Backwards, after the head.
    pub backward: Vec<Backward>,
}

/// An operation with what it reads and writes.
#[derive(Clone, Debug)]
pub struct Forward {
    /// The operation. Attention always has its keys (and values, where they are stored) among the inputs.
    pub node: Node,
    /// Further results, kept for the adjoint: for Linears and experts each adapter's `x Aᵀ` (`None` for matrices without
    /// one), for attention the logarithm of the sum of weights.
    pub kept: Vec<Option<Value>>,
    /// Only `kept` is wanted, the outputs are not.
    pub only_kept: bool,
}

/// A step of the way back.
#[derive(Clone, Debug)]
pub enum Backward {
    /// Computes again what was not kept.
    Recompute(Forward),
    /// The adjoint of an operation.
    Adjoint(Adjoint),
}

/// The adjoint of an operation.
#[derive(Clone, Debug)]
pub struct Adjoint {
    /// The operation, with the values it had (or their recomputed copies).
    pub of: Forward,
    /// The gradient of each output, where there is one.
    pub d_outputs: Vec<Option<Value>>,
    /// The gradient of each input to add to, where it is wanted.
    pub d_inputs: Vec<Option<Value>>,
    /// Those of them that begin here: to be set to 0 first.
    pub begins: Vec<Value>,
}

/// What a program ends with.
#[derive(Clone, Debug)]
pub enum End {
    /// The output head and the log-probability of a target.
    LogProbs {
        /// Its input, one row for each wanted row.
        hidden: Value,
        /// The derivative by it.
        d_hidden: Value,
        /// The matrix and bias.
        part: LinearPart,
        /// Factor on the logits.
        scale: f32,
        /// `cap · tanh(logit / cap)`, after the factor.
        softcap: Option<f32>,
    },
    /// Hidden states of the wanted rows.
    Hidden {
        /// They.
        hidden: Value,
        /// The derivative by them.
        d_hidden: Value,
    },
}

/// Why a plan cannot be trained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DifferentiateError {
    /// The plan ends with something else than a head.
    #[error("the plan ends with {0}, expected a linear head, then at most a factor and a soft cap")]
    Head(String),
    /// Attention reads a cache that nothing before it wrote.
    #[error("an attention reads keys that no operation before it wrote")]
    NoKeys,
    /// An adapter where none can be.
    #[error("{name}: {why}")]
    Adapter {
        /// The weight.
        name: String,
        /// Why not.
        why: &'static str,
    },
}

/// The inputs and outputs of an operation that its adjoint reads, as indices; `through` says that a weight of it is
/// trained.
fn kept(op: &Op, through: bool) -> (&'static [usize], &'static [usize]) {
    match op {
        Op::Embed { .. } | Op::EmbedPositions { .. } | Op::AddRow { .. } | Op::Rope(_) | Op::PositionScale { .. } => {
            (&[], &[])
        }
        Op::Add | Op::Scale(_) | Op::Columns { .. } | Op::Concat { .. } | Op::GatherOutputs | Op::Pool(_) => (&[], &[]),
        Op::Linear { .. } if through => (&[0], &[0, 1, 2, 3, 4, 5, 6, 7]),
        Op::HeadLinear { .. } | Op::ScaleBy(_) if through => (&[0], &[]),
        Op::Linear { .. } | Op::HeadLinear { .. } | Op::ScaleBy(_) => (&[], &[]),
        Op::Norm(_) | Op::Act(_) | Op::Clamp(_) | Op::Softcap(_) | Op::Conv1d(_) => (&[0], &[]),
        Op::GatedNorm { .. } | Op::Glu(_) | Op::Mul => (&[0, 1], &[]),
        Op::Attend(_) => (&[0, 1, 2], &[0]),
        Op::Route(_) => (&[0], &[0, 1]),
        Op::Experts(_) => (&[0, 1, 2], &[1, 2, 3]),
        Op::SelectiveScan(_) | Op::StateSpaceDual(_) => (&[0, 1, 2, 3], &[]),
        Op::DeltaRule(_) => (&[0, 1, 2, 3, 4], &[]),
    }
}

/// Differentiates `plan`. `wanted` is indexed by [`Param`]. With `recompute`, of each layer (`blk.N`) only what enters
/// it is kept, and the rest is computed again on the way back.
///
/// # Errors
/// [`DifferentiateError`] for plans that no loss can follow.
pub fn differentiate(plan: &Plan, wanted: &[Wanted], recompute: bool) -> Result<Program, DifferentiateError> {
    let mut b = Builder { plan, wanted, values: plan.values().to_vec(), gradients: HashMap::new() };
    let (nodes, end) = b.head()?;
    let nodes: Vec<&Node> = nodes.into_iter().map(|i| &plan.nodes()[i]).collect();
    let forward = b.forward(&nodes)?;
    let hidden = match end {
        End::LogProbs { hidden, .. } | End::Hidden { hidden, .. } => hidden,
    };
    let active = b.active(&forward);
    let mut backward = vec![];
    let d_hidden = b.like("d", hidden);
    b.gradients.insert(hidden, d_hidden);
    let end = match end {
        End::LogProbs { hidden, part, scale, softcap, .. } => End::LogProbs { hidden, d_hidden, part, scale, softcap },
        End::Hidden { hidden, .. } => End::Hidden { hidden, d_hidden },
    };
    let layers: Vec<Option<&str>> = forward.iter().map(|f| layer(&plan.value(f.node.outputs[0]).name)).collect();
    let mut copies: HashMap<Value, Value> = HashMap::new();
    for i in (0..forward.len()).rev() {
        if recompute && layers[i].is_some() && (i + 1 == forward.len() || layers[i + 1] != layers[i]) {
            let first = (0..=i).rev().take_while(|&j| layers[j] == layers[i]).last().unwrap_or(i);
            copies.clear();
            b.recompute(&forward[first..=i], &forward, &active, &mut copies, &mut backward);
        }
        b.adjoint(&forward[i], &active, &copies, &mut backward);
    }
    Ok(Program { values: b.values, forward, end, backward })
}

/// `blk.N` of a name within a layer.
fn layer(name: &str) -> Option<&str> {
    let rest = name.strip_prefix("blk.")?;
    Some(&name[..4 + rest.find('.')?])
}

struct Builder<'a> {
    plan: &'a Plan,
    wanted: &'a [Wanted],
    values: Vec<ValueInfo>,
    gradients: HashMap<Value, Value>,
}

impl Builder<'_> {
    fn push(&mut self, info: ValueInfo) -> Value {
        self.values.push(info);
        Value(self.values.len() as u32 - 1)
    }

    fn like(&mut self, prefix: &str, v: Value) -> Value {
        let info = &self.values[v.index()];
        let name = format!("{prefix} {}", info.name);
        let info = ValueInfo { name, ..*info };
        self.push(info)
    }

    /// The nodes before the head, and the head. The gradient is filled in later.
    fn head(&self) -> Result<(Vec<usize>, End), DifferentiateError> {
        let Some(result) = self.plan.result() else { return Err(DifferentiateError::Head("nothing".into())) };
        let makes = |v: Value| self.plan.nodes().iter().rev().find(|n| n.outputs.contains(&v));
        let (mut at, mut scale, mut softcap, mut tail) = (result, 1.0, None, HashSet::new());
        let bare = |hidden| {
            let nodes = (0..self.plan.nodes().len()).collect();
            Ok((nodes, End::Hidden { hidden, d_hidden: hidden }))
        };
        loop {
            let Some(n) = makes(at) else { return bare(result) };
            match &n.op {
                Op::Linear { parts } if parts.len() == 1 && self.plan.value(at).rows == Rows::Outputs => {
                    let info = self.plan.param(parts[0].weight);
                    if self.wanted[parts[0].weight.index()].rank.is_some() {
                        let why = "the output head cannot have an adapter; train it whole";
                        return Err(DifferentiateError::Adapter { name: info.name.clone(), why });
                    }
                    tail.insert(n.outputs[0]);
                    let hidden = n.inputs[0];
                    let body = |i: &usize| !tail.contains(&self.plan.nodes()[*i].outputs[0]);
                    let nodes = (0..self.plan.nodes().len()).filter(body).collect();
                    return Ok((nodes, End::LogProbs { hidden, d_hidden: hidden, part: parts[0], scale, softcap }));
                }
                Op::Scale(k) => scale *= k,
                Op::Softcap(cap) if scale == 1.0 && softcap.is_none() => softcap = Some(*cap),
                _ if tail.is_empty() && self.plan.value(at).name != "logits" => {
                    return bare(result);
                }
                op => return Err(DifferentiateError::Head(format!("{op:?}"))),
            }
            tail.insert(n.outputs[0]);
            at = n.inputs[0];
        }
    }

    fn forward(&mut self, nodes: &[&Node]) -> Result<Vec<Forward>, DifferentiateError> {
        let mut keys: HashMap<crate::Cache, Vec<Value>> = HashMap::new();
        let mut all = Vec::with_capacity(nodes.len());
        for &n in nodes {
            let mut node = n.clone();
            if let Op::Attend(a) = &n.op {
                match n.inputs.len() {
                    1 => node.inputs.extend(keys.get(&a.cache).ok_or(DifferentiateError::NoKeys)?),
                    _ => drop(keys.insert(a.cache, n.inputs[1..].to_vec())),
                }
            }
            let kept = self.kept_values(&node);
            all.push(Forward { node, kept, only_kept: false });
        }
        Ok(all)
    }

    fn kept_values(&mut self, n: &Node) -> Vec<Option<Value>> {
        let rows = self.values[n.outputs[0].index()].rows;
        let (wanted, plan) = (self.wanted, self.plan);
        let mut low_rank = |p: Param, times: usize| {
            let rank = wanted[p.index()].rank?;
            Some(self.push(ValueInfo { name: "xa".into(), rows, width: rank * times }))
        };
        match &n.op {
            Op::Linear { parts } => parts.iter().map(|p| low_rank(p.weight, 1)).collect(),
            Op::Attend(a) => vec![Some(self.push(ValueInfo { name: "lse".into(), rows, width: a.heads }))],
            Op::Experts(e) => {
                let top = plan.value(n.inputs[1]).width;
                let parts = [e.gate, Some(e.up), Some(e.down)];
                parts.iter().map(|p| low_rank(p.as_ref()?.weight, top)).collect()
            }
            _ => vec![],
        }
    }

    /// Whether each value depends on something that is trained.
    fn active(&self, forward: &[Forward]) -> Vec<bool> {
        let mut active = vec![false; self.values.len()];
        for f in forward {
            let through = f.node.op.params().iter().any(|p| self.wanted[p.index()].any());
            if through || f.node.inputs.iter().any(|v| active[v.index()]) {
                f.node.outputs.iter().for_each(|v| active[v.index()] = true);
            }
        }
        active
    }

    fn through(&self, op: &Op) -> bool {
        op.params().iter().any(|p| self.wanted[p.index()].any())
    }

    /// Runs the operations of one layer again whose results an adjoint of it reads.
    fn recompute(
        &mut self,
        layer: &[Forward],
        all: &[Forward],
        active: &[bool],
        copies: &mut HashMap<Value, Value>,
        backward: &mut Vec<Backward>,
    ) {
        let made: HashSet<Value> = layer.iter().flat_map(|f| &f.node.outputs).copied().collect();
        let mut needed: HashSet<Value> = HashSet::new();
        for f in layer {
            needed.extend(self.reads(f, active).into_iter().filter(|v| made.contains(v)));
        }
        // What other layers read stays from the first time.
        let outside = all.iter().filter(|f| !made.contains(&f.node.outputs[0]));
        let stays: HashSet<Value> = outside.flat_map(|f| &f.node.inputs).copied().collect();
        let mut again = vec![None; layer.len()];
        for (i, f) in layer.iter().enumerate().rev() {
            let kept = f.kept.iter().flatten().count() > 0 && active[f.node.outputs[0].index()];
            let outputs = f.node.outputs.iter().any(|v| needed.contains(v) && !stays.contains(v));
            if kept || outputs {
                again[i] = Some(!outputs && matches!(f.node.op, Op::Linear { .. }));
                needed.extend(f.node.inputs.iter().filter(|v| made.contains(v)));
            }
        }
        for (f, only_kept) in layer.iter().zip(again).filter_map(|(f, again)| Some((f, again?))) {
            let mut f = Forward { only_kept, ..f.clone() };
            rename(&mut f.node.inputs, copies);
            for v in f.node.outputs.iter_mut().chain(f.kept.iter_mut().flatten()) {
                let copy = self.like("again", *v);
                copies.insert(*v, copy);
                *v = copy;
            }
            backward.push(Backward::Recompute(f));
        }
    }

    /// Values that the adjoint of `f` reads.
    fn reads(&self, f: &Forward, active: &[bool]) -> Vec<Value> {
        if !active[f.node.outputs[0].index()] {
            return vec![];
        }
        let (ins, outs) = kept(&f.node.op, self.through(&f.node.op));
        let pick =
            |from: &[Value], which: &[usize]| which.iter().filter_map(|&i| from.get(i).copied()).collect::<Vec<_>>();
        let mut reads = pick(&f.node.inputs, ins);
        reads.extend(match &f.node.op {
            // Only DoRA reads what the product was.
            Op::Linear { parts } => {
                let dora = parts.iter().zip(&f.node.outputs).filter(|(p, _)| self.wanted[p.weight.index()].magnitude);
                dora.map(|(_, v)| *v).collect()
            }
            _ => pick(&f.node.outputs, outs),
        });
        reads.extend(f.kept.iter().flatten());
        reads
    }

    fn adjoint(&mut self, f: &Forward, active: &[bool], copies: &HashMap<Value, Value>, backward: &mut Vec<Backward>) {
        let d_outputs: Vec<Option<Value>> = f.node.outputs.iter().map(|v| self.gradients.get(v).copied()).collect();
        if !active[f.node.outputs[0].index()] || d_outputs.iter().all(Option::is_none) {
            return;
        }
        let mut begins = vec![];
        let mut d_inputs = vec![];
        for (i, v) in f.node.inputs.iter().enumerate() {
            // Chosen experts are no numbers.
            let discrete = matches!(f.node.op, Op::Experts(_)) && i == 1;
            if !active[v.index()] || discrete {
                d_inputs.push(None);
                continue;
            }
            let d = match self.gradients.get(v) {
                Some(&d) => d,
                None => {
                    let d = self.like("d", *v);
                    self.gradients.insert(*v, d);
                    begins.push(d);
                    d
                }
            };
            d_inputs.push(Some(d));
        }
        let mut of = f.clone();
        rename(&mut of.node.inputs, copies);
        rename(&mut of.node.outputs, copies);
        of.kept.iter_mut().flatten().for_each(|v| *v = copies.get(v).copied().unwrap_or(*v));
        backward.push(Backward::Adjoint(Adjoint { of, d_outputs, d_inputs, begins }));
    }
}

fn rename(values: &mut [Value], copies: &HashMap<Value, Value>) {
    for v in values {
        *v = copies.get(v).copied().unwrap_or(*v);
    }
}

impl Program {
    /// `plan` with the values of this program, so that what runs a plan's operations can run these.
    pub fn over(&self, plan: &Plan) -> Plan {
        Plan { values: self.values.clone(), ..plan.clone() }
    }

    /// Places every value in one arena.
    pub fn arena(&self, wanted: &[Wanted], limits: RowLimits) -> Arena {
        let size = |v: Value| {
            let info = &self.values[v.index()];
            limits.of(info.rows) * info.width
        };
        let mut steps: Vec<(Vec<Value>, Vec<Value>)> = vec![];
        let forward = |f: &Forward| {
            let writes = f.node.outputs.iter().chain(f.kept.iter().flatten()).copied().collect();
            (f.node.inputs.clone(), writes)
        };
        steps.extend(self.forward.iter().map(forward));
        let (End::LogProbs { hidden, d_hidden, .. } | End::Hidden { hidden, d_hidden }) = self.end;
        steps.push((vec![hidden], vec![d_hidden]));
        // The head's weight is trained with its input at hand.
        steps.push((vec![hidden, d_hidden], vec![]));
        for b in &self.backward {
            match b {
                Backward::Recompute(f) => steps.push(forward(f)),
                Backward::Adjoint(a) => {
                    let through = a.of.node.op.params().iter().any(|p| wanted[p.index()].any());
                    let (ins, outs) = kept(&a.of.node.op, through);
                    let n = &a.of.node;
                    let mut reads: Vec<Value> = ins.iter().filter_map(|&i| n.inputs.get(i).copied()).collect();
                    match &n.op {
                        Op::Linear { parts } => {
                            let dora = parts.iter().zip(&n.outputs).filter(|(p, _)| wanted[p.weight.index()].magnitude);
                            reads.extend(dora.map(|(_, v)| *v));
                        }
                        _ => reads.extend(outs.iter().filter_map(|&i| n.outputs.get(i).copied())),
                    }
                    reads.extend(a.of.kept.iter().flatten());
                    reads.extend(a.d_outputs.iter().chain(&a.d_inputs).flatten());
                    steps.push((reads, a.begins.clone()));
                }
            }
        }
        Arena::of_steps(self.values.len(), size, &steps)
    }
}
