//! The seal of a receipt: a short digest of each field, so that a change names itself.

use serde_json::{Map, Value};
use std::fmt;

/// Where two receipts part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The path of the field, such as `request.sampling.temperature` or `answers[0].tokens.token_ids[17]`.
    pub field: String,
    /// What the receipt says.
    pub expected: String,
    /// What was found here.
    pub found: String,
    /// What follows from it.
    pub meaning: &'static str,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { field, expected, found, meaning } = self;
        write!(f, "{field}: the receipt says {expected}, found {found} ({meaning})")
    }
}

/// The digests of all fields but the seal itself, by path. An array of plain values is one field.
pub(super) fn of(receipt: &Value) -> Map<String, Value> {
    let digest = |(path, value): (String, &Value)| {
        let hash = blake3::hash(format!("{path}\n{}", plain(value)).as_bytes()).to_hex();
        (path, Value::from(&hash[..16]))
    };
    fields(receipt).into_iter().filter(|(path, _)| path != "seal" && !path.starts_with("seal.")).map(digest).collect()
}

/// The first field that is not as it was when the receipt was sealed.
pub(super) fn broken(receipt: &Value) -> Option<Difference> {
    let empty = Map::new();
    let sealed = receipt["seal"].as_object().unwrap_or(&empty);
    let now = of(receipt);
    let paths = now.keys().chain(sealed.keys().filter(|path| !now.contains_key(*path)));
    let path = paths.into_iter().find(|path| now.get(*path) != sealed.get(*path))?;
    let told = |seal: Option<&Value>| match seal.and_then(Value::as_str) {
        Some(digest) => format!("a value with seal {digest}"),
        None => "no such field".into(),
    };
    Some(Difference {
        field: path.clone(),
        expected: told(sealed.get(path)),
        found: told(now.get(path)),
        meaning: "it was changed after it was sealed",
    })
}

/// The first field in which `found` is not as `expected`, among those below the paths that `among` accepts.
pub(super) fn first(
    expected: &Value,
    found: &Value,
    among: impl Fn(&str) -> bool,
    meaning: &'static str,
) -> Option<Difference> {
    let (expected, found) = (fields(expected), fields(found));
    let value = |of: &[(String, &Value)], path: &str| of.iter().find(|(p, _)| p == path).map(|(_, v)| (*v).clone());
    let missing = found.iter().filter(|(path, _)| !expected.iter().any(|(p, _)| p == path));
    for (path, _) in expected.iter().chain(missing).filter(|(path, _)| among(path)) {
        let (expected, found) = (value(&expected, path), value(&found, path));
        if expected.as_ref().map(plain) != found.as_ref().map(plain) {
            return Some(parted(path, expected.unwrap_or_default(), found.unwrap_or_default(), meaning));
        }
    }
    None
}

/// Names the first place of an array in which two fields differ.
fn parted(path: &str, expected: Value, found: Value, meaning: &'static str) -> Difference {
    if let (Value::Array(expected), Value::Array(found)) = (&expected, &found) {
        let at = (0..).find(|&i| expected.get(i) != found.get(i)).unwrap_or_default();
        let told = |of: &[Value]| of.get(at).map_or_else(|| "the end".into(), Value::to_string);
        let (expected, found) = (told(expected), told(found));
        return Difference { field: format!("{path}[{at}]"), expected, found, meaning };
    }
    Difference { field: path.into(), expected: expected.to_string(), found: found.to_string(), meaning }
}

/// The fields of a value in their order.
fn fields(value: &Value) -> Vec<(String, &Value)> {
    fn walk<'v>(path: String, value: &'v Value, out: &mut Vec<(String, &'v Value)>) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                let below = |name: &str| if path.is_empty() { name.into() } else { format!("{path}.{name}") };
                map.iter().for_each(|(name, value)| walk(below(name), value, out));
            }
            Value::Array(list) if list.iter().any(|entry| entry.is_object() || entry.is_array()) => {
                list.iter().enumerate().for_each(|(i, value)| walk(format!("{path}[{i}]"), value, out));
            }
            _ => out.push((path, value)),
        }
    }
    let mut out = Vec::new();
    walk(String::new(), value, &mut out);
    out
}

/// A field as text, the same whichever program has written it: JSON has many ways to write a number.
fn plain(value: &Value) -> String {
    match value {
        Value::Number(n) => match n.as_f64() {
            Some(float) if n.is_f64() && float.fract() == 0.0 && float.abs() < 9e15 => format!("{}", float as i64),
            _ => n.to_string(),
        },
        Value::Array(list) => format!("[{}]", list.iter().map(plain).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}
