//! `tojson` as Transformers has it: Python's `json.dumps`, not Jinja's filter that escapes HTML.

use super::python;
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Error, ErrorKind};
use std::fmt::Write;

/// Nesting beyond this is an error.
const DEPTH: usize = 100;

/// How to write.
struct Style {
    ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// `value | tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn filter(value: &Value, positional: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let argument = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        let given = positional.get(index).cloned().or(kwargs.get(name)?);
        Ok(given.filter(|v| !v.is_none() && !v.is_undefined()))
    };
    let truth = |value: Option<Value>| value.is_some_and(|v| v.is_true());
    let indent = argument(1, "indent")?.map(|indent| match indent.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(usize::try_from(indent.as_i64().unwrap_or(0).clamp(0, 64)).unwrap_or(0)),
    });
    let (item_separator, key_separator) = match argument(2, "separators")? {
        Some(pair) => (pair.get_item(&0.into())?.to_string(), pair.get_item(&1.into())?.to_string()),
        None if indent.is_some() => (",".into(), ": ".into()),
        None => (", ".into(), ": ".into()),
    };
    let style = Style {
        ascii: truth(argument(0, "ensure_ascii")?),
        indent,
        item_separator,
        key_separator,
        sort_keys: truth(argument(3, "sort_keys")?),
    };
    kwargs.assert_all_used()?;
    let mut out = String::new();
    style.write(value, 0, &mut out)?;
    Ok(Value::from(out))
}

impl Style {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > DEPTH {
            return Err(Error::new(ErrorKind::BadSerialization, "tojson: nested too deep"));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            // Lazy sequences are refused, as Python's generators are.
            ValueKind::Seq => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list('[', ']', items.len(), depth, out, |i, out| self.write(&items[i], depth + 1, out))?;
            }
            ValueKind::Map => self.map(value, depth, out)?,
            kind => {
                let message = format!("tojson: a value that is {kind} is not JSON serializable");
                return Err(Error::new(ErrorKind::BadSerialization, message));
            }
        }
        Ok(())
    }

    fn map(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        self.list('{', '}', keys.len(), depth, out, |i, out| {
            match keys[i].kind() {
                ValueKind::String => self.string(keys[i].as_str().unwrap_or_default(), out),
                ValueKind::Number => self.string(&number(&keys[i]), out),
                ValueKind::Bool => out.push_str(if keys[i].is_true() { "\"true\"" } else { "\"false\"" }),
                ValueKind::None => out.push_str("\"null\""),
                kind => {
                    let message = format!("tojson: a key that is {kind} is not JSON serializable");
                    return Err(Error::new(ErrorKind::BadSerialization, message));
                }
            }
            out.push_str(&self.key_separator);
            self.write(&value.get_item(&keys[i])?, depth + 1, out)
        })
    }

    fn list(
        &self,
        open: char,
        close: char,
        count: usize,
        depth: usize,
        out: &mut String,
        item: impl Fn(usize, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        for i in 0..count {
            if i > 0 {
                out.push_str(&self.item_separator);
            }
            self.new_line(depth + 1, out);
            item(i, out)?;
        }
        if count > 0 {
            self.new_line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn new_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || self.ascii && !c.is_ascii() => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a string cannot fail.
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// A number as `json.dumps` writes it.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    f64::try_from(value.clone()).map_or_else(|_| value.to_string(), |x| python::float(x, ["NaN", "Infinity"]))
}
