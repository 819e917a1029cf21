//! Safetensors: one file, or a folder of shards with an index, beside the configuration files of Hugging Face.
//!
//! Names stay as they are in the files; an architecture maps them to canonical ones. The format is described in the
//! README of huggingface/safetensors.

mod dtype;
mod header;
mod write;

pub use dtype::Dtype;
pub use header::Entry;
pub use write::Writer;

use crate::{
    Error,
    error::{DAMAGED, TRUNCATED},
    json,
};
use allod_tensor::{Bytes, DType, Tensor};
use indexmap::IndexMap;
use std::{
    fs::{self, File},
    io::ErrorKind,
    path::{Component, Path, PathBuf},
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A model, or any set of tensors, in safetensors. Headers are read at once; the tensors' bytes stay in the mapped files
/// until somebody looks at them.
#[derive(Debug)]
pub struct Safetensors {
    /// What was opened, for messages.
    path: PathBuf,
    folder: PathBuf,
    metadata: IndexMap<String, String>,
    /// The shard and the entry of every tensor.
    tensors: IndexMap<String, (usize, Entry)>,
    shards: Vec<Shard>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    bytes: Bytes,
}

impl Safetensors {
    /// Opens a folder (`model.safetensors`, or `model.safetensors.index.json` with its shards, or the only
    /// `.safetensors` file in it), one file, or an index.
    ///
    /// # Errors
    /// [`Error`] when a file is absent, cannot be read or is malformed, or the index speaks of what is not there.
    pub fn open(path: impl AsRef<Path>) -> Result<Safetensors, Error> {
        let path = path.as_ref();
        let file = if path.is_dir() { find_in(path)? } else { path.to_owned() };
        let mut model = Safetensors {
            path: path.into(),
            folder: file.parent().unwrap_or(Path::new("")).into(),
            metadata: IndexMap::new(),
            tensors: IndexMap::new(),
            shards: Vec::new(),
        };
        if file.extension().is_some_and(|e| e == "json") {
            model.add_index(&file)?;
        } else {
            let bytes = File::open(&file).and_then(|f| Bytes::map(&f)).map_err(Error::io(&file))?;
            model.add_shard(file, bytes)?;
        }
        Ok(model)
    }

    /// Reads one whole file that lies in memory. `label` stands for its path in messages.
    ///
    /// # Errors
    /// [`Error`] when the bytes are malformed.
    pub fn from_bytes(bytes: Bytes, label: impl AsRef<Path>) -> Result<Safetensors, Error> {
        let path = label.as_ref().to_owned();
        let mut model = Safetensors {
            folder: path.parent().unwrap_or(Path::new("")).into(),
            path: path.clone(),
            metadata: IndexMap::new(),
            tensors: IndexMap::new(),
            shards: Vec::new(),
        };
        model.add_shard(path, bytes)?;
        Ok(model)
    }

    fn add_shard(&mut self, path: PathBuf, bytes: Bytes) -> Result<(), Error> {
        let header = header::read(&path, &bytes)?;
        let shard = self.shards.len();
        self.metadata.extend(header.metadata);
        self.tensors.extend(header.tensors.into_iter().map(|(name, entry)| (name, (shard, entry))));
        self.shards.push(Shard { path, bytes });
        Ok(())
    }

    /// Opens every shard that the index names, and takes from each exactly the tensors that the index puts there.
    fn add_index(&mut self, path: &Path) -> Result<(), Error> {
        let index = json::strict(path, &fs::read(path).map_err(Error::io(path))?)?;
        let Some(map) = index.get("weight_map").and_then(|m| m.as_object()) else {
            return Err(Error::malformed(path, "weight_map", "an object of tensor and file names", "none", DAMAGED));
        };
        let mut opened: IndexMap<&str, (usize, IndexMap<String, Entry>)> = IndexMap::new();
        for (name, file) in map {
            let field = format!("weight_map {name:?}");
            let Some(file) = file.as_str().filter(|f| is_plain_name(f)) else {
                let expected = "the name of a file in the same folder";
                let hint = "do not trust this model: its index points outside its folder";
                return Err(Error::malformed(path, field, expected, file, hint));
            };
            if !opened.contains_key(file) {
                opened.insert(file, self.open_listed(path, &field, file)?);
            }
            let Some((shard, entry)) = opened.get(file).and_then(|(shard, t)| Some((*shard, t.get(name)?.clone())))
            else {
                let found = "no such tensor in it";
                return Err(Error::malformed(path, field, format!("the tensor in {file}"), found, DAMAGED));
            };
            self.tensors.insert(name.clone(), (shard, entry));
        }
        Ok(())
    }

    fn open_listed(
        &mut self,
        index: &Path,
        field: &str,
        name: &str,
    ) -> Result<(usize, IndexMap<String, Entry>), Error> {
        let path = self.folder.join(name);
        let file = File::open(&path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                Error::malformed(index, field, format!("the file {}", path.display()), "none of that name", TRUNCATED)
            }
            _ => Error::io(&path)(e),
        })?;
        let bytes = Bytes::map(&file).map_err(Error::io(&path))?;
        let header = header::read(&path, &bytes)?;
        self.metadata.extend(header.metadata);
        self.shards.push(Shard { path, bytes });
        Ok((self.shards.len() - 1, header.tensors))
    }

    /// What was opened, for messages.
    pub fn origin(&self) -> String {
        self.path.display().to_string()
    }

    /// The folder that the weights lie in, and the configuration and tokenizer files beside them.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The files that the tensors lie in.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|s| s.path.as_path())
    }

    /// The free text of the headers, such as `format`: `pt`.
    pub fn metadata(&self) -> &IndexMap<String, String> {
        &self.metadata
    }

    /// Names and entries, in the order of the header or index.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.tensors.iter().map(|(name, (_, e))| (name.as_str(), e))
    }

    /// Type and shape, or `None` when there is no such tensor. Of tensors that shared memory, `safetensors.torch`
    /// writes one and notes the names of the others in the metadata: those names are found here too.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.find(name).map(|(_, e)| e)
    }

    fn find(&self, name: &str) -> Option<&(usize, Entry)> {
        self.tensors.get(name).or_else(|| self.tensors.get(self.metadata.get(name)?))
    }

    /// The bytes of a tensor, whatever its type.
    ///
    /// # Errors
    /// [`Error::NoTensor`].
    pub fn bytes(&self, name: &str) -> Result<Bytes, Error> {
        // Ranges were held against the file when it was opened.
        let found = self.find(name).and_then(|(shard, e)| self.shards[*shard].bytes.slice(e.range.clone()));
        found.ok_or_else(|| Error::NoTensor { origin: self.origin(), name: name.into() })
    }

    /// A tensor of a type that GGUF knows as well.
    ///
    /// # Errors
    /// [`Error::NoTensor`], or [`Error::Unsupported`] for types that only safetensors has (see [`Safetensors::bytes`]).
    pub fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        let data = self.bytes(name)?;
        let Some((shard, entry)) = self.find(name) else {
            return Err(Error::NoTensor { origin: self.origin(), name: name.into() });
        };
        let Some(dtype) = entry.dtype.tensor_type() else {
            let names = DType::ALL.iter().filter(|&&d| Dtype::from_tensor_type(d).is_some());
            let expected = names.map(|d| d.name()).collect::<Vec<_>>().join(", ");
            let (path, field) = (&self.shards[*shard].path, format!("tensor {name:?}: dtype"));
            return Err(Error::unsupported(
                path,
                field,
                expected,
                entry.dtype,
                "use a version of the model in one of these",
            ));
        };
        Ok(Tensor { dtype, shape: entry.shape.clone(), data })
    }

    /// A JSON file beside the weights, such as `config.json`, `generation_config.json`, `tokenizer_config.json`; `None`
    /// when there is none of that name. Of two equal keys the last counts, and bare `NaN` and `Infinity` are read as
    /// [`json::config`] says.
    ///
    /// # Errors
    /// [`Error`] when the file cannot be read or is not JSON.
    pub fn json(&self, name: &str) -> Result<Option<serde_json::Value>, Error> {
        let path = self.folder.join(name);
        match fs::read(&path) {
            Ok(text) => json::config(&path, &text).map(Some),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(&path)(e)),
        }
    }
}

/// The file in a folder to start from.
fn find_in(folder: &Path) -> Result<PathBuf, Error> {
    for name in [SINGLE, INDEX] {
        let path = folder.join(name);
        if path.exists() {
            return Ok(path);
        }
    }
    let listing = fs::read_dir(folder).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let mut found: Vec<PathBuf> = listing.map_err(Error::io(folder))?.into_iter().map(|e| e.path()).collect();
    found.retain(|p| p.extension().is_some_and(|e| e == "safetensors"));
    match found.len() {
        1 => Ok(found.remove(0)),
        n => {
            let (expected, found) = (format!("{SINGLE} or {INDEX}"), format!("{n} other .safetensors files"));
            Err(Error::malformed(folder, "folder", expected, found, "fetch the whole model, or name one of its files"))
        }
    }
}

/// True for a name that cannot lead out of its folder, on any system.
fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) && !name.contains(['/', '\\', ':'])
}
