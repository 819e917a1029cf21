//! What a trainer asks of whoever runs a plan forwards and backwards: packed batches go in, log-probabilities come out,
//! the derivative of a loss by each of them goes in, gradients of the trained tensors come out.
//!
//! One seam serves every objective: SFT, DPO, ORPO, SimPO, KTO and the like are functions of log-probabilities, and a
//! reward model is a function of one value per sequence.

use crate::{Op, Plan, RowLimits, StepError};
use std::ops::Range;

/// Packed sequences: rows laid flat, each sequence isolated from the others.
#[derive(Clone, Copy, Debug)]
pub struct TrainBatch<'a> {
    /// Token id of each row.
    pub tokens: &'a [u32],
    /// The rows of each sequence, in row order; together they cover every row once. Positions start at 0 in each.
    pub sequences: &'a [Range<usize>],
    /// For each row the token whose log-probability is wanted there (for next-token training the following token);
    /// `None` where no loss falls: such rows never meet the output head. Not read by a value head.
    pub targets: &'a [Option<u32>],
    /// Determines every random draw of the pass (dropout, embedding noise). Unused where there is none.
    pub seed: u64,
    /// NEFTune's α (Jain et al. 2023): uniform noise of `± α / √(rows · width)` on the embeddings of a sequence.
    /// 0 for none.
    pub embedding_noise: f32,
}

/// What a forward pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// [`Trainable::backward`] follows: what it needs is kept, dropout and noise act.
    Train,
    /// Results only, of the model as it is trained.
    Evaluate,
    /// Results only, of the model with its adapters off: the reference of DPO and KTO. Tensors trained whole stay as
    /// they are now.
    Reference,
}

/// Results of a forward pass, in row order.
#[derive(Clone, Copy, Debug)]
pub struct Scores<'a> {
    /// Log-probability (natural logarithm) of the target of each row that has one; with a value head, one value per
    /// sequence, read off its last row.
    pub values: &'a [f32],
    /// For each of them, whether the target is the most probable token (the first among equals). Empty with a value
    /// head.
    pub correct: &'a [bool],
    /// For each of them, the entropy of the row's distribution in nats. Empty with a value head.
    pub entropies: &'a [f32],
    /// For each of them, the logarithm of the sum of squared probabilities of the row's distribution. Empty with a value
    /// head.
    pub collisions: &'a [f32],
}

/// A model being trained. Everything is in f32; the same inputs give the same bytes for any number of threads.
pub trait Trainable: Send {
    /// Most rows, targets and sequences of a batch.
    fn limits(&self) -> RowLimits;

    /// Runs a batch.
    ///
    /// # Errors
    /// [`StepError`] when the batch does not fit or contradicts itself.
    fn forward(&mut self, batch: &TrainBatch<'_>, pass: Pass) -> Result<Scores<'_>, StepError>;

    /// Adds to the gradients of all trained tensors, given the derivative of the loss by each of
    /// [`Scores::values`] of the last forward pass, which must have been [`Pass::Train`].
    ///
    /// # Errors
    /// [`StepError`] when there was no such pass, or the lengths differ.
    fn backward(&mut self, d_values: &[f32]) -> Result<(), StepError>;

    /// What is trained, in an order that depends on plan and choice only.
    fn tensors(&self) -> &[TrainedTensor];

    /// The same, for an optimizer to change `data`. Shapes must stay.
    fn tensors_mut(&mut self) -> &mut [TrainedTensor];

    /// Sets every gradient to 0.
    fn zero_gradients(&mut self) {
        for t in self.tensors_mut() {
            t.gradient.fill(0.0);
        }
    }
}

/// A tensor that training changes.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainedTensor {
    /// GGUF's name for a weight trained whole (`blk.0.attn_norm.weight`); for an adapter of the weight W: `W.lora_a`,
    /// `W.lora_b`, `W.lora_magnitude`. The value head is `value_head.weight`.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Outermost first.
    pub shape: Vec<usize>,
    /// Its elements.
    pub data: Vec<f32>,
    /// Derivative of the loss by each of them, summed over backward passes.
    pub gradient: Vec<f32>,
}

