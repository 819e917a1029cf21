//! The vocabulary: what a plan may say. Every operation works on whole rows; shapes are given per row.

use crate::{Cache, Param, State};
use std::{fmt, ops::Deref, sync::Arc};

/// An operation. Inputs and outputs are named by the [`crate::Node`] that holds it.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Rows of `table` at the step's token ids. No inputs.
    Embed {
        /// `[vocabulary, width]`
        table: Param,
    },
    /// Rows of `table` at the step's positions plus `offset`: learned absolute positions. No inputs.
    EmbedPositions {
        /// `[positions, width]`
        table: Param,
        /// Added to each position (OPT starts at 2).
        offset: usize,
    },
    /// `x + table[row]`, the same row for every token.
    AddRow {
        /// `[rows, width]`, or `[width]` with row 0
        table: Param,
        /// Which row.
        row: usize,
    },
    /// Normalizes groups of consecutive elements.
    Norm(Norm),
    /// RMS norm of groups combined with `silu(z)`. Inputs: x, z.
    GatedNorm {
        /// Elements normalized together.
        group: usize,
        /// Added to the mean square.
        eps: f32,
        /// `[group]` or `[width]`
        weight: Param,
        /// Which comes first.
        order: GateOrder,
    },
    /// `x Wᵀ + b` for one or more matrices that share the input; one output each.
    Linear {
        /// The matrices, in output order.
        parts: Vec<LinearPart>,
    },
    /// A matrix of its own for each head: `[heads × in] → [heads × out]`.
    HeadLinear {
        /// `[heads, out, in]`
        weight: Param,
    },
    /// Rotary positions on the first elements of every head, two for each frequency.
    Rope(Rope),
    /// Writes keys and values to the cache and attends over it. Inputs: q, k, v; or q, k where values are a part of
    /// the keys; or q alone where an earlier layer wrote the cache.
    Attend(Box<Attend>),
    /// Multiplies each row by `1 + scale · ln(1 + floor((p + 1) / floor))`, p its position (Llama 4's temperature tuning).
    PositionScale {
        /// Positions per step of the logarithm.
        floor: f32,
        /// Strength.
        scale: f32,
    },
    /// An activation function, element by element.
    Act(Act),
    /// `act(gate) · up`. Inputs: gate, up.
    Glu(Act),
    /// Sum. Inputs: a, b.
    Add,
    /// Product. Inputs: a, b; where b is narrower, each of its elements scales a group of a's.
    Mul,
    /// Product with a constant.
    Scale(f32),
    /// Product with a learned vector (`[width]`) or number (`[1]`).
    ScaleBy(Param),
    /// Bounds the absolute value.
    Clamp(f32),
    /// `cap · tanh(x / cap)`
    Softcap(f32),
    /// Takes `start .. start + width` out of every `group` consecutive elements.
    Columns {
        /// Elements per group.
        group: usize,
        /// First element taken.
        start: usize,
        /// Elements taken.
        width: usize,
    },
    /// Joins inputs group by group: group g of the output is group g of each input in turn.
    Concat {
        /// Number of groups.
        groups: usize,
    },
    /// Chooses experts from router logits. Outputs: ids `[k]` (the bits of a `u32` each), weights `[k]`.
    Route(Box<Route>),
    /// Runs each row through its experts and sums. Inputs: x, ids, weights. Outputs: the sum, and working space for the
    /// chosen experts' gate, up and down rows.
    Experts(Box<Experts>),
    /// Causal depthwise convolution over the sequence.
    Conv1d(Conv1d),
    /// Mamba's selective scan. Inputs: x `[inner]`, dt `[inner]`, B `[state]`, C `[state]`.
    SelectiveScan(SelectiveScan),
    /// Mamba-2's state-space duality scan. Inputs: x `[heads × head_dim]`, dt `[heads]`, B and C `[groups × state]`.
    StateSpaceDual(StateSpaceDual),
    /// Gated delta rule. Inputs: q, k `[key_heads × key_dim]`, v `[value_heads × value_dim]`, beta, decay `[value_heads]`.
    DeltaRule(DeltaRule),
    /// Keeps the rows whose results are wanted.
    GatherOutputs,
    /// One row per sequence.
    Pool(Pool),
}

