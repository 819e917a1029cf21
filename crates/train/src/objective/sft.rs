//! Cross-entropy.

use super::{Outcome, Sample};
use serde::{Deserialize, Serialize};

/// Constants of supervised fine-tuning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sft {
    /// Weighs each token by the probability it has (dynamic fine-tuning, Wu et al. 2025).
    pub dft: bool,
}

impl Sft {
    pub(super) fn loss(&self, samples: &[Sample<'_>]) -> Outcome {
        let mut out = Outcome::default();
        for sample in samples {
            let Sample::One(s) = sample else { continue };
            let mut gradient = vec![0.0; s.logps.len()];
            for ((&logp, &learned), g) in s.logps.iter().zip(s.learned).zip(&mut gradient) {
                if !learned {
                    continue;
                }
                let weight = if self.dft { f64::from(logp).exp() } else { 1.0 };
                out.loss -= weight * f64::from(logp);
                out.terms += 1.0;
                *g = -weight as f32;
            }
            out.gradients.push(gradient);
        }
        out
    }
}
