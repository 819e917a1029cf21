//! `config.json` into GGUF metadata: the fields that most architectures share. What is particular to one stands in
//! its own file.

use crate::{Error, rope::llama3_factors};
use allod_formats::{Array, Metadata, Value};
use allod_tensor::Tensor;
use serde_json::Value as Json;
use std::collections::HashMap;

/// A Hugging Face configuration on its way to metadata.
pub struct Hf {
    pub(crate) origin: String,
    pub(crate) arch: &'static str,
    pub(crate) config: Json,
    pub(crate) meta: Metadata,
    pub(crate) made: HashMap<String, Tensor>,
    pub(crate) error: Option<Error>,
    /// Rows of the table of positions that stand before that of position 0.
    pub(crate) skip_rows: usize,
}

/// Fields that hold unsigned integers: GGUF's key, then the names that configurations use for it.
const UINTS: &[(&str, &[&str])] = &[
    ("vocab_size", &["vocab_size"]),
    ("context_length", &["max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length"]),
    ("embedding_length", &["hidden_size", "n_embd", "n_embed", "d_model"]),
    ("block_count", &["num_hidden_layers", "n_layer", "n_layers", "num_layers"]),
    ("feed_forward_length", &["intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size"]),
    ("attention.head_count", &["num_attention_heads", "n_head", "n_heads"]),
    ("attention.head_count_kv", &["num_key_value_heads"]),
    ("expert_count", &["num_local_experts", "num_experts", "n_routed_experts"]),
    ("expert_used_count", &["num_experts_per_tok", "num_experts_per_token", "moe_top_k"]),
    ("expert_feed_forward_length", &["moe_intermediate_size"]),
];

/// Fields that hold numbers.
const FLOATS: &[(&str, &[&str])] = &[
    ("attention.layer_norm_rms_epsilon", &["rms_norm_eps", "norm_eps"]),
    ("attention.layer_norm_epsilon", &["layer_norm_epsilon", "layer_norm_eps", "norm_epsilon"]),
];

/// Recommended sampling: llama.cpp's key and the name in `generation_config.json`.
const SAMPLING: &[(&str, &str)] = &[
    ("general.sampling.temp", "temperature"),
    ("general.sampling.top_p", "top_p"),
    ("general.sampling.min_p", "min_p"),
    ("general.sampling.penalty_repeat", "repetition_penalty"),
];

impl Hf {
    /// The first of `names` that is present and not null.
    pub fn get(&self, names: &[&str]) -> Option<&Json> {
        names.iter().filter_map(|n| self.config.get(*n)).find(|v| !v.is_null())
    }
    /// An unsigned integer.
    pub fn uint(&self, name: &str) -> Option<u32> {
        self.get(&[name])?.as_u64()?.try_into().ok()
    }
    /// A number.
    pub fn float(&self, name: &str) -> Option<f32> {
        self.get(&[name])?.as_f64().map(|v| v as f32)
    }
    /// A flag; absent ones are false.
    pub fn flag(&self, name: &str) -> bool {
        self.get(&[name]).and_then(Json::as_bool).unwrap_or(false)
    }
    /// A string.
    pub fn str(&self, name: &str) -> Option<&str> {
        self.get(&[name])?.as_str()
    }
    /// A list of strings.
    pub fn strs(&self, name: &str) -> Option<Vec<&str>> {
        self.get(&[name])?.as_array()?.iter().map(Json::as_str).collect()
    }
    /// A list of unsigned integers.
    pub fn uints(&self, name: &str) -> Option<Vec<u32>> {
        self.get(&[name])?.as_array()?.iter().map(|v| v.as_u64()?.try_into().ok()).collect()
    }