impl Op {
    /// Whether the result may take the place of the first input, element by element or row by row.
    pub fn in_place(&self) -> bool {
        match self {
            Op::Norm(n) => n.kind == NormKind::Rms,
            Op::Rope(_) | Op::PositionScale { .. } | Op::AddRow { .. } => true,
            Op::Act(_) | Op::Glu(_) | Op::Add | Op::Mul | Op::Scale(_) | Op::ScaleBy(_) => true,
            Op::Clamp(_) | Op::Softcap(_) => true,
            _ => false,
        }
    }
}

/// Parameters of [`Op::Norm`].
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// What is divided by.
    pub kind: NormKind,
    /// Elements normalized together: the width, or a head.
    pub group: usize,
    /// Added to the variance (or to the squared length).
    pub eps: f32,
    /// `[group]`, or `[width]` for a weight per head.
    pub weight: Option<Param>,
    /// Likewise.
    pub bias: Option<Param>,
}

/// Kinds of normalization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// By the root of the mean square (Zhang & Sennrich 2019).
    Rms,
    /// Centered, by the standard deviation (Ba et al. 2016).
    Layer,
    /// By the Euclidean length.
    L2,
}

/// Order of gate and norm in [`Op::GatedNorm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateOrder {
    /// `norm(x · silu(z)) · w` (Mamba-2)
    GateThenNorm,
    /// `norm(x) · w · silu(z)` (DeltaNet)
    NormThenGate,
}

/// One matrix of [`Op::Linear`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearPart {
    /// `[out, in]`
    pub weight: Param,
    /// `[out]`
    pub bias: Option<Param>,
}

/// Parameters of [`Op::Rope`] (Su et al. 2021).
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Elements of a head.
    pub head_dim: usize,
    /// Which elements form a pair.
    pub style: RopeStyle,
    /// Angle per position of each pair.
    pub frequencies: Constants,
    /// Factor on sine and cosine (YaRN's attention factor).
    pub magnitude: f32,
}

/// How the elements of a head pair up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// Element i with i + dims/2 (GPT-NeoX, Hugging Face's Llama).
    Half,
    /// Element 2i with 2i + 1 (GPT-J, GGUF's llama).
    Interleaved,
}

/// Parameters of [`Op::Attend`].
#[derive(Clone, Debug, PartialEq)]
pub struct Attend {
    /// Where keys and values lie.
    pub cache: Cache,
    /// Query heads.
    pub heads: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// Soft cap on the scores.
    pub softcap: Option<f32>,
    /// Which keys a row sees.
    pub mask: Mask,
    /// `[heads]`: a further score per head that takes part in the softmax and has no value.
    pub sinks: Option<Param>,
    /// Slope per head of the linear position bias (Press et al. 2021).
    pub alibi: Option<Constants>,
}

/// Which positions a row at position p attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// 0 ..= p
    Causal,
    /// p - n + 1 ..= p
    Window(usize),
    /// From the last multiple of n up to p.
    Chunk(usize),
    /// Every position of the sequence.
    Full,
    /// Positions at most n away on either side.
    Local(usize),
}

/// Activation functions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Act {
    /// `x · sigmoid(x)`
    Silu,
    /// `x · Φ(x)`
    Gelu,
    /// Gelu by its tanh approximation.
    GeluTanh,
    /// `x · sigmoid(1.702 x)`
    GeluQuick,
    /// `max(x, 0)`
    Relu,
    /// `max(x, 0)²`
    Relu2,
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// `ln(1 + e^x)`
    Softplus,
    /// Hyperbolic tangent.
    Tanh,
    /// `min(gate, limit) · sigmoid(α min(gate, limit)) · (clamp(up, ±limit) + 1)`, as a [`Op::Glu`] only (gpt-oss).
    ClampedSwiglu {
        /// α
        alpha: f32,
        /// Bound on both inputs.
        limit: f32,
    },
}

/// Parameters of [`Op::Route`].
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Experts chosen per row.
    pub top: usize,
    /// From logits to scores.
    pub score: Score,
    /// `[experts]` added to the scores for choosing, not for weighting.
    pub bias: Option<Param>,
    /// Choose among the best groups first.
    pub groups: Option<Groups>,
    /// Divide the chosen weights by their sum.
    pub normalize: bool,
    /// Factor on the weights.
    pub scale: f32,
}

