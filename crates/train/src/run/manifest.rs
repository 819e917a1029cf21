//! What a run was: enough for anyone with the same files to make it again and compare.

use super::checkpoint::write_whole;
use crate::Error;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

/// The file's name in a run's folder.
pub const FILE: &str = "manifest.json";

/// A run's record. Digests are BLAKE3 in hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The program's version and, where it is known, its commit.
    pub code: String,
    /// The settings, as TOML.
    pub config: String,
    /// Identifies settings, data and base together.
    pub identity: String,
    /// Files of the base model.
    pub base: BTreeMap<String, String>,
    /// The computation.
    pub plan: String,
    /// Files of the data.
    pub data: BTreeMap<String, String>,
    /// Ids and masks of everything that was trained and evaluated on.
    pub tokens: String,
    /// The chat template's source, where there is one.
    pub template: Option<String>,
    /// Examples, held-out examples, ids, learned ids.
    pub counts: [u64; 4],
    /// Steps taken.
    pub steps: usize,
    /// Chain over every step's loss and gradient norm.
    pub losses: String,
    /// The last step's loss.
    pub loss: f64,
    /// Evaluation losses by step.
    pub evaluations: Vec<(usize, f64)>,
    /// The trained tensors.
    pub trained: String,
    /// What was written.
    pub outputs: BTreeMap<String, String>,
    /// Seconds, and what the machine was; no part of what is compared.
    pub seconds: f64,
    /// Largest memory of the process in bytes, where the system tells it.
    pub peak_memory: Option<u64>,
}

impl Manifest {
    /// Writes it into a run's folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, run: &Path) -> Result<PathBuf, Error> {
        let path = run.join(FILE);
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::run(&path, e.to_string(), "report this"))?;
        write_whole(&path, &text)?;
        Ok(path)
    }

    /// Reads it from a run's folder.
    ///
    /// # Errors
    /// [`Error::Run`] when it is none.
    pub fn read(run: &Path) -> Result<Manifest, Error> {
        let path = if run.is_dir() { run.join(FILE) } else { run.into() };
        let text = std::fs::read(&path).map_err(Error::io(&path))?;
        serde_json::from_slice(&text).map_err(|e| Error::run(&path, e.to_string(), "give the folder of a finished run"))
    }
}

/// The digest of bytes.
pub fn digest_bytes(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// The digest of a file.
///
/// # Errors
/// [`Error::Io`].
pub fn digest(path: &Path) -> Result<String, Error> {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path).map_err(Error::io(path))?);
    let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; 1 << 20]);
    loop {
        let n = reader.read(&mut buffer).map_err(Error::io(path))?;
        if n == 0 {
            return Ok(hasher.finalize().to_hex().to_string());
        }
        hasher.update(&buffer[..n]);
    }
}

/// The digests of a file, or of all files in a folder, by name.
///
/// # Errors
/// [`Error::Io`].
pub fn digests(path: &Path) -> Result<BTreeMap<String, String>, Error> {
    let name = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !path.is_dir() {
        return Ok(BTreeMap::from([(name(path), digest(path)?)]));
    }
    let entries = std::fs::read_dir(path).and_then(|d| d.collect::<Result<Vec<_>, _>>()).map_err(Error::io(path))?;
    let mut out = BTreeMap::new();
    for path in entries.iter().map(std::fs::DirEntry::path).filter(|p| p.is_file()) {
        out.insert(name(&path), digest(&path)?);
    }
    Ok(out)
}

/// The digest of trained tensors: names, shapes and numbers.
pub fn digest_tensors(tensors: &[allod_plan::TrainedTensor]) -> String {
    let mut hasher = blake3::Hasher::new();
    for t in tensors {
        hasher.update(t.name.as_bytes()).update(format!("{:?}", t.shape).as_bytes());
        hasher.update(bytemuck::cast_slice(&t.data));
    }
    hasher.finalize().to_hex().to_string()
}

/// The largest memory this process had.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}
