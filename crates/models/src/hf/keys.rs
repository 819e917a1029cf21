//! `config.json` into GGUF metadata and back: the fields that most architectures share. What is particular to one
//! stands in its own file. The methods called `copy_…`, `expect_…` and the like work in both directions, so that an
//! architecture says once how its fields and keys belong together.

use super::Heads;
use crate::{Arch, Error};
use allod_formats::{Array, Metadata, Value};
use allod_tensor::{Shape, Tensor};
use serde_json::{Map, Value as Json};
use std::collections::HashMap;

/// A Hugging Face configuration on its way to metadata, or metadata on the way back.
pub struct Hf {
    pub(crate) origin: String,
    pub(crate) arch: &'static str,
    pub(crate) config: Json,
    pub(crate) meta: Metadata,
    pub(crate) made: HashMap<String, Tensor>,
    pub(crate) error: Option<Error>,
    /// Rows of the table of positions that stand before that of position 0.
    pub(crate) skip_rows: usize,
    /// What stands before the names of tensors, except the head's.
    pub(crate) prefix: &'static str,
    /// From metadata to configuration.
    pub(crate) back: bool,
    /// Parts of GGUF names that this configuration changes.
    pub(crate) renames: Vec<(&'static str, &'static str)>,
    /// GGUF's tensors and their shapes, on the way back.
    pub(crate) stored: HashMap<String, Shape>,
    /// What Transformers takes for granted where the configuration does not say.
    defaults: Map<String, Json>,
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
    ("attention.layer_norm_epsilon", &["layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"]),
];

/// Transformers' names of layers with and without a window.
pub(crate) const SLIDING: &str = "sliding_attention";
pub(crate) const FULL: &str = "full_attention";

/// More layers than any model has: a bound on lists that a configuration can make us write.
const MOST_LAYERS: u32 = 1 << 12;

/// Fields that GPT-2 and its kin call otherwise.
const GPT_NAMES: &[(&str, &str)] = &[
    ("hidden_size", "n_embd"),
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
    ("max_position_embeddings", "n_positions"),
    ("intermediate_size", "n_inner"),
    ("layer_norm_eps", "layer_norm_epsilon"),
];

/// Recommended sampling: llama.cpp's key and the name in `generation_config.json`.
pub(crate) const SAMPLING: &[(&str, &str)] = &[
    ("general.sampling.temp", "temperature"),
    ("general.sampling.top_p", "top_p"),
    ("general.sampling.min_p", "min_p"),
    ("general.sampling.penalty_repeat", "repetition_penalty"),
];

impl Hf {
    pub(crate) fn new(origin: String, arch: &Arch, config: Json) -> Hf {
        let mut meta = Metadata::default();
        meta.set("general.architecture", arch.gguf);
        let made = HashMap::new();
        Hf {
            origin,
            arch: arch.gguf,
            config,
            meta,
            made,
            error: None,
            skip_rows: 0,
            prefix: "model.",
            back: false,
            renames: vec![],
            stored: HashMap::new(),
            defaults: arch.defaults.split_whitespace().filter_map(default).collect(),
        }
    }

    /// All that concerns `arch`, in the direction set.
    pub(crate) fn all(&mut self, arch: &Arch) {
        self.common();
        (arch.keys)(self);
    }

    /// Numbers that changes of layout need.
    pub(crate) fn heads(&self) -> Heads {
        let known = |key: &str| self.known(key).unwrap_or(0);
        let query = known("attention.head_count");
        // Where the cache's sizes stand in the usual keys, those of the heads have keys of their own.
        let either = |key: &str| self.known(&format!("{key}_mla")).unwrap_or(known(key));
        Heads {
            query,
            key: self.most("attention.head_count_kv").unwrap_or(query),
            skip: self.skip_rows,
            nope: either("attention.key_length").saturating_sub(known("rope.dimension_count")),
            value: either("attention.value_length"),
            groups: known("ssm.group_count"),
            states: known("ssm.time_step_rank"),
            state_dim: known("ssm.state_size"),
            inner: known("ssm.inner_size"),
        }
    }

