//! The JSON before the tensors' bytes: eight bytes of length, then names, types, shapes and offsets.

use super::Dtype;
use crate::{
    Error,
    cursor::Cursor,
    error::{DAMAGED, TRUNCATED},
    json,
};
use indexmap::IndexMap;
use serde_json::Value;
use std::{ops::Range, path::Path};

/// The format's own limit.
pub(super) const HEADER_LIMIT: u64 = 100_000_000;
pub(super) const METADATA: &str = "__metadata__";

/// What the header says about a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Element type.
    pub dtype: Dtype,
    /// Axes, outermost first.
    pub shape: Vec<usize>,
    /// Where in the file its bytes lie.
    pub(super) range: Range<usize>,
}

/// One file's header.
pub(super) struct Header {
    pub(super) metadata: IndexMap<String, String>,
    pub(super) tensors: IndexMap<String, Entry>,
}

/// Reads a header and holds it against the bytes behind it.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Header, Error> {
    let mut c = Cursor::new(path, bytes);
    let text = read_text(&mut c)?;
    let start = c.at();
    let Value::Object(object) = json::strict(path, text)? else {
        return Err(Error::malformed(path, "header", "a JSON object", "another value", DAMAGED));
    };
    let mut header = Header { metadata: IndexMap::new(), tensors: IndexMap::new() };
    for (name, value) in object {
        if name == METADATA {
            header.metadata = read_metadata(path, value)?;
        } else {
            let entry = read_entry(path, &name, &value, start, bytes.len())?;
            header.tensors.insert(name, entry);
        }
    }
    check_cover(path, &header.tensors, start, bytes.len())?;
    Ok(header)
}

fn read_text<'a>(c: &mut Cursor<'a>) -> Result<&'a [u8], Error> {
    let length: u64 = c.scalar("header length")?;
    if length > HEADER_LIMIT {
        let hint = "this is not a safetensors file, or a damaged one";
        return Err(Error::malformed(c.path, "header length", format!("at most {HEADER_LIMIT} bytes"), length, hint));
    }
    let text = c.take(length as usize, "header")?;
    if let Err(e) = std::str::from_utf8(text) {
        let found = format!("an invalid byte at position {}", e.valid_up_to());
        return Err(Error::malformed(c.path, "header", "UTF-8", found, DAMAGED));
    }
    if text.first() != Some(&b'{') {
        let found = text.first().map_or("nothing".into(), |b| format!("{:?}", b.escape_ascii().to_string()));
        return Err(Error::malformed(c.path, "header", "a JSON object that starts with '{'", found, DAMAGED));
    }
    Ok(text)
}

fn read_metadata(path: &Path, value: Value) -> Result<IndexMap<String, String>, Error> {
    let refuse = |field: String, found: &Value| Error::malformed(path, field, "strings only", kind_of(found), DAMAGED);
    let Value::Object(object) = value else {
        return Err(refuse(METADATA.into(), &value));
    };
    object
        .into_iter()
        .map(|(key, value)| match value {
            Value::String(s) => Ok((key, s)),
            other => Err(refuse(format!("{METADATA} {key:?}"), &other)),
        })
        .collect()
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn read_entry(path: &Path, name: &str, value: &Value, start: usize, file_end: usize) -> Result<Entry, Error> {
    let refuse = |part: &str, expected: String, found: String| {
        Error::malformed(path, format!("tensor {name:?}: {part}"), expected, found, DAMAGED)
    };
    let Value::Object(object) = value else {
        return Err(refuse("entry", "dtype, shape and data_offsets".into(), kind_of(value).into()));
    };
    if let Some(extra) = object.keys().find(|k| !["dtype", "shape", "data_offsets"].contains(&k.as_str())) {
        return Err(refuse("entry", "dtype, shape and data_offsets alone".into(), format!("{extra:?} as well")));
    }
    let get = |key: &str| object.get(key).ok_or_else(|| refuse(key, "it to be there".into(), "nothing".into()));
    let dtype = get("dtype")?;
    let Some(dtype) = dtype.as_str().and_then(Dtype::from_name) else {
        let (field, hint) = (format!("tensor {name:?}: dtype"), "a newer program made this file: update this one");
        return Err(Error::unsupported(path, field, "a type of the safetensors format", dtype, hint));
    };
    let numbers = |key: &str| {
        let value = get(key)?;
        let list = value.as_array().map(|a| a.iter().map(|v| usize::try_from(v.as_u64()?).ok()).collect());
        list.flatten().ok_or_else(|| refuse(key, "a list of sizes".into(), value.to_string()))
    };
    let shape: Vec<usize> = numbers("shape")?;
    let offsets: Vec<usize> = numbers("data_offsets")?;
    let &[begin, end] = offsets.as_slice() else {
        return Err(refuse("data_offsets", "begin and end".into(), format!("{offsets:?}")));
    };
    let Some(length) = end.checked_sub(begin) else {
        return Err(refuse("data_offsets", "an end after the begin".into(), format!("{offsets:?}")));
    };
    if end > file_end - start {
        let expected = format!("an end within the {} bytes of data", file_end - start);
        let field = format!("tensor {name:?}: data_offsets");
        return Err(Error::malformed(path, field, expected, end, TRUNCATED));
    }
    if dtype.bytes_of(&shape) != Some(length) {
        let expected = match dtype.bytes_of(&shape) {
            Some(n) => format!("{n} bytes for {dtype} of shape {shape:?}"),
            None => format!("{dtype} in whole bytes below 2^64, which shape {shape:?} is not"),
        };
        return Err(refuse("data_offsets", expected, format!("{length} bytes")));
    }
    Ok(Entry { dtype, shape, range: start + begin..start + end })
}

/// The tensors must cover the data exactly: no holes where something could hide, no overlap, nothing behind.
fn check_cover(path: &Path, tensors: &IndexMap<String, Entry>, start: usize, file_end: usize) -> Result<(), Error> {
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by_key(|(_, e)| (e.range.start, e.range.end));
    let mut at = start;
    for (name, e) in sorted {
        if e.range.start != at {
            let what = if e.range.start < at { "an overlap" } else { "a hole" };
            let found = format!("{what}: {}", e.range.start - start);
            let field = format!("tensor {name:?}: data_offsets");
            return Err(Error::malformed(path, field, format!("a begin at {}", at - start), found, DAMAGED));
        }
        at = e.range.end;
    }
    if at != file_end {
        let (expected, found) = (format!("the file to end at {at}"), format!("{file_end} bytes"));
        let hint = "the download went wrong or something was appended";
        return Err(Error::malformed(path, "end of the file", expected, found, hint));
    }
    Ok(())
}
