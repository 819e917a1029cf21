//! What is minimized: functions of the log-probabilities that the model gives to learned tokens, with their derivatives.
//!
//! A loss is returned as a sum over its terms and their number (tokens for [`Objective::Sft`], examples for the others),
//! so that micro-batches add up to one batch exactly: the trainer divides by the number in the whole step. Definitions
//! and defaults are those of TRL 1.16.

mod cpo;
mod dpo;
mod kto;
mod orpo;
mod sft;

pub use cpo::{Cpo, CpoLoss};
pub use dpo::{Divergence, Dpo, DpoLoss, Term};
pub use kto::{Kto, KtoLoss};
pub use orpo::Orpo;
pub use sft::Sft;

use serde::{Deserialize, Serialize};

/// An objective and its constants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Objective {
    /// Cross-entropy of learned tokens: supervised fine-tuning, and with text for data continued pre-training.
    Sft(Sft),
    /// Direct preference optimization and its relatives.
    Dpo(Dpo),
    /// Odds-ratio preference optimization.
    Orpo(Orpo),
    /// Contrastive preference optimization, SimPO.
    Cpo(Cpo),
    /// Kahneman-Tversky optimization.
    Kto(Kto),
    /// A reward model by Bradley and Terry.
    Reward(Reward),
}

/// Constants of a reward model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reward {
    /// Weight of the mean of `(r_c + r_r)²`, which keeps rewards around zero; 0.01 is usual where it is wanted.
    pub center: f64,
}

/// A sequence's log-probabilities: one for each predicted token that was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Scored<'a> {
    /// The model's. For a reward model the one reward.
    pub logps: &'a [f32],
    /// The reference's; empty where none is needed.
    pub reference: &'a [f32],
    /// Logarithms of the sums of squared probabilities where each token stands; empty for a reward model.
    pub collisions: &'a [f32],
    /// Whether each token is learned (of the answer), not of the prompt.
    pub learned: &'a [bool],
}

/// An example of a micro-batch.
#[derive(Clone, Copy, Debug)]
pub enum Sample<'a> {
    /// A sequence to learn from.
    One(Scored<'a>),
    /// Two answers, the first better, and by how much.
    Pair(Scored<'a>, Scored<'a>, Option<f32>),
    /// An answer, its companion of another example's answer, and whether it is wanted.
    Judged(Scored<'a>, Option<Scored<'a>>, bool),
}

/// A loss, its derivatives, and figures for the log.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Sum over the terms.
    pub loss: f64,
    /// Number of terms.
    pub terms: f64,
    /// The derivative of the sum by each log-probability, sequence by sequence in the samples' order. A companion gets
    /// an empty list: nothing flows through it.
    pub gradients: Vec<Vec<f32>>,
    /// Sums over the terms, by name.
    pub metrics: Vec<(&'static str, f64)>,
}

impl Objective {
    /// Its name in files.
    pub fn name(&self) -> &'static str {
        match self {
            Objective::Sft(_) => "sft",
            Objective::Dpo(_) => "dpo",
            Objective::Orpo(_) => "orpo",
            Objective::Cpo(_) => "cpo",
            Objective::Kto(_) => "kto",
            Objective::Reward(_) => "reward",
        }
    }

    /// Whether it compares with the model as it was at the start.
    pub fn needs_reference(&self) -> bool {
        matches!(self, Objective::Dpo(_) | Objective::Kto(_))
    }

    /// Whether prompts are scored as well as answers.
    pub fn scores_prompts(&self) -> bool {
        matches!(self, Objective::Orpo(_))
    }

    /// The learning rate where none is given.
    pub fn learning_rate(&self) -> f64 {
        match self {
            Objective::Sft(_) => 2e-5,
            Objective::Reward(_) => 1e-4,
            _ => 1e-6,
        }
    }

    /// The loss of a micro-batch. Samples of another kind than the objective's are not counted.
    pub fn loss(&self, samples: &[Sample<'_>]) -> Outcome {
        match self {
            Objective::Sft(o) => o.loss(samples),
            Objective::Dpo(o) => o.loss(&pairs(samples)),
            Objective::Orpo(o) => o.loss(&pairs(samples)),
            Objective::Cpo(o) => o.loss(&pairs(samples)),
            Objective::Kto(o) => o.loss(samples),
            Objective::Reward(o) => o.loss(&pairs(samples)),
        }
    }
}

/// Two answers of one prompt.
pub(crate) type Pair<'a> = (Scored<'a>, Scored<'a>, Option<f32>);

fn pairs<'a>(samples: &[Sample<'a>]) -> Vec<Pair<'a>> {
    let pair = |s: &Sample<'a>| match *s {
        Sample::Pair(a, b, margin) => Some((a, b, margin)),
        _ => None,
    };
    samples.iter().filter_map(pair).collect()
}

impl Reward {
    /// `−log σ(r_c − r_r − margin) + center · (r_c + r_r)²`
    fn loss(&self, pairs: &[Pair<'_>]) -> Outcome {
        let mut out = Outcome { terms: pairs.len() as f64, ..Outcome::default() };
        let (mut right, mut margins) = (0.0, 0.0);
        for (chosen, rejected, margin) in pairs {
            let reward = |s: &Scored<'_>| s.logps.first().copied().map_or(0.0, f64::from);
            let (c, r) = (reward(chosen), reward(rejected));
            let x = c - r - margin.map_or(0.0, f64::from);
            out.loss += -log_sigmoid(x) + self.center * (c + r).powi(2);
            let (slope, pull) = (-sigmoid(-x), 2.0 * self.center * (c + r));
            out.gradients.push(vec![(slope + pull) as f32; chosen.logps.len()]);
            out.gradients.push(vec![(-slope + pull) as f32; rejected.logps.len()]);
            right += f64::from(c > r);
            margins += c - r;
        }
        out.metrics = vec![("rewards/accuracies", right), ("rewards/margins", margins)];
        out
    }
}

impl Scored<'_> {
    /// Learned tokens.
    pub(crate) fn length(&self) -> f64 {
        self.learned.iter().filter(|l| **l).count() as f64
    }

    /// Sum over the learned tokens of the model's and of the reference's log-probabilities.
    pub(crate) fn sums(&self) -> (f64, f64) {
        let sum =
            |values: &[f32]| values.iter().zip(self.learned).filter(|(_, l)| **l).map(|(v, _)| f64::from(*v)).sum();
        (sum(self.logps), sum(self.reference))
    }

    /// The same derivative at every learned token, none at the others.
    pub(crate) fn spread(&self, slope: f64) -> Vec<f32> {
        self.learned.iter().map(|l| if *l { slope as f32 } else { 0.0 }).collect()
    }
}

/// 1 / (1 + e^−x)
pub(crate) fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

/// log σ(x), exact for large |x|.
pub(crate) fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}