    /// Says that GGUF's tensors have `to` in place of `from` in models of this configuration.
    pub fn rename_tensors(&mut self, from: &'static str, to: &'static str) {
        self.renames.push((from, to));
    }

    /// A GGUF name after that.
    pub(crate) fn renamed(&self, gguf: &str) -> String {
        renamed(&self.renames, gguf)
    }

    /// The largest number of a key that may have one for each layer.
    fn most(&self, key: &str) -> Option<usize> {
        let list = self.meta.ints(&self.key(key));
        let most = list.and_then(|l| l.into_iter().max()).and_then(|n| n.try_into().ok());
        most.or_else(|| self.known(key))
    }

    /// Says that models of this configuration have another name in GGUF.
    pub fn rename_architecture(&mut self, gguf: &'static str) {
        let from = format!("{}.", self.arch);
        let keys: Vec<String> = self.meta.iter().map(|(k, _)| k.to_owned()).filter(|k| k.starts_with(&from)).collect();
        for key in keys {
            if let Some(value) = self.meta.remove(&key) {
                self.meta.set(format!("{gguf}.{}", &key[from.len()..]), value);
            }
        }
        self.arch = gguf;
        self.meta.set("general.architecture", gguf);
    }

    /// Sets one of the architecture's keys to a number for each layer.
    pub fn set_each(&mut self, key: &str, values: impl IntoIterator<Item = u32>) {
        self.set(key, Value::Array(Array::U32(values.into_iter().collect())));
    }

