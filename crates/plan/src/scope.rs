//! The recorder. An architecture's `forward` talks to a [`Scope`]; what it says becomes a [`Plan`]. Every weight it
//! names is looked up in the source at once, so a missing or misshapen tensor is reported with its name.

use crate::{
    Act, Attend, Cache, CacheInfo, Constants, Conv1d, DeltaRule, Experts, GateOrder, LinearPart, Node, Norm, Op, Param,
    ParamInfo, Plan, Pool, Rope, Route, Rows, SelectiveScan, State, StateSpaceDual, Value, ValueInfo,
};
use allod_formats::WeightSource;
use std::{collections::HashMap, fmt::Display};

/// Why a plan could not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A weight that the architecture needs is not in the source.
    #[error("{origin}: tensor {name} is missing (expected shape {expected:?})")]
    Missing {
        /// The source.
        origin: String,
        /// The tensor.
        name: String,
        /// Its shape, outermost first.
        expected: Vec<usize>,
    },
    /// A weight has another shape than the configuration asks for.
    #[error("{origin}: tensor {name}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// The source.
        origin: String,
        /// The tensor.
        name: String,
        /// Shape asked for.
        expected: Vec<usize>,
        /// Shape in the source.
        found: Vec<usize>,
    },
    /// Values do not fit together.
    #[error("{origin}: {scope}: {what}")]
    Inconsistent {
        /// The source.
        origin: String,
        /// Where in the model.
        scope: String,
        /// What does not fit.
        what: String,
    },
    /// A tensor could not be read.
    #[error(transparent)]
    Source(#[from] allod_formats::Error),
}

struct Recorder<'s> {
    plan: Plan,
    source: &'s dyn WeightSource,
    params: HashMap<String, Param>,
    error: Option<RecordError>,
}

/// A place in the model while it is recorded. Errors are kept until [`record`] returns, so that `forward` reads like
/// the formula.
pub struct Scope<'a, 's> {
    recorder: &'a mut Recorder<'s>,
    path: String,
}

/// Records a model over the weights of `source`. What `forward` returns becomes the plan's result.
///
/// # Errors
/// The first [`RecordError`] that recording met.
pub fn record(
    source: &dyn WeightSource,
    forward: impl FnOnce(&mut Scope<'_, '_>) -> Value,
) -> Result<Plan, RecordError> {
    let mut recorder = Recorder { plan: Plan::default(), source, params: HashMap::new(), error: None };
    let result = forward(&mut Scope { recorder: &mut recorder, path: String::new() });
    match recorder.error {
        Some(e) => Err(e),
        None => {
            let mut plan = recorder.plan;
            plan.result = Some(result);
            Ok(plan.fuse())
        }
    }
}

