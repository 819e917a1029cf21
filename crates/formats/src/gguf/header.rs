//! Everything in a GGUF file that stands before the tensors' bytes.

use super::value::{read_string, read_value};
use crate::{
    Error, Metadata, TensorInfo, Value,
    cursor::Cursor,
    error::{DAMAGED, TRUNCATED},
};
use allod_tensor::{DType, Tensor};
use indexmap::IndexMap;
use std::{ops::Range, path::Path};

pub(super) const MAGIC: [u8; 4] = *b"GGUF";
/// Tensors start at multiples of this unless `general.alignment` says otherwise.
pub(super) const DEFAULT_ALIGNMENT: usize = 32;
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";
/// GGML keeps names in 64 bytes, the last of which is zero.
pub(super) const NAME_LIMIT: usize = 63;
/// GGML knows no more axes.
pub(super) const AXES_LIMIT: usize = 4;

/// Types, shapes and where in the file the bytes lie, by name.
type Tensors = IndexMap<String, (TensorInfo, Range<usize>)>;

/// What one file says before its tensors' bytes.
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) alignment: usize,
    pub(super) metadata: Metadata,
    pub(super) tensors: Tensors,
    /// Whether the end of the file is padded to the alignment as every tensor's start is. Both kinds exist.
    pub(super) padded_end: bool,
}

/// Reads and checks the whole of a file, except what its tensors hold.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Header, Error> {
    let mut c = Cursor::new(path, bytes);
    let version = read_version(&mut c)?;
    // The shortest tensor entry: an empty name's length, no axes, type, offset. The shortest key: one letter, one byte.
    let tensor_count = c.count(8 + 4 + 4 + 8, "number of tensors")?;
    let key_count = c.count(8 + 1 + 4 + 1, "number of keys")?;
    let metadata = read_metadata(&mut c, key_count)?;
    let alignment = alignment_of(path, &metadata)?;
    let entries = read_entries(&mut c, tensor_count)?;
    let (tensors, padded_end) = lay_out(path, c.at(), bytes.len(), alignment, entries)?;
    Ok(Header { version, alignment, metadata, tensors, padded_end })
}

fn read_version(c: &mut Cursor) -> Result<u32, Error> {
    let magic: [u8; 4] = c.scalar::<u32>("magic")?.to_le_bytes();
    if magic != MAGIC {
        let (found, hint) = match &magic {
            b"FUGG" => ("GGUF backwards: a big-endian file", "convert it to little-endian"),
            b"lmgg" | b"tjgg" | b"fmgg" | b"algg" => {
                ("a GGML file from before GGUF", "convert the original model again")
            }
            b"PK\x03\x04" => ("a ZIP archive, such as a PyTorch checkpoint", "ask for the safetensors or GGUF file"),
            b"vers" => ("a Git LFS pointer", "fetch the file itself, for example with `git lfs pull`"),
            b"<!DO" | b"<htm" => ("a web page", "the address does not lead to the file itself"),
            _ => ("", "this is not a GGUF file"),
        };
        let found = if found.is_empty() { format!("{:?}", magic.escape_ascii().to_string()) } else { found.into() };
        return Err(Error::malformed(c.path, "magic", "\"GGUF\"", found, hint));
    }
    let version: u32 = c.scalar("version")?;
    let refuse = |found: String, hint| Err(Error::unsupported(c.path, "version", "2 or 3", found, hint));
    match version {
        2 | 3 => Ok(version),
        0 => refuse("0".into(), DAMAGED),
        1 => refuse("1".into(), "convert the original model again: version 1 was in use for a few weeks of 2023"),
        v if v & 0xffff == 0 => refuse(
            format!("{v:#010x}, which is {} with its bytes swapped: a big-endian file", v.swap_bytes()),
            "convert it to little-endian",
        ),
        v => refuse(v.to_string(), "a newer program made this file: update this one"),
    }
}

fn read_metadata(c: &mut Cursor, count: usize) -> Result<Metadata, Error> {
    let mut metadata = Metadata::default();
    for i in 0..count {
        let key = read_string(c, &format_args!("key {i}"))?;
        if key.is_empty() {
            return Err(Error::malformed(c.path, format_args!("key {i}"), "a name", "an empty string", DAMAGED));
        }
        let field = format!("key {key:?}");
        if metadata.get(&key).is_some() {
            return Err(Error::malformed(c.path, field, "every key once", "it twice", DAMAGED));
        }
        let value = read_value(c, &field)?;
        metadata.set(key, value);
    }
    Ok(metadata)
}

/// The alignment that metadata ask for.
pub(super) fn alignment_of(path: &Path, metadata: &Metadata) -> Result<usize, Error> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::U32(n)) if n.is_power_of_two() => Ok(n as usize),
        Some(other) => {
            let (field, expected) = (format!("key {ALIGNMENT_KEY:?}"), "a power of two as u32");
            Err(Error::malformed(path, field, expected, format!("{other:?}"), DAMAGED))
        }
    }
}

/// A tensor as it is declared.
struct Entry {
    name: String,
    info: TensorInfo,
    bytes: usize,
    offset: u64,
}

