//! Gradient descent as torch does it, momentum without dampening.

use super::{Parameter, Rate, Sgd, Slot, State};

pub(super) fn slot(sgd: Sgd, shape: &[usize]) -> Slot {
    match sgd.momentum != 0.0 {
        true => vec![("momentum_buffer", State::F32(vec![0.0; shape.iter().product()]))],
        false => vec![],
    }
}

/// Decay goes through the gradient here, unlike in AdamW.
pub(super) fn step(sgd: Sgd, p: &mut Parameter<'_>, slot: &mut Slot, rate: Rate) {
    let (size, decay, momentum) = (rate.rate as f32, rate.weight_decay as f32, sgd.momentum as f32);
    match slot.as_mut_slice() {
        [(_, State::F32(buffer))] => {
            for ((p, g), b) in p.data.iter_mut().zip(&*p.grad).zip(buffer) {
                let g = g + decay * *p;
                // The buffer begins as zero, so its first value is the gradient, as in torch.
                *b = *b * momentum + g;
                *p -= size * if sgd.nesterov { g + momentum * *b } else { *b };
            }
        }
        _ => p.data.iter_mut().zip(&*p.grad).for_each(|(p, g)| *p -= size * (g + decay * *p)),
    }
}
