//! Kahneman-Tversky optimization (Ethayarajh et al. 2024): answers that are wanted or not, without pairs.

use super::{Outcome, Sample, sigmoid};
use serde::{Deserialize, Serialize};

/// A loss of the family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KtoLoss {
    /// Wanted: 1 − σ(β(h − z)), unwanted: 1 − σ(β(z − h)), z the divergence estimated from companions
    #[default]
    Kto,
    /// The same with z = 0 (APO, D'Oosterlinck et al. 2024)
    ApoZeroUnpaired,
}

/// Constants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kto {
    /// Which loss.
    pub loss: KtoLoss,
    /// How far the model may go from the reference; 0.1.
    pub beta: f64,
    /// Weight of wanted answers.
    pub desirable_weight: f64,
    /// Weight of unwanted ones.
    pub undesirable_weight: f64,
}

impl Default for Kto {
    fn default() -> Kto {
        Kto { loss: KtoLoss::Kto, beta: 0.1, desirable_weight: 1.0, undesirable_weight: 1.0 }
    }
}

impl Kto {
    /// z = max(0, mean over the micro-batch of ℓ_KL − ℓ_KL,ref), through which nothing flows.
    pub(super) fn loss(&self, samples: &[Sample<'_>]) -> Outcome {
        let companions = samples.iter().filter_map(|s| match s {
            // An example alone in its batch is its own companion.
            Sample::Judged(answer, companion, _) => Some(companion.unwrap_or(*answer)),
            _ => None,
        });
        let (mut kl, mut count) = (0.0, 0.0);
        for (logp, reference) in companions.map(|c| c.sums()) {
            kl += logp - reference;
            count += 1.0;
        }
        let z = match self.loss {
            KtoLoss::Kto if count > 0.0 => (kl / count).max(0.0),
            _ => 0.0,
        };
        let mut out = Outcome::default();
        let mut rewards = [0.0, 0.0];
        for sample in samples {
            let Sample::Judged(answer, companion, desirable) = sample else { continue };
            let (logp, reference) = answer.sums();
            let (sign, weight) =
                if *desirable { (1.0, self.desirable_weight) } else { (-1.0, self.undesirable_weight) };
            let s = sigmoid(sign * self.beta * (logp - reference - z));
            out.loss += weight * (1.0 - s);
            out.terms += 1.0;
            out.gradients.push(answer.spread(-weight * sign * self.beta * s * (1.0 - s)));
            if companion.is_some() {
                out.gradients.push(vec![]);
            }
            rewards[usize::from(!*desirable)] += self.beta * (logp - reference);
        }
        out.metrics = vec![("kl", z * out.terms), ("rewards/chosen", rewards[0]), ("rewards/rejected", rewards[1])];
        out
    }
}
