//! Prepared weights on disk: repacked once, then mapped by every process that runs the model.
//!
//! A file holds the packed matrices of one model one after the other, then an index in JSON, then the index's length,
//! its BLAKE3 and a magic number. The index has a BLAKE3 for each piece of the matrices; all are checked when the file
//! is opened, so that a damaged file is packed anew instead of giving other answers. Files are written under another
//! name and renamed, named by what they were made from, and the ones not used for longest go when the folder is full.

use crate::PrepareError;
use allod_formats::WeightSource;
use allod_kernels::{linear::Weights, pool::Pool};
use allod_plan::ParamInfo;
use allod_tensor::{Bytes, DType};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, SystemTime},
};

const MAGIC: &[u8; 8] = b"AllodPW1";
/// Length, digest, magic.
const TRAILER: usize = 8 + 32 + 8;
/// Bytes under one digest: enough of them to share between threads.
const PIECE: usize = 4 << 20;
/// Starts of matrices are multiples of this many bytes.
const ALIGN: usize = 64;
/// Bytes that are hashed at either end of each tensor to tell files apart.
const SAMPLE: usize = 4 << 10;
/// The ending of the files' names.
const ENDING: &str = "prepared";
/// The ending while they are written.
const PARTIAL: &str = "partial";
/// Nobody writes any more at a partial file that did not grow for so long.
const ABANDONED: Duration = Duration::from_secs(3600);
/// Size of the folder where nobody says otherwise.
const LIMIT_GIB: u64 = 32;
/// Bytes of matrices that take longer to prepare than to look for.
const WORTH_KEEPING: u64 = 64 << 20;
/// Files begun by this process: two threads never write to the same one.
static WRITTEN: AtomicUsize = AtomicUsize::new(0);

/// A folder of prepared weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Where files lie.
    pub folder: PathBuf,
    /// Bytes that the files take together at most; older ones make room.
    pub limit: u64,
    /// Bytes of matrices below which keeping them is not worth a file.
    pub least: u64,
}

#[derive(Serialize, Deserialize)]
struct Index {
    matrices: Vec<Entry>,
    /// BLAKE3 of each [`PIECE`] of what comes before the index.
    pieces: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    name: String,
    dtype: String,
    experts: usize,
    rows: usize,
    cols: usize,
    start: usize,
    len: usize,
}

/// Packs one tensor.
pub(crate) type Pack<'a> = &'a dyn Fn(&ParamInfo) -> Result<Weights, PrepareError>;

impl Store {
    /// The user's own folder: `$ALLOD_CACHE`, else `$XDG_CACHE_HOME/allod` or `~/.cache/allod`. It takes 32 GiB, or what
    /// `ALLOD_CACHE_GIB` says; with 0 nothing is kept. `None` for a user without a home.
    pub fn of_user() -> Option<Store> {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let shared = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
        let folder = set("ALLOD_CACHE").or_else(|| Some(shared()?.join("allod")))?.join("prepared");
        let asked: Option<u64> = std::env::var("ALLOD_CACHE_GIB").ok().and_then(|n| n.parse().ok());
        Some(Store { folder, limit: asked.unwrap_or(LIMIT_GIB).saturating_mul(1 << 30), least: WORTH_KEEPING })
    }

    /// The matrices by name, from the file or packed now and written. Without a file, for whatever reason, there are
    /// none, and the caller packs for itself.
    pub(crate) fn matrices(
        &self,
        source: &dyn WeightSource,
        matrices: &[&ParamInfo],
        pool: &Pool,
        pack: Pack<'_>,
    ) -> Result<HashMap<String, Weights>, PrepareError> {
        let Some((key, bytes)) = identity(source, matrices)? else { return Ok(HashMap::new()) };
        if bytes < self.least || bytes > self.limit {
            return Ok(HashMap::new());
        }
        let path = self.folder.join(format!("{key}.{ENDING}"));
        if let Some(found) = open(&path, matrices, pool) {
            return Ok(found);
        }
        match self.write(&path, matrices, bytes, pack) {
            Ok(()) => Ok(open(&path, matrices, pool).unwrap_or_default()),
            Err(WriteError::Prepare(e)) => Err(e),
            // A full or read-only disk is no reason not to run.
            Err(WriteError::Io) => Ok(HashMap::new()),
        }
    }

    fn write(&self, path: &Path, matrices: &[&ParamInfo], bytes: u64, pack: Pack<'_>) -> Result<(), WriteError> {
        fs::create_dir_all(&self.folder)?;
        self.make_room(bytes)?;
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("{}-{number}.{PARTIAL}", std::process::id()));
        let written = write_to(&temporary, matrices, pack).and_then(|()| Ok(fs::rename(&temporary, path)?));
        if written.is_err() {
            // Where it cannot be removed either, it goes when it is old.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Removes the files that were not used for longest until `bytes` fit.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let (path, meta) = entry.and_then(|e| e.metadata().map(|m| (e.path(), m)))?;
            let modified = meta.modified()?;
            if path.extension().is_some_and(|e| e == ENDING) {
                files.push((modified, meta.len(), path));
            } else if path.extension().is_some_and(|e| e == PARTIAL)
                && modified.elapsed().is_ok_and(|age| age > ABANDONED)
            {
                fs::remove_file(path)?;
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|f| f.1).sum();
        for (_, len, path) in files {
            if total + bytes <= self.limit {
                break;
            }
            fs::remove_file(path)?;
            total -= len;
        }
        Ok(())
    }
}