/// What a trained tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// LoRA's `A`, `[rank, in]` (`[experts, rank, in]` for a stack of experts).
    LoraA,
    /// LoRA's `B`, `[out, rank]` (`[experts, out, rank]`).
    LoraB,
    /// DoRA's magnitudes, `[out]`.
    Magnitude,
    /// A matrix trained whole.
    Matrix,
    /// An embedding table trained whole.
    Embedding,
    /// A norm's weight.
    Norm,
    /// Biases and other vectors.
    Vector,
    /// The value head, `[1, width]`.
    ValueHead,
}

/// What is to be trained.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tune {
    /// Matrices that get an adapter and stay as they are.
    pub adapters: Vec<Adapter>,
    /// Names of weights trained whole (GGUF's names). They are held in f32.
    pub weights: Vec<String>,
    /// What a forward pass returns.
    pub head: Head,
    /// Draws initial values.
    pub seed: u64,
}

/// What a forward pass returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Head {
    /// Log-probabilities of targets.
    #[default]
    LogProbs,
    /// One number for each sequence: its last row's hidden state times a trained vector. The plan must return hidden
    /// states, not logits.
    Value,
}

/// A low-rank adapter of one matrix: `y = x Wᵀ + scale · (drop(x) Aᵀ) Bᵀ` (Hu et al. 2021).
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// The weight it belongs to, such as `blk.0.attn_q.weight`.
    pub weight: String,
    /// Rows of A.
    pub rank: usize,
    /// `alpha / rank`, or `alpha / √rank` for rsLoRA.
    pub scale: f32,
    /// Probability with which an element of the adapter's input is dropped while training.
    pub dropout: f32,
    /// DoRA (Liu et al. 2024): `y = (m / ‖W + scale · B A‖) · (…)`, the norm by row and not differentiated.
    pub dora: bool,
    /// How A and B begin.
    pub init: AdapterInit,
}

/// How an adapter begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdapterInit {
    /// A uniform in `± 1 / √in`, B zero.
    #[default]
    Kaiming,
    /// A normal with deviation `1 / rank`, B zero.
    Gaussian,
    /// The leading singular vectors of W, which is left with the rest (PiSSA, Meng et al. 2024).
    Pissa,
}

/// A matrix that a plan multiplies rows with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearInfo {
    /// Its weight, such as `blk.0.attn_q.weight`.
    pub weight: String,
    /// `[out, in]`, or `[experts, out, in]`.
    pub shape: Vec<usize>,
    /// What it is multiplied with.
    pub kind: LinearKind,
}

/// Kinds of matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinearKind {
    /// Rows of tokens.
    Dense,
    /// Its scores choose experts.
    Router,
    /// A stack, each for the rows that chose it.
    Experts,
    /// Rows whose results are wanted: the output head.
    Head,
}

impl Plan {
    /// Every matrix that can have an adapter, in order. What PEFT calls `all-linear` is those of kind
    /// [`LinearKind::Dense`] (and, in Transformers from version 5 on, not routers or experts, which are plain
    /// parameters there).
    pub fn linears(&self) -> Vec<LinearInfo> {
        let mut all: Vec<LinearInfo> = Vec::new();
        let mut push = |p: crate::Param, kind| {
            let info = self.param(p);
            if !all.iter().any(|l| l.weight == info.name) {
                all.push(LinearInfo { weight: info.name.clone(), shape: info.shape.clone(), kind });
            }
        };
        for n in self.nodes() {
            match &n.op {
                Op::Linear { parts } => {
                    for (part, &out) in parts.iter().zip(&n.outputs) {
                        let routes = self.nodes().iter().any(|m| matches!(m.op, Op::Route(_)) && m.inputs[0] == out);
                        let kind = match routes {
                            true => LinearKind::Router,
                            false if self.result() == Some(out) || self.value(out).name == "logits" => LinearKind::Head,
                            false => LinearKind::Dense,
                        };
                        push(part.weight, kind);
                    }
                }
                Op::Experts(e) => {
                    e.gate.iter().chain([&e.up, &e.down]).for_each(|p| push(p.weight, LinearKind::Experts));
                }
                _ => {}
            }
        }
        all
    }
}
