//! Writing GGUF version 3.

use super::{
    Gguf, header, part_path, split,
    value::{write_string, write_value},
};
use crate::{
    Error, Metadata, TensorInfo, WeightSource,
    staged::{Planned, Stage},
};
use allod_tensor::Tensor;
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

/// Where one file ends and the next begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// One file.
    #[default]
    Never,
    /// As many tensors in a file as fit into so many bytes, but at least one.
    Bytes(u64),
    /// So many tensors in a file.
    Tensors(usize),
}

/// How to lay out a model in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Into which files. A set is named as llama.cpp names it ([`part_path`]).
    pub split: Split,
    /// Leaves the first file of a set without tensors, so that metadata can change without them.
    pub bare_first: bool,
    /// Pads the end of every file to the alignment, as llama.cpp does.
    pub padded_end: bool,
}

impl Default for Layout {
    fn default() -> Layout {
        Layout { split: Split::Never, bare_first: false, padded_end: true }
    }
}

impl Layout {
    /// The layout that gives a file back byte for byte (if its padding is zeros, as it should be).
    pub fn of(model: &Gguf) -> Layout {
        Layout { padded_end: model.padded_end(), ..Layout::default() }
    }
}

/// Writes a model: metadata and tensor list at once, then the tensors' bytes in the order announced. The files appear
/// under their names, complete, when [`Writer::finish`] returns; dropped before, the writer leaves nothing.
#[derive(Debug)]
pub struct Writer(Stage);

impl Writer {
    /// Announces everything. `path` is the file to write; a set is named after it: `model.gguf` becomes
    /// `model-00001-of-00003.gguf` and so on. Existing files are replaced.
    ///
    /// # Errors
    /// [`Error::Unwritable`] when GGUF cannot hold it, [`Error::Io`].
    pub fn create(
        path: impl AsRef<Path>,
        metadata: &Metadata,
        tensors: impl IntoIterator<Item = (String, TensorInfo)>,
        layout: &Layout,
    ) -> Result<Writer, Error> {
        let path = path.as_ref();
        let (files, planned) = plan(path, metadata, tensors, layout)?;
        Ok(Writer(Stage::create(path, files, planned)?))
    }

    /// As [`Writer::create`], for long work that may be interrupted: what was written stays in a hidden file beside the
    /// target, and the next call with the same path, metadata and tensors goes on from there. Gives how many tensors,
    /// the first ones, are complete. Whatever the bytes depend on should therefore stand in the metadata.
    ///
    /// # Errors
    /// As [`Writer::create`]; [`Error::Io`] also while another process writes the same file.
    pub fn resume(
        path: impl AsRef<Path>,
        metadata: &Metadata,
        tensors: impl IntoIterator<Item = (String, TensorInfo)>,
        layout: &Layout,
    ) -> Result<(Writer, usize), Error> {
        let path = path.as_ref();
        let (files, planned) = plan(path, metadata, tensors, layout)?;
        let (stage, complete) = Stage::resume(path, files, planned)?;
        Ok((Writer(stage), complete))
    }

    /// Gives up and removes what was written, also what [`Writer::resume`] would find.
    pub fn discard(self) {
        self.0.discard();
    }

    /// Appends bytes to the tensor called `name`, in as many pieces as the caller likes. Tensors come in the order
    /// announced.
    ///
    /// # Errors
    /// [`Error::Unwritable`] when another tensor is due or the bytes are too many, [`Error::Io`].
    pub fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.0.append(name, bytes)
    }

    /// Puts the files in their places and returns their paths.
    ///
    /// # Errors
    /// [`Error::Unwritable`] when bytes are missing, [`Error::Io`].
    pub fn finish(self) -> Result<Vec<PathBuf>, Error> {
        self.0.finish()
    }
}

/// Where files will stand and what they start with; the tensors to come.
type Planning = (Vec<(PathBuf, Vec<u8>)>, Vec<Planned>);

fn plan(
    path: &Path,
    metadata: &Metadata,
    tensors: impl IntoIterator<Item = (String, TensorInfo)>,
    layout: &Layout,
) -> Result<Planning, Error> {
    check_keys(path, metadata)?;
    let alignment = header::alignment_of(path, metadata).map_err(|_| {
        let found = metadata.get(header::ALIGNMENT_KEY).map_or(String::new(), |v| format!("{v:?}"));
        Error::unwritable(path, format!("key {:?}", header::ALIGNMENT_KEY), "a power of two as u32", found)
    })?;
    let sized = check_tensors(path, alignment, tensors.into_iter().collect())?;
    let parts = divide(&sized, alignment, layout);
    if parts.len() > split::MOST {
        let (expected, found) = (format!("at most {} files", split::MOST), parts.len());
        return Err(Error::unwritable(path, format!("key {:?}", split::COUNT), expected, found));
    }
    let (mut files, mut planned) = (Vec::new(), Vec::new());
    for (no, part) in parts.iter().enumerate() {
        let metadata = part_metadata(metadata, no, parts.len(), sized.len());
        files.push((target(path, no, parts.len()), start_of_file(&metadata, part, alignment, layout)));
        for (i, (name, _, bytes)) in part.iter().enumerate() {
            let padded = layout.padded_end || i + 1 < part.len();
            let padding = if padded { bytes.next_multiple_of(alignment) - bytes } else { 0 };
            planned.push(Planned { name: name.clone(), bytes: *bytes, file: no, padding });
        }
    }
    Ok((files, planned))
}

