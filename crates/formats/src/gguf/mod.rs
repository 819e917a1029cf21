//! GGUF: one file, or a set of split files, that holds a model's metadata and tensors.
//!
//! Versions 2 and 3 are read, version 3 is written. The format is described in ggml's `docs/gguf.md`; the limits are
//! those that llama.cpp enforces.

mod header;
mod split;
mod value;
mod write;

pub use split::{parse_path, part_path};
pub use write::{Layout, Split, Writer, save, size};

use crate::{Error, Metadata, TensorInfo, WeightSource};
use allod_tensor::{Bytes, Tensor};
use indexmap::IndexMap;
use std::{
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
};

/// A model in GGUF. Metadata are read at once; the tensors' bytes stay where they are until somebody looks at them.
#[derive(Debug)]
pub struct Gguf {
    metadata: Metadata,
    tensors: IndexMap<String, Entry>,
    files: Vec<Part>,
}

#[derive(Debug)]
struct Entry {
    info: TensorInfo,
    file: usize,
    range: Range<usize>,
}

/// One file of the model.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    bytes: Bytes,
    version: u32,
    alignment: usize,
    padded_end: bool,
}

impl Gguf {
    /// Opens a file and, when it is part of a split set, its siblings. Any part will do.
    ///
    /// # Errors
    /// [`Error`] when a file cannot be read, is malformed, or the set is incomplete or mixed.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf, Error> {
        let path = path.as_ref();
        let part = Gguf::open_part(path)?;
        match split::declared(path, &part.metadata)? {
            1 => Ok(part),
            count => split::open_all(path, part, count),
        }
    }

    /// Opens one file and leaves its siblings alone; the `split.*` keys stay in the metadata.
    ///
    /// # Errors
    /// [`Error`] when the file cannot be read or is malformed.
    pub fn open_part(path: impl AsRef<Path>) -> Result<Gguf, Error> {
        let path = path.as_ref();
        let bytes = File::open(path).and_then(|f| Bytes::map(&f)).map_err(Error::io(path))?;
        Gguf::read(bytes, path)
    }

    /// Reads a whole file that lies in memory. `label` stands for its path in messages.
    ///
    /// # Errors
    /// [`Error`] when the bytes are malformed or are a part of a split set.
    pub fn from_bytes(bytes: Bytes, label: impl AsRef<Path>) -> Result<Gguf, Error> {
        let label = label.as_ref();
        let whole = Gguf::read(bytes, label)?;
        match split::declared(label, &whole.metadata)? {
            1 => Ok(whole),
            n => {
                let hint = "open a split model by its path";
                Err(Error::unsupported(
                    label,
                    format!("key {:?}", split::COUNT),
                    "a whole model",
                    format!("1 of {n} parts"),
                    hint,
                ))
            }
        }
    }

    fn read(bytes: Bytes, path: &Path) -> Result<Gguf, Error> {
        let h = header::read(path, &bytes)?;
        let tensors =
            h.tensors.into_iter().map(|(name, (info, range))| (name, Entry { info, file: 0, range })).collect();
        let part =
            Part { path: path.into(), bytes, version: h.version, alignment: h.alignment, padded_end: h.padded_end };
        Ok(Gguf { metadata: h.metadata, tensors, files: vec![part] })
    }

    /// The version of the (first) file: 2 or 3.
    pub fn version(&self) -> u32 {
        self.files[0].version
    }

    /// Tensors start at multiples of this many bytes.
    pub fn alignment(&self) -> usize {
        self.files[0].alignment
    }

    /// Whether the end of the (first) file is padded to the alignment; files of both kinds are about, and writing one
    /// back byte for byte takes knowing.
    pub fn padded_end(&self) -> bool {
        self.files[0].padded_end
    }

    /// The files that the model is made of, in order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|f| f.path.as_path())
    }

    /// Names, types and shapes in file order.
    pub fn infos(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, e)| (name.as_str(), &e.info))
    }
}

impl WeightSource for Gguf {
    fn origin(&self) -> String {
        self.files[0].path.display().to_string()
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.tensors.get(name).map(|e| e.info.clone())
    }

    fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        // Ranges were held against the file when it was opened.
        let found = self.tensors.get(name).and_then(|e| Some((e, self.files[e.file].bytes.slice(e.range.clone())?)));
        let Some((entry, data)) = found else {
            return Err(Error::NoTensor { origin: self.origin(), name: name.into() });
        };
        Ok(Tensor { dtype: entry.info.dtype, shape: entry.info.shape.clone(), data })
    }
}
