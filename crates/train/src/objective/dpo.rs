//! Direct preference optimization (Rafailov et al. 2023) and the losses that TRL gathers under it.
//!
//! h = ℓ − ℓ_ref, the sum over an answer's tokens; Δ = h_c − h_r. Each loss is a function of the two h; divergences other
//! than the reverse KL put f(h) in h's place where TRL does.

use super::{Outcome, Pair, Scored, log_sigmoid, sigmoid};
use serde::{Deserialize, Serialize};

/// A loss of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DpoLoss {
    /// −log σ(βΔ)
    Sigmoid,
    /// max(0, 1 − βΔ) (SLiC)
    Hinge,
    /// (Δ̄ − 1/2β)², Δ̄ of means over tokens (Azar et al. 2023)
    Ipo,
    /// KL(σ(±βΔ) ‖ [1 − ε, ε]) (EXO, Ji et al. 2024)
    ExoPair,
    /// −log σ(βh_c) − ½ log σ(−βh_c) − ½ log σ(−βh_r) (NCA, Chen et al. 2024)
    NcaPair,
    /// [(1 − ε)(−log σ(βΔ)) + ε log σ(−βΔ)] / (1 − 2ε) (Chowdhury et al. 2024)
    Robust,
    /// −log σ(βh_c) − log σ(−βh_r) (BCO, Jung et al. 2024)
    BcoPair,
    /// (h_c − 1/2β)² + (h_r + 1/2β)² (SPPO, Wu et al. 2024)
    SppoHard,
    /// Sorted differences of the batch (AOT, Melnyk et al. 2024)
    Aot,
    /// The same, answers sorted apart
    AotUnpaired,
    /// 1 − σ(βh_c) + σ(βh_r) (APO, D'Oosterlinck et al. 2024)
    ApoZero,
    /// σ(βh_c) + 1 − σ(βΔ)
    ApoDown,
    /// Log-ratio modulated logistic and exponential loss (Lu et al. 2024)
    Discopop,
    /// −mean log p of the better answers' tokens
    Sft,
    /// −log σ(β(h̄_c − h̄_r)), of means over tokens
    SigmoidNorm,
}

/// A loss and its weight in the sum.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Term {
    /// Which.
    pub loss: DpoLoss,
    /// How much.
    pub weight: f64,
}

/// What h is put through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    /// h
    #[default]
    ReverseKl,
    /// 1 − e^−h
    ForwardKl,
    /// log 2 + log σ(h)
    JsDivergence,
    /// (e^{(α−1)h} − 1) / (α − 1)
    AlphaDivergence(f64),
}

/// Constants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dpo {
    /// The losses that are added up.
    pub losses: Vec<Term>,
    /// How far the model may go from the reference; 0.1.
    pub beta: f64,
    /// ε of `robust`, `exo_pair` and the `aot`s.
    pub label_smoothing: f64,
    /// What h is put through.
    pub divergence: Divergence,
    /// Weight of the tokens beyond the shorter answer's length (LD-DPO).
    pub ld_alpha: Option<f64>,
    /// τ of `discopop`.
    pub discopop_tau: f64,
    /// Weigh each pair by how likely the model itself is to write both answers (WPO, Zhou et al. 2024).
    pub use_weighting: bool,
}

impl Default for Dpo {
    fn default() -> Dpo {
        Dpo {
            losses: vec![Term { loss: DpoLoss::Sigmoid, weight: 1.0 }],
            beta: 0.1,
            label_smoothing: 0.0,
            divergence: Divergence::ReverseKl,
            ld_alpha: None,
            discopop_tau: 0.05,
            use_weighting: false,
        }
    }
}

/// An answer: its sums, and its length.
#[derive(Clone, Copy)]
struct Side {
    logp: f64,
    reference: f64,
    length: f64,
}

impl Side {
    fn h(&self) -> f64 {
        self.logp - self.reference
    }
}

