//! From metadata to the configuration of a folder.

use super::{Heads, Hf, keys::renamed, matches};
use crate::{Arch, Error, model_plan};
use allod_formats::{Metadata, TensorInfo, WeightSource};
use allod_tensor::Tensor;
use serde_json::{Value as Json, json};
use std::collections::HashMap;

/// A configuration that describes the same network as the metadata that it was made from.
pub(crate) struct Back {
    /// `config.json`
    pub(crate) config: Json,
    /// The architecture it names.
    pub(crate) arch: &'static Arch,
    /// What stands before the names of tensors.
    pub(crate) prefix: &'static str,
    /// What layouts depend on.
    pub(crate) heads: Heads,
    renames: Vec<(&'static str, &'static str)>,
}

impl Back {
    /// A GGUF name as models of this configuration have it.
    pub(crate) fn renamed(&self, gguf: &str) -> String {
        renamed(&self.renames, gguf)
    }
}

/// The configuration for `source`, as one of the architectures that share its name in GGUF. What was written is read
/// again: the plan that follows from it must be the one that follows from the metadata.
pub(crate) fn back(source: &dyn WeightSource) -> Result<Back, Error> {
    let (first, _, plan) = model_plan(source)?;
    let wanted = plan.digest();
    let mut problem = None;
    let stored: Vec<String> = source.names().into_iter().filter(|n| !is_table(n)).collect();
    let names_all = |a: &Arch| stored.iter().all(|n| a.names().any(|name| matches(name.gguf, n).is_some()));
    for &arch in crate::arch::ALL.iter().filter(|a| a.gguf == first.gguf && names_all(a)) {
        let config = config(source, arch)?;
        let mut hf = Hf::new(source.origin(), arch, config.clone());
        hf.all(arch);
        let view = View { source, meta: hf.meta.clone(), made: hf.made.clone() };
        match (hf.error.take(), model_plan(&view)) {
            (None, Ok((_, _, plan))) if plan.digest() == wanted => {
                let (heads, prefix) = (hf.heads(), hf.prefix);
                return Ok(Back { config, arch, prefix, heads, renames: hf.renames });
            }
            (Some(e), _) | (None, Err(e)) => drop(problem.get_or_insert(e)),
            (None, Ok(_)) => drop(problem.get_or_insert(difference(source, &view, arch))),
        }
    }
    Err(problem.unwrap_or_else(|| Error::NoWayBack { origin: source.origin(), arch: first.model_type, keys: vec![] }))
}

/// The keys that do not come through.
fn difference(source: &dyn WeightSource, view: &View<'_>, arch: &Arch) -> Error {
    let prefix = format!("{}.", arch.gguf);
    let keys = source.metadata().iter().filter(|(k, v)| k.starts_with(&prefix) && view.meta.get(k) != Some(v));
    Error::NoWayBack { origin: source.origin(), arch: arch.model_type, keys: keys.map(|(k, _)| k.to_owned()).collect() }
}

fn config(source: &dyn WeightSource, arch: &Arch) -> Result<Json, Error> {
    let mut hf = Hf::new(source.origin(), arch, json!({ "model_type": arch.model_type }));
    hf.back = true;
    hf.stored = source.names().into_iter().filter_map(|n| Some((n.clone(), source.info(&n)?.shape))).collect();
    hf.meta = source.metadata().clone();
    for name in source.names().into_iter().filter(|n| is_table(n)) {
        hf.made.insert(name.clone(), source.tensor(&name)?);
    }
    hf.config["architectures"] = json!(arch.classes.first().into_iter().collect::<Vec<_>>());
    hf.config["tie_word_embeddings"] = source.info("output.weight").is_none().into();
    for (field, tensor) in [("attention_bias", "attn_output.bias"), ("mlp_bias", "ffn_down.bias")] {
        hf.config[field] = hf.layers_with(tensor).contains(&true).into();
    }
    hf.all(arch);
    hf.copy_rows("vocab_size", "token_embd.weight");
    match hf.error {
        Some(e) => Err(e),
        None => Ok(hf.config),
    }
}

/// True for a tensor that stands for fields of the configuration.
pub(crate) fn is_table(name: &str) -> bool {
    name == "rope_freqs.weight" || name.starts_with("rope_factors_")
}

/// The tensors of a source under the metadata of a configuration.
struct View<'a> {
    source: &'a dyn WeightSource,
    meta: Metadata,
    made: HashMap<String, Tensor>,
}

impl WeightSource for View<'_> {
    fn origin(&self) -> String {
        self.source.origin()
    }
    fn metadata(&self) -> &Metadata {
        &self.meta
    }
    fn names(&self) -> Vec<String> {
        let stored = self.source.names().into_iter().filter(|n| !is_table(n));
        stored.chain(self.made.keys().cloned()).collect()
    }
    fn info(&self, name: &str) -> Option<TensorInfo> {
        match self.made.get(name) {
            Some(t) => Some(TensorInfo { dtype: t.dtype, shape: t.shape.clone() }),
            None if is_table(name) => None,
            None => self.source.info(name),
        }
    }
    fn tensor(&self, name: &str) -> Result<Tensor, allod_formats::Error> {
        match self.made.get(name) {
            Some(t) => Ok(t.clone()),
            None => self.source.tensor(name),
        }
    }
}
