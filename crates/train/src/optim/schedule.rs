//! How the learning rate goes, as Transformers' schedulers define it: step numbers begin with 0, so that with a warm-up
//! the first update has rate 0.

use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// A warm-up and a shape.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// What comes after the warm-up.
    pub shape: Shape,
    /// Steps in which the rate rises from 0.
    pub warmup: usize,
    /// Steps of the whole run.
    pub steps: usize,
}

/// The course after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Shape {
    /// Straight down to 0.
    #[default]
    Linear,
    /// Half a cosine down to 0.
    Cosine,
    /// Half a cosine down to a share of the rate.
    CosineWithMinLr {
        /// The share.
        min_ratio: f64,
    },
    /// Cosines that begin anew.
    CosineWithRestarts {
        /// How many.
        cycles: usize,
    },
    /// Level.
    Constant,
    /// Down by a power to a share of the rate.
    Polynomial {
        /// The power.
        power: f64,
        /// The share at the end.
        end_ratio: f64,
    },
    /// √(t₀ / t), t₀ the warm-up (or 10,000 without one).
    InverseSqrt,
    /// Warm-up, level, decay (Hu et al. 2024).
    Wsd {
        /// The share of the run that the decay takes.
        decay: f64,
        /// The share of the rate at the end.
        #[serde(default)]
        min_ratio: f64,
        /// The curve of the decay.
        #[serde(default)]
        curve: Decay,
    },
}

/// The curve of a decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Half a cosine.
    #[default]
    Cosine,
    /// Straight.
    Linear,
    /// 1 − √x
    OneMinusSqrt,
}

impl Schedule {
    /// What the learning rate is multiplied by in step `t`, from 0.
    pub fn factor(&self, t: usize) -> f64 {
        let (w, n) = (self.warmup, self.steps);
        if t < w {
            // This one begins where it ends.
            let least = if let Shape::Wsd { min_ratio, .. } = self.shape { min_ratio } else { 0.0 };
            return t as f64 / w.max(1) as f64 * (1.0 - least) + least;
        }
        let progress = (t - w) as f64 / n.saturating_sub(w).max(1) as f64;
        let cosine = |p: f64| 0.5 * (1.0 + (PI * p).cos());
        match self.shape {
            Shape::Linear => ((n as f64 - t as f64) / n.saturating_sub(w).max(1) as f64).max(0.0),
            Shape::Cosine => cosine(progress).max(0.0),
            Shape::CosineWithMinLr { min_ratio } => (cosine(progress) * (1.0 - min_ratio) + min_ratio).max(0.0),
            Shape::CosineWithRestarts { .. } if progress >= 1.0 => 0.0,
            Shape::CosineWithRestarts { cycles } => cosine((cycles as f64 * progress) % 1.0).max(0.0),
            Shape::Constant => 1.0,
            Shape::Polynomial { end_ratio, .. } if t > n => end_ratio,
            Shape::Polynomial { power, end_ratio } => (1.0 - end_ratio) * (1.0 - progress).powf(power) + end_ratio,
            Shape::InverseSqrt => {
                let scale = if w > 0 { w } else { 10_000 };
                1.0 / (((t - w) + scale) as f64 / scale as f64).sqrt()
            }
            Shape::Wsd { decay, min_ratio, curve } => {
                let decay = ((n as f64 * decay).round() as usize).min(n - w.min(n));
                let level = n - decay;
                if t < level {
                    return 1.0;
                }
                if t >= n {
                    return min_ratio;
                }
                let p = (t - level) as f64 / decay.max(1) as f64;
                let factor = match curve {
                    Decay::Cosine => cosine(p),
                    Decay::Linear => 1.0 - p,
                    Decay::OneMinusSqrt => 1.0 - p.sqrt(),
                };
                factor * (1.0 - min_ratio) + min_ratio
            }
        }
    }
}
