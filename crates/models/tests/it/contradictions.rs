//! Configurations that contradict themselves, the tensors beside them, or what is computed: each is refused, by the
//! name of the field or tensor, with what was expected and what was found. None is taken for another model.

use allod_models::{Model, model, open_source};
use serde_json::Value as Json;
use std::{collections::BTreeMap, path::Path};

/// Stands for a field that is taken away.
const ABSENT: &str = "(absent)";

/// A golden, changes to its configuration, and parts of the message. No part means that the model is still accepted.
const CASES: &[(&str, &str, &[&str])] = &[
    ("llama", "{}", &[]),
    // Sizes that are none.
    ("llama", r#"{"hidden_size": -48}"#, &["hidden_size", "integer above 0", "-48"]),
    ("llama", r#"{"hidden_size": 48.5}"#, &["hidden_size", "integer above 0", "48.5"]),
    ("llama", r#"{"hidden_size": "wide"}"#, &["hidden_size", "integer above 0", "wide"]),
    ("llama", r#"{"hidden_size": 4294967295}"#, &["token_embd.weight", "4294967295", "48"]),
    ("llama", r#"{"hidden_size": 99999999999}"#, &["hidden_size", "integer above 0", "99999999999"]),
    ("llama", r#"{"hidden_size": 0}"#, &["hidden_size", "above 0", "0"]),
    ("llama", r#"{"num_hidden_layers": 0}"#, &["num_hidden_layers", "above 0", "0"]),
    ("llama", r#"{"num_hidden_layers": 4000000}"#, &["block_count", "at most", "4000000"]),
    ("llama", r#"{"num_hidden_layers": true}"#, &["num_hidden_layers", "integer above 0", "true"]),
    ("llama", r#"{"num_hidden_layers": 4}"#, &["blk.3.", "missing"]),
    ("llama", r#"{"num_hidden_layers": 2}"#, &["blk.2.", "not part of architecture llama"]),
    ("llama", r#"{"intermediate_size": 96}"#, &["ffn_gate.weight", "[96, 48]", "[80, 48]"]),
    ("llama", r#"{"intermediate_size": [80, 80, 80]}"#, &["intermediate_size", "integer", "[80,80,80]"]),
    ("llama", r#"{"vocab_size": 129}"#, &["vocab_size", "128", "129", "embed_tokens"]),
    ("llama", r#"{"head_dim": 0}"#, &["head", "above 0", "0"]),
    ("llama", r#"{"head_dim": 24}"#, &["attn_q.weight", "[144, 48]", "[48, 48]"]),
    ("llama", r#"{"head_dim": 4294967295}"#, &["expected", "found"]),
    ("llama", r#"{"num_attention_heads": 5, "num_key_value_heads": 5}"#, &["attn_q.weight", "[40, 48]", "[48, 48]"]),
    ("llama", r#"{"num_attention_heads": 0}"#, &["num_attention_heads", "above 0", "0"]),
    ("llama", r#"{"num_key_value_heads": 4}"#, &["num_key_value_heads", "6", "4"]),
    ("llama", r#"{"num_key_value_heads": 12}"#, &["num_key_value_heads", "6", "12"]),
    ("llama", r#"{"num_key_value_heads": 0}"#, &["num_key_value_heads", "6", "0"]),
    ("llama", r#"{"num_key_value_heads": "(absent)"}"#, &["attn_k.weight", "[48, 48]", "[16, 48]"]),
    ("llama", r#"{"max_position_embeddings": -1}"#, &["max_position_embeddings", "integer above 0", "-1"]),
    ("llama", r#"{"max_position_embeddings": 0}"#, &["max_position_embeddings", "above 0", "0"]),
    // Numbers that are none, or below 0.
    ("llama", r#"{"rms_norm_eps": "small"}"#, &["rms_norm_eps", "a number", "small"]),
    ("llama", r#"{"rms_norm_eps": -1e-5}"#, &["rms_norm_eps", "at least 0", "-0.00001"]),
    ("llama", r#"{"rms_norm_eps": NaN}"#, &["rms_norm_eps", "a number", "NaN"]),
    ("llama", r#"{"rms_norm_eps": 1e999}"#, &["config.json", "number out of range"]),
    ("llama", r#"{"rms_norm_eps": null}"#, &["rms_norm_eps", "a number", "null"]),
    ("granite", r#"{"logits_scaling": "four"}"#, &["logits_scaling", "a number", "four"]),
    ("granite", r#"{"logits_scaling": 0}"#, &["logits_scaling", "above 0", "0"]),
    ("granite", r#"{"attention_multiplier": -1.0}"#, &["attention_multiplier", "above 0", "-1"]),
    // Flags against tensors.
    ("llama", r#"{"attention_bias": "yes"}"#, &["attention_bias", "true or false", "yes"]),
    ("llama-biased", r#"{"attention_bias": false}"#, &["attention_bias", "true", "_proj.bias", "false"]),
    ("llama-biased", r#"{"mlp_bias": false}"#, &["mlp_bias", "true", "_proj.bias", "false"]),
    ("llama-biased", r#"{"tie_word_embeddings": false}"#, &["tie_word_embeddings", "true", "head", "false"]),
    // Rotary positions.
    ("llama", r#"{"rope_parameters": 5}"#, &["rope_parameters", "an object", "5"]),
    ("llama", r#"{"rope_parameters": {"rope_type": "spiral"}}"#, &["rope_type", "yarn", "spiral"]),
    ("llama", r#"{"rope_parameters": {"rope_theta": "big"}}"#, &["rope_parameters.rope_theta", "above 0", "big"]),
    ("llama", r#"{"rope_parameters": {"rope_theta": 0}}"#, &["rope_parameters.rope_theta", "above 0", "0"]),
    ("llama", r#"{"rope_parameters": {"rope_type": "linear", "factor": -2}}"#, &["factor", "above 0", "-2"]),
    ("llama", r#"{"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 3}}"#, &["24", "8", "rotated"]),
    (
        "llama-llama3",
        r#"{"rope_parameters": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}}"#,
        &["high_freq_factor", "low_freq_factor", "1"],
    ),
    (
        "phi3-longrope",
        r#"{"rope_parameters": {"rope_type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}}"#,
        &["rope_factors", "1 factors"],
    ),
    (
        "phi3-longrope",
        r#"{"rope_parameters": {"rope_type": "longrope", "long_factor": "x", "short_factor": [1.0]}}"#,
        &["long_factor", "list of numbers", "x"],
    ),
    ("phi3-longrope", r#"{"rope_parameters": {"rope_type": "yarn", "factor": 4}}"#, &["rope_type", "longrope", "yarn"]),
    (
        "gemma3_text",
        r#"{"rope_parameters": {"full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_type": "linear", "factor": 2}}}"#,
        &["sliding_attention.rope_type", "default", "linear"],
    ),
    // Layers.
    ("qwen2-window", r#"{"sliding_window": 0}"#, &["sliding_window", "above 0", "0"]),
    ("qwen2-window", r#"{"layer_types": ["full_attention"]}"#, &["layer_types", "3 layers"]),
    (
        "qwen2-window",
        r#"{"layer_types": ["full_attention", "full_attention", "winding_attention"]}"#,
        &["layer_types", "sliding_attention", "winding"],
    ),
    ("qwen3_next", r#"{"layer_types": "all"}"#, &["layer_types", "linear_attention", "all"]),
    ("nemotron_h", r#"{"layers_block_type": ["linear_attention", "pigs"]}"#, &["layers_block_type", "moe", "layer 1"]),
    ("jamba", r#"{"attn_layer_period": 0}"#, &["attn_layer_period", "above 0", "0"]),
    (
        "llama4_text",
        r#"{"layer_types": ["full_attention", "full_attention", "full_attention", "full_attention"]}"#,
        &["layer_types"],
    ),
    // Experts.
    ("mixtral", r#"{"num_experts_per_tok": 99}"#, &["num_experts_per_tok", "99"]),
    ("mixtral", r#"{"num_experts_per_tok": 0}"#, &["num_experts_per_tok", "0"]),
    ("mixtral", r#"{"num_local_experts": 3}"#, &["ffn_gate_inp.weight", "[3, "]),
    ("deepseek_v3", r#"{"n_group": 3}"#, &["group"]),
    ("deepseek_v3", r#"{"topk_group": 99}"#, &["group", "99"]),
    ("deepseek_v3", r#"{"qk_rope_head_dim": 5}"#, &["expected", "found"]),
    ("deepseek_v3", r#"{"kv_lora_rank": 0}"#, &["expected", "found"]),
    ("deepseek_v2", r#"{"topk_method": "noaux_tc"}"#, &["topk_method", "greedy", "noaux_tc"]),
    // States.
    ("mamba2", r#"{"num_heads": 7}"#, &["expected", "found"]),
    ("mamba2", r#"{"n_groups": 3}"#, &["expected", "found"]),
    ("mamba2", r#"{"conv_kernel": 0}"#, &["conv_kernel", "above 0", "0"]),
    ("mamba", r#"{"state_size": 0}"#, &["state_size", "above 0", "0"]),
    ("qwen3_next", r#"{"linear_num_value_heads": 3}"#, &["expected", "found"]),
    // What is not computed.
    ("bert", r#"{"is_decoder": true}"#, &["is_decoder", "false", "true"]),
    (
        "bert",
        r#"{"position_embedding_type": "relative_key"}"#,
        &["position_embedding_type", "absolute", "relative_key"],
    ),
    ("bert", r#"{"hidden_act": "mish"}"#, &["hidden_act", "gelu", "mish"]),
    ("gpt2", r#"{"add_cross_attention": true}"#, &["add_cross_attention", "false", "true"]),
    ("gemma3_text", r#"{"use_bidirectional_attention": true}"#, &["use_bidirectional_attention", "false", "true"]),
    ("llama", r#"{"quantization_config": {"quant_method": "gptq", "bits": 4}}"#, &["quantization_config", "gptq"]),
    ("llama", r#"{"hidden_act": "gelu"}"#, &["hidden_act", "silu", "gelu"]),
    // Names.
    ("llama", r#"{"model_type": "lama", "architectures": ["LamaForCausalLM"]}"#, &["LamaForCausalLM", "llama"]),
    ("llama", r#"{"model_type": "(absent)", "architectures": "(absent)"}"#, &["architecture"]),
    ("llama", r#"{"model_type": "gpt_neox", "architectures": "(absent)"}"#, &["tensor", "gptneox"]),
];

fn open(folder: &Path) -> Result<Model, String> {
    open_source(folder).and_then(|s| model(s, Some(32))).map_err(|e| e.to_string())
}

#[test]
fn each_is_refused_by_name() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let place = tempfile::tempdir().unwrap();
    let mut folders = BTreeMap::new();
    let mut unclear = vec![];
    for (golden, changes, parts) in CASES {
        let folder = folders.entry(golden).or_insert_with(|| {
            let folder = place.path().join(golden);
            std::fs::create_dir(&folder).unwrap();
            let weights = "model.safetensors";
            std::fs::copy(goldens.join(golden).join(weights), folder.join(weights)).unwrap();
            folder
        });
        // Python writes numbers that JSON does not have.
        let (plain, odd) = match changes.contains("NaN") || changes.contains("1e999") {
            true => ("{}", Some(changes)),
            false => (*changes, None),
        };
        let text = std::fs::read(goldens.join(golden).join("config.json")).unwrap();
        let mut config: Json = serde_json::from_slice(&text).unwrap();
        for (name, value) in serde_json::from_str::<Json>(plain).unwrap().as_object().unwrap() {
            match value == ABSENT {
                true => drop(config.as_object_mut().unwrap().remove(name)),
                false => config[name] = value.clone(),
            }
        }
        let mut text = config.to_string();
        if let Some(odd) = odd {
            text = format!("{},{}", text.trim_end_matches('}'), &odd[1..]);
        }
        std::fs::write(folder.join("config.json"), text).unwrap();
        let found = open(folder).map_or_else(|e| e, |_| "accepted".into());
        let clear = if parts.is_empty() { found == "accepted" } else { parts.iter().all(|p| found.contains(p)) };
        if !clear || (!parts.is_empty() && found == "accepted") {
            unclear.push(format!("{golden} {changes}: {parts:?} not in: {found}"));
        }
    }
    assert!(unclear.is_empty(), "{} of {}:\n{}", unclear.len(), CASES.len(), unclear.join("\n"));
}
