//! Methods of Python's strings, lists and dictionaries that templates call.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

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