    /// The first of `names` that is present and not null, or what its absence means.
    pub fn get(&self, names: &[&str]) -> Option<&Json> {
        let said = || names.iter().filter_map(|n| self.config.get(*n));
        let implied = || names.iter().find_map(|n| self.defaults.get(*n)).filter(|_| !self.back);
        said().find(|v| !v.is_null()).or_else(|| implied().filter(|_| said().next().is_none()))
    }
    /// Fields whose absence has a meaning, and that meaning.
    pub(super) fn defaults(&self) -> impl Iterator<Item = (&String, &Json)> {
        self.defaults.iter()
    }
    /// An unsigned integer.
    pub fn uint(&self, name: &str) -> Option<u32> {
        self.get(&[name])?.as_u64()?.try_into().ok()
    }
    /// A number.
    pub fn float(&self, name: &str) -> Option<f32> {
        self.get(&[name])?.as_f64().map(|v| v as f32)
    }
    /// A flag; absent ones are false. Some configurations have a number, which is true where it is not 0.
    pub fn flag(&self, name: &str) -> bool {
        self.get(&[name]).is_some_and(|v| v.as_bool().unwrap_or_else(|| v.as_f64().is_some_and(|n| n != 0.0)))
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

    /// Sets one of the architecture's keys. There is no way back: what can go both ways is copied.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        if !self.back {
            self.meta.set(self.key(key), value);
        }
    }
    /// Removes one of them.
    pub fn unset(&mut self, key: &str) {
        if !self.back {
            self.meta.remove(&self.key(key));
        }
    }
    /// Keys of the tokenizer have their full names, all others belong to the architecture.
    pub(crate) fn key(&self, key: &str) -> String {
        if key.starts_with("tokenizer.") { key.to_owned() } else { format!("{}.{key}", self.arch) }
    }
    /// Sets a field on the way back.
    pub fn field(&mut self, name: &str, value: impl Into<Json>) {
        if self.back {
            self.config[name] = value.into();
        }
    }

    /// Sets a field on the way back that would otherwise be absent.
    pub fn field_if_absent(&mut self, name: &str, value: impl Into<Json>) {
        if self.config.get(name).is_none() {
            self.field(name, value);
        }
    }
    /// Removes fields on the way back.
    pub fn omit(&mut self, names: &[&str]) {
        if let Some(config) = self.config.as_object_mut().filter(|_| self.back) {
            names.iter().for_each(|n| drop(config.remove(*n)));
        }
    }
    /// Copies the number of rows of a tensor on the way back.
    pub fn copy_rows(&mut self, name: &str, tensor: &str) {
        if let Some(rows) = self.stored.get(tensor).and_then(|s| s.first().copied()) {
            self.field(name, rows);
        }
    }
    /// True on the way back for each layer that has the tensor `name`.
    pub fn layers_with(&self, name: &str) -> Vec<bool> {
        let layers = self.known("block_count").unwrap_or(0);
        (0..layers).map(|i| self.stored.contains_key(&format!("blk.{i}.{name}"))).collect()
    }
    /// Reads back numbers or flags that were set for each layer, or the one for all of them.
    pub fn known_each(&self, key: &str) -> Option<Vec<usize>> {
        match self.meta.ints(&self.key(key)) {
            Some(list) => Some(list.into_iter().map(|n| n.try_into().unwrap_or(0)).collect()),
            None => Some(vec![self.known(key)?; self.known("block_count")?]),
        }
    }
    /// Reads back a number that was set.
    pub fn known_float(&self, key: &str) -> Option<f32> {
        self.meta.float(&self.key(key))
    }

    /// Copies an unsigned integer, where present.
    pub fn copy_uint(&mut self, name: &str, key: &str) {
        if self.back {
            self.known(key).into_iter().for_each(|v| self.field(name, v));
        } else if let Some(v) = self.uint(name) {
            self.set(key, v);
        }
    }
    /// Copies an unsigned integer on the way back only.
    pub fn copy_back(&mut self, name: &str, key: &str) {
        self.known(key).into_iter().for_each(|v| self.field(name, v));
    }
    /// Copies a number, where present.
    pub fn copy_float(&mut self, name: &str, key: &str) {
        if self.back {
            self.meta.float(&self.key(key)).into_iter().for_each(|v| self.field(name, number(v)));
        } else if let Some(v) = self.float(name) {
            self.set(key, v);
        }
    }
    /// Copies a number, where present and the key has none.
    pub fn copy_float_unless_set(&mut self, name: &str, key: &str) {
        if self.known_float(key).is_none() {
            self.copy_float(name, key);
        }
    }
    /// Copies a number through a function and, to the nearest whole number, back, where present.
    pub fn derive(&mut self, name: &str, key: &str, to: fn(f32) -> f32, from: fn(f32) -> f32) {
        if !self.back {
            return self.float(name).into_iter().for_each(|v| self.set(key, to(v)));
        }
        if let Some(v) = self.meta.float(&self.key(key)) {
            self.field(name, from(v).round() as i64);
        }
    }
    /// Copies a flag, where present.
    pub fn copy_flag(&mut self, name: &str, key: &str) {
        if self.back {
            self.meta.bool(&self.key(key)).into_iter().for_each(|v| self.field(name, v));
        } else if let Some(v) = self.get(&[name]).and_then(Json::as_bool) {
            self.set(key, v);
        }
    }
    /// Says what a flag is where the configuration does not say.
    pub fn default_flag(&mut self, name: &str, value: bool) {
        if !self.back && self.get(&[name]).is_none() {
            self.config[name] = value.into();
        }
    }
    /// Copies a string, where present.
    pub fn copy_str(&mut self, name: &str, key: &str) {
        if self.back {
            self.meta.str(&self.key(key)).map(str::to_owned).into_iter().for_each(|v| self.field(name, v));
        } else if let Some(v) = self.str(name).map(str::to_owned) {
            self.set(key, v);
        }
    }
    /// Copies a list of zeros and ones, one per layer, where present.
    pub fn copy_flags(&mut self, name: &str, key: &str) {
        if self.back {
            self.meta.ints(&self.key(key)).into_iter().for_each(|v| self.field(name, v));
        } else if let Some(flags) = self.uints(name) {
            self.set(key, Value::Array(Array::Bool(flags.iter().map(|&f| f != 0).collect())));
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
    /// Says that the configuration calls the field `name` otherwise.
    pub fn rename(&mut self, name: &str, own: &str) {
        if let Some(v) = self.config.as_object_mut().filter(|_| self.back).and_then(|c| c.remove(name)) {
            self.config[own] = v;
        }
    }
    /// Says that the configuration uses the names of GPT-2.
    pub fn gpt_names(&mut self) {
        GPT_NAMES.iter().for_each(|(name, own)| self.rename(name, own));
    }
    /// Says how many rows of the table of positions stand before that of position 0: [`super::Fix::SkipRows`].
    pub fn skip_rows(&mut self, rows: usize) {
        self.skip_rows = rows;
    }
    /// Says what stands before the names of tensors in a folder, other than `model.`; the head has no prefix.
    pub fn prefix(&mut self, prefix: &'static str) {
        self.prefix = prefix;
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
        if let Some(first) = allowed.first() {
            self.field(name, *first);
        }
        if let Some(found) = self.str(name).map(str::to_owned)
            && !allowed.contains(&found.as_str())
        {
            self.reject(name, &allowed.join(" or "), found);
        }
    }

    /// Says that the flag `name` must not be set: what it asks for is not computed.
    pub fn expect_unset(&mut self, name: &str) {
        if let Some(found) = self.get(&[name]).filter(|v| **v != Json::Bool(false)).cloned() {
            self.reject(name, "false", found);
        }
    }
    /// A list with a name for each layer, which must be among `known`.
    pub fn kinds(&mut self, name: &str, known: &[&str]) -> Option<Vec<String>> {
        let list = self.get(&[name])?.clone();
        let kinds = list.as_array().map(|l| l.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect::<Vec<_>>());
        let layers = self.known("block_count").unwrap_or(0);
        match kinds.filter(|k| k.len() == layers && k.iter().all(|k| known.contains(&k.as_str()))) {
            Some(kinds) => Some(kinds),
            None => {
                self.reject(name, &format!("for each of {layers} layers one of {}", known.join(", ")), list);
                None
            }
        }
    }

    pub(super) fn common(&mut self) {
        if self.back {
            return self.common_back();
        }
        super::checks::kinds(self);
        for (key, names) in UINTS {
            if let Some(v) = self.get(names) {
                match v.as_u64().and_then(|v| u32::try_from(v).ok()) {
                    Some(v) => self.set(key, v),
                    None if v.is_array() => {} // one per layer: the architecture's own business
                    None => {
                        let said = names.iter().find(|n| self.config.get(**n).is_some());
                        self.reject(said.unwrap_or(&names[0]), "an unsigned integer", v.clone());
                    }
                }
            }
        }
        for (key, names) in FLOATS {
            if let Some(v) = self.get(names).and_then(Json::as_f64) {
                self.set(key, v as f32);
            }
        }
        let heads = self.known("attention.head_count").unwrap_or(0);
        if let Some(kv) = self.known("attention.head_count_kv").filter(|&n| !heads.is_multiple_of(n) || n == 0) {
            self.reject("num_key_value_heads", &format!("a number that divides the {heads} heads"), kv);
        }
        let experts = self.known("expert_count").filter(|&n| n > 0);
        if let Some((n, used)) = experts.zip(self.known("expert_used_count")).filter(|&(n, used)| used == 0 || used > n)
        {
            self.reject("num_experts_per_tok", &format!("1 to {n}, the number of experts"), used);
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

    fn common_back(&mut self) {
        for (key, names) in UINTS {
            // Of numbers by layer, the largest: which layers differ is the architecture's own business.
            self.most(key).into_iter().for_each(|v| self.field(names[0], v));
        }
        // Where no layer attends.
        if self.most("attention.head_count_kv") == Some(0) {
            self.copy_back("num_key_value_heads", "attention.head_count");
        }
        for (key, names) in FLOATS {
            self.copy_float(names[0], key);
        }
        self.copy_uint("head_dim", "attention.key_length");
        for role in ["bos", "eos", "pad"] {
            self.copy_uint(&format!("{role}_token_id"), &format!("tokenizer.ggml.{role}_token_id"));
        }
        self.rope_back();
    }

    /// Says which layers slide where the configuration has no list of them.
    pub fn sliding_layers(&mut self, slides: impl Fn(&Hf, u32) -> bool) {
        if self.back || self.get(&["layer_types"]).is_some() {
            return;
        }
        let layers = 0..self.uint("num_hidden_layers").unwrap_or(0).min(MOST_LAYERS);
        let types = layers.map(|i| if slides(self, i) { SLIDING } else { FULL }).collect::<Vec<_>>();
        self.config["layer_types"] = types.into();
    }

    /// Writes the list `name` of zeros and ones where it is absent or empty: all but every so many layers, as the field
    /// `interval` says.
    pub fn regular(&mut self, name: &str, interval: &str) {
        if self.back || self.uints(name).is_some_and(|l| !l.is_empty()) {
            return;
        }
        let every = self.uint(interval).unwrap_or(1).max(1);
        let layers = 1..=self.uint("num_hidden_layers").unwrap_or(0).min(MOST_LAYERS);
        self.config[name] = layers.map(|i| u32::from(i % every != 0)).collect();
    }

    /// `sliding_window` and, where layers differ, which of them slide; but only if the configuration's flag `name`
    /// says so.
    pub fn sliding_window_if(&mut self, name: &str) {
        let slides = self.back && self.known("attention.sliding_window").is_some();
        self.field(name, slides);
        if self.flag(name) {
            self.sliding_window();
        }
    }

    /// `sliding_window` and, where layers differ, which of them slide.
    pub fn sliding_window(&mut self) {
        if self.back {
            self.copy_uint("sliding_window", "attention.sliding_window");
            return self.layer_types_back();
        }
        let Some(window) = self.uint("sliding_window") else { return };
        if window == 0 {
            self.reject("sliding_window", "a number above 0, or null", window);
        }
        self.set("attention.sliding_window", window);
        if let Some(types) = self.kinds("layer_types", &[SLIDING, FULL]) {
            let flags = types.iter().map(|t| t == SLIDING).collect();
            self.set("attention.sliding_window_pattern", Value::Array(Array::Bool(flags)));
        }
    }

    /// The way back of which layers slide.
    pub(crate) fn layer_types_back(&mut self) {
        let key = self.key("attention.sliding_window_pattern");
        let layers = self.known("block_count").unwrap_or(0);
        let slides: Option<Vec<bool>> = match (self.meta.ints(&key), self.meta.uint(&key)) {
            (Some(flags), _) => Some(flags.iter().map(|&f| f != 0).collect()),
            (None, Some(n)) => Some((0..layers as u64).map(|i| n == 0 || i % n < n - 1).collect()),
            (None, None) => None,
        };
        if let Some(slides) = slides {
            let name = |&s: &bool| if s { SLIDING } else { FULL };
            self.field("layer_types", slides.iter().map(name).collect::<Vec<_>>());
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
}

/// The number as it is written, not as its binary form reads in twice the precision.
pub(crate) fn number(v: f32) -> Json {
    v.to_string().parse::<f64>().map_or(Json::Null, Json::from)
}

/// A field and what it is when absent. Numbers are written as JSON has them.
fn default(field: &str) -> Option<(String, Json)> {
    let (name, value) = field.split_once('=')?;
    Some((name.to_owned(), serde_json::from_str(value).ok()?))
}

/// A GGUF name after the changes to it.
pub(super) fn renamed(renames: &[(&str, &str)], gguf: &str) -> String {
    renames.iter().fold(gguf.to_owned(), |name, (from, to)| name.replace(from, to))
}

fn first_uint(v: &Json) -> Option<u32> {
    let v = v.as_array().and_then(|a| a.first()).unwrap_or(v);
    v.as_u64()?.try_into().ok()
}
