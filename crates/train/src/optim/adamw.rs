//! AdamW as torch computes it for one tensor: decay, means, then `p −= lr/(1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + eps)`.

use super::{Adam, CHUNK, Parameter, Rate, Slot, State, each};
use allod_kernels::pool::Pool;

pub(super) fn slot(shape: &[usize]) -> Slot {
    let n = shape.iter().product();
    vec![("exp_avg", State::F32(vec![0.0; n])), ("exp_avg_sq", State::F32(vec![0.0; n]))]
}

/// The numbers of a step that are the same for every element.
#[derive(Clone, Copy)]
pub(super) struct Constants {
    keep: f32,
    /// 1 − β₁, subtracted before it is rounded, as torch does: from a rounded β₂ it would be off by 5e-5 of itself.
    take1: f32,
    beta2: f32,
    take2: f32,
    size: f32,
    root: f32,
    eps: f32,
}

impl Constants {
    pub(super) fn new(adam: &Adam, rate: Rate) -> Constants {
        let correction = |beta: f64| 1.0 - beta.powf(rate.t as f64);
        Constants {
            keep: rate.keep(),
            take1: (1.0 - adam.beta1) as f32,
            beta2: adam.beta2 as f32,
            take2: (1.0 - adam.beta2) as f32,
            size: (rate.rate / correction(adam.beta1)) as f32,
            root: correction(adam.beta2).sqrt() as f32,
            eps: adam.eps as f32,
        }
    }

    /// One element.
    pub(super) fn update(&self, p: &mut f32, g: f32, m: &mut f32, v: &mut f32) {
        *p *= self.keep;
        *m += (g - *m) * self.take1;
        *v = *v * self.beta2 + g * g * self.take2;
        *p -= self.size * *m / (v.sqrt() / self.root + self.eps);
    }
}

pub(super) fn step(adam: &Adam, p: &mut Parameter<'_>, slot: &mut Slot, rate: Rate, pool: &Pool) {
    let c = Constants::new(adam, rate);
    let [(_, m), (_, v)] = slot.as_mut_slice() else { return };
    let parts = p.data.chunks_mut(CHUNK).zip(p.grad.chunks(CHUNK));
    let state = m.f32().chunks_mut(CHUNK).zip(v.f32().chunks_mut(CHUNK));
    each(pool, parts.zip(state).collect(), |((p, g), (m, v))| {
        for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            c.update(p, *g, m, v);
        }
    });
}