/// How router logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// Softmax over all experts.
    Softmax,
    /// Sigmoid of each.
    Sigmoid,
    /// Choose by logit, then softmax over the chosen.
    SoftmaxOfChosen,
}

/// Group-limited routing (DeepSeek).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// Groups of equal size.
    pub count: usize,
    /// Groups kept.
    pub top: usize,
    /// Best experts summed to rank a group: 1 (V2) or 2 (V3).
    pub best: usize,
}

/// Parameters of [`Op::Experts`]. Matrices are stacked: `[experts, out, in]`, biases `[experts, out]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    /// Gate projection; without it the activation is applied to `up` alone.
    pub gate: Option<LinearPart>,
    /// Up projection.
    pub up: LinearPart,
    /// Down projection.
    pub down: LinearPart,
    /// `[experts]`: factor on each expert's output.
    pub down_scale: Option<Param>,
    /// Activation.
    pub act: Act,
    /// Where the routing weight is applied.
    pub weigh: Weigh,
}

/// Where an expert's routing weight is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weigh {
    /// To its output.
    Output,
    /// To its input (Llama 4).
    Input,
}

/// Parameters of [`Op::Conv1d`].
#[derive(Clone, Debug, PartialEq)]
pub struct Conv1d {
    /// The last `kernel - 1` inputs of the sequence.
    pub state: State,
    /// `[width, kernel]`
    pub weight: Param,
    /// `[width]`
    pub bias: Option<Param>,
    /// Taps.
    pub kernel: usize,
    /// Applied to the result.
    pub act: Option<Act>,
}

/// Parameters of [`Op::SelectiveScan`] (Gu & Dao 2023).
#[derive(Clone, Debug, PartialEq)]
pub struct SelectiveScan {
    /// `[inner × state]`
    pub state: State,
    /// `[inner, state]`, negative.
    pub a: Param,
    /// `[inner]`
    pub d: Param,
    /// `[inner]`, added to dt before the softplus.
    pub dt_bias: Param,
}

/// Parameters of [`Op::StateSpaceDual`] (Dao & Gu 2024).
#[derive(Clone, Debug, PartialEq)]
pub struct StateSpaceDual {
    /// `[heads × head_dim × state]`
    pub state: State,
    /// `[heads]`, negative.
    pub a: Param,
    /// `[heads]`
    pub d: Param,
    /// `[heads]`, added to dt before the softplus.
    pub dt_bias: Param,
    /// Bounds on dt after the softplus.
    pub dt_limit: (f32, f32),
    /// Heads.
    pub heads: usize,
    /// Groups of heads that share B and C.
    pub groups: usize,
}

/// Parameters of [`Op::DeltaRule`] (Yang et al. 2024). Inputs are as the recurrence wants them: q and k normalized,
/// beta after its sigmoid, decay as a logarithm.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaRule {
    /// `[value_heads × key_dim × value_dim]`
    pub state: State,
    /// Heads of q and k.
    pub key_heads: usize,
    /// Heads of v; a multiple of `key_heads`.
    pub value_heads: usize,
    /// Elements of a key head.
    pub key_dim: usize,
    /// Elements of a value head.
    pub value_dim: usize,
    /// Factor on q.
    pub scale: f32,
    /// Which key head a value head reads: `h % key_heads` where they are tiled, else `h / (value_heads / key_heads)`.
    pub tiled: bool,
}

/// How rows of a sequence become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The first row.
    First,
    /// The last row.
    Last,
    /// Their mean.
    Mean,
}

/// A table of numbers that belongs to the plan itself. Shown and digested by content.
#[derive(Clone, PartialEq)]
pub struct Constants(Arc<[f32]>);

impl From<Vec<f32>> for Constants {
    fn from(v: Vec<f32>) -> Constants {
        Constants(v.into())
    }
}

impl Deref for Constants {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl fmt::Debug for Constants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut h = blake3::Hasher::new();
        for v in self.iter() {
            h.update(&v.to_le_bytes());
        }
        write!(f, "{}×{}", self.len(), &h.finalize().to_hex()[..8])
    }
}
