//! Odds-ratio preference optimization (Hong et al. 2024): no reference; the better answer is also learned as it is.

use super::{Outcome, Pair, Scored, log_sigmoid, sigmoid};
use serde::{Deserialize, Serialize};

/// Constants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Orpo {
    /// Weight of the odds ratio; 0.1.
    pub beta: f64,
}

impl Default for Orpo {
    fn default() -> Orpo {
        Orpo { beta: 0.1 }
    }
}

impl Orpo {
    /// `NLL − β log σ(log odds)`: NLL is the mean over prompt and better answer, odds are of mean log-probabilities p̄:
    /// `(p̄_c − p̄_r) − (log(1 − e^p̄_c) − log(1 − e^p̄_r))`.
    pub(super) fn loss(&self, pairs: &[Pair<'_>]) -> Outcome {
        let n = pairs.len() as f64;
        let tokens: f64 = pairs.iter().map(|(c, ..)| c.logps.len() as f64).sum();
        // The mean over all tokens of the micro-batch stands for each pair.
        let nll_slope = if tokens > 0.0 { -n / tokens } else { 0.0 };
        let mut out = Outcome { terms: n, ..Outcome::default() };
        let (mut right, mut odds, mut nll) = (0.0, 0.0, 0.0);
        for (chosen, rejected, _) in pairs {
            let mean = |s: &Scored<'_>| s.sums().0 / s.length().max(1.0);
            let (c, r) = (mean(chosen), mean(rejected));
            let log_odds = (c - r) - (log_1m_exp(c) - log_1m_exp(r));
            out.loss -= self.beta * log_sigmoid(log_odds);
            // d log(1 − e^p)/dp = −e^p / (1 − e^p), so that d odds/dp = 1 / (1 − e^p).
            let slope = |p: f64| -self.beta * sigmoid(-log_odds) / -p.min(-1e-12).exp_m1();
            let mut gradient = chosen.spread(slope(c) / chosen.length().max(1.0));
            gradient.iter_mut().for_each(|g| *g += nll_slope as f32);
            nll += nll_slope * chosen.logps.iter().map(|&l| f64::from(l)).sum::<f64>();
            out.gradients.push(gradient);
            out.gradients.push(rejected.spread(-slope(r) / rejected.length().max(1.0)));
            right += f64::from(c > r);
            odds += log_odds;
        }
        out.loss += nll;
        out.metrics = vec![("rewards/accuracies", right), ("log_odds_chosen", odds), ("nll_loss", nll)];
        out
    }
}

/// log(1 − e^x) for x < 0 (Mächler 2012).
fn log_1m_exp(x: f64) -> f64 {
    let x = x.min(-1e-12);
    if x > -std::f64::consts::LN_2 { (-x.exp_m1()).ln() } else { (-x.exp()).ln_1p() }
}
