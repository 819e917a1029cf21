//! A model in several GGUF files: `name-00001-of-00003.gguf`, each saying in `split.*` keys which one it is.

use super::Gguf;
use crate::{
    Error, Metadata,
    error::{DAMAGED, TRUNCATED},
};
use std::path::{Path, PathBuf};

pub(super) const NO: &str = "split.no";
pub(super) const COUNT: &str = "split.count";
pub(super) const TENSORS: &str = "split.tensors.count";
/// The keys are 16 bits wide.
pub(super) const MOST: usize = u16::MAX as usize;

/// The path of part `no`, counted from 0, of `count`.
pub fn part_path(folder: &Path, prefix: &str, no: usize, count: usize) -> PathBuf {
    folder.join(format!("{prefix}-{:05}-of-{count:05}.gguf", no + 1))
}

/// Folder, prefix, part (counted from 0) and count that a path of this form names.
pub fn parse_path(path: &Path) -> Option<(PathBuf, String, usize, usize)> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (prefix, no) = rest.rsplit_once('-')?;
    let number = |s: &str| (s.len() == 5).then(|| s.parse::<usize>().ok()).flatten();
    let (no, count) = (number(no)?, number(count)?);
    (1..=count).contains(&no).then(|| (path.with_file_name(""), prefix.to_owned(), no - 1, count))
}

/// How many parts the metadata speak of.
pub(super) fn declared(path: &Path, metadata: &Metadata) -> Result<usize, Error> {
    let Some(value) = metadata.get(COUNT) else { return Ok(1) };
    match value.as_u64() {
        Some(n) if n <= MOST as u64 => Ok(n.max(1) as usize),
        _ => Err(Error::malformed(path, format!("key {COUNT:?}"), "a number of files", format!("{value:?}"), DAMAGED)),
    }
}

/// Opens all files of the set that `opened`, one of `count`, belongs to.
pub(super) fn open_all(path: &Path, opened: Gguf, count: usize) -> Result<Gguf, Error> {
    let Some((folder, prefix, no, _)) = parse_path(path).filter(|p| p.3 == count) else {
        let expected = format!("a name that ends in -00001-of-{count:05}.gguf, since this is a part of {count}");
        let found = format!("{:?}", path.file_name().unwrap_or_default());
        return Err(Error::malformed(path, "file name", expected, found, "give the files of the set their names back"));
    };
    let mut opened = Some(opened);
    let mut parts = Vec::with_capacity(count);
    for i in 0..count {
        let sibling = part_path(&folder, &prefix, i, count);
        let part = match opened.take_if(|_| i == no) {
            Some(part) => part,
            None if !sibling.exists() => {
                let (field, expected) =
                    (format!("part {} of {count}", i + 1), format!("the file {}", sibling.display()));
                return Err(Error::malformed(path, field, expected, "none of that name", TRUNCATED));
            }
            None => Gguf::open_part(&sibling)?,
        };
        check(&sibling, &part, i, count)?;
        parts.push(part);
    }
    join(path, parts)
}

fn check(path: &Path, part: &Gguf, no: usize, count: usize) -> Result<(), Error> {
    let mixed = "files of different sets are mixed: fetch the set again";
    for (key, expected) in [(NO, no), (COUNT, count)] {
        if part.metadata.uint(key) != Some(expected as u64) {
            let found = part.metadata.get(key).map_or("nothing".to_owned(), |v| format!("{v:?}"));
            return Err(Error::malformed(path, format!("key {key:?}"), expected, found, mixed));
        }
    }
    Ok(())
}

fn join(path: &Path, parts: Vec<Gguf>) -> Result<Gguf, Error> {
    let mut parts = parts.into_iter();
    let Some(mut whole) = parts.next() else {
        return Err(Error::malformed(path, format!("key {COUNT:?}"), "at least 1", 0, DAMAGED));
    };
    for part in parts {
        let base = whole.files.len();
        whole.files.extend(part.files);
        for (name, mut entry) in part.tensors {
            entry.file += base;
            let field = format!("tensor {name:?}");
            if whole.tensors.insert(name, entry).is_some() {
                return Err(Error::malformed(path, field, "every tensor in one part", "it in two", DAMAGED));
            }
        }
    }
    if let Some(declared) = whole.metadata.uint(TENSORS)
        && declared != whole.tensors.len() as u64
    {
        let found = format!("{} in all parts together", whole.tensors.len());
        return Err(Error::malformed(path, format!("key {TENSORS:?}"), declared, found, DAMAGED));
    }
    // What is joined is no longer split.
    for key in [NO, COUNT, TENSORS] {
        whole.metadata.remove(key);
    }
    Ok(whole)
}
