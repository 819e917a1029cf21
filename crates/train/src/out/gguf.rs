//! An adapter that llama.cpp loads.

use crate::Error;
use allod_formats::{Metadata, TensorInfo, WeightSource, gguf};
use allod_plan::Lora;
use allod_tensor::DType;
use std::path::{Path, PathBuf};

/// Writes `adapter` for `base`. The reader computes the factor as alpha / rank, so alpha is that times the rank, whatever
/// the run called alpha (rsLoRA divides by the root of the rank). `template`: the chat template that it was trained with.
///
/// # Errors
/// [`Error::Setting`] for DoRA, whose magnitudes the format cannot hold; [`Error::Formats`].
pub fn write_gguf(
    path: &Path,
    base: &dyn WeightSource,
    adapter: &Lora,
    template: Option<&str>,
) -> Result<Vec<PathBuf>, Error> {
    if adapter.deltas.values().any(|d| d.magnitude.is_some()) {
        let hint = "use the PEFT folder, or merge: `allod convert BASE --adapter FOLDER -o merged.gguf`";
        return Err(Error::setting("train.dora", "a GGUF adapter cannot hold DoRA's magnitudes", hint));
    }
    let mut meta = Metadata::default();
    meta.set("general.type", "adapter");
    meta.set("general.architecture", base.metadata().str("general.architecture").unwrap_or_default());
    meta.set("adapter.type", "lora");
    if let Some(name) = base.metadata().str("general.name") {
        meta.set("general.base_model.count", 1u32);
        meta.set("general.base_model.0.name", name);
    }
    if let Some(template) = template {
        meta.set("tokenizer.chat_template", template);
    }
    let delta = adapter.deltas.values().next();
    meta.set("adapter.lora.alpha", delta.map_or(0.0, |d| d.scale * d.rank as f32));
    let mut tensors: Vec<(String, TensorInfo, &[f32])> = Vec::new();
    for (name, d) in &adapter.deltas {
        let experts = base.info(name).and_then(|i| (i.shape.len() == 3).then(|| i.shape[0]));
        let (n, rank) = (experts.unwrap_or(1).max(1), d.rank.max(1));
        let info = |rows: usize, columns: usize| {
            let shape = experts.into_iter().chain([rows, columns]).collect();
            TensorInfo { dtype: DType::F32, shape }
        };
        tensors.push((format!("{name}.lora_a"), info(rank, d.a.len() / rank / n), &d.a));
        tensors.push((format!("{name}.lora_b"), info(d.b.len() / rank / n, rank), &d.b));
    }
    let announced = tensors.iter().map(|(name, info, _)| (name.clone(), info.clone()));
    let mut writer = gguf::Writer::create(path, &meta, announced, &gguf::Layout::default())?;
    for (name, _, values) in &tensors {
        writer.append(name, bytemuck::cast_slice(values))?;
    }
    Ok(writer.finish()?)
}
