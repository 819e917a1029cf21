//! A safetensors folder as Hugging Face lays it out, seen as if it were a GGUF file: `config.json` becomes metadata,
//! tensors get GGUF's names and layouts. Nothing is converted until it is asked for.

mod back;
mod card;
mod checks;
mod fp8;
mod join;
mod keys;
mod names;
mod order;
mod pooling;
mod rope;

pub(crate) use back::{Back, back, is_table};
pub(crate) use join::{join, joined_shape};
pub use keys::Hf;
pub(crate) use keys::{FULL, SAMPLING, SLIDING, number};
pub use names::{EXPERTS, Fix, GEMMA_NORMS, INTERLEAVED_QK, LLAMA_LIKE, Name, SANDWICH_NORMS, fixed, ignored, same};

use crate::{Arch, Error, arch};
use allod_formats::{Metadata, Safetensors, TensorInfo, WeightSource};
use allod_tensor::{DType, Tensor};
pub(crate) use names::{Heads, mamba_names, mamba2_names, rebuild};
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
    floats: fp8::Floats,
}

/// A tensor in GGUF's terms and where it comes from.
struct Piece {
    /// Names in the folder: one, or one for each expert.
    sources: Vec<String>,
    fix: Fix,
}

/// Prefixes under which the same modules are found in different checkpoints.
pub(crate) const PREFIXES: &[&str] = &[
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

/// Where some models keep layers that predict further tokens; others have them behind their last layer.
const EXTRA_HEAD: &str = "mtp.";
/// How many there are behind it.
const EXTRA_LAYERS: [&str; 2] = ["num_nextn_predict_layers", "num_mtp_layers"];

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
        let mut hf = Hf::new(origin.clone(), arch, config);
        if let Some(name) = path.file_name().and_then(|n| n.to_str()) {
            hf.meta.set("general.name", name);
        }
        if let Some(card) = read_card(&files)? {
            card::read(&card, &mut hf.meta);
        }
        hf.all(arch);
        fp8::check(&mut hf);
        pooling::read(&files, &mut hf)?;
        if let Some(generation) = files.json("generation_config.json")? {
            hf.generation(&generation);
        }
        if let Some(e) = hf.error {
            return Err(e);
        }
        let tied = hf.get(&["tie_word_embeddings"]).and_then(Json::as_bool);
        let heads = hf.heads();
        let floats = fp8::Floats::find(&files, &hf)?;
        let pieces = pieces(&files, arch, tied, &hf, &floats)?;
        checks::biases(&hf, &pieces)?;
        checks::head(&hf, arch, &pieces)?;
        checks::vocabulary(&hf, &files, &pieces)?;
        Ok(Folder { files, meta: hf.meta, pieces, made: hf.made, heads, floats })
    }
}

/// The model card, if there is one.
fn read_card(files: &Safetensors) -> Result<Option<String>, Error> {
    let path = files.folder().join("README.md");
    match std::fs::read(&path) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(allod_formats::Error::Io { path, source: e }.into()),
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
        Some(a) => {
            let Some(mut inner) = inner else { return Ok((a, config)) };
            // What is said of the whole model.
            for name in ["quantization_config", "tie_word_embeddings"] {
                if let (None, Some(v)) = (inner.get(name), config.get(name)) {
                    inner[name] = v.clone();
                }
            }
            Ok((a, inner))
        }
        None => {
            let found = classes.first().cloned().unwrap_or(kind);
            Err(Error::UnknownArchitecture { origin: origin.into(), nearest: arch::nearest(&found), found })
        }
    }
}

