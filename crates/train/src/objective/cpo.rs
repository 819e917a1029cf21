//! Contrastive preference optimization (Xu et al. 2024) and SimPO (Meng et al. 2024): no reference.

use super::{Outcome, Pair, Scored, log_sigmoid, sigmoid};
use serde::{Deserialize, Serialize};

/// A loss of the family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpoLoss {
    /// −log σ(β(ℓ_c − ℓ_r))
    #[default]
    Sigmoid,
    /// max(0, 1 − β(ℓ_c − ℓ_r))
    Hinge,
    /// (ℓ̄_c − ℓ̄_r − 1/2β)², of means over tokens
    Ipo,
    /// −log σ(β(ℓ̄_c − ℓ̄_r) − γ), of means over tokens
    Simpo,
}

/// Constants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cpo {
    /// Which loss.
    pub loss: CpoLoss,
    /// Temperature; 0.1.
    pub beta: f64,
    /// γ of SimPO; 0.5.
    pub gamma: f64,
    /// Weight of the better answers' cross-entropy; 1. SimPO as published has 0.
    pub alpha: f64,
    /// How likely a pair is the wrong way round.
    pub label_smoothing: f64,
}

impl Default for Cpo {
    fn default() -> Cpo {
        Cpo { loss: CpoLoss::Sigmoid, beta: 0.1, gamma: 0.5, alpha: 1.0, label_smoothing: 0.0 }
    }
}

impl Cpo {
    pub(super) fn loss(&self, pairs: &[Pair<'_>]) -> Outcome {
        let n = pairs.len() as f64;
        let tokens: f64 = pairs.iter().map(|(c, ..)| c.length()).sum();
        let nll_slope = if tokens > 0.0 { -self.alpha * n / tokens } else { 0.0 };
        let by_mean = matches!(self.loss, CpoLoss::Ipo | CpoLoss::Simpo);
        let mut out = Outcome { terms: n, ..Outcome::default() };
        let (mut right, mut margins) = (0.0, 0.0);
        for (chosen, rejected, _) in pairs {
            let divisor = |s: &Scored<'_>| if by_mean { s.length().max(1.0) } else { 1.0 };
            let (dc, dr) = (divisor(chosen), divisor(rejected));
            let (c, r) = (chosen.sums().0 / dc, rejected.sums().0 / dr);
            let (l, slope) = self.pair(c - r);
            out.loss += l + nll_slope * chosen.sums().0;
            out.gradients.push(chosen.spread(slope / dc + nll_slope));
            out.gradients.push(rejected.spread(-slope / dr));
            right += f64::from(c > r);
            margins += self.beta * (c - r);
        }
        out.metrics = vec![("rewards/accuracies", right), ("rewards/margins", margins)];
        out
    }

    /// The loss of a difference, and its derivative.
    fn pair(&self, difference: f64) -> (f64, f64) {
        let (b, e) = (self.beta, self.label_smoothing);
        let smoothed = |x: f64| {
            let l = -log_sigmoid(x) * (1.0 - e) - log_sigmoid(-x) * e;
            (l, b * (-sigmoid(-x) * (1.0 - e) + sigmoid(x) * e))
        };
        match self.loss {
            CpoLoss::Sigmoid => smoothed(b * difference),
            CpoLoss::Simpo => smoothed(b * difference - self.gamma),
            CpoLoss::Hinge if b * difference < 1.0 => (1.0 - b * difference, -b),
            CpoLoss::Hinge => (0.0, 0.0),
            CpoLoss::Ipo => {
                let d = difference - 0.5 / b;
                (d * d, 2.0 * d)
            }
        }
    }
}
