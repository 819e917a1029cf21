//! Rotary frequencies and the ways to stretch them over longer contexts. Formulas as in the papers named at each;
//! conventions as in Transformers' `modeling_rope_utils`.

use crate::{Error, config::Keys};

/// How rotary frequencies are stretched.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// All positions divided by the factor (Chen et al. 2023).
    Linear {
        /// Divisor.
        factor: f32,
    },
    /// The base grows with the context beyond the trained length (NTK-aware, dynamic). Computed for the planned context.
    Dynamic {
        /// Growth.
        factor: f32,
        /// Trained positions.
        original: usize,
    },
    /// Low frequencies interpolated, high ones kept (Peng et al. 2023).
    Yarn(Yarn),
    /// A divisor per frequency, chosen by whether the planned context exceeds the trained one (Ding et al. 2024).
    /// The divisors are the tensors `rope_factors_short` and `rope_factors_long`.
    LongRope {
        /// Trained positions.
        original: usize,
        /// Factor on sine and cosine.
        magnitude: f32,
    },
}

/// Parameters of YaRN.
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    /// Extension.
    pub factor: f32,
    /// Trained positions.
    pub original: usize,
    /// Rotations above which a frequency is kept.
    pub beta_fast: f32,
    /// Rotations below which a frequency is interpolated.
    pub beta_slow: f32,
    /// Factor on sine and cosine.
    pub magnitude: f32,
    /// Round the range of mixed frequencies outward to whole indices.
    pub truncate: bool,
}

impl Scaling {
    pub(crate) fn read(keys: &Keys<'_>) -> Result<Scaling, Error> {
        let kind = keys.meta.str(&format!("{}.rope.scaling.type", keys.arch)).unwrap_or("none");
        let factor = keys.float("rope.scaling.factor")?.or(keys.float("rope.scale_linear")?).unwrap_or(1.0);
        if factor <= 0.0 {
            return Err(keys.bad("rope.scaling.factor", "a number above 0".into(), factor));
        }
        let original = match keys.uint("rope.scaling.original_context_length")? {
            Some(n) => n,
            None => keys.uint("context_length")?.unwrap_or(0),
        };
        let attn = keys.float("rope.scaling.attn_factor")?;
        match kind {
            "none" if factor == 1.0 => Ok(Scaling::None),
            "none" | "linear" => Ok(Scaling::Linear { factor }),
            "dynamic" => Ok(Scaling::Dynamic { factor, original }),
            "yarn" => {
                // DeepSeek's multiplier moves the magnitude into the scores.
                let moved = keys.float("rope.scaling.yarn_log_multiplier")?.is_some_and(|m| m != 0.0);
                let logarithmic = if moved { 1.0 } else { 1.0 + 0.1 * libm::logf(factor.max(1.0)) };
                let truncate = keys.meta.bool(&format!("{}.rope.scaling.yarn_truncate", keys.arch));
                Ok(Scaling::Yarn(Yarn {
                    factor,
                    original,
                    beta_fast: keys.float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                    beta_slow: keys.float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                    magnitude: logarithmic * attn.unwrap_or(1.0),
                    truncate: truncate.unwrap_or(true),
                }))
            }
            "longrope" => Ok(Scaling::LongRope { original, magnitude: attn.unwrap_or(1.0) }),
            other => Err(keys.bad(
                "rope.scaling.type",
                "none, linear, dynamic, yarn or longrope".into(),
                format!("{other:?}"),
            )),
        }
    }
}

/// Angle per position for each pair of `dims` rotated elements, and the factor on sine and cosine.
/// `factors` divides each frequency (Llama 3's `rope_freqs`, LongRoPE's tables).
pub(crate) fn frequencies(
    dims: usize,
    base: f32,
    scaling: &Scaling,
    context: usize,
    factors: Option<&[f32]>,
) -> (Vec<f32>, f32) {
    let base = match *scaling {
        Scaling::Dynamic { factor, original } if context > original && dims > 2 => {
            let stretch = f64::from(factor) * context as f64 / original.max(1) as f64 - (f64::from(factor) - 1.0);
            f64::from(base) * libm::pow(stretch, dims as f64 / (dims as f64 - 2.0))
        }
        _ => f64::from(base),
    };
    let plain = |i: usize| libm::pow(base, -2.0 * i as f64 / dims as f64);
    let kept = |y: &Yarn, i: usize| 1.0 - ramp(y, dims, base, i);
    let frequency = |i: usize| match scaling {
        Scaling::None | Scaling::Dynamic { .. } | Scaling::LongRope { .. } => plain(i),
        Scaling::Linear { factor } => plain(i) / f64::from(*factor),
        Scaling::Yarn(y) => plain(i) * (kept(y, i) + (1.0 - kept(y, i)) / f64::from(y.factor)),
    };
    let list = (0..dims / 2).map(|i| {
        let divisor = factors.and_then(|f| f.get(i)).map_or(1.0, |&f| f64::from(f));
        (frequency(i) / divisor) as f32
    });
    let magnitude = match scaling {
        Scaling::Yarn(y) => y.magnitude,
        Scaling::LongRope { magnitude, .. } => *magnitude,
        _ => 1.0,
    };
    (list.collect(), magnitude)
}

/// YaRN's share of interpolation at frequency `i`: 0 for fast rotations, 1 for slow ones.
fn ramp(y: &Yarn, dims: usize, base: f64, i: usize) -> f64 {
    let dim_of = |rotations: f32| {
        let turns = y.original as f64 / (f64::from(rotations) * 2.0 * std::f64::consts::PI);
        dims as f64 * libm::log(turns) / (2.0 * libm::log(base))
    };
    let (mut low, mut high) = (dim_of(y.beta_fast), dim_of(y.beta_slow));
    if y.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, mut high) = (low.max(0.0), high.min(dims as f64 - 1.0));
    if low == high {
        high += 0.001;
    }
    ((i as f64 - low) / (high - low)).clamp(0.0, 1.0)
}

/// Llama 3's divisors: wavelengths beyond the trained context are stretched by `factor`, those well within it kept,
/// with a smooth passage between.
pub(crate) fn llama3_factors(dims: usize, base: f64, factor: f64, low: f64, high: f64, original: f64) -> Vec<f32> {
    let divisor = |i: usize| {
        let wavelength = 2.0 * std::f64::consts::PI * libm::pow(base, 2.0 * i as f64 / dims as f64);
        if wavelength < original / high {
            1.0
        } else if wavelength > original / low {
            factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    (0..dims / 2).map(|i| divisor(i) as f32).collect()
}
