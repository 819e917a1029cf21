//! Messages of every dialect in the form that chat templates read: OpenAI's.

use super::{Record, kind_of};
use crate::error::Problem;
use serde_json::{Map, Value, json};

/// What a dialect calls a role, and what templates call it.
const ROLES: &[(&str, &str)] = &[
    ("system", "system"),
    ("developer", "developer"),
    ("user", "user"),
    ("human", "user"),
    ("prompter", "user"),
    ("assistant", "assistant"),
    ("gpt", "assistant"),
    ("chatgpt", "assistant"),
    ("model", "assistant"),
    ("bot", "assistant"),
    ("bing", "assistant"),
    ("bard", "assistant"),
    ("tool", "tool"),
    ("ipython", "tool"),
    ("observation", "tool"),
    ("function_response", "tool"),
    ("function", "tool"),
];
/// ShareGPT's role for a call of a tool, which templates want as a field of the assistant's message.
const CALL: &str = "function_call";

/// A list of messages under the dialect's names.
pub(super) fn messages(record: &Record, field: &str, value: &Value) -> Result<Vec<Value>, Problem> {
    let Value::Array(list) = parsed(record, field, value)? else {
        let hint = "write a list of messages, such as [{\"role\": \"user\", \"content\": \"…\"}]";
        return Err(record.problem(format!("{field}: expected a list, found {}", kind_of(value)), hint));
    };
    if list.is_empty() {
        return Err(record.problem(format!("{field}: no messages"), "remove the record, or give it messages"));
    }
    list.iter().enumerate().map(|(i, m)| message(record, &format!("{field}[{i}]"), m)).collect()
}

/// JSON that stands in a text (ShareGPT's tools, columns of CSV) as itself.
pub(super) fn parsed(record: &Record, field: &str, value: &Value) -> Result<Value, Problem> {
    match value {
        Value::String(text) => serde_json::from_str(text).map_err(|e| {
            record.problem(format!("{field}: the text is no JSON: {e}"), "write a list, or a text that holds one")
        }),
        other => Ok(other.clone()),
    }
}

/// One message with `role`, `content`, and what else it had.
pub(super) fn message(record: &Record, field: &str, value: &Value) -> Result<Value, Problem> {
    let Value::Object(given) = value else {
        let hint = "a message is an object with role and content (or from and value)";
        return Err(record.problem(format!("{field}: expected an object, found {}", kind_of(value)), hint));
    };
    let role_key = ["role", "from", "speaker"].into_iter().find(|k| given.contains_key(*k));
    let Some(Value::String(role)) = role_key.and_then(|k| given.get(k)) else {
        let hint = "give every message a role (or from): user, assistant, system or tool";
        return Err(record.problem(format!("{field}: no role"), hint));
    };
    let content_key = ["content", "value", "text"].into_iter().find(|k| given.contains_key(*k));
    let content = content_key.and_then(|k| given.get(k)).unwrap_or(&Value::Null);
    let mut out = Map::new();
    if role == CALL {
        out.insert("role".into(), "assistant".into());
        out.insert("content".into(), "".into());
        out.insert("tool_calls".into(), calls(record, field, content)?);
    } else {
        let Some((_, known)) = ROLES.iter().find(|(name, _)| name == role) else {
            let names: Vec<&str> = ROLES.iter().map(|r| r.0).chain([CALL]).collect();
            let message = format!("{field}: unknown role {role:?}");
            return Err(record.problem(message, format!("known are {}", names.join(", "))));
        };
        let has_calls = given.get("tool_calls").is_some_and(|c| !c.is_null());
        out.insert("role".into(), (*known).into());
        out.insert("content".into(), text_of(record, field, content, has_calls)?);
    }
    let taken = [role_key, content_key];
    for (key, value) in given {
        if !taken.contains(&Some(key.as_str())) && !value.is_null() && !out.contains_key(key) {
            out.insert(key.clone(), value.clone());
        }
    }
    Ok(Value::Object(out))
}

/// The text of a message: a string, or parts of type `text`.
fn text_of(record: &Record, field: &str, content: &Value, may_lack: bool) -> Result<Value, Problem> {
    match content {
        Value::String(text) => Ok(text.as_str().into()),
        Value::Null if may_lack => Ok("".into()),
        Value::Null => {
            let hint = "give every message a content (or value)";
            Err(record.problem(format!("{field}: no content"), hint))
        }
        Value::Array(parts) => {
            let mut text = String::new();
            for (i, part) in parts.iter().enumerate() {
                let get = |key: &str| part.get(key).and_then(Value::as_str);
                match (get("type").unwrap_or("text"), get("text").or(get("value")).or(part.as_str())) {
                    ("text", Some(t)) => text.push_str(t),
                    (kind, _) => {
                        let message = format!("{field}.content[{i}]: a part of type {kind:?}");
                        return Err(record.problem(message, "only text is trained on: remove the part"));
                    }
                }
            }
            Ok(text.into())
        }
        other => {
            let message = format!("{field}: content: expected a text, found {}", kind_of(other));
            Err(record.problem(message, "write the message's text"))
        }
    }
}

/// ShareGPT's `{"name": …, "arguments": …}`, one or a list, as OpenAI's tool calls.
fn calls(record: &Record, field: &str, content: &Value) -> Result<Value, Problem> {
    let value = parsed(record, field, content)?;
    let list = match value {
        Value::Array(list) => list,
        one => vec![one],
    };
    let call = |call: &Value| match call.get("name") {
        Some(Value::String(name)) => {
            let arguments = call.get("arguments").or(call.get("parameters")).cloned().unwrap_or_else(|| json!({}));
            Ok(json!({ "type": "function", "function": { "name": name, "arguments": arguments } }))
        }
        _ => {
            let hint = "write {\"name\": \"…\", \"arguments\": {…}}";
            Err(record.problem(format!("{field}: a call without the name of a tool"), hint))
        }
    };
    list.iter().map(call).collect()
}

/// Whether a message is to be learned: the assistant's are, unless a weight of zero or `train: false` says otherwise.
pub(super) fn is_learned(message: &Value) -> bool {
    let weight = |key: &str| message.get(key).and_then(Value::as_f64);
    let off = weight("weight") == Some(0.0)
        || weight("loss_weight") == Some(0.0)
        || message.get("train").and_then(Value::as_bool) == Some(false);
    message.get("role").and_then(Value::as_str) == Some("assistant") && !off
}
