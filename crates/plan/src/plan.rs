//! The record itself, and what can be read off it without running it.

use crate::{Mask, Op};
use allod_tensor::DType;
use std::fmt::{self, Write as _};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident $sigil:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub(crate) u32);
        impl $name {
            /// Its place in the plan's list.
            pub fn index(self) -> usize { self.0 as usize }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, concat!($sigil, "{}"), self.0) }
        }
    )*};
}
ids! {
    /// An activation: a matrix whose rows are symbolic.
    Value "%";
    /// A weight.
    Param "$";
    /// A key-value cache, one per attending layer.
    Cache "@kv";
    /// A recurrent state, one per recurrent operation.
    State "@state";
}

/// What the rows of a value are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// The tokens of the step.
    Tokens,
    /// The rows whose results are wanted.
    Outputs,
    /// The sequences of the step.
    Sequences,
}

/// A value: its rows, elements per row, and name.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueInfo {
    /// Name within its scope, such as `blk.0.attn_norm`. Not necessarily unique: the last of a name is meant.
    pub name: String,
    /// What a row is.
    pub rows: Rows,
    /// Elements of a row.
    pub width: usize,
}

/// A weight: its name in the source and the shape it must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamInfo {
    /// GGUF's name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Outermost first.
    pub shape: Vec<usize>,
}

/// A key-value cache: what it holds for each position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheInfo {
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a key head.
    pub key_dim: usize,
    /// Elements of a value head.
    pub value_dim: usize,
    /// True where values are the first `value_dim` elements of the keys and are not stored again.
    pub value_in_key: bool,
    /// Positions after which an entry is no longer seen.
    pub horizon: Option<usize>,
}

impl CacheInfo {
    /// Bytes stored for each position in a type whose blocks each head fills. In I16 keys and values have a scale of 32 bits each.
    pub fn bytes(&self, dtype: DType) -> usize {
        let head = |elements: usize| elements.div_ceil(dtype.block()) * dtype.block_bytes();
        let value = if self.value_in_key { 0 } else { head(self.value_dim) };
        let scales = if dtype == DType::I16 { 8 } else { 0 };
        self.kv_heads * (head(self.key_dim) + value + scales)
    }
}

/// An operation at its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What is done.
    pub op: Op,
    /// To which values.
    pub inputs: Vec<Value>,
    /// Giving which values.
    pub outputs: Vec<Value>,
}

/// A model as a straight-line program over rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub(crate) nodes: Vec<Node>,
    pub(crate) values: Vec<ValueInfo>,
    pub(crate) params: Vec<ParamInfo>,
    pub(crate) caches: Vec<CacheInfo>,
    pub(crate) states: Vec<usize>,
    pub(crate) ignored: Vec<String>,
    pub(crate) result: Option<Value>,
}

impl Plan {
    /// Operations in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
    /// All values; a [`Value`] indexes them.
    pub fn values(&self) -> &[ValueInfo] {
        &self.values
    }
    /// All weights; a [`Param`] indexes them.
    pub fn params(&self) -> &[ParamInfo] {
        &self.params
    }
    /// All key-value caches; a [`Cache`] indexes them.
    pub fn caches(&self) -> &[CacheInfo] {
        &self.caches
    }
    /// Elements of each recurrent state; a [`State`] indexes them.
    pub fn states(&self) -> &[usize] {
        &self.states
    }
    /// Tensors that the source holds and the model has no use for.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }
    /// The value that a step returns.
    pub fn result(&self) -> Option<Value> {
        self.result
    }
    /// True when no row sees what comes after it, so that a sequence may be fed in pieces.
    pub fn is_causal(&self) -> bool {
        !self.nodes.iter().any(|n| matches!(&n.op, Op::Attend(a) if matches!(a.mask, Mask::Full | Mask::Local(_))))
    }
    /// A value's description.
    pub fn value(&self, v: Value) -> &ValueInfo {
        &self.values[v.index()]
    }
    /// A weight's description.
    pub fn param(&self, p: Param) -> &ParamInfo {
        &self.params[p.index()]
    }
    /// The last value called `name`.
    pub fn named(&self, name: &str) -> Option<Value> {
        self.values.iter().rposition(|v| v.name == name).map(|i| Value(i as u32))
    }
    /// Elements of a result row.
    pub fn result_width(&self) -> usize {
        self.result.map_or(0, |v| self.value(v).width)
    }

    /// The program as text, one operation a line. Equal plans give equal text.
    pub fn dump(&self) -> String {
        let mut s = String::new();
        // Writing to a String cannot fail.
        for (i, p) in self.params.iter().enumerate() {
            let _ = writeln!(s, "{:?} {} {:?}", Param(i as u32), p.name, p.shape);
        }
        for (i, c) in self.caches.iter().enumerate() {
            let _ = writeln!(s, "{:?} {c:?}", Cache(i as u32));
        }
        for (i, n) in self.states.iter().enumerate() {
            let _ = writeln!(s, "{:?} {n}", State(i as u32));
        }
        for n in &self.nodes {
            for (i, &v) in n.outputs.iter().enumerate() {
                let info = self.value(v);
                let rows = match info.rows {
                    Rows::Tokens => "T",
                    Rows::Outputs => "R",
                    Rows::Sequences => "S",
                };
                let comma = if i == 0 { "" } else { ", " };
                let _ = write!(s, "{comma}{v:?} {}[{rows}×{}]", info.name, info.width);
            }
            let _ = writeln!(s, " = {:?} {:?}", n.op, n.inputs);
        }
        let _ = writeln!(s, "return {:?}", self.result);
        s
    }

    /// Identifies the program: BLAKE3 over [`Plan::dump`].
    pub fn digest(&self) -> blake3::Hash {
        blake3::hash(self.dump().as_bytes())
    }
}

impl Op {
    /// The weights it uses.
    pub fn params(&self) -> Vec<Param> {
        let part = |p: &crate::LinearPart| [Some(p.weight), p.bias];
        let all: Vec<Option<Param>> = match self {
            Op::Embed { table } | Op::EmbedPositions { table, .. } | Op::AddRow { table, .. } => vec![Some(*table)],
            Op::Norm(n) => vec![n.weight, n.bias],
            Op::GatedNorm { weight, .. } | Op::HeadLinear { weight } => vec![Some(*weight)],
            Op::Linear { parts } => parts.iter().flat_map(part).collect(),
            Op::Attend(a) => vec![a.sinks],
            Op::ScaleBy(p) => vec![Some(*p)],
            Op::Route(r) => vec![r.bias],
            Op::Experts(e) => {
                let mut v: Vec<_> = e.gate.iter().flat_map(part).collect();
                v.extend([part(&e.up), part(&e.down)].concat());
                v.push(e.down_scale);
                v
            }
            Op::Conv1d(c) => vec![Some(c.weight), c.bias],
            Op::SelectiveScan(s) => vec![Some(s.a), Some(s.d), Some(s.dt_bias)],
            Op::StateSpaceDual(s) => vec![Some(s.a), Some(s.d), Some(s.dt_bias)],
            Op::Rope(_)
            | Op::PositionScale { .. }
            | Op::Act(_)
            | Op::Glu(_)
            | Op::Add
            | Op::Mul
            | Op::Scale(_)
            | Op::Clamp(_)
            | Op::Softcap(_)
            | Op::Columns { .. }
            | Op::Concat { .. }
            | Op::DeltaRule(_)
            | Op::GatherOutputs
            | Op::Pool(_) => vec![],
        };
        all.into_iter().flatten().collect()
    }
}