/// A loss of one pair and its derivatives by ℓ_c and ℓ_r.
type Slopes = (f64, f64, f64);

impl Dpo {
    pub(super) fn loss(&self, pairs: &[Pair<'_>]) -> Outcome {
        let sides: Vec<[Side; 2]> = pairs.iter().map(|(c, r, _)| self.sides(c, r)).collect();
        let n = pairs.len() as f64;
        let mut slopes = vec![(0.0, 0.0, 0.0); pairs.len()];
        let mut sft_weight = 0.0;
        for term in &self.losses {
            let terms: Vec<Slopes> = match term.loss {
                DpoLoss::Aot => self.aot(&sides),
                DpoLoss::AotUnpaired => self.aot_unpaired(&sides),
                DpoLoss::Sft => {
                    sft_weight += term.weight;
                    continue;
                }
                loss => sides.iter().map(|[c, r]| self.pair(loss, c, r)).collect(),
            };
            for (sum, (l, c, r)) in slopes.iter_mut().zip(terms) {
                *sum = (sum.0 + term.weight * l, sum.1 + term.weight * c, sum.2 + term.weight * r);
            }
        }
        if self.use_weighting {
            let weights: Vec<f64> = pairs.iter().map(|(c, r, _)| likelihood(c) * likelihood(r)).collect();
            slopes.iter_mut().zip(&weights).for_each(|(s, w)| *s = (s.0 * w, s.1 * w, s.2 * w));
            sft_weight *= weights.iter().sum::<f64>() / n;
        }
        // The mean over all better answers' tokens stands for each pair.
        let tokens: f64 = sides.iter().map(|[c, _]| c.length).sum();
        let token_slope = if tokens > 0.0 { -sft_weight * n / tokens } else { 0.0 };
        let mut out = Outcome { terms: n, ..Outcome::default() };
        let (mut right, mut margin, mut rewards) = (0.0, 0.0, [0.0; 2]);
        for ((chosen, rejected, _), ([c, r], (l, dc, dr))) in pairs.iter().zip(sides.iter().zip(&slopes)) {
            out.loss += l + token_slope * chosen.sums().0;
            let mut gradient = self.spread(chosen, rejected, *dc);
            gradient.iter_mut().zip(chosen.learned).filter(|(_, l)| **l).for_each(|(g, _)| *g += token_slope as f32);
            out.gradients.push(gradient);
            out.gradients.push(self.spread(rejected, chosen, *dr));
            right += f64::from(c.h() > r.h());
            margin += self.beta * (c.h() - r.h());
            rewards = [rewards[0] + self.beta * c.h(), rewards[1] + self.beta * r.h()];
        }
        out.metrics = vec![
            ("rewards/accuracies", right),
            ("rewards/margins", margin),
            ("rewards/chosen", rewards[0]),
            ("rewards/rejected", rewards[1]),
        ];
        out
    }

    /// The weight of the `i`-th learned token of an answer whose rival has `rival` of them.
    fn weight(&self, i: usize, rival: f64) -> f64 {
        self.ld_alpha.filter(|_| i as f64 >= rival).unwrap_or(1.0)
    }

    fn sides(&self, chosen: &Scored<'_>, rejected: &Scored<'_>) -> [Side; 2] {
        [(chosen, rejected), (rejected, chosen)].map(|(s, other)| {
            let length = s.length();
            if self.ld_alpha.is_none() {
                let (logp, reference) = s.sums();
                return Side { logp, reference, length };
            }
            let rival = other.length();
            let sum = |values: &[f32]| -> f64 {
                let learned = values.iter().zip(s.learned).filter(|(_, l)| **l);
                learned.enumerate().map(|(i, (v, _))| self.weight(i, rival) * f64::from(*v)).sum()
            };
            Side { logp: sum(s.logps), reference: sum(s.reference), length }
        })
    }

    fn spread(&self, s: &Scored<'_>, rival: &Scored<'_>, slope: f64) -> Vec<f32> {
        if self.ld_alpha.is_none() {
            return s.spread(slope);
        }
        let (rival, mut i) = (rival.length(), 0);
        let one = |learned: &bool| {
            if !learned {
                return 0.0;
            }
            i += 1;
            (slope * self.weight(i - 1, rival)) as f32
        };
        s.learned.iter().map(one).collect()
    }

    /// f(h) and its derivative.
    fn score(&self, h: f64) -> (f64, f64) {
        match self.divergence {
            Divergence::ReverseKl => (h, 1.0),
            Divergence::ForwardKl => (1.0 - (-h).exp(), (-h).exp()),
            Divergence::JsDivergence => (std::f64::consts::LN_2 + log_sigmoid(h), sigmoid(-h)),
            Divergence::AlphaDivergence(alpha) if (alpha - 1.0).abs() < 1e-6 => (h, 1.0),
            Divergence::AlphaDivergence(alpha) => {
                let a = alpha - 1.0;
                // TRL's bound, beyond which e^x leaves single precision.
                let t = (a * h).min(80.0);
                ((t.exp() - 1.0) / a, if a * h < 80.0 { t.exp() } else { 0.0 })
            }
        }
    }

    fn pair(&self, loss: DpoLoss, chosen: &Side, rejected: &Side) -> Slopes {
        let (b, e) = (self.beta, self.label_smoothing);
        let (hc, hr) = (chosen.h(), rejected.h());
        let ((sc, fc), (sr, fr)) = (self.score(hc), self.score(hr));
        // Of a function g of Δ = f(h_c) − f(h_r): its value and derivative.
        let of_delta = |(l, slope): (f64, f64)| (l, slope * fc, -slope * fr);
        let x = b * (sc - sr);
        match loss {
            DpoLoss::Sigmoid => of_delta((-log_sigmoid(x), -b * sigmoid(-x))),
            DpoLoss::Hinge => of_delta(if x < 1.0 { (1.0 - x, -b) } else { (0.0, 0.0) }),
            DpoLoss::Ipo => {
                let (lc, lr) = (chosen.length.max(1.0), rejected.length.max(1.0));
                let d = sc / lc - sr / lr - 0.5 / b;
                (d * d, 2.0 * d * fc / lc, -2.0 * d * fr / lr)
            }
            DpoLoss::ExoPair => {
                let (qw, ql) = (sigmoid(x), sigmoid(-x));
                let (w, l) = (log_sigmoid(x) - (-e).ln_1p(), log_sigmoid(-x) - e.ln());
                // d qw/dx = qw ql; d(qw log qw + ql log ql) leaves the difference of the logs.
                of_delta((qw * w + ql * l, b * qw * ql * (w - l)))
            }
            DpoLoss::NcaPair => {
                let (c, r) = (b * hc, b * hr);
                let l = -log_sigmoid(c) - 0.5 * log_sigmoid(-c) - 0.5 * log_sigmoid(-r);
                (l, b * (-sigmoid(-c) + 0.5 * sigmoid(c)), b * 0.5 * sigmoid(r))
            }
            DpoLoss::Robust => {
                let scale = 1.0 / (1.0 - 2.0 * e);
                let l = (-(1.0 - e) * log_sigmoid(x) + e * log_sigmoid(-x)) * scale;
                of_delta((l, b * scale * (-(1.0 - e) * sigmoid(-x) - e * sigmoid(x))))
            }
            DpoLoss::BcoPair => {
                let (c, r) = (b * hc, b * hr);
                (-log_sigmoid(c) - log_sigmoid(-r), -b * sigmoid(-c), b * sigmoid(r))
            }
            DpoLoss::SppoHard => {
                let (c, r) = (hc - 0.5 / b, hr + 0.5 / b);
                (c * c + r * r, 2.0 * c, 2.0 * r)
            }
            DpoLoss::ApoZero => {
                let (c, r) = (sigmoid(b * hc), sigmoid(b * hr));
                (1.0 - c + r, -b * c * (1.0 - c), b * r * (1.0 - r))
            }
            DpoLoss::ApoDown => {
                let (c, d) = (sigmoid(b * hc), sigmoid(b * (hc - hr)));
                let (dc, dd) = (b * c * (1.0 - c), b * d * (1.0 - d));
                (c + 1.0 - d, dc - dd, dd)
            }
            DpoLoss::Discopop => {
                let m = sigmoid(x / self.discopop_tau);
                let (logistic, exponential) = (-log_sigmoid(x), (-x).exp());
                let dm = m * (1.0 - m) / self.discopop_tau;
                let slope = -sigmoid(-x) * (1.0 - m) - exponential * m + dm * (exponential - logistic);
                of_delta((logistic * (1.0 - m) + exponential * m, b * slope))
            }
            DpoLoss::SigmoidNorm => {
                let (lc, lr) = (chosen.length.max(1.0), rejected.length.max(1.0));
                let x = b * (sc / lc - sr / lr);
                let slope = -b * sigmoid(-x);
                (-log_sigmoid(x), slope * fc / lc, -slope * fr / lr)
            }
            // Of the whole batch, not of a pair: see `loss`.
            DpoLoss::Aot | DpoLoss::AotUnpaired | DpoLoss::Sft => (0.0, 0.0, 0.0),
        }
    }

    fn smoothed(&self, delta: f64) -> (f64, f64) {
        let (x, e) = (self.beta * delta, self.label_smoothing);
        let l = -log_sigmoid(x) * (1.0 - e) - log_sigmoid(-x) * e;
        (l, self.beta * (-sigmoid(-x) * (1.0 - e) + sigmoid(x) * e))
    }

    /// The k-th smallest difference of the model against the k-th smallest of the reference.
    fn aot(&self, sides: &[[Side; 2]]) -> Vec<Slopes> {
        let model = sorted(sides.iter().map(|[c, r]| c.logp - r.logp));
        let reference = sorted(sides.iter().map(|[c, r]| c.reference - r.reference));
        let mut out = vec![(0.0, 0.0, 0.0); sides.len()];
        for ((i, m), (_, r)) in model.into_iter().zip(reference) {
            let (l, slope) = self.smoothed(m - r);
            out[i] = (l, slope, -slope);
        }
        out
    }

    /// The k-th smallest h of the better answers against the k-th smallest of the worse ones.
    fn aot_unpaired(&self, sides: &[[Side; 2]]) -> Vec<Slopes> {
        let chosen = sorted(sides.iter().map(|[c, _]| c.h()));
        let rejected = sorted(sides.iter().map(|[_, r]| r.h()));
        let mut out = vec![(0.0, 0.0, 0.0); sides.len()];
        for ((i, c), (j, r)) in chosen.into_iter().zip(rejected) {
            let (l, slope) = self.smoothed(c - r);
            out[i].0 += l;
            out[i].1 += slope;
            out[j].2 -= slope;
        }
        out
    }
}

/// How likely an answer is by the model's own measure: e to the mean of `log p − log Σ p²` over its tokens.
fn likelihood(s: &Scored<'_>) -> f64 {
    let learned = s.logps.iter().zip(s.collisions).zip(s.learned).filter(|(_, l)| **l);
    let sum: f64 = learned.map(|((p, c), _)| f64::from(*p) - f64::from(*c)).sum();
    (sum / s.length().max(1.0)).exp()
}

/// Values in ascending order, each with its place.
fn sorted(values: impl Iterator<Item = f64>) -> Vec<(usize, f64)> {
    let mut list: Vec<(usize, f64)> = values.enumerate().collect();
    list.sort_by(|a, b| a.1.total_cmp(&b.1));
    list
}
