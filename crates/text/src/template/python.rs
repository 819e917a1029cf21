//! Values printed as Python prints them, where the engine prints them otherwise.

use minijinja::value::{Value, ValueKind};
use std::fmt::Write;

/// `str(value)`.
pub(super) fn text(value: &Value) -> String {
    if !prints_differently(value, 0) {
        return value.to_string();
    }
    let mut out = String::new();
    repr(value, &mut out);
    out
}

/// True when the value is, or holds, a float that Python writes with an exponent.
pub(super) fn prints_differently(value: &Value, depth: usize) -> bool {
    match value.kind() {
        ValueKind::Number => !value.is_integer() && value.to_string() != number(value),
        ValueKind::Seq if depth < 64 => {
            value.try_iter().is_ok_and(|mut items| items.any(|item| prints_differently(&item, depth + 1)))
        }
        ValueKind::Map if depth < 64 => value.try_iter().is_ok_and(|mut keys| {
            keys.any(|key| value.get_item(&key).is_ok_and(|item| prints_differently(&item, depth + 1)))
        }),
        _ => false,
    }
}

/// `repr` of what [`prints_differently`]; anything inside that does not is the engine's.
fn repr(value: &Value, out: &mut String) {
    if !prints_differently(value, 0) {
        // Debug is the engine's `repr`. Writing to a string cannot fail.
        let _ = write!(out, "{value:?}");
        return;
    }
    match value.kind() {
        ValueKind::Seq => {
            out.push('[');
            for (i, item) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(&item, out);
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(&key, out);
                out.push_str(": ");
                repr(&value.get_item(&key).unwrap_or_default(), out);
            }
            out.push('}');
        }
        _ => out.push_str(&number(value)),
    }
}

/// A number as Python writes it.
pub(super) fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    f64::try_from(value.clone()).map_or_else(|_| value.to_string(), |x| float(x, ["nan", "inf"]))
}

/// `repr` of a float: the shortest digits that read back the same, an exponent below 1e-4 and from 1e16 on.
pub(super) fn float(x: f64, [nan, infinity]: [&str; 2]) -> String {
    if !x.is_finite() {
        return if x.is_nan() { nan.into() } else { format!("{}{infinity}", if x < 0.0 { "-" } else { "" }) };
    }
    let magnitude = x.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{x:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let text = x.to_string();
    if text.contains('.') { text } else { format!("{text}.0") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_as_python_writes_them() {
        let cases = [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-2.5e-7, "-2.5e-07"),
            (f64::INFINITY, "inf"),
        ];
        for (x, expected) in cases {
            assert_eq!(float(x, ["nan", "inf"]), expected);
        }
    }

    #[test]
    fn containers_as_python_writes_them() {
        let value = Value::from(minijinja::value::Serde(serde_json::json!({"a": [1e16, 1, "it's"], "b": {"c": null}})));
        assert_eq!(text(&value), r#"{'a': [1e+16, 1, "it's"], 'b': {'c': None}}"#);
    }
}
