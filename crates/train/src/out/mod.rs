//! What was learned, as others read it: PEFT folders, GGUF adapters, whole models.

mod gguf;
mod peft;
mod whole;

pub use gguf::write_gguf;
pub use peft::write_peft;
pub use whole::Replaced;

use crate::run::config::TrainConfig;
use allod_plan::{Delta, Lora, Role, TrainedTensor};

/// The factor on `B A` that settings mean.
pub fn scale(train: &TrainConfig) -> f64 {
    let rank = train.rank as f64;
    train.alpha / if train.rslora { rank.sqrt() } else { rank }
}

/// The adapters among trained tensors, and the weights beside them that were trained whole. `start` are the same tensors before training where the base was changed to begin
/// with (PiSSA): the adapter of the base as it was is then the difference, of twice the rank.
pub fn adapters(tensors: &[TrainedTensor], scale: f64, start: Option<&[TrainedTensor]>) -> Lora {
    let mut lora = Lora::default();
    for a in tensors.iter().filter(|t| t.role == Role::LoraA) {
        let weight = a.name.strip_suffix(".lora_a").unwrap_or(&a.name);
        let find = |list: &[TrainedTensor], ending: &str| -> Option<TrainedTensor> {
            let name = format!("{weight}.{ending}");
            list.iter().find(|t| t.name == name).cloned()
        };
        let Some(b) = find(tensors, "lora_b") else { continue };
        let &[.., rank, width] = a.shape.as_slice() else { continue };
        let magnitude = find(tensors, "lora_magnitude").map(|m| m.data.into());
        let (mut rank, mut left, mut right) = (rank, a.data.clone(), b.data.clone());
        if let Some(start) = start
            && let (Some(a0), Some(b0)) = (find(start, "lora_a"), find(start, "lora_b"))
        {
            let each = rank * width;
            left = a.data.chunks(each).zip(a0.data.chunks(each)).flat_map(|(a, a0)| [a, a0].concat()).collect();
            right = b.data.chunks(rank).zip(b0.data.chunks(rank)).flat_map(|(b, b0)| joined(b, b0)).collect();
            rank *= 2;
        }
        let delta = Delta { rank, a: left.into(), b: right.into(), scale: scale as f32, magnitude };
        lora.deltas.insert(weight.to_owned(), delta);
    }
    let is_whole = |t: &&TrainedTensor| matches!(t.role, Role::Matrix | Role::Embedding | Role::Norm | Role::Vector);
    lora.whole = tensors.iter().filter(is_whole).map(|t| (t.name.clone(), t.data.as_slice().into())).collect();
    lora
}

fn joined(b: &[f32], b0: &[f32]) -> Vec<f32> {
    b.iter().copied().chain(b0.iter().map(|v| -v)).collect()
}
