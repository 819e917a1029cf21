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
    fields.insert(OPTIONS.into(), json!({"whitespace_pattern": WHITE_SPACE}));
    Ok(Value::Object(fields))
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