    /// Sets one of the architecture's keys.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.meta.set(self.key(key), value);
    }
    /// Removes one of them.
    pub fn unset(&mut self, key: &str) {
        self.meta.remove(&self.key(key));
    }
    /// Keys of the tokenizer have their full names, all others belong to the architecture.
    fn key(&self, key: &str) -> String {
        if key.starts_with("tokenizer.") { key.to_owned() } else { format!("{}.{key}", self.arch) }
    }
    /// Copies an unsigned integer, where present.
    pub fn copy_uint(&mut self, name: &str, key: &str) {
        if let Some(v) = self.uint(name) {
            self.set(key, v);
        }
    }
    /// Copies a number, where present.
    pub fn copy_float(&mut self, name: &str, key: &str) {
        if let Some(v) = self.float(name) {
            self.set(key, v);
        }
    }
    /// Copies a flag, where present.
    pub fn copy_flag(&mut self, name: &str, key: &str) {
        if let Some(v) = self.get(&[name]).and_then(Json::as_bool) {
            self.set(key, v);
        }
    }
    /// Copies a string, where present.
    pub fn copy_str(&mut self, name: &str, key: &str) {
        if let Some(v) = self.str(name).map(str::to_owned) {
            self.set(key, v);
        }
    }
    /// Says that embeddings and head are one where the configuration does not say.
    pub fn tied_by_default(&mut self) {
        if self.get(&["tie_word_embeddings"]).is_none() {
            self.config["tie_word_embeddings"] = true.into();
        }
    }
    /// Says that the feed-forward part is four times as wide as the stream where the configuration does not say.
    pub fn four_times_wide(&mut self) {
        if self.known("feed_forward_length").is_none() {
            let width = self.known("embedding_length").unwrap_or(0);
            self.set("feed_forward_length", u32::try_from(width.saturating_mul(4)).unwrap_or(u32::MAX));
        }
    }
    /// Says how many rows of the table of positions stand before that of position 0: [`super::Fix::SkipRows`].
    pub fn skip_rows(&mut self, rows: usize) {
        self.skip_rows = rows;
    }
    /// Adds a tensor that the folder does not hold but its configuration implies.
    pub fn make(&mut self, name: &str, values: &[f32]) {
        self.made.insert(name.to_owned(), Tensor::from_f32(vec![values.len()], values));
    }
    /// Reads back an unsigned integer that was set.
    pub fn known(&self, key: &str) -> Option<usize> {
        self.meta.uint(&self.key(key)).and_then(|v| v.try_into().ok())
    }
    /// Says that the configuration cannot be used.
    pub fn reject(&mut self, key: &str, expected: &str, found: impl std::fmt::Display) {
        let (origin, key, expected) = (format!("{}/config.json", self.origin), key.to_owned(), expected.to_owned());
        self.error.get_or_insert(Error::Key { origin, key, expected, found: found.to_string() });
    }
    /// Says that the field `name` must have one of the values that the architecture computes with, when present.
    pub fn expect_str(&mut self, name: &str, allowed: &[&str]) {
        if let Some(found) = self.str(name).map(str::to_owned)
            && !allowed.contains(&found.as_str())
        {
            self.reject(name, &allowed.join(" or "), found);
        }
    }

    pub(super) fn common(&mut self) {
        for (key, names) in UINTS {
            if let Some(v) = self.get(names) {
                match v.as_u64().and_then(|v| u32::try_from(v).ok()) {
                    Some(v) => self.set(key, v),
                    None if v.is_array() => {} // one per layer: the architecture's own business
                    None => self.reject(names[0], "an unsigned integer", v.clone()),
                }
            }
        }
        for (key, names) in FLOATS {
            if let Some(v) = self.get(names).and_then(Json::as_f64) {
                self.set(key, v as f32);
            }
        }
        if let Some(d) = self.uint("head_dim") {
            self.set("attention.key_length", d);
            self.set("attention.value_length", d);
        }
        for role in ["bos", "eos", "pad"] {
            if let Some(id) = self.get(&[&format!("{role}_token_id")]).and_then(first_uint) {
                self.meta.set(format!("tokenizer.ggml.{role}_token_id"), id);
            }
        }
        self.rope();
    }

    /// `sliding_window` and, where layers differ, which of them slide.
    pub fn sliding_window(&mut self) {
        let Some(window) = self.uint("sliding_window") else { return };
        self.set("attention.sliding_window", window);
        if let Some(types) = self.strs("layer_types") {
            let flags = types.iter().map(|t| *t == "sliding_attention").collect();
            self.set("attention.sliding_window_pattern", Value::Array(Array::Bool(flags)));
        }
    }

    pub(super) fn generation(&mut self, generation: &Json) {
        for (key, name) in SAMPLING {
            if let Some(v) = generation.get(name).and_then(Json::as_f64) {
                self.meta.set(*key, v as f32);
            }
        }
        if let Some(k) = generation.get("top_k").and_then(Json::as_u64).and_then(|k| i32::try_from(k).ok()) {
            self.meta.set("general.sampling.top_k", k);
        }
    }

    /// `rope_parameters` (Transformers 5), or `rope_theta` with `rope_scaling` (before).
    fn rope(&mut self) {
        let nested = |v: &Json| v.as_object().is_some_and(|o| o.values().any(Json::is_object));
        let mut params = self.get(&["rope_parameters", "rope_scaling"]).cloned().unwrap_or(Json::Null);
        if nested(&params) {
            if let Some(base) = params["sliding_attention"]["rope_theta"].as_f64() {
                self.set("rope.freq_base_swa", base as f32);
            }
            if let Some(share) = params["sliding_attention"]["partial_rotary_factor"].as_f64() {
                self.set("rope.partial_rotary_factor_swa", share as f32);
            }
            params = params["full_attention"].take();
        }
        let number =
            |h: &Hf, name: &str| params.get(name).and_then(Json::as_f64).or_else(|| h.config.get(name)?.as_f64());
        if let Some(base) = number(self, "rope_theta").or_else(|| number(self, "rotary_emb_base")) {
            self.set("rope.freq_base", base as f32);
        }
        let heads = self.known("attention.head_count").unwrap_or(0);
        let derived = self.known("embedding_length").and_then(|d| d.checked_div(heads)).unwrap_or(0);
        let head_dim = self.known("attention.key_length").unwrap_or(derived);
        let share = number(self, "partial_rotary_factor").or_else(|| number(self, "rotary_pct")).unwrap_or(1.0);
        let dims = self.uint("rotary_dim").unwrap_or((head_dim as f64 * share) as u32);
        if dims > 0 {
            self.set("rope.dimension_count", dims);
        }
        self.rope_scaling(&params, dims as usize);
    }

    fn rope_scaling(&mut self, params: &Json, dims: usize) {
        let kind = ["rope_type", "type"].iter().find_map(|k| params.get(k)?.as_str()).unwrap_or("default").to_owned();
        let number = |name: &str| params.get(name).and_then(Json::as_f64);
        let context = self.known("context_length").unwrap_or(0) as f64;
        let original = number("original_max_position_embeddings")
            .or(self.float("original_max_position_embeddings").map(f64::from))
            .unwrap_or(context);
        let factor = number("factor").unwrap_or(context / original.max(1.0));
        match kind.as_str() {
            "default" | "mrope" | "proportional" => return,
            "llama3" => {
                let base = self.meta.float(&format!("{}.rope.freq_base", self.arch)).unwrap_or(10_000.0);
                let (low, high) = (number("low_freq_factor").unwrap_or(1.0), number("high_freq_factor").unwrap_or(4.0));
                let list = llama3_factors(dims, base.into(), factor, low, high, original);
                self.make("rope_freqs.weight", &list);
                return;
            }
            "linear" | "dynamic" | "yarn" => {}
            "longrope" | "su" => {
                for (name, field) in [("long", "long_factor"), ("short", "short_factor")] {
                    let list = params.get(field).and_then(Json::as_array).cloned().unwrap_or_default();
                    let list: Vec<f32> = list.iter().filter_map(|v| v.as_f64().map(|v| v as f32)).collect();
                    self.make(&format!("rope_factors_{name}.weight"), &list);
                }
                let computed = if factor <= 1.0 { 1.0 } else { (1.0 + libm::log(factor) / libm::log(original)).sqrt() };
                self.set("rope.scaling.type", "longrope");
                self.set("rope.scaling.attn_factor", number("attention_factor").unwrap_or(computed) as f32);
                self.set("rope.scaling.original_context_length", original as u32);
                return;
            }
            other => return self.reject("rope_type", "default, linear, dynamic, yarn, longrope or llama3", other),
        }
        self.set("rope.scaling.type", kind.as_str());
        self.set("rope.scaling.factor", factor as f32);
        self.set("rope.scaling.original_context_length", original as u32);
        if kind == "yarn" {
            self.yarn(params, factor);
        }
    }

    fn yarn(&mut self, params: &Json, factor: f64) {
        let number = |name: &str| params.get(name).and_then(Json::as_f64);
        for (key, name) in [("beta_fast", "beta_fast"), ("beta_slow", "beta_slow")] {
            if let Some(v) = number(name) {
                self.set(&format!("rope.scaling.yarn_{key}"), v as f32);
            }
        }
        // GGUF's attention factor multiplies the one that follows from the extension; Hugging Face's replaces it.
        let magnitude = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * libm::log(factor) + 1.0 };
        let both = number("mscale").filter(|m| *m != 0.0).zip(number("mscale_all_dim").filter(|m| *m != 0.0));
        let wanted = number("attention_factor").or(both.map(|(m, all)| magnitude(m) / magnitude(all)));
        if let Some(wanted) = wanted {
            self.set("rope.scaling.attn_factor", (wanted / magnitude(1.0)) as f32);
        }
        if let Some(all) = number("mscale_all_dim") {
            self.set("rope.scaling.yarn_log_multiplier", (0.1 * all) as f32);
        }
        if params.get("truncate").and_then(Json::as_bool) == Some(false) {
            self.set("rope.scaling.yarn_truncate", false);
        }
    }
}

fn first_uint(v: &Json) -> Option<u32> {
    let v = v.as_array().and_then(|a| a.first()).unwrap_or(v);
    v.as_u64()?.try_into().ok()
}
