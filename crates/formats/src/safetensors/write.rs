//! Writing safetensors, in one file or in shards with an index.

use super::{Dtype, header};
use crate::{
    Error,
    staged::{Planned, Stage},
};
use indexmap::IndexMap;
use serde_json::{Map, Value, json};
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

/// Writes tensors: the headers at once, then the tensors' bytes in the order announced. The files appear under their
/// names, complete, when [`Writer::finish`] returns; dropped before, the writer leaves nothing.
///
/// The format has no padding: a reader that wants aligned numbers is served by announcing wide types first.
#[derive(Debug)]
pub struct Writer(Stage);

/// Name, type, shape and size in bytes.
type Sized = (String, Dtype, Vec<usize>, usize);

impl Writer {
    /// Announces everything. Tensors that do not fit into `shard_bytes` together go into shards with an index: for
    /// `model.safetensors` these are `model-00001-of-00002.safetensors` and so on, and `model.safetensors.index.json`.
    /// `metadata` go into every file. Existing files are replaced.
    ///
    /// # Errors
    /// [`Error::Unwritable`] when the format cannot hold it, [`Error::Io`].
    pub fn create(
        path: impl AsRef<Path>,
        tensors: impl IntoIterator<Item = (String, Dtype, Vec<usize>)>,
        metadata: &IndexMap<String, String>,
        shard_bytes: Option<u64>,
    ) -> Result<Writer, Error> {
        let path = path.as_ref();
        let sized = check(path, tensors)?;
        let shards = divide(&sized, shard_bytes.unwrap_or(u64::MAX));
        let mut files = Vec::new();
        if shards.len() > 1 {
            files.push(index(path, &sized, &shards));
        }
        let (before, mut planned) = (files.len(), Vec::new());
        for (no, shard) in shards.iter().enumerate() {
            let start = start_of_file(path, shard, metadata)?;
            files.push((path.with_file_name(shard_name(path, no, shards.len())), start));
            let tensors = shard.iter();
            planned.extend(tensors.map(|(name, _, _, bytes)| Planned {
                name: name.clone(),
                bytes: *bytes,
                file: before + no,
                padding: 0,
            }));
        }
        Ok(Writer(Stage::create(path, files, planned)?))
    }

    /// Appends bytes to the tensor called `name`, in as many pieces as the caller likes. Tensors come in the order
    /// announced.
    ///
    /// # Errors
    /// [`Error::Unwritable`] when another tensor is due or the bytes are too many, [`Error::Io`].
    pub fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.0.append(name, bytes)
    }

    /// Puts the files in their places and returns their paths, the index first if there is one.
    ///
    /// # Errors
    /// [`Error::Unwritable`] when bytes are missing, [`Error::Io`].
    pub fn finish(self) -> Result<Vec<PathBuf>, Error> {
        self.0.finish()
    }
}

fn check(path: &Path, tensors: impl IntoIterator<Item = (String, Dtype, Vec<usize>)>) -> Result<Vec<Sized>, Error> {
    let mut seen = HashSet::from([header::METADATA.to_owned()]);
    let mut sized = Vec::new();
    for (name, dtype, shape) in tensors {
        let field = format!("tensor {name:?}");
        let Some(bytes) = dtype.bytes_of(&shape) else {
            let (expected, found) = (format!("{dtype} in whole bytes below 2^64"), format!("shape {shape:?}"));
            return Err(Error::unwritable(path, field, expected, found));
        };
        if !seen.insert(name.clone()) {
            return Err(Error::unwritable(path, field, "a name of its own", "one that is taken"));
        }
        sized.push((name, dtype, shape, bytes));
    }
    Ok(sized)
}

fn divide(tensors: &[Sized], most: u64) -> Vec<&[Sized]> {
    let (mut shards, mut begin, mut size) = (Vec::new(), 0, 0u64);
    for (i, (.., bytes)) in tensors.iter().enumerate() {
        if i > begin && size.saturating_add(*bytes as u64) > most {
            shards.push(&tensors[begin..i]);
            (begin, size) = (i, 0);
        }
        size = size.saturating_add(*bytes as u64);
    }
    shards.push(&tensors[begin..]);
    shards
}

fn shard_name(path: &Path, no: usize, count: usize) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    match count {
        1 => path.file_name().unwrap_or_default().to_string_lossy().into(),
        _ => format!("{stem}-{:05}-of-{count:05}.safetensors", no + 1),
    }
}

fn index(path: &Path, all: &[Sized], shards: &[&[Sized]]) -> (PathBuf, Vec<u8>) {
    let mut map = Map::new();
    for (no, shard) in shards.iter().enumerate() {
        map.extend(shard.iter().map(|t| (t.0.clone(), Value::from(shard_name(path, no, shards.len())))));
    }
    let total = all.iter().fold(0u64, |n, t| n.saturating_add(t.3 as u64));
    let text = format!("{:#}\n", json!({ "metadata": { "total_size": total }, "weight_map": map }));
    let name = format!("{}.index.json", path.file_name().unwrap_or_default().to_string_lossy());
    (path.with_file_name(name), text.into_bytes())
}

/// Length and header, filled with spaces so that the data start at a multiple of eight.
fn start_of_file(path: &Path, tensors: &[Sized], metadata: &IndexMap<String, String>) -> Result<Vec<u8>, Error> {
    let mut object = Map::new();
    if !metadata.is_empty() {
        let strings = metadata.iter().map(|(k, v)| (k.clone(), Value::from(v.as_str()))).collect::<Map<_, _>>();
        object.insert(header::METADATA.into(), strings.into());
    }
    let mut at = 0usize;
    for (name, dtype, shape, bytes) in tensors {
        let Some(end) = at.checked_add(*bytes) else {
            let field = format!("tensor {name:?}");
            return Err(Error::unwritable(path, field, "tensors below 2^64 bytes together", "more"));
        };
        object.insert(name.clone(), json!({ "dtype": dtype.name(), "shape": shape, "data_offsets": [at, end] }));
        at = end;
    }
    let mut text = Value::from(object).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    if text.len() as u64 > header::HEADER_LIMIT {
        let expected = format!("at most {} bytes", header::HEADER_LIMIT);
        return Err(Error::unwritable(path, "header", expected, text.len()));
    }
    Ok([&(text.len() as u64).to_le_bytes()[..], &text].concat())
}