/// Bytes of the files that [`Writer::create`] with these arguments leads to.
///
/// # Errors
/// [`Error::Unwritable`] when GGUF cannot hold it.
pub fn size(
    path: &Path,
    metadata: &Metadata,
    tensors: impl IntoIterator<Item = (String, TensorInfo)>,
    layout: &Layout,
) -> Result<u64, Error> {
    let (files, planned) = plan(path, metadata, tensors, layout)?;
    let starts = files.iter().map(|f| f.1.len() as u64).sum::<u64>();
    Ok(starts + planned.iter().map(|t| (t.bytes + t.padding) as u64).sum::<u64>())
}

/// Writes a whole model from another source.
///
/// # Errors
/// [`Error`] of the source or the writer.
pub fn save(source: &dyn WeightSource, path: impl AsRef<Path>, layout: &Layout) -> Result<Vec<PathBuf>, Error> {
    let names = source.names();
    let infos = names.iter().filter_map(|n| Some((n.clone(), source.info(n)?)));
    let mut writer = Writer::create(path, source.metadata(), infos, layout)?;
    for name in &names {
        writer.append(name, &source.tensor(name)?.data)?;
    }
    writer.finish()
}

/// A tensor and its size in bytes.
type Sized = (String, TensorInfo, usize);

fn check_keys(path: &Path, metadata: &Metadata) -> Result<(), Error> {
    match metadata.iter().find(|(key, _)| key.is_empty()) {
        Some((_, value)) => Err(Error::unwritable(path, format!("the key of {value:?}"), "a name", "an empty string")),
        None => Ok(()),
    }
}

fn check_tensors(path: &Path, alignment: usize, tensors: Vec<(String, TensorInfo)>) -> Result<Vec<Sized>, Error> {
    let mut seen = HashSet::new();
    let mut sized = Vec::with_capacity(tensors.len());
    let mut total = 0usize;
    for (name, info) in tensors {
        let refuse =
            |expected: String, found: String| Err(Error::unwritable(path, format!("tensor {name:?}"), expected, found));
        if name.len() > header::NAME_LIMIT {
            return refuse(format!("a name of at most {} bytes", header::NAME_LIMIT), name.len().to_string());
        }
        if info.shape.len() > header::AXES_LIMIT {
            return refuse(format!("at most {} axes", header::AXES_LIMIT), format!("shape {:?}", info.shape));
        }
        let Some(bytes) = Tensor::bytes_of(info.dtype, &info.shape).filter(|&n| i64::try_from(n).is_ok()) else {
            let expected = format!("rows of whole {} blocks of {}", info.dtype, info.dtype.block());
            return refuse(expected, format!("shape {:?}", info.shape));
        };
        let sum = bytes.checked_next_multiple_of(alignment).and_then(|n| total.checked_add(n));
        let Some(sum) = sum.filter(|&n| i64::try_from(n).is_ok()) else {
            return refuse("tensors below 2^63 bytes together".into(), "more".into());
        };
        total = sum;
        if !seen.insert(name.clone()) {
            return refuse("every tensor once".into(), "it twice".into());
        }
        sized.push((name, info, bytes));
    }
    Ok(sized)
}

/// The tensors of each file.
fn divide<'a>(tensors: &'a [Sized], alignment: usize, layout: &Layout) -> Vec<&'a [Sized]> {
    let (mut parts, mut begin, mut size) = (Vec::new(), 0, 0u64);
    for (i, (_, _, bytes)) in tensors.iter().enumerate() {
        let next = bytes.next_multiple_of(alignment) as u64;
        let full = match layout.split {
            Split::Never => false,
            Split::Bytes(most) => size.saturating_add(next) > most,
            Split::Tensors(most) => i - begin >= most,
        };
        if full && i > begin {
            parts.push(&tensors[begin..i]);
            (begin, size) = (i, 0);
        }
        size = size.saturating_add(next);
    }
    parts.push(&tensors[begin..]);
    if layout.bare_first && parts.len() > 1 {
        parts.insert(0, &[]);
    }
    parts
}

fn target(path: &Path, no: usize, count: usize) -> PathBuf {
    if count == 1 {
        return path.into();
    }
    let prefix = path.file_stem().unwrap_or_default().to_string_lossy();
    part_path(path.parent().unwrap_or(Path::new("")), &prefix, no, count)
}

/// The first file of a set has the model's metadata; all have the keys of the set, in llama.cpp's order and types.
fn part_metadata(whole: &Metadata, no: usize, count: usize, tensors: usize) -> Metadata {
    if count == 1 {
        return whole.clone();
    }
    let mut part = if no == 0 { whole.clone() } else { Metadata::default() };
    if let Some(alignment) = whole.get(header::ALIGNMENT_KEY) {
        part.set(header::ALIGNMENT_KEY, alignment.clone());
    }
    for key in [split::NO, split::COUNT, split::TENSORS] {
        part.remove(key);
    }
    part.set(split::NO, no as u16);
    part.set(split::COUNT, count as u16);
    part.set(split::TENSORS, tensors as i32);
    part
}

/// Everything before the tensors' bytes.
fn start_of_file(metadata: &Metadata, tensors: &[Sized], alignment: usize, layout: &Layout) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(header::MAGIC);
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        write_string(&mut out, key);
        write_value(&mut out, value);
    }
    let mut offset = 0;
    for (name, info, bytes) in tensors {
        write_string(&mut out, name);
        out.extend((info.shape.len() as u32).to_le_bytes());
        out.extend(info.shape.iter().rev().flat_map(|&n| (n as u64).to_le_bytes()));
        out.extend(info.dtype.gguf_id().to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        offset += bytes.next_multiple_of(alignment);
    }
    if layout.padded_end || !tensors.is_empty() {
        out.resize(out.len().next_multiple_of(alignment), 0);
    }
    out
}