fn read_entries(c: &mut Cursor, count: usize) -> Result<Vec<Entry>, Error> {
    (0..count).map(|i| read_entry(c, i)).collect()
}

fn read_entry(c: &mut Cursor, i: usize) -> Result<Entry, Error> {
    let name = read_string(c, &format_args!("name of tensor {i}"))?;
    let field = format!("tensor {name:?}");
    if name.len() > NAME_LIMIT {
        let expected = format!("a name of at most {NAME_LIMIT} bytes");
        return Err(Error::malformed(c.path, field, expected, name.len(), DAMAGED));
    }
    let axes: u32 = c.scalar(format_args!("{field}: number of axes"))?;
    if axes as usize > AXES_LIMIT {
        let field = format!("{field}: number of axes");
        return Err(Error::malformed(c.path, field, format!("at most {AXES_LIMIT}"), axes, DAMAGED));
    }
    let mut sizes: Vec<u64> = c.scalars(axes as usize, format_args!("{field}: shape"))?;
    let dtype = read_dtype(c, &field)?;
    let offset = c.scalar(format_args!("{field}: offset"))?;
    // GGUF counts axes from the innermost.
    sizes.reverse();
    let shape = sizes.iter().map(|&n| usize::try_from(n).ok()).collect::<Option<Vec<usize>>>();
    // GGML counts elements and bytes in signed 64-bit numbers.
    let bytes = shape.as_ref().and_then(|s| Tensor::bytes_of(dtype, s)).filter(|&n| i64::try_from(n).is_ok());
    let (Some(shape), Some(bytes)) = (shape, bytes) else {
        let expected = format!("rows of whole {dtype} blocks of {} and a size below 2^63 bytes", dtype.block());
        return Err(Error::malformed(c.path, format!("{field}: shape"), expected, format!("{sizes:?}"), DAMAGED));
    };
    Ok(Entry { name, info: TensorInfo { dtype, shape }, bytes, offset })
}

fn read_dtype(c: &mut Cursor, field: &str) -> Result<DType, Error> {
    let id: u32 = c.scalar(format_args!("{field}: type"))?;
    if let Some(dtype) = DType::from_gguf_id(id) {
        return Ok(dtype);
    }
    let withdrawn = match id {
        4 => "Q4_2",
        5 => "Q4_3",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        36 => "IQ4_NL_4_4",
        37 => "IQ4_NL_4_8",
        38 => "IQ4_NL_8_8",
        _ => "",
    };
    let (found, hint) = match id {
        _ if !withdrawn.is_empty() => {
            (format!("{id}, {withdrawn}, which was withdrawn"), "quantize the original model again")
        }
        133..=158 | 202..=399 => {
            (format!("{id}, a type of ik_llama.cpp"), "quantize the original model to one of GGUF's own types")
        }
        _ => (format!("{id}, which is unknown"), "a newer program made this file: update this one"),
    };
    Err(Error::unsupported(c.path, format_args!("{field}: type"), "a tensor type in use", found, hint))
}

/// Where the tensors' bytes lie, each after the other without gaps as llama.cpp demands, up to the end of the file.
fn lay_out(
    path: &Path,
    header_end: usize,
    file_end: usize,
    alignment: usize,
    entries: Vec<Entry>,
) -> Result<(Tensors, bool), Error> {
    let too_long = |field: &str| {
        let expected = "tensors that end before 2^63";
        Error::malformed(path, field, expected, "a sum of sizes beyond it", DAMAGED)
    };
    let pad = |n: usize| n.checked_next_multiple_of(alignment).filter(|&n| i64::try_from(n).is_ok());
    let start = pad(header_end).ok_or_else(|| too_long(ALIGNMENT_KEY))?;
    // Without tensors the file may end where the header does.
    let (mut at, mut end) = (start, if entries.is_empty() { header_end } else { start });
    let mut tensors = IndexMap::with_capacity(entries.len());
    for e in entries {
        let field = format!("tensor {:?}", e.name);
        if e.offset != (at - start) as u64 {
            let (field, expected) = (format!("{field}: offset"), format!("{}, right after the one before", at - start));
            return Err(Error::malformed(path, field, expected, e.offset, DAMAGED));
        }
        end = at.checked_add(e.bytes).ok_or_else(|| too_long(&field))?;
        if end > file_end {
            let expected = format!("{} bytes of {} up to offset {end}", e.bytes, e.info.dtype);
            return Err(Error::malformed(path, field, expected, format!("a file of {file_end} bytes"), TRUNCATED));
        }
        let range = at..end;
        at = pad(end).ok_or_else(|| too_long(&field))?;
        if tensors.insert(e.name, (e.info, range)).is_some() {
            return Err(Error::malformed(path, field, "every tensor once", "it twice", DAMAGED));
        }
    }
    let padded = pad(end).ok_or_else(|| too_long("end of the file"))?;
    if file_end != end && file_end != padded {
        let (expected, found) = (format!("the file to end at {end} or {padded}"), format!("{file_end} bytes"));
        return Err(Error::malformed(
            path,
            "end of the file",
            expected,
            found,
            "the download went wrong or something was appended",
        ));
    }
    Ok((tensors, file_end == padded))
}
