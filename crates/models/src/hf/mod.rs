//! A safetensors folder as Hugging Face lays it out, seen as if it were a GGUF file: `config.json` becomes metadata,
//! tensors get GGUF's names and layouts. Nothing is converted until it is asked for.

mod keys;
mod names;

pub use keys::Hf;
pub use names::{Fix, GEMMA_NORMS, INTERLEAVED_QK, LLAMA_LIKE, Name, SANDWICH_NORMS, fixed, ignored, same};

use crate::{Arch, Error, arch};
use allod_formats::{Metadata, Safetensors, TensorInfo, WeightSource};
use allod_tensor::{DType, Tensor};
use names::Heads;
use serde_json::Value as Json;
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

/// A folder seen through the name table of its architecture.
pub struct Folder {
    files: Safetensors,
    meta: Metadata,
    pieces: BTreeMap<String, Piece>,
    made: HashMap<String, Tensor>,
    heads: Heads,
}

/// A tensor in GGUF's terms and where it comes from.
struct Piece {
    /// Names in the folder: one, or one for each expert.
    sources: Vec<String>,
    fix: Fix,
}

/// Prefixes under which the same modules are found in different checkpoints.
const PREFIXES: &[&str] = &[
    "model.language_model.",
    "language_model.model.",
    "language_model.",
    "model.decoder.",
    "decoder.",
    "model.",
    "transformer.",
    "backbone.",
    "gpt_neox.",
    "bert.",
    "roberta.",
];

/// Buffers that old checkpoints carry and that follow from the configuration.
const BUFFERS: &[&str] = &["rotary_emb.inv_freq", "masked_bias", "attn.bias", "attention.bias", "position_ids"];

impl Folder {
    /// Opens the folder at `path`.
    ///
    /// # Errors
    /// Files that cannot be read, an architecture that is not known, tensors that it does not name.
    pub fn open(path: &Path) -> Result<Folder, Error> {
        let files = Safetensors::open(path)?;
        let origin = files.origin();
        let config = files.json("config.json")?.ok_or_else(|| Error::Key {
            origin: origin.clone(),
            key: "config.json".into(),
            expected: "a Hugging Face configuration beside the weights".into(),
            found: "no such file".into(),
        })?;
        let (arch, config) = choose(&origin, config)?;
        let mut hf = Hf {
            origin: origin.clone(),
            arch: arch.gguf,
            config,
            meta: Metadata::default(),
            made: HashMap::new(),
            error: None,
            skip_rows: 0,
        };
        hf.meta.set("general.architecture", arch.gguf);
        if let Some(name) = path.file_name().and_then(|n| n.to_str()) {
            hf.meta.set("general.name", name);
        }
        hf.common();
        (arch.keys)(&mut hf);
        if let Some(generation) = files.json("generation_config.json")? {
            hf.generation(&generation);
        }
        if let Some(e) = hf.error {
            return Err(e);
        }
        let tied = hf.get(&["tie_word_embeddings"]).and_then(Json::as_bool);
        let heads = Heads {
            query: hf.known("attention.head_count").unwrap_or(0),
            key: hf.known("attention.head_count_kv").or(hf.known("attention.head_count")).unwrap_or(0),
            skip: hf.skip_rows,
        };
        let pieces = pieces(&files, arch, tied)?;
        Ok(Folder { files, meta: hf.meta, pieces, made: hf.made, heads })
    }
}

/// The architecture of a configuration, and the part of it that describes the language model.
fn choose(origin: &str, config: Json) -> Result<(&'static Arch, Json), Error> {
    let classes: Vec<String> = match config.get("architectures").and_then(Json::as_array) {
        Some(list) => list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
        None => vec![],
    };
    let kind = config.get("model_type").and_then(Json::as_str).unwrap_or_default().to_owned();
    let inner = config.get("text_config").filter(|v| v.is_object()).cloned();
    let inner_kind = inner.as_ref().and_then(|c| c.get("model_type")).and_then(Json::as_str);
    let found = classes
        .iter()
        .find_map(|c| arch::by_class(c))
        .or_else(|| inner_kind.and_then(arch::by_model_type))
        .or_else(|| arch::by_model_type(&kind));
    match found {
        Some(a) => Ok((a, inner.unwrap_or(config))),
        None => {
            let found = classes.first().cloned().unwrap_or(kind);
            Err(Error::UnknownArchitecture { origin: origin.into(), nearest: arch::nearest(&found), found })
        }
    }
}

