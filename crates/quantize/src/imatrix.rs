//! Importance statistics in llama.cpp's GGUF form: for every matrix the sums of squared inputs per column (and per
//! expert), and how many tokens were summed. They weight the errors that encoders minimize.

use allod_formats::{Error as FormatError, Gguf, Metadata, TensorInfo, Value, WeightSource, codec, gguf};
use allod_tensor::DType;
use std::{collections::BTreeMap, fs::File, path::Path};

/// Sums over the inputs of one matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// `[experts × columns]` sums of squares.
    pub sums: Vec<f32>,
    /// Tokens that each expert saw; one number for a matrix without experts.
    pub counts: Vec<f32>,
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
const DATASETS: &str = "imatrix.datasets";

impl Imatrix {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error`] names file and entry.
    pub fn open(path: impl AsRef<Path>) -> Result<Imatrix, Error> {
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
            if entry.counts.is_empty() || !entry.sums.len().is_multiple_of(entry.counts.len()) {
                return Err(wrong(format!("{} sums for {} counts", entry.sums.len(), entry.counts.len())));
            }
            if let Some(bad) = entry.sums.iter().chain(&entry.counts).find(|v| !v.is_finite() || **v < 0.0) {
                return Err(wrong(format!("expected sums of squares and counts, found {bad}")));
            }
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
        let info = |columns: usize, rows: usize| TensorInfo { dtype: DType::F32, shape: vec![rows, columns] };
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

    /// Adds the inputs of a matrix: `rows` of `[tokens × columns]`, seen by `expert` of `experts`.
    pub fn add(&mut self, name: &str, columns: usize, experts: usize, expert: usize, rows: &[f32]) {
        let fresh = || Entry { sums: vec![0.0; experts * columns], counts: vec![0.0; experts] };
        let entry = self.entries.entry(name.into()).or_insert_with(fresh);
        let Some(sums) = entry.sums.get_mut(expert * columns..(expert + 1) * columns) else { return };
        for row in rows.chunks_exact(columns) {
            for (sum, v) in sums.iter_mut().zip(row) {
                *sum += v * v;
            }
        }
        if let Some(count) = entry.counts.get_mut(expert) {
            *count += (rows.len() / columns.max(1)) as f32;
        }
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
            if (ours.sums.len(), ours.counts.len()) != (theirs.sums.len(), theirs.counts.len()) {
                let (expected, found) = (ours.sums.len(), theirs.sums.len());
                return Err(Error::Mismatch { name: name.clone(), expected, found });
            }
            ours.sums.iter_mut().zip(&theirs.sums).for_each(|(a, b)| *a += b);
            ours.counts.iter_mut().zip(&theirs.counts).for_each(|(a, b)| *a += b);
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
