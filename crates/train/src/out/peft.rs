//! A folder that Python's PEFT loads.

use crate::{Error, run::checkpoint::write_whole, run::config::TrainConfig};
use allod_formats::{
    WeightSource,
    safetensors::{Dtype, Writer},
};
use allod_models::adapter::Module;
use allod_plan::Lora;
use indexmap::IndexMap;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

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
    let whole: Vec<(String, Vec<usize>, Vec<f32>)> = adapter
        .whole
        .iter()
        .map(|(name, values)| allod_models::adapter::whole(base, name, values))
        .collect::<Result<_, _>>()?;
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
    let is_tied = adapter.whole.contains_key("token_embd.weight") && base.info("output.weight").is_none();
    for (name, shape, values) in &whole {
        tensors.push((format!("base_model.model.{name}"), shape.clone(), values));
        if is_tied && name.ends_with("embed_tokens.weight") {
            // PEFT ties the two, and looks for both.
            tensors.push(("base_model.model.lm_head.weight".into(), shape.clone(), values));
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
    let saved: Vec<&str> = whole.iter().map(|(name, ..)| name.strip_suffix(".weight").unwrap_or(name)).collect();
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
        "ensure_weight_tying": is_tied,
        "modules_to_save": (!saved.is_empty()).then_some(saved),
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "revision": null,
        "target_modules": targets(base, &modules)?,
        "task_type": if is_value_head { "SEQ_CLS" } else { "CAUSAL_LM" },
        "use_dora": modules.values().any(|m| m.magnitude.is_some()),
        "use_rslora": train.rslora,
    });
    let path = folder.join("adapter_config.json");
    write_whole(&path, format!("{config:#}\n").as_bytes())?;
    files.push(path);
    Ok(files)
}

/// What names exactly the modules that were trained: their endings where all modules with that ending were, else their
/// full names, for PEFT would make adapters for the others too.
fn targets(base: &dyn WeightSource, modules: &BTreeMap<String, Module>) -> Result<Vec<String>, Error> {
    let ending = |m: &str| m.rsplit('.').next().unwrap_or(m).to_owned();
    let all = allod_models::adapter::module_names(base)?;
    let partly: BTreeSet<String> = all.iter().filter(|m| !modules.contains_key(*m)).map(|m| ending(m)).collect();
    let name = |m: &String| if partly.contains(&ending(m)) { m.clone() } else { ending(m) };
    Ok(modules.keys().map(name).collect::<BTreeSet<_>>().into_iter().collect())
}

/// Whole numbers as such: 32, not 32.0.
fn number(v: f64) -> serde_json::Value {
    let rounded = v.round();
    if (v - rounded).abs() < 1e-9 { json!(rounded as i64) } else { json!(v) }
}
