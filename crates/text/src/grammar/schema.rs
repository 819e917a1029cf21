//! JSON Schemas from anywhere: limits before compiling, and the place of what is wrong after.

use super::{Error, first_lines, json};
use llguidance::api::{GrammarInit, ParserLimits};
use serde_json::{Map, Value, json};

/// Values within values.
const DEEPEST: usize = 128;
/// Values and bytes of text in a schema.
const LARGEST: usize = 1 << 20;
/// References in a schema. Each can cost a level of recursion.
const REFERENCES: usize = 2000;
/// Compilations that looking for a mistake may cost.
const PROBES: usize = 200;
/// Schemas larger than this are not searched for their mistake.
const SEARCHED: usize = 1 << 16;
/// White space between the parts of a JSON text: enough to indent, not enough to go on for ever.
const WHITE_SPACE: &str = r"[ \t]{1,4}|(\r?\n)[ \t]{0,40}";
/// The key under which llguidance takes options.
const OPTIONS: &str = "x-guidance";

/// Addresses within the lengths that RFC 5321 allows.
const EMAIL: &str = r"^[a-zA-Z0-9_+-]{1,20}(\.[a-zA-Z0-9_+-]{1,20}){0,2}@[a-zA-Z0-9]{1,20}(-[a-zA-Z0-9]{1,20})?(\.[a-zA-Z0-9]{1,20}){0,2}\.[a-z]{2,6}$";

/// Keywords whose value is one schema.
const SINGLE: &[&str] = &["items", "additionalItems", "additionalProperties", "not", "contains", "propertyNames", "if"];
/// Keywords whose value is a list of schemas.
const LISTS: &[&str] = &["anyOf", "oneOf", "allOf", "prefixItems", "items"];
/// Keywords whose value is a map of schemas.
const MAPS: &[&str] = &["properties", "patternProperties", "$defs", "definitions"];

/// `schema` with our options in place of any that came with it.
pub(super) fn prepare(schema: &Value) -> Result<Value, Error> {
    if size(schema, DEEPEST).is_none_or(|size| size > LARGEST) {
        let limits = format!("nests deeper than {DEEPEST} or is larger than {LARGEST} bytes");
        return Err(Error::grammar("#", limits));
    }
    let references = references(schema);
    if references > REFERENCES {
        return Err(Error::grammar("#", format!("{references} references; at most {REFERENCES} are followed")));
    }
    let mut fields = match schema {
        Value::Object(fields) => fields.clone(),
        Value::Bool(true) => Map::new(),
        _ => return Err(Error::grammar("#", format!("expected an object, found {}", kind(schema)))),
    };
    exact_formats(&mut fields);
    fields.insert(OPTIONS.into(), json!({"whitespace_pattern": WHITE_SPACE}));
    Ok(Value::Object(fields))
}

/// `schema` as a part of a grammar, held to what a whole one is; what is wrong with it shows when that is compiled.
pub(crate) fn bounded(schema: &Value) -> Value {
    prepare(schema).unwrap_or_else(|_| schema.clone())
}

/// Replaces formats that llguidance takes loosely (29 February in any year, a 61st second in any minute, addresses of any
/// length) by patterns that allow nothing invalid.
fn exact_formats(schema: &mut Map<String, Value>) {
    let year = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)";
    let leap = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)";
    let day = "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))";
    let date = format!("(?:{year}-{day}|{leap}-02-29)");
    let time = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
    let pattern = match schema.get("format").and_then(Value::as_str) {
        Some("date") => Some(format!("^{date}$")),
        Some("time") => Some(format!("^{time}$")),
        Some("date-time") => Some(format!("^{date}T{time}$")),
        Some("email") => Some(EMAIL.to_owned()),
        _ => None,
    };
    if let Some(pattern) = pattern.filter(|_| !schema.contains_key("pattern")) {
        schema.shift_remove("format");
        schema.insert("pattern".into(), pattern.into());
    }
    for (key, value) in schema.iter_mut() {
        match value {
            Value::Object(part) if SINGLE.contains(&key.as_str()) => exact_formats(part),
            Value::Object(map) if MAPS.contains(&key.as_str()) => {
                map.values_mut().filter_map(Value::as_object_mut).for_each(exact_formats);
            }
            Value::Array(list) if LISTS.contains(&key.as_str()) => {
                list.iter_mut().filter_map(Value::as_object_mut).for_each(exact_formats);
            }
            _ => {}
        }
    }
}