/// Matches the folder's tensors with the architecture's names.
fn pieces(files: &Safetensors, arch: &Arch, tied: Option<bool>) -> Result<BTreeMap<String, Piece>, Error> {
    let mut pieces: BTreeMap<String, Piece> = BTreeMap::new();
    let mut experts: BTreeMap<String, (Fix, BTreeMap<usize, String>)> = BTreeMap::new();
    for (full, _) in files.entries() {
        let full = full.to_owned();
        let bare = PREFIXES.iter().find_map(|p| full.strip_prefix(p)).unwrap_or(&full);
        if BUFFERS.iter().any(|b| bare.ends_with(b)) && !arch.has_name(bare) {
            continue;
        }
        let mut known = false;
        for name in arch.names() {
            let Some(m) = matches(name.hf, bare).or_else(|| matches(name.hf, &full)) else { continue };
            known = true;
            if name.gguf.is_empty() {
                continue;
            }
            let fix = if m.ending == ".bias" { name.fix.of_bias() } else { name.fix };
            let gguf = format!("{}{}", name.gguf.replacen("{}", &m.layer, 1), m.ending);
            match m.expert {
                Some(e) => {
                    experts.entry(gguf).or_insert_with(|| (fix, BTreeMap::new())).1.insert(e, full.clone());
                }
                None => {
                    pieces.insert(gguf, Piece { sources: vec![full.clone()], fix });
                }
            }
        }
        if !known {
            return Err(Error::UnknownTensor { origin: files.origin(), name: full, arch: arch.gguf });
        }
    }
    // A tied head is the embedding table, under whichever of the two names it was saved.
    if tied == Some(true)
        && let Some(head) = pieces.remove("output.weight")
    {
        pieces.entry("token_embd.weight".into()).or_insert(head);
    }
    for (gguf, (fix, sources)) in experts {
        pieces.insert(gguf, Piece { sources: sources.into_values().collect(), fix });
    }
    Ok(pieces)
}

/// True when `name` is of the kind that `pattern` describes.
pub(crate) fn is_match(pattern: &str, name: &str) -> bool {
    matches(pattern, name).is_some()
}

struct Match {
    layer: String,
    expert: Option<usize>,
    /// `.weight`, `.bias`, or nothing for parameters that end in their own name.
    ending: String,
}

/// Matches `name` against `pattern`, in which `{}` is the layer and `{e}` the expert.
fn matches(pattern: &str, name: &str) -> Option<Match> {
    let (mut layer, mut expert) = (String::new(), None);
    let (mut pattern, mut rest) = (pattern, name);
    while let Some(at) = pattern.find('{') {
        rest = rest.strip_prefix(&pattern[..at])?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if digits == 0 || digits > 6 {
            return None;
        }
        let is_expert = pattern[at..].starts_with("{e}");
        if is_expert {
            expert = Some(rest[..digits].parse().ok()?);
        } else {
            layer = rest[..digits].to_owned();
        }
        rest = &rest[digits..];
        pattern = &pattern[at + if is_expert { 3 } else { 2 }..];
    }
    let ending = rest.strip_prefix(pattern)?;
    match ending {
        ".weight" | ".bias" => Some(Match { layer, expert, ending: ending.to_owned() }),
        // What TensorFlow called them, in the first BERT files.
        ".gamma" => Some(Match { layer, expert, ending: ".weight".into() }),
        ".beta" => Some(Match { layer, expert, ending: ".bias".into() }),
        "" => Some(Match { layer, expert, ending: String::new() }),
        _ => None,
    }
}

impl WeightSource for Folder {
    fn origin(&self) -> String {
        self.files.origin()
    }

    fn metadata(&self) -> &Metadata {
        &self.meta
    }

    fn names(&self) -> Vec<String> {
        self.pieces.keys().chain(self.made.keys()).cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        if let Some(t) = self.made.get(name) {
            return Some(TensorInfo { dtype: t.dtype, shape: t.shape.clone() });
        }
        let piece = self.pieces.get(name)?;
        let one = self.files.entry(&piece.sources[0])?;
        let mut shape = one.shape.clone();
        if piece.sources.len() > 1 {
            shape.insert(0, piece.sources.len());
        }
        Some(TensorInfo { dtype: piece.fix.dtype(one.dtype.tensor_type()?), shape: piece.fix.shape(shape, self.heads) })
    }

    fn tensor(&self, name: &str) -> Result<Tensor, allod_formats::Error> {
        if let Some(t) = self.made.get(name) {
            return Ok(t.clone());
        }
        let missing = || allod_formats::Error::NoTensor { origin: self.origin(), name: name.to_owned() };
        let piece = self.pieces.get(name).ok_or_else(missing)?;
        let mut parts = piece.sources.iter().map(|s| self.files.tensor(s)).collect::<Result<Vec<_>, _>>()?;
        let first = parts.pop().ok_or_else(missing)?;
        let whole = if parts.is_empty() { first } else { self.stack(name, parts, first)? };
        piece.fix.apply(whole, self.heads).map_err(|e| self.odd(name, e.to_string()))
    }
}

impl Folder {
    /// Puts tensors of one type and shape into one, on a new first axis.
    fn stack(&self, name: &str, mut parts: Vec<Tensor>, last: Tensor) -> Result<Tensor, allod_formats::Error> {
        let (dtype, mut shape): (DType, Vec<usize>) = (last.dtype, last.shape.clone());
        if let Some(odd) = parts.iter().find(|t| t.dtype != dtype || t.shape != shape) {
            return Err(self.odd(name, format!("experts of {} {:?} and {dtype} {shape:?}", odd.dtype, odd.shape)));
        }
        parts.push(last);
        shape.insert(0, parts.len());
        let data = parts.iter().flat_map(|t| t.data.iter().copied()).collect();
        names::rebuild(dtype, shape, data).map_err(|e| self.odd(name, e.to_string()))
    }

    fn odd(&self, name: &str, found: String) -> allod_formats::Error {
        allod_formats::Error::Malformed {
            path: self.origin().into(),
            field: name.into(),
            expected: "a tensor that the architecture's layout fits".into(),
            found,
            hint: "the folder holds another model than its config.json describes",
        }
    }
}
