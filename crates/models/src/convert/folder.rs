//! Writing a folder as Hugging Face lays it out.

use crate::{
    Error,
    hf::{Back, Fix, back, is_table, join, joined_shape, matches, rebuild},
};
use allod_formats::{
    Metadata, WeightSource, codec,
    safetensors::{Dtype, Writer},
};
use allod_tensor::{DType, Shape, Tensor};
use indexmap::IndexMap;
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};

/// How to write.
#[derive(Clone, Copy, Debug)]
pub struct FolderOptions {
    /// F32, F16 or BF16: the type of what is quantized in the source.
    pub dequantized: DType,
    /// Bytes of tensors in one file.
    pub shard_bytes: Option<u64>,
}

impl Default for FolderOptions {
    fn default() -> FolderOptions {
        FolderOptions { dequantized: DType::BF16, shard_bytes: None }
    }
}

/// A tensor of the folder and the tensors of the source that it is made of.
struct Whole {
    dtype: DType,
    shape: Shape,
    parts: Vec<Piece>,
}

/// A tensor of the source, or one expert of it.
struct Piece {
    name: String,
    fix: Fix,
    expert: Option<usize>,
    shape: Shape,
}

/// Writes `source` to the folder `out`, made if need be: `config.json`, `generation_config.json` where the source
/// recommends how to sample, and the tensors. The tokenizer is not among them. Returns the files.
///
/// # Errors
/// [`Error::NoWayBack`] when no configuration says the same; what [`crate::model`] says; tensors that cannot be read,
/// files that cannot be written.
pub fn to_safetensors(source: &dyn WeightSource, out: &Path, options: &FolderOptions) -> Result<Vec<PathBuf>, Error> {
    crate::check(source)?;
    let back = back(source)?;
    let wholes = wholes(source, &back, options.dequantized)?;
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::from(allod_formats::Error::Io { path, source })
    };
    std::fs::create_dir_all(out).map_err(io(out))?;
    let announced =
        wholes.iter().filter_map(|(name, w)| Some((name.clone(), Dtype::from_tensor_type(w.dtype)?, w.shape.clone())));
    let format = IndexMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut writer = Writer::create(out.join("model.safetensors"), announced, &format, options.shard_bytes)?;
    for (name, whole) in &wholes {
        let read = |p: &Piece| Ok((p.fix, p.read(source, whole.dtype)?));
        let parts = whole.parts.iter().map(read).collect::<Result<Vec<_>, Error>>()?;
        writer.append(name, &join(parts, back.heads)?.data)?;
    }
    let mut files = writer.finish()?;
    let mut json = vec![("config.json", back.config)];
    json.extend(generation(source.metadata()).map(|g| ("generation_config.json", g)));
    for (name, value) in json {
        let path = out.join(name);
        std::fs::write(&path, format!("{value:#}\n")).map_err(io(&path))?;
        files.push(path);
    }
    Ok(files)
}

fn wholes(source: &dyn WeightSource, back: &Back, plain: DType) -> Result<IndexMap<String, Whole>, Error> {
    let mut wholes: IndexMap<String, Whole> = IndexMap::new();
    for name in source.names().into_iter().filter(|n| !is_table(n)) {
        let Some(info) = source.info(&name) else { continue };
        let (pattern, fix) = folder_name(back, &name).ok_or_else(|| Error::UnknownTensor {
            origin: source.origin(),
            name: name.clone(),
            arch: back.arch.gguf,
        })?;
        let dtype = fix.dtype(if info.dtype.is_quantized() { plain } else { info.dtype });
        let (experts, shape) = match (pattern.contains("{e}"), info.shape.split_first()) {
            (true, Some((&n, rest))) => (n, rest.to_vec()),
            _ => (0, info.shape),
        };
        for e in 0..experts.max(1) {
            let expert = (experts > 0).then_some(e);
            let whole = wholes.entry(pattern.replace("{e}", &e.to_string()));
            let whole = whole.or_insert_with(|| Whole { dtype, shape: vec![], parts: vec![] });
            if whole.dtype != dtype {
                whole.dtype = DType::F32;
            }
            whole.parts.push(Piece { name: name.clone(), fix, expert, shape: shape.clone() });
        }
    }
    for whole in wholes.values_mut() {
        let parts: Vec<(Fix, Shape)> = whole.parts.iter().map(|p| (p.fix, p.shape.clone())).collect();
        whole.shape = joined_shape(&parts, back.heads);
    }
    Ok(wholes)
}

/// The name in the folder, with `{e}` where experts are stored one by one, and what was done to the layout.
pub(crate) fn folder_name(back: &Back, name: &str) -> Option<(String, Fix)> {
    folder_names(back, name).next()
}

/// All names that folders have for it, the usual one first.
pub(crate) fn folder_names(back: &Back, name: &str) -> impl Iterator<Item = (String, Fix)> {
    // Later tables override earlier ones; within one the first name is the usual one.
    let names = back.arch.names.iter().rev().flat_map(|table| table.iter()).filter(|n| !n.gguf.is_empty());
    names.filter_map(move |n| {
        let m = matches(&back.renamed(n.gguf), name)?;
        let prefix = if n.gguf == "output" { "" } else { back.prefix };
        let fix = if m.ending == ".bias" { n.fix.of_bias() } else { n.fix };
        Some((format!("{prefix}{}{}", n.hf.replacen("{}", &m.layer, 1), m.ending), fix))
    })
}

impl Piece {
    /// The numbers, in the type from which the fix is taken back to `dtype`.
    fn read(&self, source: &dyn WeightSource, dtype: DType) -> Result<Tensor, Error> {
        let mut t = source.tensor(&self.name)?;
        if let Some(e) = self.expert {
            let each = t.data.len() / t.shape[0].max(1);
            let data = t.data.slice(e * each..(e + 1) * each);
            let data = data.ok_or_else(|| Error::Layout(format!("{}: no expert {e}", self.name)))?;
            t = Tensor { dtype: t.dtype, shape: t.shape[1..].to_vec(), data };
        }
        if t.dtype.is_quantized() || self.fix.dtype(t.dtype) != dtype {
            let fail = |source| Error::Codec { name: self.name.clone(), source };
            let mut data = vec![];
            codec::encode(dtype, &codec::to_f32(&t).map_err(fail)?, &mut data).map_err(fail)?;
            t = rebuild(dtype, t.shape, data)?;
        }
        Ok(t)
    }
}

/// `generation_config.json`
fn generation(meta: &Metadata) -> Option<Json> {
    let mut out = json!({});
    for (key, name) in crate::hf::SAMPLING {
        if let Some(v) = meta.float(key) {
            out[name] = crate::hf::number(v);
        }
    }
    if let Some(k) = meta.uint("general.sampling.top_k") {
        out["top_k"] = k.into();
    }
    out.as_object().is_some_and(|o| !o.is_empty()).then_some(out)
}
