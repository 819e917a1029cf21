//! JSON that comes with a model. Configuration files are read as Python reads them, so bare `NaN` and `Infinity` are
//! understood and of two equal keys the last counts; headers that decide where bytes lie are read strictly.

use crate::{
    Error,
    error::{DAMAGED, TRUNCATED},
};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use std::{borrow::Cow, fmt, path::Path};

/// Reads a configuration. A bare `NaN`, `Infinity` or `-Infinity`, which Python's writer puts out and JSON does not
/// know, becomes `{"__float__": "Infinity"}`, as newer Transformers write it themselves. `path` is for messages.
///
/// # Errors
/// [`Error::Malformed`] with line and column.
pub fn config(path: &Path, text: &[u8]) -> Result<Value, Error> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    match serde_json::from_slice(text) {
        Ok(value) => Ok(value),
        Err(first) => match quote_floats(text) {
            Cow::Borrowed(_) => Err(malformed(path, &first)),
            Cow::Owned(text) => serde_json::from_slice(&text).map_err(|_| malformed(path, &first)),
        },
    }
}

/// Reads JSON in which every key must be unique.
///
/// # Errors
/// [`Error::Malformed`] with line and column.
pub fn strict(path: &Path, text: &[u8]) -> Result<Value, Error> {
    match serde_json::from_slice::<Strict>(text) {
        Ok(Strict(value)) => Ok(value),
        Err(e) => Err(malformed(path, &e)),
    }
}

fn malformed(path: &Path, e: &serde_json::Error) -> Error {
    let field = format!("JSON, line {} column {}", e.line(), e.column());
    let hint = if e.is_eof() { TRUNCATED } else { DAMAGED };
    let message = e.to_string();
    let found = message.split(" at line ").next().unwrap_or(&message).to_owned();
    Error::malformed(path, field, "valid JSON", found, hint)
}

/// Replaces Python's bare float words outside strings.
fn quote_floats(text: &[u8]) -> Cow<'_, [u8]> {
    const WORDS: [&str; 3] = ["NaN", "-Infinity", "Infinity"];
    let mut out = Vec::new();
    let (mut copied, mut i, mut quoted) = (0, 0, false);
    while i < text.len() {
        if text[i] == b'"' {
            quoted = !quoted;
        } else if quoted && text[i] == b'\\' {
            i += 1;
        } else if !quoted && let Some(word) = WORDS.iter().find(|w| text[i..].starts_with(w.as_bytes())) {
            out.extend(&text[copied..i]);
            out.extend(format!("{{\"__float__\": \"{word}\"}}").bytes());
            i += word.len();
            copied = i;
            continue;
        }
        i += 1;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.extend(&text[copied..]);
    Cow::Owned(out)
}

/// A [`Value`] without equal keys in one object.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Strict, D::Error> {
        d.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut a: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(v)) = a.next_element()? {
            items.push(v);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut a: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = a.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key {key:?} twice")));
            }
            let Strict(value) = a.next_value()?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
