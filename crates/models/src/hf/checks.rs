//! What a configuration says, held against what its fields must be and against the tensors beside it.

use super::{Hf, Piece};
use crate::{Arch, Error};
use allod_formats::Safetensors;
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// Numbers of `rope_parameters`; all are above 0.
const ROPE: [&str; 9] = [
    "rope_theta",
    "factor",
    "partial_rotary_factor",
    "original_max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
    "beta_fast",
    "beta_slow",
    "attention_factor",
];

/// Fields that say how many there are of what a model need not have, and what is added to variances.
const ZERO: [&str; 18] = [
    "attn_layer_offset",
    "attn_scale",
    "clip_qkv",
    "expert_layer_offset",
    "first_k_dense_replace",
    "hidden_size_per_layer_input",
    "max_window_layers",
    "n_group",
    "n_shared_experts",
    "num_dense_layers",
    "num_experts",
    "num_experts_per_tok",
    "num_kv_shared_layers",
    "num_local_experts",
    "num_nextn_predict_layers",
    "num_shared_experts",
    "time_step_min",
    "topk_group",
];

fn may_be_zero(name: &str) -> bool {
    ZERO.contains(&name) || is_epsilon(name) || name == "sliding_window"
}

fn is_epsilon(name: &str) -> bool {
    name.ends_with("_eps") || name.ends_with("_epsilon")
}

/// Rejects fields of another kind than those of the class, and numbers below 0: none of them has a meaning there.
pub(super) fn kinds(h: &mut Hf) {
    let fields: Vec<(String, Json)> = h.defaults().map(|(name, v)| (name.clone(), v.clone())).collect();
    for (name, usual) in fields {
        // There is no model without what is added to variances; most other things one may lack.
        let may_be_null = !is_epsilon(&name);
        let Some(found) = h.config.get(&name).filter(|v| !(may_be_null && v.is_null())).cloned() else { continue };
        let least = if may_be_zero(&name) { 0.0 } else { f64::MIN_POSITIVE };
        let (fits, expected) = match usual {
            Json::Bool(_) => (found.is_boolean(), "true or false"),
            Json::Number(n) if n.is_u64() => {
                let fits = found.as_u64().is_some_and(|v| v <= u32::MAX.into() && v as f64 >= least);
                (fits, if least > 0.0 { "an integer above 0" } else { "an unsigned integer" })
            }
            _ => {
                let fits = found.as_f64().is_some_and(|v| v >= least);
                (fits, if least > 0.0 { "a number above 0" } else { "a number, at least 0" })
            }
        };
        if !fits {
            h.reject(&name, expected, found);
        }
    }
    for name in ["rope_parameters", "rope_scaling"] {
        let Some(found) = h.config.get(name).filter(|v| !v.is_null()).cloned() else { continue };
        if !found.is_object() {
            h.reject(name, "an object", &found);
        }
        rope(h, name, &found);
        for (kind, inner) in found.as_object().into_iter().flatten().filter(|(_, v)| v.is_object()) {
            rope(h, &format!("{name}.{kind}"), inner);
        }
    }
}

fn rope(h: &mut Hf, of: &str, params: &Json) {
    for name in ROPE {
        let found = params.get(name).filter(|v| !v.is_null());
        if let Some(found) = found.filter(|v| v.as_f64().is_none_or(|v| v <= 0.0)) {
            h.reject(&format!("{of}.{name}"), "a number above 0", found);
        }
    }
    for name in ["long_factor", "short_factor"] {
        let found = params.get(name).filter(|v| !v.is_null());
        let is_factor = |v: &Json| v.as_f64().is_some_and(|v| v > 0.0);
        if let Some(found) = found.filter(|v| !v.as_array().is_some_and(|l| l.iter().all(is_factor))) {
            h.reject(&format!("{of}.{name}"), "a list of numbers above 0", found);
        }
    }
    let bound = |name: &str| params.get(name).and_then(Json::as_f64);
    if let Some((low, high)) = bound("low_freq_factor").zip(bound("high_freq_factor")).filter(|(l, h)| l >= h) {
        h.reject(&format!("{of}.high_freq_factor"), &format!("more than low_freq_factor, {low}"), high);
    }
}

/// Fields that say whether there are biases, and GGUF's tensors that have them.
const BIASES: &[(&[&str], &[&str])] = &[
    (
        &["attention_bias"],
        &["attn_q.", "attn_k.", "attn_v.", "attn_qkv.", "attn_output.", "attn_q_a.", "attn_kv_a_mqa."],
    ),
    (&["qkv_bias"], &["attn_q.", "attn_k.", "attn_v."]),
    (&["mlp_bias"], &["ffn_gate.", "ffn_up.", "ffn_down."]),
    (&["enable_bias"], &["attn_q.", "attn_k.", "attn_v.", "attn_output.", "ffn_up.", "ffn_down."]),
    (&["use_bias", "mamba_proj_bias"], &["ssm_in.", "ssm_out."]),
    (&["use_conv_bias", "mamba_conv_bias"], &["ssm_conv1d."]),
    (&["norm_bias"], &["attn_norm.", "ffn_norm."]),
];

/// Refuses biases that the configuration denies: Transformers would leave them out.
pub(super) fn biases(h: &Hf, pieces: &BTreeMap<String, Piece>) -> Result<(), Error> {
    for (fields, tensors) in BIASES {
        let denied = |f: &&&str| h.defaults().any(|d| d.0 == **f) && h.config.get(**f) == Some(&Json::Bool(false));
        let Some(field) = fields.iter().find(denied) else { continue };
        let is_bias = |n: &&String| n.ends_with(".bias") && tensors.iter().any(|t| n.contains(&format!(".{t}")));
        if let Some(piece) = pieces.iter().find(|p| is_bias(&p.0)).map(|p| p.1) {
            return Err(odd(h, field, format!("true, for there is the tensor {}", piece.sources[0]), "false"));
        }
    }
    Ok(())
}

/// Refuses a model with a head of its own that is not there. Classes without one are used for what stands before it.
pub(super) fn head(h: &Hf, arch: &Arch, pieces: &BTreeMap<String, Piece>) -> Result<(), Error> {
    let class = h.strs("architectures").and_then(|c| c.first().map(|c| (*c).to_owned())).unwrap_or_default();
    let untied = h.config.get("tie_word_embeddings") == Some(&Json::Bool(false));
    if untied && class.contains("For") && !arch.is_encoder() && !pieces.contains_key("output.weight") {
        let expected = "true, for no tensor is the head of the model".to_owned();
        return Err(odd(h, "tie_word_embeddings", expected, "false"));
    }
    Ok(())
}

/// Refuses a vocabulary of another size than the table of embeddings.
pub(super) fn vocabulary(h: &Hf, files: &Safetensors, pieces: &BTreeMap<String, Piece>) -> Result<(), Error> {
    let Some(said) = h.config.get("vocab_size").and_then(Json::as_u64) else { return Ok(()) };
    let table = pieces.get("token_embd.weight").map(|p| &p.sources[0]);
    let rows = table.and_then(|name| Some((name, *files.entry(name)?.shape.first()?)));
    match rows.filter(|&(_, rows)| rows as u64 != said) {
        Some((name, rows)) => Err(odd(h, "vocab_size", format!("{rows}, the rows of {name}"), said)),
        None => Ok(()),
    }
}

fn odd(h: &Hf, key: &str, expected: String, found: impl ToString) -> Error {
    let origin = format!("{}/config.json", h.origin);
    Error::Key { origin, key: key.to_owned(), expected, found: found.to_string() }
}
