//! Adafactor as Transformers runs it under a trainer: given learning rate, no relative step, no scaling by the
//! parameter, no momentum; decay t^−0.8, update clipped at a root mean square of 1.

use super::{Parameter, Rate, Slot, State};

/// Added to squares.
const EPS: f32 = 1e-30;
/// Greatest root mean square of an update.
const CLIP: f64 = 1.0;
/// Power of the step number.
const DECAY: f64 = -0.8;

pub(super) fn slot(shape: &[usize]) -> Slot {
    match *shape {
        [.., rows, columns] => {
            let matrices: usize = shape[..shape.len() - 2].iter().product();
            vec![
                ("exp_avg_sq_row", State::F32(vec![0.0; matrices * rows])),
                ("exp_avg_sq_col", State::F32(vec![0.0; matrices * columns])),
            ]
        }
        _ => vec![("exp_avg_sq", State::F32(vec![0.0; shape.iter().product()]))],
    }
}

fn mean(values: impl Iterator<Item = f32>, n: usize) -> f32 {
    (values.map(f64::from).sum::<f64>() / n.max(1) as f64) as f32
}

pub(super) fn step(p: &mut Parameter<'_>, slot: &mut Slot, rate: Rate) {
    let beta2 = (1.0 - (rate.t as f64).powf(DECAY)) as f32;
    let mut update: Vec<f32> = Vec::with_capacity(p.grad.len());
    match slot.as_mut_slice() {
        [(_, State::F32(row)), (_, State::F32(col))] => {
            let [.., rows, columns] = *p.shape else { return };
            let each = p.grad.chunks(rows * columns).zip(row.chunks_mut(rows)).zip(col.chunks_mut(columns));
            for ((g, row), col) in each {
                for (r, g) in row.iter_mut().zip(g.chunks(columns)) {
                    let square = mean(g.iter().map(|g| g * g + EPS), columns);
                    *r = *r * beta2 + square * (1.0 - beta2);
                }
                for (j, c) in col.iter_mut().enumerate() {
                    let square = mean(g.chunks(columns).map(|g| g[j] * g[j] + EPS), rows);
                    *c = *c * beta2 + square * (1.0 - beta2);
                }
                let all = mean(row.iter().copied(), rows);
                for (r, g) in row.iter().zip(g.chunks(columns)) {
                    let r = 1.0 / (r / all).sqrt();
                    update.extend(col.iter().zip(g).map(|(c, g)| g * r * (1.0 / c.sqrt())));
                }
            }
        }
        [(_, State::F32(square))] => {
            for (s, g) in square.iter_mut().zip(&*p.grad) {
                *s = *s * beta2 + (g * g + EPS) * (1.0 - beta2);
                update.push(g * (1.0 / s.sqrt()));
            }
        }
        _ => return,
    }
    let squares: f64 = update.iter().map(|u| f64::from(*u).powi(2)).sum();
    let rms = (squares / update.len().max(1) as f64).sqrt();
    let size = (rate.rate / (rms / CLIP).max(1.0)) as f32;
    let keep = rate.keep();
    for (p, u) in p.data.iter_mut().zip(update) {
        *p = *p * keep - size * u;
    }
}
