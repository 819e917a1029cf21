//! Importance statistics in llama.cpp's GGUF form: for every matrix the sums of squared inputs per column (and per
//! expert), and how many tokens were summed. They weight the errors that encoders minimize.

mod collect;
mod legacy;

pub use collect::{Collect, CollectError, collect};

use allod_formats::{Error as FormatError, Gguf, Metadata, TensorInfo, Value, WeightSource, codec, gguf};
use allod_tensor::DType;
use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

/// Sums over the inputs of one matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// `[experts × columns]` sums of squares.
    pub sums: Vec<f32>,
    /// Tokens that each expert saw; one number for a matrix without experts.
    pub counts: Vec<f32>,
}

impl Entry {
    /// Adds sums and counts of the same sizes.
    fn add(&mut self, other: &Entry) {
        self.sums.iter_mut().zip(&other.sums).for_each(|(a, b)| *a += b);
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
    }

    /// Sums and counts that fit each other and are what they say.
    fn check(&self, origin: &str, name: &str) -> Result<(), Error> {
        let wrong = |what: String| Error::Entry { origin: origin.into(), name: name.into(), what };
        if self.counts.is_empty() || !self.sums.len().is_multiple_of(self.counts.len()) {
            return Err(wrong(format!("{} sums for {} counts", self.sums.len(), self.counts.len())));
        }
        match self.sums.iter().chain(&self.counts).find(|v| !v.is_finite() || **v < 0.0) {
            Some(bad) => Err(wrong(format!("expected sums of squares and counts, found {bad}"))),
            None => Ok(()),
        }
    }
}

/// Statistics of a whole model, by the name of the matrix (`blk.0.attn_q.weight`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imatrix {
    /// The matrices.
    pub entries: BTreeMap<String, Entry>,
    /// Texts they were collected from.
    pub datasets: Vec<String>,
    /// Chunks of text summed.
    pub chunks: u32,
    /// Tokens in a chunk.
    pub chunk_size: u32,
    /// In statistics that are not complete yet: which work they belong to.
    pub unfinished: Option<String>,
}

/// What is wrong with a file of statistics.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No GGUF file, or not readable or writable.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A GGUF file of another kind.
    #[error("{origin}: general.type is {found:?}, expected \"imatrix\": this is not a file of importance statistics")]
    Kind {
        /// The file.
        origin: String,
        /// What it says it is.
        found: String,
    },
    /// Sums and counts that do not fit each other.
    #[error("{origin}: {name}: {what}")]
    Entry {
        /// The file.
        origin: String,
        /// The matrix.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// Statistics of another model.
    #[error(
        "the statistics of {name} are for {found} columns and the matrix has {expected}: were they made with another model?"
    )]
    Mismatch {
        /// The matrix.
        name: String,
        /// Experts times columns of the matrix.
        expected: usize,
        /// Numbers in the statistics.
        found: usize,
    },
}

const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";
const CHUNKS: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
const UNFINISHED: &str = "allod.imatrix.unfinished";
const DATASETS: &str = "imatrix.datasets";

impl Imatrix {
    /// Reads a file: GGUF, or llama.cpp's earlier `.dat`.
    ///
    /// # Errors
    /// [`Error`] names file and entry.
    pub fn open(path: impl AsRef<Path>) -> Result<Imatrix, Error> {
        let path = path.as_ref();
        let mut magic = Vec::new();
        let read = File::open(path).and_then(|f| f.take(4).read_to_end(&mut magic));
        let io = |source| FormatError::Io { path: path.into(), source };
        read.map_err(io)?;
        if magic != *b"GGUF" && path.extension().is_some_and(|e| e == "dat") {
            return legacy::read(&std::fs::read(path).map_err(io)?, &path.display().to_string());
        }
        Imatrix::read(&Gguf::open(path)?)
    }

    /// Reads an opened source.
    ///
    /// # Errors
    /// [`Error`] names source and entry.
    pub fn read(source: &dyn WeightSource) -> Result<Imatrix, Error> {
        let (origin, meta) = (source.origin(), source.metadata());
        let kind = meta.str("general.type").unwrap_or_default();
        if kind != "imatrix" {
            return Err(Error::Kind { origin, found: kind.into() });
        }
        let number = |key| meta.uint(key).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        let mut out = Imatrix {
            datasets: meta.strings(DATASETS).unwrap_or_default().to_vec(),
            chunks: number(CHUNKS),
            chunk_size: number(CHUNK_SIZE),
            unfinished: meta.str(UNFINISHED).map(str::to_owned),
            ..Imatrix::default()
        };
        for sums in source.names() {
            let Some(name) = sums.strip_suffix(SUMS) else { continue };
            let wrong = |what: String| Error::Entry { origin: origin.clone(), name: name.into(), what };
            let floats = |name: &str| -> Result<Vec<f32>, Error> {
                let t = source.tensor(name)?;
                codec::to_f32(&t).map_err(|e| wrong(e.to_string()))
            };
            let counts_name = format!("{name}{COUNTS}");
            if source.info(&counts_name).is_none() {
                return Err(wrong("there are sums but no counts".into()));
            }
            let entry = Entry { sums: floats(&sums)?, counts: floats(&counts_name)? };
            entry.check(&origin, name)?;
            out.entries.insert(name.into(), entry);
        }
        Ok(out)
    }

