//! A folder that Python's PEFT loads.

use crate::{Error, run::checkpoint::write_whole, run::config::TrainConfig};
use allod_formats::{
    WeightSource,
    safetensors::{Dtype, Writer},
};
use allod_models::adapter::{Module, module_names, modules, whole};
use allod_plan::Lora;
use indexmap::IndexMap;
use serde_json::{Map, json};
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
    let modules = modules(base, adapter)?;
    let whole: Vec<(String, Vec<usize>, Vec<f32>)> =
        adapter.whole.iter().map(|(name, values)| whole(base, name, values)).collect::<Result<_, _>>()?;
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let mut tensors: Vec<(String, Vec<usize>, &[f32])> = Vec::new();
    for m in modules.values() {
        let key = |ending: &str| format!("base_model.model.{}.{ending}", m.path);
        let all = m.rank * m.experts.unwrap_or(1);
        tensors.push((key("lora_A.weight"), vec![all, m.a.len() / all.max(1)], &m.a));
        tensors.push((key("lora_B.weight"), vec![m.b.len() / all.max(1), all], &m.b));
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
    let rank = modules.values().map(|m| m.rank).min().unwrap_or(train.rank);
    let alpha = |rank: usize| {
        let root = if train.rslora { (rank as f64).sqrt() } else { rank as f64 };
        number(super::scale(train) * root)
    };
    let targets = targets(base, &modules)?;
    let chosen = |wanted: fn(&Module) -> bool| -> BTreeSet<&String> {
        targets.iter().filter(|(_, m)| wanted(m)).map(|(target, _)| target).collect()
    };
    let parameters = chosen(|m| m.is_parameter);
    let others = || targets.iter().filter(|(_, m)| m.rank != rank);
    let config = json!({
        "alpha_pattern": others().map(|(target, m)| (target.clone(), alpha(m.rank))).collect::<Map<_, _>>(),
        "auto_mapping": null,
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": alpha(rank),
        // PEFT cannot train parameters with dropout, and does not load what says so.
        "lora_dropout": if parameters.is_empty() { train.dropout } else { 0.0 },
        "ensure_weight_tying": is_tied,
        "modules_to_save": (!saved.is_empty()).then_some(saved),
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": others().map(|(target, m)| (target.clone(), m.rank.into())).collect::<Map<_, _>>(),
        "revision": null,
        "target_modules": chosen(|m| !m.is_parameter),
        "target_parameters": (!parameters.is_empty()).then_some(&parameters),
        "task_type": if is_value_head { "SEQ_CLS" } else { "CAUSAL_LM" },
        "use_dora": modules.values().any(|m| m.magnitude.is_some()),
        "use_rslora": train.rslora,
    });
    let path = folder.join("adapter_config.json");
    write_whole(&path, format!("{config:#}\n").as_bytes())?;
    files.push(path);
    Ok(files)
}

/// What names exactly the modules and parameters that were trained: of each name the shortest end that no other has, for
/// PEFT would make adapters for the others too, and its own names may begin differently.
fn targets<'m>(
    base: &dyn WeightSource,
    modules: &'m BTreeMap<String, Module>,
) -> Result<Vec<(String, &'m Module)>, Error> {
    let others: Vec<String> = module_names(base)?.into_iter().filter(|m| !modules.contains_key(m)).collect();
    let is_own =
        |end: &&str| !others.iter().any(|o| o.strip_suffix(end).is_some_and(|s| s.is_empty() || s.ends_with('.')));
    let end = |m: &'m str| m.rmatch_indices('.').map(|(at, _)| &m[at + 1..]).find(is_own).unwrap_or(m);
    let parameter = |m: &Module| if m.is_parameter && m.experts.is_none() { ".weight" } else { "" };
    Ok(modules.iter().map(|(name, m)| (end(name).to_owned() + parameter(m), m)).collect())
}

/// Whole numbers as such: 32, not 32.0.
fn number(v: f64) -> serde_json::Value {
    let rounded = v.round();
    if (v - rounded).abs() < 1e-9 { json!(rounded as i64) } else { json!(v) }
}