/// The innermost schema that is wrong the way the whole is.
pub(super) fn locate(schema: &Value, message: &str) -> Error {
    let mut at = "#".to_string();
    let mut inner = schema;
    let mut probes = PROBES;
    let wrong = first_line(message);
    if size(schema, DEEPEST).is_some_and(|size| size <= SEARCHED) {
        'deeper: loop {
            for (path, part) in parts(inner) {
                if probes == 0 {
                    break 'deeper;
                }
                probes -= 1;
                if mistake(part, schema).is_some_and(|found| first_line(&found) == wrong) {
                    at.push_str(&path);
                    inner = part;
                    continue 'deeper;
                }
            }
            break;
        }
    }
    Error::grammar(at, format!("{}{}", message.replace("Unimplemented keys:", "cannot be enforced:"), hint(message)))
}

/// What to do about a mistake.
fn hint(message: &str) -> &'static str {
    match message {
        m if m.contains("oneOf") => "; write `anyOf` where the alternatives may overlap",
        m if m.contains("Unimplemented keys") => "; leave them out and check the answer yourself",
        _ => "",
    }
}

/// What is wrong with `part` of the schema `whole`, if it is.
fn mistake(part: &Value, whole: &Value) -> Option<String> {
    let mut fields = part.as_object()?.clone();
    for key in ["$defs", "definitions", "$schema"] {
        if let Some(value) = whole.get(key) {
            fields.entry(key).or_insert_with(|| value.clone());
        }
    }
    let grammar = GrammarInit::Serialized(json(prepare(&Value::Object(fields)).ok()?));
    grammar.to_internal(None, ParserLimits::default()).err().map(|error| first_lines(&format!("{error:#}")))
}

/// The schemas directly inside a schema, with their paths.
fn parts(schema: &Value) -> Vec<(String, &Value)> {
    let mut parts = Vec::new();
    for (key, value) in schema.as_object().into_iter().flatten() {
        match value {
            Value::Object(_) if SINGLE.contains(&key.as_str()) => parts.push((format!("/{key}"), value)),
            Value::Object(map) if MAPS.contains(&key.as_str()) => {
                parts.extend(map.iter().map(|(name, part)| (format!("/{key}/{}", pointer(name)), part)));
            }
            Value::Array(list) if LISTS.contains(&key.as_str()) => {
                parts.extend(list.iter().enumerate().map(|(i, part)| (format!("/{key}/{i}"), part)));
            }
            _ => {}
        }
    }
    parts
}

/// A name as part of a JSON pointer.
fn pointer(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn first_line(message: &str) -> &str {
    message.lines().next().unwrap_or_default()
}

/// Values and bytes of text in `value`; `None` when it nests deeper than `depth`.
fn size(value: &Value, depth: usize) -> Option<usize> {
    let depth = depth.checked_sub(1)?;
    match value {
        Value::String(text) => Some(1 + text.len()),
        Value::Array(list) => list.iter().try_fold(1, |sum, part| Some(sum + size(part, depth)?)),
        Value::Object(map) => map.iter().try_fold(1, |sum, (key, part)| Some(sum + key.len() + size(part, depth)?)),
        _ => Some(1),
    }
}

fn references(value: &Value) -> usize {
    match value {
        Value::Array(list) => list.iter().map(references).sum(),
        Value::Object(map) => map.iter().map(|(key, part)| usize::from(key.contains("$ref")) + references(part)).sum(),
        _ => 0,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