    /// Writes a file as llama.cpp does: tensors in the order of their names.
    ///
    /// # Errors
    /// [`Error::Format`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let mut meta = Metadata::default();
        meta.set("general.type", "imatrix");
        meta.set(DATASETS, self.datasets.clone());
        meta.set(CHUNKS, self.chunks);
        meta.set(CHUNK_SIZE, self.chunk_size);
        if let Some(work) = &self.unfinished {
            meta.set(UNFINISHED, work.as_str());
        }
        // GGML does not write outer axes of size 1.
        let shape = |columns: usize, rows: usize| if rows == 1 { vec![columns] } else { vec![rows, columns] };
        let info = |columns, rows| TensorInfo { dtype: DType::F32, shape: shape(columns, rows) };
        let infos = self.entries.iter().flat_map(|(name, e)| {
            let experts = e.counts.len();
            let sums = info(e.sums.len() / experts.max(1), experts);
            [(format!("{name}{SUMS}"), sums), (format!("{name}{COUNTS}"), info(1, experts))]
        });
        let mut writer = gguf::Writer::create(path, &meta, infos, &gguf::Layout::default())?;
        let bytes = |v: &[f32]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        for (name, e) in &self.entries {
            writer.append(&format!("{name}{SUMS}"), &bytes(&e.sums))?;
            writer.append(&format!("{name}{COUNTS}"), &bytes(&e.counts))?;
        }
        writer.finish()?;
        Ok(())
    }

    /// Adds the statistics of another collection over the same model.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when a matrix has another size there.
    pub fn merge(&mut self, other: &Imatrix) -> Result<(), Error> {
        for (name, theirs) in &other.entries {
            let Some(ours) = self.entries.get_mut(name) else {
                self.entries.insert(name.clone(), theirs.clone());
                continue;
            };
            let mut theirs = theirs.clone();
            let counts = ours.counts.len().max(theirs.counts.len());
            // Early files have one count for all experts.
            for e in [&mut *ours, &mut theirs] {
                if let [count] = e.counts[..] {
                    e.counts = vec![count; counts];
                }
            }
            if (ours.sums.len(), ours.counts.len()) != (theirs.sums.len(), theirs.counts.len()) {
                let (expected, found) = (ours.sums.len(), theirs.sums.len());
                return Err(Error::Mismatch { name: name.clone(), expected, found });
            }
            ours.add(&theirs);
        }
        self.chunks += other.chunks;
        self.chunk_size = self.chunk_size.max(other.chunk_size);
        self.datasets.extend(other.datasets.iter().filter(|d| !self.datasets.contains(d)).cloned().collect::<Vec<_>>());
        Ok(())
    }

    /// The importance of every column of a matrix, `[experts × columns]`: mean squares. An expert that no token reached
    /// counts every column alike. `None` without statistics for the matrix.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the matrix has another size.
    pub fn weights(&self, name: &str, info: &TensorInfo) -> Result<Option<Vec<f32>>, Error> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        let columns = info.shape.last().copied().unwrap_or(1);
        let experts = if info.shape.len() > 2 { info.shape[..info.shape.len() - 2].iter().product() } else { 1 };
        if entry.sums.len() != experts * columns || ![1, experts].contains(&entry.counts.len()) {
            return Err(Error::Mismatch { name: name.into(), expected: experts * columns, found: entry.sums.len() });
        }
        let mean = |(sums, count): (&[f32], &f32)| -> Vec<f32> {
            sums.iter().map(|s| if *count > 0.0 { s / count } else { 1.0 }).collect()
        };
        // All experts may share one count: the heads of MLA do.
        Ok(Some(entry.sums.chunks_exact(columns).zip(entry.counts.iter().cycle()).flat_map(mean).collect()))
    }

    /// Keys that tell in a quantized file which statistics were used, as llama.cpp names them.
    pub fn stamp(&self, file: &Path, meta: &mut Metadata) {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        meta.set("quantize.imatrix.file", name);
        if let Some(dataset) = self.datasets.first() {
            meta.set("quantize.imatrix.dataset", dataset.as_str());
        }
        meta.set("quantize.imatrix.entries_count", Value::I32(self.entries.len() as i32));
        meta.set("quantize.imatrix.chunks_count", Value::I32(self.chunks as i32));
    }
}

/// The BLAKE3 digest of a file, in hexadecimal.
///
/// # Errors
/// What the operating system says.
pub fn digest(path: &Path) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}
