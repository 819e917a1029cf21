//! The norm of all gradients together, and bounding it.

use super::Parameter;

/// √Σ g² over every element of every tensor, summed in `f64` in order.
pub fn global_norm(parameters: &[Parameter<'_>]) -> f64 {
    let square = |p: &Parameter<'_>| p.grad.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>();
    parameters.iter().map(square).sum::<f64>().sqrt()
}

/// Multiplies gradients so that their norm is at most `most`, as torch does: by `most / (norm + 1e-6)` if that is below
/// one. Gives the factor.
pub fn scale(parameters: &mut [Parameter<'_>], norm: f64, most: f64) -> f64 {
    let factor = (most / (norm + 1e-6)).min(1.0);
    if factor < 1.0 {
        let factor = factor as f32;
        parameters.iter_mut().for_each(|p| p.grad.iter_mut().for_each(|g| *g *= factor));
    }
    factor
}