/// Matches the folder's tensors with the architecture's names.
fn pieces(
    files: &Safetensors,
    arch: &Arch,
    tied: Option<bool>,
    hf: &Hf,
    floats: &fp8::Floats,
) -> Result<BTreeMap<String, Piece>, Error> {
    let mut pieces: BTreeMap<String, Piece> = BTreeMap::new();
    let mut experts: BTreeMap<String, (Fix, BTreeMap<usize, String>)> = BTreeMap::new();
    for (full, _) in files.entries() {
        let full = full.to_owned();
        let bare = PREFIXES.iter().find_map(|p| full.strip_prefix(p)).unwrap_or(&full);
        if bare.starts_with(EXTRA_HEAD) || is_extra_layer(bare, hf) || floats.is_beside(&full) {
            continue;
        }
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
            let gguf = format!("{}{}", hf.renamed(name.gguf).replacen("{}", &m.layer, 1), m.ending);
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
    // A tied head is the embedding table, under whichever of the two names it was saved. Where both are there and
    // differ, the flag is wrong, as Transformers takes it too.
    let bytes = |name: &str| pieces.get(name).and_then(|p: &Piece| files.bytes(&p.sources[0]).ok());
    let differ = bytes("token_embd.weight").zip(bytes("output.weight")).is_some_and(|(a, b)| *a != *b);
    if tied == Some(true)
        && !differ
        && let Some(head) = pieces.remove("output.weight")
    {
        pieces.entry("token_embd.weight".into()).or_insert(head);
    }
    for (gguf, (fix, sources)) in experts {
        pieces.insert(gguf, Piece { sources: sources.into_values().collect(), fix });
    }
    Ok(pieces)
}

/// True for a tensor of a layer that predicts further tokens.
fn is_extra_layer(bare: &str, hf: &Hf) -> bool {
    let layer = bare.strip_prefix("layers.").and_then(|rest| rest.split_once('.')?.0.parse::<usize>().ok());
    let extra = hf.get(&EXTRA_LAYERS).and_then(Json::as_u64).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    layer.zip(hf.known("block_count")).is_some_and(|(layer, last)| (last..last.saturating_add(extra)).contains(&layer))
}

/// The name of the scales that belong to a tensor of MXFP4 nibbles.
fn scales_of(source: &str) -> Option<String> {
    source.strip_suffix("_blocks").map(|stem| format!("{stem}_scales"))
}

/// True when `name` is of the kind that `pattern` describes.
pub(crate) fn is_match(pattern: &str, name: &str) -> bool {
    matches(pattern, name).is_some()
}

pub(crate) struct Match {
    pub(crate) layer: String,
    pub(crate) expert: Option<usize>,
    /// `.weight`, `.bias`, or nothing for parameters that end in their own name.
    pub(crate) ending: String,
}

/// Matches `name` against `pattern`, in which `{}` is the layer and `{e}` the expert.
pub(crate) fn matches(pattern: &str, name: &str) -> Option<Match> {
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
        let (dtype, mut shape) = self.stored(&piece.sources[0])?;
        if piece.sources.len() > 1 {
            shape.insert(0, piece.sources.len());
        }
        Some(TensorInfo { dtype: piece.fix.dtype(dtype), shape: piece.fix.shape(shape, self.heads) })
    }

    fn tensor(&self, name: &str) -> Result<Tensor, allod_formats::Error> {
        if let Some(t) = self.made.get(name) {
            return Ok(t.clone());
        }
        let missing = || allod_formats::Error::NoTensor { origin: self.origin(), name: name.to_owned() };
        let piece = self.pieces.get(name).ok_or_else(missing)?;
        let mut parts = piece.sources.iter().map(|s| self.read(s)).collect::<Result<Vec<_>, _>>()?;
        let first = parts.pop().ok_or_else(missing)?;
        let whole = if parts.is_empty() { first } else { self.stack(name, parts, first)? };
        piece.fix.apply(whole, self.heads).map_err(|e| self.odd(name, e.to_string()))
    }
}

impl Folder {
    /// Type and shape of a tensor as stored. What ends in `_blocks` and has `_scales` beside it is MXFP4.
    fn stored(&self, source: &str) -> Option<(DType, Vec<usize>)> {
        let one = self.files.entry(source)?;
        let mut shape = one.shape.clone();
        if let Some(dtype) = self.floats.dtype(source) {
            return Some((dtype, shape));
        }
        if scales_of(source).is_none_or(|s| self.files.entry(&s).is_none()) {
            return Some((one.dtype.tensor_type()?, shape));
        }
        let (bytes, blocks) = (shape.pop()?, shape.pop()?);
        shape.push(blocks.checked_mul(bytes)?.checked_mul(2)?);
        Some((DType::MXFP4, shape))
    }

    fn read(&self, source: &str) -> Result<Tensor, allod_formats::Error> {
        match (self.stored(source), scales_of(source)) {
            (Some((DType::MXFP4, shape)), Some(scales)) => {
                let (blocks, scales) = (self.files.bytes(source)?, self.files.bytes(&scales)?);
                order::mxfp4(&blocks, &scales, shape).map_err(|e| self.odd(source, e.to_string()))
            }
            _ => match self.floats.read(&self.files, source).map_err(|e| self.odd(source, e.to_string()))? {
                Some(t) => Ok(t),
                None => self.files.tensor(source),
            },
        }
    }

    /// Puts tensors of one type and shape into one, on a new first axis.
    fn stack(&self, name: &str, mut parts: Vec<Tensor>, last: Tensor) -> Result<Tensor, allod_formats::Error> {
        let (dtype, mut shape): (DType, Vec<usize>) = (last.dtype, last.shape.clone());
        if let Some(odd) = parts.iter().find(|t| t.dtype != dtype || t.shape != shape) {
            return Err(self.odd(name, format!("experts of {} {:?} and {dtype} {shape:?}", odd.dtype, odd.shape)));
        }
        parts.push(last);
        shape.insert(0, parts.len());
        let data = parts.iter().flat_map(|t| t.data.iter().copied()).collect();
        rebuild(dtype, shape, data).map_err(|e| self.odd(name, e.to_string()))
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
