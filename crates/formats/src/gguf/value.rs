//! Strings and metadata values as they stand in a GGUF file.

use crate::{
    Array, Error, Value,
    cursor::{Cursor, Scalar},
    error::DAMAGED,
};
use std::fmt::Display;

/// No string is longer: 1 GiB.
const STRING_LIMIT: u64 = 1 << 30;
/// No array has more elements: 1 Gi.
const ARRAY_LIMIT: u64 = 1 << 30;
const KIND_ARRAY: u32 = 9;

/// The number that stands for the type of a value.
fn kind_of(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => KIND_ARRAY,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

/// Reads a string: UTF-8 of a length that stands before it in eight bytes.
pub(super) fn read_string(c: &mut Cursor, field: &dyn Display) -> Result<String, Error> {
    let length: u64 = c.scalar(format_args!("{field}: string length"))?;
    if length > STRING_LIMIT {
        return Err(Error::malformed(c.path, field, "a string of at most 1 GiB", format!("{length} bytes"), DAMAGED));
    }
    let bytes = c.take(length as usize, field)?;
    match std::str::from_utf8(bytes) {
        Ok(s) => Ok(s.to_owned()),
        Err(e) => {
            let found = format!("an invalid byte {:#04x} at position {}", bytes[e.valid_up_to()], e.valid_up_to());
            Err(Error::malformed(c.path, field, "UTF-8", found, DAMAGED))
        }
    }
}

/// Reads a type number and the value behind it.
pub(super) fn read_value(c: &mut Cursor, field: &dyn Display) -> Result<Value, Error> {
    let kind: u32 = c.scalar(format_args!("{field}: value type"))?;
    Ok(match kind {
        0 => Value::U8(c.scalar(field)?),
        1 => Value::I8(c.scalar(field)?),
        2 => Value::U16(c.scalar(field)?),
        3 => Value::I16(c.scalar(field)?),
        4 => Value::U32(c.scalar(field)?),
        5 => Value::I32(c.scalar(field)?),
        6 => Value::F32(c.scalar(field)?),
        7 => {
            let byte = c.scalar(field)?;
            Value::Bool(boolean(c, byte, field)?)
        }
        8 => Value::String(read_string(c, field)?),
        KIND_ARRAY => Value::Array(read_array(c, field)?),
        10 => Value::U64(c.scalar(field)?),
        11 => Value::I64(c.scalar(field)?),
        12 => Value::F64(c.scalar(field)?),
        _ => {
            let field = format_args!("{field}: value type");
            return Err(Error::malformed(c.path, field, "a number from 0 to 12", kind, DAMAGED));
        }
    })
}

fn read_array(c: &mut Cursor, field: &dyn Display) -> Result<Array, Error> {
    let kind: u32 = c.scalar(format_args!("{field}: element type"))?;
    let length: u64 = c.scalar(format_args!("{field}: array length"))?;
    if length > ARRAY_LIMIT {
        let found = format!("{length} elements");
        return Err(Error::malformed(c.path, field, "an array of at most 1 Gi elements", found, DAMAGED));
    }
    let n = length as usize;
    Ok(match kind {
        0 => Array::U8(c.scalars(n, field)?),
        1 => Array::I8(c.scalars(n, field)?),
        2 => Array::U16(c.scalars(n, field)?),
        3 => Array::I16(c.scalars(n, field)?),
        4 => Array::U32(c.scalars(n, field)?),
        5 => Array::I32(c.scalars(n, field)?),
        6 => Array::F32(c.scalars(n, field)?),
        7 => {
            let bytes = c.take(n, field)?;
            Array::Bool(bytes.iter().map(|&b| boolean(c, b, field)).collect::<Result<_, _>>()?)
        }
        8 => Array::String(read_strings(c, n, field)?),
        10 => Array::U64(c.scalars(n, field)?),
        11 => Array::I64(c.scalars(n, field)?),
        12 => Array::F64(c.scalars(n, field)?),
        _ => {
            let found = if kind == KIND_ARRAY { "an array of arrays".to_owned() } else { kind.to_string() };
            let field = format_args!("{field}: element type");
            return Err(Error::malformed(c.path, field, "a number from 0 to 12 other than 9", found, DAMAGED));
        }
    })
}

fn read_strings(c: &mut Cursor, n: usize, field: &dyn Display) -> Result<Vec<String>, Error> {
    // A string takes eight bytes at least: what cannot be there is refused before memory is taken for it.
    if n > c.left() / u64::SIZE {
        let expected = format!("at most {} strings, which is what {} bytes can hold", c.left() / u64::SIZE, c.left());
        return Err(Error::malformed(c.path, field, expected, n, crate::error::TRUNCATED));
    }
    (0..n).map(|i| read_string(c, &format_args!("{field}[{i}]"))).collect()
}

fn boolean(c: &Cursor, byte: u8, field: &dyn Display) -> Result<bool, Error> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Error::malformed(c.path, field, "a boolean, 0 or 1", byte, DAMAGED)),
    }
}

/// Appends a string.
pub(super) fn write_string(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

/// Appends a type number and the value.
pub(super) fn write_value(out: &mut Vec<u8>, value: &Value) {
    out.extend(kind_of(value).to_le_bytes());
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => write_string(out, v),
        Value::Array(v) => write_array(out, v),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
    }
}

fn write_array(out: &mut Vec<u8>, array: &Array) {
    let mut head = |kind: u32| {
        out.extend(kind.to_le_bytes());
        out.extend((array.len() as u64).to_le_bytes());
    };
    macro_rules! numbers {
        ($kind:literal, $v:ident) => {{
            head($kind);
            out.extend($v.iter().flat_map(|x| x.to_le_bytes()));
        }};
    }
    match array {
        Array::U8(v) => numbers!(0, v),
        Array::I8(v) => numbers!(1, v),
        Array::U16(v) => numbers!(2, v),
        Array::I16(v) => numbers!(3, v),
        Array::U32(v) => numbers!(4, v),
        Array::I32(v) => numbers!(5, v),
        Array::F32(v) => numbers!(6, v),
        Array::Bool(v) => {
            head(7);
            out.extend(v.iter().map(|&b| u8::from(b)));
        }
        Array::String(v) => {
            head(8);
            v.iter().for_each(|s| write_string(out, s));
        }
        Array::U64(v) => numbers!(10, v),
        Array::I64(v) => numbers!(11, v),
        Array::F64(v) => numbers!(12, v),
    }
}
