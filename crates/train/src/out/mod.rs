//! What was learned, as others read it: PEFT folders, GGUF adapters, whole models.

mod gguf;
mod peft;
mod whole;

pub use gguf::write_gguf;
pub use peft::write_peft;
pub use whole::Replaced;

use crate::{Error, run::config::TrainConfig};
use allod_plan::{Delta, Lora, Role, TrainedTensor};

/// The factor on `B A` that settings mean.
pub fn scale(train: &TrainConfig) -> f64 {
    let rank = train.rank as f64;
    train.alpha / if train.rslora { rank.sqrt() } else { rank }
}

/// The adapters among trained tensors. `start` are the same tensors before training where the base was changed to begin
/// with (PiSSA): the adapter of the base as it was is then the difference, of twice the rank.
///
/// # Errors
/// [`Error::Setting`] for adapters of a stack of experts, which no reader of these formats applies.
pub fn adapters(tensors: &[TrainedTensor], scale: f64, start: Option<&[TrainedTensor]>) -> Result<Lora, Error> {
    let mut lora = Lora::default();
    for a in tensors.iter().filter(|t| t.role == Role::LoraA) {
        let weight = a.name.strip_suffix(".lora_a").unwrap_or(&a.name);
        let find = |list: &[TrainedTensor], ending: &str| -> Option<TrainedTensor> {
            let name = format!("{weight}.{ending}");
            list.iter().find(|t| t.name == name).cloned()
        };
        let Some(b) = find(tensors, "lora_b") else { continue };
        let &[rank, _] = a.shape.as_slice() else {
            let hint = "merge what was learned instead (--merge)";
            return Err(Error::setting("train.targets", format!("{weight} is a stack of experts"), hint));
        };
        let magnitude = find(tensors, "lora_magnitude").map(|m| m.data.into());
        let (mut rank, mut left, mut right) = (rank, a.data.clone(), b.data.clone());
        if let Some(start) = start
            && let (Some(a0), Some(b0)) = (find(start, "lora_a"), find(start, "lora_b"))
        {
            left.extend(&a0.data);
            right = b.data.chunks(rank).zip(b0.data.chunks(rank)).flat_map(|(b, b0)| joined(b, b0)).collect();
            rank *= 2;
        }
        let delta = Delta { rank, a: left.into(), b: right.into(), scale: scale as f32, magnitude };
        lora.deltas.insert(weight.to_owned(), delta);
    }
    Ok(lora)
}

fn joined(b: &[f32], b0: &[f32]) -> Vec<f32> {
    b.iter().copied().chain(b0.iter().map(|v| -v)).collect()
}
