//! A folder that Python's PEFT loads.

use crate::{Error, run::checkpoint::write_whole, run::config::TrainConfig};
use allod_formats::{
    WeightSource,
    safetensors::{Dtype, Writer},
};
use allod_plan::Lora;
use indexmap::IndexMap;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Writes `adapter_model.safetensors` and `adapter_config.json`; names are sorted, so that equal runs give equal bytes.
///
/// # Errors
/// [`Error::Model`] for a base that Transformers cannot describe, [`Error::Formats`], [`Error::Io`].
pub fn write_peft(
    folder: &Path,
    base: &dyn WeightSource,
    base_name: &str,
    adapter: &Lora,
    train: &TrainConfig,
    is_value_head: bool,
) -> Result<Vec<PathBuf>, Error> {
    let modules = allod_models::adapter::modules(base, adapter)?;
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let mut tensors: Vec<(String, Vec<usize>, &[f32])> = Vec::new();
    for (name, m) in &modules {
        let key = |ending: &str| format!("base_model.model.{name}.{ending}");
        tensors.push((key("lora_A.weight"), vec![m.rank, m.a.len() / m.rank.max(1)], &m.a));
        tensors.push((key("lora_B.weight"), vec![m.b.len() / m.rank.max(1), m.rank], &m.b));
        if let Some(magnitude) = &m.magnitude {
            tensors.push((key("lora_magnitude_vector"), vec![magnitude.len()], magnitude));
        }
    }
    let path = folder.join("adapter_model.safetensors");
    let announced = tensors.iter().map(|(name, shape, _)| (name.clone(), Dtype::F32, shape.clone()));
    let format = IndexMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut writer = Writer::create(&path, announced, &format, None)?;
    for (name, _, values) in &tensors {
        writer.append(name, bytemuck::cast_slice(values))?;
    }
    let mut files = writer.finish()?;
    let mut targets: Vec<&str> = modules.keys().map(|m| m.rsplit('.').next().unwrap_or(m)).collect();
    targets.sort_unstable();
    targets.dedup();
    // An ending that names more modules than were trained would give PEFT adapters that nobody made.
    let rank = modules.values().next().map_or(train.rank, |m| m.rank);
    let alpha = super::scale(train) * if train.rslora { (rank as f64).sqrt() } else { rank as f64 };
    let config = json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": number(alpha),
        "lora_dropout": train.dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "revision": null,
        "target_modules": targets,
        "task_type": if is_value_head { "SEQ_CLS" } else { "CAUSAL_LM" },
        "use_dora": modules.values().any(|m| m.magnitude.is_some()),
        "use_rslora": train.rslora,
    });
    let path = folder.join("adapter_config.json");
    write_whole(&path, format!("{config:#}\n").as_bytes())?;
    files.push(path);
    Ok(files)
}

/// Whole numbers as such: 32, not 32.0.
fn number(v: f64) -> serde_json::Value {
    let rounded = v.round();
    if (v - rounded).abs() < 1e-9 { json!(rounded as i64) } else { json!(v) }
}
