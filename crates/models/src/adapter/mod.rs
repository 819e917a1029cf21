//! Low-rank adapters from PEFT folders and GGUF files, brought to the names and layouts of a base model: applied while
//! it runs ([`open`]) or added to its weights ([`merged`]).

mod gguf;
mod merge;
mod modules;
mod peft;
mod stacks;

pub use merge::{Merged, merged};
pub use modules::{Module, module_names, modules, whole};

use crate::{
    Error, arch,
    hf::{Heads, Hf, Match, PREFIXES, matches},
};
use allod_formats::{Gguf, WeightSource, codec};
use allod_plan::Lora;
use allod_tensor::Tensor;
use serde_json::Value as Json;
use std::path::Path;

/// Opens a PEFT folder (`adapter_config.json` beside `adapter_model.safetensors`) or a GGUF adapter for the model `base`.
///
/// # Errors
/// [`Error`] names the file and what is wrong with it: another kind of adapter, another base model, changes that
/// cannot be applied.
pub fn open(path: &Path, base: &dyn WeightSource) -> Result<Lora, Error> {
    if path.is_dir() { peft::open(path, base) } else { gguf::open(path, base) }
}

/// The file of an adapter's folder with the chat template that it was trained with.
pub const TEMPLATE: &str = "chat_template.jinja";

/// The chat template that an adapter was trained with, where it brings one: [`TEMPLATE`] in a folder,
/// `tokenizer.chat_template` in a GGUF file.
///
/// # Errors
/// [`Error::File`] for what cannot be read.
pub fn template(path: &Path) -> Result<Option<String>, Error> {
    if path.is_file() {
        return Ok(Gguf::open(path)?.metadata().str("tokenizer.chat_template").map(str::to_owned));
    }
    let file = path.join(TEMPLATE);
    let text = file.is_file().then(|| std::fs::read_to_string(&file)).transpose();
    Ok(text.map_err(|source| allod_formats::Error::Io { path: file, source })?)
}

/// What the layouts of a base model depend on.
fn heads(base: &dyn WeightSource) -> Heads {
    let name = base.metadata().str("general.architecture").unwrap_or_default();
    let arch = arch::by_gguf(name).unwrap_or(arch::ALL[0]);
    let mut hf = Hf::new(base.origin(), arch, Json::Null);
    hf.meta = base.metadata().clone();
    hf.heads()
}

/// Matches a name of Transformers with any prefix.
fn matched(pattern: &str, full: &str) -> Option<Match> {
    let bare = PREFIXES.iter().find_map(|p| full.strip_prefix(p)).unwrap_or(full);
    matches(pattern, bare).or_else(|| matches(pattern, full))
}

fn numbers(name: &str, t: &Tensor) -> Result<Vec<f32>, Error> {
    codec::to_f32(t).map_err(|source| Error::Codec { name: name.to_owned(), source })
}

/// Columns of `[rows × columns]` as rows.
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| values.iter().skip(c).step_by(columns.max(1)).copied()).collect()
}

/// Says of a key of an adapter's configuration what was expected there.
fn key(origin: &Path, key: &str, expected: &str, found: impl std::fmt::Display) -> Error {
    let (key, expected, found) = (key.to_owned(), expected.to_owned(), found.to_string());
    Error::Key { origin: origin.display().to_string(), key, expected, found }
}