impl<'s> Scope<'_, 's> {
    /// The scope called `name` inside this one.
    pub fn at(&mut self, name: impl Display) -> Scope<'_, 's> {
        let path = self.full(&name.to_string());
        Scope { recorder: &mut *self.recorder, path }
    }

    /// Layer `i`: `blk.i`.
    pub fn layer(&mut self, i: usize) -> Scope<'_, 's> {
        self.at(format_args!("blk.{i}"))
    }

    /// A value's elements per row.
    pub fn width(&self, v: Value) -> usize {
        self.recorder.plan.value(v).width
    }

    /// True when the source has the tensor `name` in this scope.
    pub fn has(&self, name: &str) -> bool {
        self.recorder.source.info(&self.full(name)).is_some()
    }

    /// The shape of the tensor `name` in this scope, outermost first.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.recorder.source.info(&self.full(name)).map(|i| i.shape)
    }

    /// The numbers of the tensor with the full name `name`, when the source has it: for tables that shape the plan
    /// itself, such as RoPE factors.
    pub fn constants(&mut self, name: &str) -> Option<Vec<f32>> {
        self.recorder.source.info(name)?;
        let tensor = match self.recorder.source.tensor(name) {
            Ok(t) => t,
            Err(e) => {
                self.fail(RecordError::Source(e));
                return None;
            }
        };
        match allod_formats::codec::to_f32(&tensor) {
            Ok(v) => Some(v),
            Err(e) => {
                self.reject(format_args!("tensor {name}: {e}"));
                None
            }
        }
    }

    /// Says that the model cannot be recorded. The first message counts.
    pub fn reject(&mut self, what: impl Display) {
        let (origin, scope) = (self.recorder.source.origin(), self.path.clone());
        let scope = if scope.is_empty() { "model".into() } else { scope };
        self.fail(RecordError::Inconsistent { origin, scope, what: what.to_string() });
    }

    /// Declares the weight `name` of this scope with the shape it must have. Axes of size 1 do not count: files differ
    /// in whether they keep them.
    pub fn param(&mut self, name: &str, shape: &[usize]) -> Param {
        let full = self.full(name);
        let origin = || self.recorder.source.origin();
        let problem = match self.recorder.source.info(&full) {
            None => Some(RecordError::Missing { origin: origin(), name: full.clone(), expected: shape.to_vec() }),
            Some(i) if !same_axes(&i.shape, shape) => Some(RecordError::Shape {
                origin: origin(),
                name: full.clone(),
                expected: shape.to_vec(),
                found: i.shape,
            }),
            Some(_) => None,
        };
        if let Some(e) = problem {
            self.fail(e);
        }
        if let Some(&p) = self.recorder.params.get(&full) {
            return p;
        }
        let p = Param(self.recorder.plan.params.len() as u32);
        self.recorder.plan.params.push(ParamInfo { name: full.clone(), shape: shape.to_vec() });
        self.recorder.params.insert(full, p);
        p
    }

    /// Says that the model has no use for the tensor `name`, should the source hold it.
    pub fn ignore(&mut self, name: &str) {
        let full = self.full(name);
        self.recorder.plan.ignored.push(full);
    }

    /// Declares the weight `name` like [`Scope::param`], where the source has it.
    pub fn optional(&mut self, name: &str, shape: &[usize]) -> Option<Param> {
        self.has(name).then(|| self.param(name, shape))
    }

    /// Declares a key-value cache.
    pub fn cache(&mut self, info: CacheInfo) -> Cache {
        self.recorder.plan.caches.push(info);
        Cache(self.recorder.plan.caches.len() as u32 - 1)
    }

    /// Declares a recurrent state of `len` elements.
    pub fn state(&mut self, len: usize) -> State {
        self.recorder.plan.states.push(len);
        State(self.recorder.plan.states.len() as u32 - 1)
    }

    /// Names a value within this scope, so that it can be tapped.
    pub fn tag(&mut self, name: &str, v: Value) -> Value {
        self.recorder.plan.values[v.index()].name = self.full(name);
        v
    }

    /// Rows of the embedding table `name`, `[vocabulary, width]`.
    pub fn embed(&mut self, name: &str, vocabulary: usize, width: usize) -> Value {
        let table = self.param(&format!("{name}.weight"), &[vocabulary, width]);
        self.emit(name, Op::Embed { table }, &[], width)
    }

    /// Learned absolute positions.
    pub fn embed_positions(&mut self, name: &str, positions: usize, width: usize, offset: usize) -> Value {
        let table = self.param(&format!("{name}.weight"), &[positions, width]);
        self.emit(name, Op::EmbedPositions { table, offset }, &[], width)
    }

    /// Adds row `row` of the table `name`, `[rows, width]`.
    pub fn add_row(&mut self, name: &str, x: Value, rows: usize, row: usize) -> Value {
        let width = self.width(x);
        let table = self.param(&format!("{name}.weight"), &[rows, width]);
        self.emit(name, Op::AddRow { table, row }, &[x], width)
    }

    /// `x Wᵀ`, and the bias if the source has one.
    pub fn linear(&mut self, name: &str, x: Value, out: usize) -> Value {
        let width = self.width(x);
        let part = self.part(name, &[out, width]);
        self.emit(name, Op::Linear { parts: vec![part] }, &[x], out)
    }

    /// `x Wᵀ`; a bias of that name belongs to a later operation.
    pub fn linear_without_bias(&mut self, name: &str, x: Value, out: usize) -> Value {
        let width = self.width(x);
        let weight = self.param(&format!("{name}.weight"), &[out, width]);
        self.emit(name, Op::Linear { parts: vec![LinearPart { weight, bias: None }] }, &[x], out)
    }

    /// A matrix for each of `heads` heads.
    pub fn head_linear(&mut self, name: &str, x: Value, heads: usize, out: usize) -> Value {
        let width = self.width(x);
        if heads == 0 || !width.is_multiple_of(heads) {
            self.reject(format_args!("{name}: {heads} heads do not divide {width}"));
        }
        let weight = self.param(&format!("{name}.weight"), &[heads, out, width / heads.max(1)]);
        self.emit(name, Op::HeadLinear { weight }, &[x], heads * out)
    }

    /// Weight and, where the source has it, bias of a linear map of `shape` `[.., out, in]`.
    pub fn part(&mut self, name: &str, shape: &[usize]) -> LinearPart {
        let weight = self.param(&format!("{name}.weight"), shape);
        let bias = self.optional(&format!("{name}.bias"), &shape[..shape.len() - 1]);
        LinearPart { weight, bias }
    }

    /// A normalization whose weights were declared by the caller.
    pub fn norm(&mut self, name: &str, x: Value, norm: Norm) -> Value {
        let width = self.width(x);
        if norm.group == 0 || !width.is_multiple_of(norm.group) {
            self.reject(format_args!("{name}: groups of {} do not divide {width}", norm.group));
        }
        self.emit(name, Op::Norm(norm), &[x], width)
    }

    /// RMS norm combined with a gate.
    pub fn gated_norm(
        &mut self,
        name: &str,
        (x, z): (Value, Value),
        group: usize,
        weight: &[usize],
        eps: f32,
        order: GateOrder,
    ) -> Value {
        let weight = self.param(&format!("{name}.weight"), weight);
        let width = self.same(name, x, z);
        if group == 0 || !width.is_multiple_of(group) {
            self.reject(format_args!("{name}: groups of {group} do not divide {width}"));
        }
        self.emit(name, Op::GatedNorm { group, eps, weight, order }, &[x, z], width)
    }

    /// Rotary positions.
    pub fn rope(&mut self, x: Value, rope: Rope) -> Value {
        let width = self.width(x);
        let end = 2 * rope.frequencies.len();
        if end > rope.head_dim || !width.is_multiple_of(rope.head_dim) {
            self.reject(format_args!(
                "rope rotates up to element {end} of heads of {} in rows of {width}",
                rope.head_dim
            ));
        }
        self.emit("rope", Op::Rope(rope), &[x], width)
    }

    /// Attention; see [`Op::Attend`] for the inputs.
    pub fn attend(&mut self, inputs: &[Value], attend: Attend) -> Value {
        let info = self.recorder.plan.caches[attend.cache.index()];
        let expect = [attend.heads * info.key_dim, info.kv_heads * info.key_dim, info.kv_heads * info.value_dim];
        for (&v, want) in inputs.iter().zip(expect) {
            if self.width(v) != want {
                let found = self.width(v);
                self.reject(format_args!("attention input: expected width {want}, found {found}"));
            }
        }
        if info.kv_heads == 0 || !attend.heads.is_multiple_of(info.kv_heads) {
            self.reject(format_args!("{} query heads over {} key-value heads", attend.heads, info.kv_heads));
        }
        let width = attend.heads * info.value_dim;
        self.emit("attn", Op::Attend(Box::new(attend)), inputs, width)
    }

    /// Llama 4's temperature tuning by position.
    pub fn position_scale(&mut self, x: Value, floor: f32, scale: f32) -> Value {
        self.unary("position_scale", Op::PositionScale { floor, scale }, x)
    }
    /// An activation function.
    pub fn act(&mut self, x: Value, act: Act) -> Value {
        self.unary("act", Op::Act(act), x)
    }
    /// `act(gate) · up`
    pub fn gated(&mut self, gate: Value, up: Value, act: Act) -> Value {
        let width = self.same("glu", gate, up);
        self.emit("glu", Op::Glu(act), &[gate, up], width)
    }
    /// Sum.
    pub fn add(&mut self, a: Value, b: Value) -> Value {
        let width = self.same("add", a, b);
        self.emit("add", Op::Add, &[a, b], width)
    }
    /// Product; each element of a narrower `b` scales a group of `a`.
    pub fn mul(&mut self, a: Value, b: Value) -> Value {
        let (wa, wb) = (self.width(a), self.width(b));
        if wb == 0 || !wa.is_multiple_of(wb) {
            self.reject(format_args!("product of widths {wa} and {wb}"));
        }
        self.emit("mul", Op::Mul, &[a, b], wa)
    }
    /// Product with a constant. A factor of 1 records nothing.
    pub fn scale(&mut self, x: Value, factor: f32) -> Value {
        if factor == 1.0 {
            return x;
        }
        self.unary("scale", Op::Scale(factor), x)
    }
    /// Product with the learned vector or number `name`.
    pub fn scale_by(&mut self, name: &str, x: Value, len: usize) -> Value {
        let p = self.param(&format!("{name}.weight"), &[len]);
        self.unary(name, Op::ScaleBy(p), x)
    }
    /// Product with a vector or number that was declared.
    pub fn scale_with(&mut self, factor: Param, x: Value) -> Value {
        self.unary("scale", Op::ScaleBy(factor), x)
    }
    /// Sum with the vector `name` (its whole name).
    pub fn add_vector(&mut self, name: &str, x: Value) -> Value {
        let width = self.width(x);
        let table = self.param(name, &[width]);
        self.unary(name, Op::AddRow { table, row: 0 }, x)
    }
    /// Bounds the absolute value.
    pub fn clamp(&mut self, x: Value, limit: f32) -> Value {
        self.unary("clamp", Op::Clamp(limit), x)
    }
    /// `cap · tanh(x / cap)`; nothing when `cap` is `None`.
    pub fn softcap(&mut self, x: Value, cap: Option<f32>) -> Value {
        match cap {
            Some(cap) => self.unary("softcap", Op::Softcap(cap), x),
            None => x,
        }
    }
    /// Columns `start .. start + width` of every group of `group`.
    pub fn columns(&mut self, x: Value, group: usize, start: usize, width: usize) -> Value {
        let all = self.width(x);
        if group == 0 || !all.is_multiple_of(group) || start + width > group {
            self.reject(format_args!("columns {start}..{} of groups of {group} in rows of {all}", start + width));
            return self.emit("columns", Op::Columns { group, start, width }, &[x], width);
        }
        self.emit("columns", Op::Columns { group, start, width }, &[x], all / group * width)
    }
    /// Cuts a row into consecutive parts.
    pub fn split<const N: usize>(&mut self, x: Value, widths: [usize; N]) -> [Value; N] {
        let all = self.width(x);
        let mut start = 0;
        widths.map(|w| {
            let part = self.columns(x, all, start, w);
            start += w;
            part
        })
    }
    /// Joins values group by group.
    pub fn concat(&mut self, groups: usize, parts: &[Value]) -> Value {
        let width = parts.iter().map(|&v| self.width(v)).sum();
        self.emit("concat", Op::Concat { groups }, parts, width)
    }
    /// Chooses experts: ids and weights.
    pub fn route(&mut self, logits: Value, route: Route) -> [Value; 2] {
        let (top, experts) = (route.top, self.width(logits));
        if top == 0 || top > experts {
            self.reject(format_args!("routing to {top} of {experts} experts"));
        }
        if let Some(g) = route.groups {
            let size = experts.checked_div(g.count).unwrap_or(0);
            if size * g.count != experts || g.top > g.count || g.top * size < top {
                self.reject(format_args!("routing to {top} experts in {} of {} groups of {size}", g.top, g.count));
            }
        }
        self.emit_many(["ffn_moe_topk", "ffn_moe_weights"], Op::Route(Box::new(route)), &[logits], [top, top])
    }
    /// Runs the chosen experts, each `hidden` wide. The further outputs are the operation's working space.
    pub fn experts(&mut self, x: Value, [ids, weights]: [Value; 2], hidden: usize, experts: Experts) -> Value {
        let (top, width) = (self.width(ids), self.width(x));
        let names = ["ffn_moe_out", "ffn_moe_gate", "ffn_moe_up", "ffn_moe_down"];
        let widths = [width, top * hidden, top * hidden, top * width];
        self.emit_many(names, Op::Experts(Box::new(experts)), &[x, ids, weights], widths)[0]
    }
    /// Causal depthwise convolution.
    pub fn conv1d(&mut self, x: Value, conv: Conv1d) -> Value {
        self.unary("conv", Op::Conv1d(conv), x)
    }
    /// Mamba's scan.
    pub fn selective_scan(&mut self, inputs: [Value; 4], scan: SelectiveScan) -> Value {
        let width = self.same("ssm", inputs[0], inputs[1]);
        self.same("ssm", inputs[2], inputs[3]);
        self.emit("ssm", Op::SelectiveScan(scan), &inputs, width)
    }
    /// Mamba-2's scan.
    pub fn state_space_dual(&mut self, inputs: [Value; 4], scan: StateSpaceDual) -> Value {
        let (width, shared) = (self.width(inputs[0]), self.same("ssm", inputs[2], inputs[3]));
        let (heads, groups) = (scan.heads.max(1), scan.groups.max(1));
        if scan.heads == 0 || width % heads != 0 || heads % groups != 0 || scan.groups == 0 || shared % groups != 0 {
            self.reject(format_args!("{} heads and {} groups over {width} and {shared}", scan.heads, scan.groups));
        }
        self.emit("ssm", Op::StateSpaceDual(scan), &inputs, width)
    }
    /// The gated delta rule over q, k, v, beta, decay.
    pub fn delta_rule(&mut self, inputs: [Value; 5], rule: DeltaRule) -> Value {
        let (keys, width) = (self.same("delta", inputs[0], inputs[1]), self.width(inputs[2]));
        let fits = rule.key_heads > 0
            && rule.value_heads.is_multiple_of(rule.key_heads)
            && rule.key_heads * rule.key_dim == keys
            && rule.value_heads * rule.value_dim == width
            && self.same("delta", inputs[3], inputs[4]) == rule.value_heads;
        if !fits {
            self.reject(format_args!("{rule:?} over keys of {keys} and values of {width}"));
        }
        self.emit("delta", Op::DeltaRule(rule), &inputs, width)
    }
    /// Keeps the rows whose results are wanted.
    pub fn gather_outputs(&mut self, x: Value) -> Value {
        self.unary("result_rows", Op::GatherOutputs, x)
    }
    /// One row per sequence.
    pub fn pool(&mut self, x: Value, pool: Pool) -> Value {
        self.unary("pool", Op::Pool(pool), x)
    }

    fn full(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn fail(&mut self, e: RecordError) {
        self.recorder.error.get_or_insert(e);
    }

    fn same(&mut self, what: &str, a: Value, b: Value) -> usize {
        let (wa, wb) = (self.width(a), self.width(b));
        if wa != wb {
            self.reject(format_args!("{what}: widths {wa} and {wb}"));
        }
        wa
    }

    fn unary(&mut self, name: &str, op: Op, x: Value) -> Value {
        let width = self.width(x);
        self.emit(name, op, &[x], width)
    }

    fn emit(&mut self, name: &str, op: Op, inputs: &[Value], width: usize) -> Value {
        self.emit_many([name], op, inputs, [width])[0]
    }

    fn emit_many<const N: usize>(
        &mut self,
        names: [&str; N],
        op: Op,
        inputs: &[Value],
        widths: [usize; N],
    ) -> [Value; N] {
        let rows = match op {
            Op::GatherOutputs => Rows::Outputs,
            Op::Pool(_) => Rows::Sequences,
            _ => inputs.first().map_or(Rows::Tokens, |&v| self.recorder.plan.value(v).rows),
        };
        if let Some(&odd) = inputs.iter().find(|&&v| self.recorder.plan.value(v).rows != self.rows(inputs[0])) {
            let odd = self.recorder.plan.value(odd).name.clone();
            self.reject(format_args!("{}: input {odd} has other rows", names[0]));
        }
        let outputs: [Value; N] = std::array::from_fn(|i| {
            let name = self.full(names[i]);
            self.recorder.plan.values.push(ValueInfo { name, rows, width: widths[i] });
            Value(self.recorder.plan.values.len() as u32 - 1)
        });
        self.recorder.plan.nodes.push(Node { op, inputs: inputs.to_vec(), outputs: outputs.to_vec() });
        outputs
    }

    fn rows(&self, v: Value) -> Rows {
        self.recorder.plan.value(v).rows
    }
}

/// True for shapes that differ in axes of size 1 only.
fn same_axes(a: &[usize], b: &[usize]) -> bool {
    let long = |s: &&usize| **s != 1;
    a.iter().filter(long).eq(b.iter().filter(long))
}

impl From<&[f32]> for Constants {
    fn from(v: &[f32]) -> Constants {
        v.to_vec().into()
    }
}
