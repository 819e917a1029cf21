//! Methods of Python's strings, lists and dictionaries that templates call.

use super::translate;
use minijinja::value::{Enumerator, Object, Serde, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};
use std::sync::Arc;

/// Calls `value.method(arguments)`.
///
/// Most methods are those of minijinja's Python compatibility; here are the ones it lacks.
pub(super) fn call(state: &mut State, value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    match (value.kind(), method, arguments) {
        (ValueKind::String, "removeprefix", [affix]) => Ok(strip(value, |s| s.strip_prefix(affix.as_str()?))),
        (ValueKind::String, "removesuffix", [affix]) => Ok(strip(value, |s| s.strip_suffix(affix.as_str()?))),
        (ValueKind::String, "partition", [separator]) => partition(value, separator, false),
        (ValueKind::String, "rpartition", [separator]) => partition(value, separator, true),
        (ValueKind::Seq, "index", [wanted]) => position(value, wanted),
        // What changes a value in place is refused by the sandbox.
        (ValueKind::Seq, "append" | "extend" | "insert" | "pop" | "remove" | "clear" | "sort" | "reverse", _)
        | (ValueKind::Map, "pop" | "update" | "setdefault" | "clear" | "popitem", _) => {
            Err(Error::new(ErrorKind::InvalidOperation, format!("`{method}` would change a value; templates cannot")))
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments),
    }
}

fn strip(value: &Value, cut: impl Fn(&str) -> Option<&str>) -> Value {
    value.as_str().and_then(cut).map_or_else(|| value.clone(), Value::from)
}

fn partition(value: &Value, separator: &Value, from_right: bool) -> Result<Value, Error> {
    let (text, separator) = (value.as_str().unwrap_or(""), separator.as_str().unwrap_or(""));
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
    }
    let parts = if from_right { text.rsplit_once(separator) } else { text.split_once(separator) };
    Ok(match parts {
        Some((before, after)) => list([before, separator, after]),
        None if from_right => list(["", "", text]),
        None => list([text, "", ""]),
    })
}

fn position(value: &Value, wanted: &Value) -> Result<Value, Error> {
    let found = value.try_iter()?.position(|item| item == *wanted);
    found.map(Value::from).ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("{wanted} is not in list")))
}

fn list(texts: [&str; 3]) -> Value {
    texts.into_iter().map(Value::from).collect()
}

/// A dictionary whose methods can be named without being called.
#[derive(Debug)]
struct Dict(Value);

/// A method that was named but not called. It is not undefined, and has nothing to offer.
#[derive(Debug)]
struct Method;

impl Object for Method {}

impl Object for Dict {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        if key.as_str().is_some_and(|name| name.ends_with(translate::METHOD)) {
            return Some(Value::from_object(Method));
        }
        self.0.get_item(key).ok().filter(|value| !value.is_undefined())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.try_iter().into_iter().flatten().collect())
    }
}

/// `value` with every dictionary a [`Dict`].
pub(super) fn with_methods(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Array(list) => list.iter().map(with_methods).collect(),
        serde_json::Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| (Value::from(key.as_str()), with_methods(value)));
            Value::from_object(Dict(Value::from_pairs(entries)))
        }
        scalar => Value::from(Serde(scalar)),
    }
}
