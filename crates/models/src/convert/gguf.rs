//! Writing GGUF with llama.cpp's names, keys and types.

use crate::Error;
use allod_formats::{
    Metadata, TensorInfo, WeightSource, codec,
    gguf::{Layout, Writer},
};
use allod_tensor::{DType, Tensor};
use std::path::{Path, PathBuf};

/// How to write.
#[derive(Clone, Debug, Default)]
pub struct GgufOptions {
    /// Type of matrices, among [`codec::ENCODED`]; as they are where `None`. Rows that do not fill whole blocks become
    /// F16.
    pub matrices: Option<DType>,
    /// Into which files.
    pub layout: Layout,
}

/// Matrices that llama.cpp wants in F32, beside all vectors.
const ALWAYS_F32: &[&str] =
    &["position_embd", "token_types", "ffn_gate_inp", "ffn_gate_inp_shexp", "ssm_conv1d", "altup_router"];

/// llama.cpp's `general.file_type` for files whose matrices are mostly of one type.
const FILE_TYPES: &[(DType, u32)] = &[
    (DType::F32, 0),
    (DType::F16, 1),
    (DType::Q4_0, 2),
    (DType::Q4_1, 3),
    (DType::Q8_0, 7),
    (DType::Q5_0, 8),
    (DType::Q5_1, 9),
    (DType::BF16, 32),
    (DType::TQ1_0, 36),
    (DType::TQ2_0, 37),
    (DType::MXFP4, 38),
];

/// Values encoded at a time.
const PIECE: usize = 1 << 20;

/// Writes `source` as GGUF to `path` and returns the files. `extra` (the tokenizer's keys, the chat template) is added
/// to the source's metadata and wins over it. The model must be one that this program runs.
///
/// # Errors
/// Those of [`crate::model`], tensors that cannot be read or encoded, files that cannot be written.
pub fn to_gguf(
    source: &dyn WeightSource,
    extra: &Metadata,
    path: &Path,
    options: &GgufOptions,
) -> Result<Vec<PathBuf>, Error> {
    if let Some(dtype) = options.matrices.filter(|d| !codec::ENCODED.contains(d)) {
        return Err(Error::Codec { name: "(all)".into(), source: codec::Error::NotEncoded(dtype) });
    }
    crate::check(source)?;
    let mut tensors = Vec::new();
    for name in source.names() {
        if let Some(info) = source.info(&name) {
            let dtype = target(&name, &info, options.matrices);
            tensors.push((name, TensorInfo { dtype, shape: info.shape }));
        }
    }
    tensors.sort_by_cached_key(|(name, _)| order(name));
    let mut metadata = metadata(source.metadata(), &tensors);
    for (key, value) in extra.iter() {
        metadata.set(key, value.clone());
    }
    let mut writer = Writer::create(path, &metadata, tensors.iter().cloned(), &options.layout)?;
    for (name, info) in &tensors {
        encode(&source.tensor(name)?, info.dtype, name, |bytes| writer.append(name, bytes))?;
    }
    Ok(writer.finish()?)
}

/// The type in the file.
pub(super) fn target(name: &str, info: &TensorInfo, wanted: Option<DType>) -> DType {
    let stem = name.strip_suffix(".weight");
    let last = stem.map(|s| s.rsplit('.').next().unwrap_or(s));
    let is_matrix = info.shape.len() > 1 && last.is_some_and(|n| !n.ends_with("_norm") && !ALWAYS_F32.contains(&n));
    let columns = info.shape.last().copied().unwrap_or(0);
    match (is_matrix, wanted) {
        (false, _) => DType::F32,
        (true, Some(d)) if columns.is_multiple_of(d.block()) => d,
        (true, Some(_)) => DType::F16,
        (true, None) if matches!(info.dtype, DType::F64 | DType::I8 | DType::I16 | DType::I32 | DType::I64) => {
            DType::F32
        }
        (true, None) => info.dtype,
    }
}

/// Globals first, then layers by number.
pub(super) fn order(name: &str) -> (Option<usize>, String) {
    let layer = name.strip_prefix("blk.").and_then(|r| r.split_once('.')?.0.parse().ok());
    (layer, name.to_owned())
}

pub(super) fn metadata(source: &Metadata, tensors: &[(String, TensorInfo)]) -> Metadata {
    let mut meta = Metadata::default();
    for (key, value) in source.iter().filter(|(k, _)| k.starts_with("general.")) {
        meta.set(key, value.clone());
    }
    meta.set("general.type", meta.str("general.type").unwrap_or("model").to_owned());
    let elements = |d: DType| -> usize {
        let of_type = tensors.iter().filter(|(_, i)| i.dtype == d && i.shape.len() > 1);
        of_type.map(|(_, i)| i.shape.iter().product::<usize>()).sum()
    };
    let most = FILE_TYPES.iter().max_by_key(|(d, _)| elements(*d)).filter(|(d, _)| elements(*d) > 0);
    if let Some((_, number)) = most {
        meta.set("general.file_type", *number);
    }
    if tensors.iter().any(|(_, i)| i.dtype.is_quantized()) {
        meta.set("general.quantization_version", 2_u32);
    }
    for (key, value) in source.iter().filter(|(k, _)| !k.starts_with("general.") && !k.starts_with("split.")) {
        meta.set(key, value.clone());
    }
    meta
}

/// Hands out the tensor's bytes in the type `to`, piece by piece.
fn encode(
    t: &Tensor,
    to: DType,
    name: &str,
    mut write: impl FnMut(&[u8]) -> Result<(), allod_formats::Error>,
) -> Result<(), Error> {
    if t.dtype == to {
        return Ok(write(&t.data)?);
    }
    let fail = |source| Error::Codec { name: name.to_owned(), source };
    let rows = (PIECE / t.columns().max(1)).max(1);
    let (mut values, mut out) = (Vec::new(), Vec::new());
    for piece in t.data.chunks((rows * t.row_bytes()).max(1)) {
        values.resize(piece.len() / t.dtype.block_bytes() * t.dtype.block(), 0.0);
        codec::decode(t.dtype, piece, &mut values).map_err(fail)?;
        out.clear();
        codec::encode(to, &values, &mut out).map_err(fail)?;
        write(&out)?;
    }
    Ok(())
}
