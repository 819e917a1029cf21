//! Which weights are trained, from what the settings name.

use super::config::{Init, TrainConfig};
use crate::{Error, objective::Objective};
use allod_plan::{Adapter, AdapterInit, Head, LinearKind, Lora, Plan, TrainedTensor, Tune};
use std::path::Path;

/// What Transformers' modules are called here, where a plan's names do not say it.
const MODULES: &[(&str, &str)] = &[
    ("q_proj", "attn_q"),
    ("k_proj", "attn_k"),
    ("v_proj", "attn_v"),
    ("o_proj", "attn_output"),
    ("out_proj", "attn_output"),
    ("qkv_proj", "attn_qkv"),
    ("query_key_value", "attn_qkv"),
    ("gate_proj", "ffn_gate"),
    ("up_proj", "ffn_up"),
    ("down_proj", "ffn_down"),
    ("fc1", "ffn_up"),
    ("fc2", "ffn_down"),
    ("in_proj", "ssm_in"),
    ("x_proj", "ssm_x"),
    ("dt_proj", "ssm_dt"),
    ("lm_head", "output"),
    ("embed_tokens", "token_embd"),
];

/// A name as GGUF has it.
fn ours(name: &str) -> &str {
    MODULES.iter().find(|(theirs, _)| *theirs == name).map_or(name, |(_, ours)| ours)
}

/// Whether `pattern` names the weight: `attn_q`, `blk.0.attn_q`, `q_proj`, or the whole name.
fn names(pattern: &str, weight: &str) -> bool {
    let stem = weight.strip_suffix(".weight").unwrap_or(weight);
    let pattern = ours(pattern.strip_suffix(".weight").unwrap_or(pattern));
    stem == pattern || stem.ends_with(&format!(".{pattern}"))
}

/// What a plan is asked to train.
///
/// # Errors
/// [`Error::Setting`] for a target that matches nothing, with what there is.
pub fn tune(plan: &Plan, train: &TrainConfig, objective: &Objective, seed: u64) -> Result<Tune, Error> {
    let linears = plan.linears();
    let head = if matches!(objective, Objective::Reward(_)) { Head::Value } else { Head::LogProbs };
    let init = match train.init {
        Init::Kaiming => AdapterInit::Kaiming,
        Init::Gaussian => AdapterInit::Gaussian,
        Init::Pissa => AdapterInit::Pissa,
    };
    if train.full {
        let weights = plan.params().iter().map(|p| p.name.clone()).collect();
        return Ok(Tune { adapters: vec![], weights, head, seed });
    }
    let rank = train.rank as f64;
    let scale = if train.rslora { train.alpha / rank.sqrt() } else { train.alpha / rank };
    let adapter = |weight: &str| Adapter {
        weight: weight.to_owned(),
        rank: train.rank,
        scale: scale as f32,
        dropout: train.dropout as f32,
        dora: train.dora,
        init,
    };
    let mut adapters: Vec<Adapter> = Vec::new();
    for target in &train.targets {
        let wanted = |l: &&allod_plan::LinearInfo| match target.as_str() {
            "all-linear" => l.kind == LinearKind::Dense,
            "all-experts" => l.kind == LinearKind::Experts,
            name => names(name, &l.weight),
        };
        let found: Vec<&str> = linears.iter().filter(wanted).map(|l| l.weight.as_str()).collect();
        if found.is_empty() {
            let fit = linears.iter().filter(|l| l.kind != LinearKind::Head);
            return Err(nothing("train.targets", target, fit.map(|l| l.weight.as_str())));
        }
        for weight in found {
            if !adapters.iter().any(|a| a.weight == weight) {
                adapters.push(adapter(weight));
            }
        }
    }
    let mut weights: Vec<String> = Vec::new();
    for target in &train.whole {
        let found: Vec<&str> = plan.params().iter().map(|p| p.name.as_str()).filter(|n| names(target, n)).collect();
        if found.is_empty() {
            return Err(nothing("train.whole", target, plan.params().iter().map(|p| p.name.as_str())));
        }
        for weight in found {
            adapters.retain(|a| a.weight != weight);
            weights.push(weight.to_owned());
        }
    }
    Ok(Tune { adapters, weights, head, seed })
}

fn nothing<'n>(what: &str, target: &str, all: impl Iterator<Item = &'n str>) -> Error {
    let mut endings: Vec<&str> =
        all.map(|n| n.strip_suffix(".weight").unwrap_or(n)).map(|n| n.rsplit('.').next().unwrap_or(n)).collect();
    endings.sort_unstable();
    endings.dedup();
    let hint = format!("this model has all-linear, {}", endings.join(", "));
    Error::setting(what, format!("{target} matches no matrix of the model"), hint)
}

/// Puts an adapter that was made before in the place of initial values.
///
/// # Errors
/// [`Error::Run`] when it changes other weights, or has another rank, than the settings say.
pub fn begin_from(adapter: &Lora, tensors: &mut [TrainedTensor], scale: f64, path: &Path) -> Result<(), Error> {
    let hint = "train the base model that it was made for, with the targets, rank and kind that it has";
    let mut used = 0;
    for t in tensors {
        let Some((weight, part)) = t.name.rsplit_once('.').filter(|(_, part)| part.starts_with("lora_")) else {
            if let Some(whole) = adapter.whole.get(&t.name).filter(|w| w.len() == t.data.len()) {
                t.data.copy_from_slice(whole);
            }
            continue;
        };
        let Some(delta) = adapter.deltas.get(weight) else {
            return Err(Error::run(path, format!("the adapter does not change {weight}"), hint));
        };
        let ratio = delta.scale / scale as f32;
        let values: Vec<f32> = match part {
            "lora_a" => delta.a.to_vec(),
            // Another factor goes into B, so that the adapter says the same.
            "lora_b" if ratio != 1.0 => delta.b.iter().map(|b| b * ratio).collect(),
            "lora_b" => delta.b.to_vec(),
            _ => delta.magnitude.as_ref().map_or_else(|| t.data.clone(), |m| m.to_vec()),
        };
        if values.len() != t.data.len() {
            let message = format!("{}: {} elements in the adapter, {} here", t.name, values.len(), t.data.len());
            return Err(Error::run(path, message, hint));
        }
        t.data = values;
        used += usize::from(part == "lora_a");
    }
    if used < adapter.deltas.len() {
        let message = format!("the adapter changes {} weights, of which {used} are trained here", adapter.deltas.len());
        return Err(Error::run(path, message, hint));
    }
    Ok(())
}