enum WriteError {
    Io,
    Prepare(PrepareError),
}

impl From<io::Error> for WriteError {
    fn from(_: io::Error) -> WriteError {
        WriteError::Io
    }
}

/// What the file is named by, and the bytes of the matrices: the source's file with its size and time, every tensor's
/// name, type, shape and both ends. `None` where the matrices do not lie in a file as they are, such as with an adapter
/// merged into them.
fn identity(source: &dyn WeightSource, matrices: &[&ParamInfo]) -> Result<Option<(blake3::Hash, u64)>, PrepareError> {
    let Ok(path) = fs::canonicalize(source.origin()) else { return Ok(None) };
    let Ok(meta) = fs::metadata(&path) else { return Ok(None) };
    let mut hash = blake3::Hasher::new();
    hash.update(MAGIC).update(path.as_os_str().as_encoded_bytes()).update(&meta.len().to_le_bytes());
    let modified = meta.modified().ok().and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok());
    hash.update(&modified.unwrap_or_default().as_nanos().to_le_bytes());
    let mut bytes = 0;
    for info in matrices {
        let t = source.tensor(&info.name)?;
        if !t.data.is_mapped() {
            return Ok(None);
        }
        let n = SAMPLE.min(t.data.len());
        hash.update(format!("{}\0{}\0{:?}\0", info.name, t.dtype, info.shape).as_bytes());
        hash.update(&t.data[..n]).update(&t.data[t.data.len() - n..]);
        bytes += t.data.len() as u64;
    }
    Ok(Some((hash.finalize(), bytes)))
}

fn write_to(path: &Path, matrices: &[&ParamInfo], pack: Pack<'_>) -> Result<(), WriteError> {
    let mut out = BufWriter::with_capacity(PIECE, File::create(path)?);
    let (mut at, mut left, mut hash) = (0, PIECE, blake3::Hasher::new());
    let mut index = Index { matrices: Vec::new(), pieces: Vec::new() };
    for info in matrices {
        let w = pack(info).map_err(WriteError::Prepare)?;
        let bytes = w.packed_bytes();
        let (dtype, len) = (w.dtype().name().to_string(), bytes.len());
        let (experts, rows, cols) = (w.experts(), w.rows(), w.cols());
        index.matrices.push(Entry { name: info.name.clone(), dtype, experts, rows, cols, start: at, len });
        let padding = [0; ALIGN];
        for mut part in [&bytes[..], &padding[..len.next_multiple_of(ALIGN) - len]] {
            out.write_all(part)?;
            at += part.len();
            while !part.is_empty() {
                let (now, later) = part.split_at(left.min(part.len()));
                hash.update(now);
                (part, left) = (later, left - now.len());
                if left == 0 {
                    index.pieces.push(hash.finalize().to_hex().to_string());
                    (left, hash) = (PIECE, blake3::Hasher::new());
                }
            }
        }
    }
    if left < PIECE {
        index.pieces.push(hash.finalize().to_hex().to_string());
    }
    let index = serde_json::to_vec(&index).map_err(io::Error::from)?;
    out.write_all(&index)?;
    out.write_all(&(index.len() as u64).to_le_bytes())?;
    out.write_all(blake3::hash(&index).as_bytes())?;
    out.write_all(MAGIC)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(())
}

/// The matrices of a file, if it is whole and holds exactly those.
fn open(path: &Path, matrices: &[&ParamInfo], pool: &Pool) -> Option<HashMap<String, Weights>> {
    let file = File::open(path).ok()?;
    let all = Bytes::map(&file).ok()?;
    let trailer = all.len().checked_sub(TRAILER)?;
    let (len, rest) = all[trailer..].split_first_chunk::<8>()?;
    let start = trailer.checked_sub(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
    let index = &all[start..trailer];
    if &rest[32..] != MAGIC || blake3::hash(index).as_bytes() != &rest[..32] {
        return None;
    }
    let index: Index = serde_json::from_slice(index).ok()?;
    let data = all.slice(0..start)?;
    if index.matrices.len() != matrices.len() || !intact(&data, &index.pieces, pool) {
        return None;
    }
    let weights = |(entry, info): (&Entry, &&ParamInfo)| {
        let dtype = DType::from_name(&entry.dtype)?;
        let bytes = data.slice(entry.start..entry.start.checked_add(entry.len)?)?;
        let w = Weights::from_packed(dtype, entry.experts, entry.rows, entry.cols, bytes).ok()?;
        (entry.name == info.name).then(|| (entry.name.clone(), w))
    };
    let found = index.matrices.iter().zip(matrices).map(weights).collect::<Option<_>>()?;
    // The time of last use; a folder that cannot be written keeps what it has.
    let _ = file.set_modified(SystemTime::now());
    Some(found)
}

fn intact(data: &[u8], pieces: &[String], pool: &Pool) -> bool {
    if pieces.len() != data.len().div_ceil(PIECE) {
        return false;
    }
    let good = AtomicBool::new(true);
    pool.run(pieces.len(), |i| {
        let piece = &data[i * PIECE..data.len().min((i + 1) * PIECE)];
        if blake3::hash(piece).to_hex().as_str() != pieces[i] {
            good.store(false, Ordering::Relaxed);
        }
    });
    good.into_inner()
}
