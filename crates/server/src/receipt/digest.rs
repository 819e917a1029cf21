//! Digests of what a model is made of.

use crate::models::Origin;
use allod_formats::{Metadata, gguf};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Digests of a model's file and of its tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Of its file or files.
    pub model: String,
    /// Of its tokenizer.
    pub tokenizer: String,
}

/// `blake3:` and the hexadecimal digits.
pub(super) fn of(bytes: &[u8]) -> String {
    written(blake3::hash(bytes))
}

fn written(hash: blake3::Hash) -> String {
    format!("blake3:{}", hash.to_hex())
}

/// Reads all of a model's files.
///
/// # Errors
/// The file system's.
pub fn digests(origin: &Origin) -> io::Result<Digests> {
    let metadata = origin.open().map_err(io::Error::other)?.metadata().clone();
    let tokenizer = match origin.folder() {
        Some(folder) if metadata.str("tokenizer.ggml.model").is_none() => of_files(&tokenizer_files(folder)?)?,
        _ => of_metadata(&metadata),
    };
    let model = match origin {
        Origin::Embedded(_, bytes) => of(bytes),
        Origin::Path(path) => path_digest(path)?,
    };
    Ok(Digests { model, tokenizer })
}

/// The digest of a model's file, of all files of a model in several, or of a folder's.
///
/// # Errors
/// The file system's.
pub fn path_digest(path: &Path) -> io::Result<String> {
    if path.is_dir() {
        return of_files(&files(path, |name| {
            [".safetensors", ".json", ".jinja", ".model", ".txt", ".gguf"].iter().any(|end| name.ends_with(end))
        })?);
    }
    match gguf::parse_path(path) {
        Some((folder, prefix, _, count)) => {
            of_files(&(0..count).map(|no| gguf::part_path(&folder, &prefix, no, count)).collect::<Vec<_>>())
        }
        None => Ok(written(of_file(path)?)),
    }
}

fn of_file(path: &Path) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize())
}

/// Of the list that `b3sum` writes of these files.
fn of_files(paths: &[PathBuf]) -> io::Result<String> {
    let mut list = String::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        list.push_str(&format!("{}  {name}\n", of_file(path)?.to_hex()));
    }
    Ok(of(list.as_bytes()))
}

/// The files of a folder by name.
fn files(folder: &Path, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_file() && !name.starts_with('.') && wanted(name) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn tokenizer_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let names =
        ["added_tokens.json", "merges.txt", "special_tokens_map.json", "tekken.json", "vocab.json", "vocab.txt"];
    files(folder, |name| name.starts_with("tokenizer") || names.contains(&name))
}

/// What a GGUF file says about its tokenizer, without the chat templates, which have digests of their own.
fn of_metadata(metadata: &Metadata) -> String {
    let mut hasher = blake3::Hasher::new();
    for (key, value) in metadata.iter() {
        if key.starts_with("tokenizer.") && !key.starts_with("tokenizer.chat_template") {
            hasher.update(format!("{key} = {value:?}\n").as_bytes());
        }
    }
    written(hasher.finalize())
}
