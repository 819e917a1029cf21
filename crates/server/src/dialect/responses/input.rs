//! Items of a conversation, as templates read messages.

use crate::error::ApiError;
use serde_json::{Value, json};

/// The messages of a conversation's items. Reasoning and calls belong to the assistant's message beside them.
///
/// # Errors
/// Items that are not read.
pub(super) fn messages(items: &[Value]) -> Result<Vec<Value>, ApiError> {
    let mut messages: Vec<Value> = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let item = Item { value: item, at: format!("input[{i}]") };
        match item.text("type").unwrap_or("message") {
            "message" => message(&item, &mut messages)?,
            "reasoning" => {
                let text = item.parts("content", &["reasoning_text", "text"])?;
                assistant(&mut messages)["reasoning_content"] = text.into();
            }
            "function_call" => {
                let call = call(&item)?;
                match &mut assistant(&mut messages)["tool_calls"] {
                    Value::Array(calls) => calls.push(call),
                    calls => *calls = json!([call]),
                }
            }
            "function_call_output" => {
                let output = item.parts("output", &["input_text", "output_text", "text"])?;
                let id = item.needed("call_id")?;
                messages.push(json!({ "role": "tool", "tool_call_id": id, "content": output }));
            }
            other => {
                let message = format!("there is no reading of items of type {other:?}");
                return Err(ApiError::field(format!("{}.type", item.at), message));
            }
        }
    }
    Ok(messages)
}

struct Item<'i> {
    value: &'i Value,
    at: String,
}

impl<'i> Item<'i> {
    fn text(&self, name: &str) -> Option<&'i str> {
        self.value.get(name).and_then(Value::as_str)
    }

    fn needed(&self, name: &str) -> Result<&'i str, ApiError> {
        self.text(name).ok_or_else(|| ApiError::field(format!("{}.{name}", self.at), "expected a string"))
    }

    /// The text of a field that is a string or parts of the kinds given.
    fn parts(&self, name: &str, kinds: &[&str]) -> Result<String, ApiError> {
        let at = format!("{}.{name}", self.at);
        let parts = match self.value.get(name) {
            None | Some(Value::Null) => return Ok(String::new()),
            Some(Value::String(text)) => return Ok(text.clone()),
            Some(Value::Array(parts)) => parts,
            Some(other) => {
                let found = crate::body::kind_of(other);
                return Err(ApiError::field(at, format!("expected a string or an array of parts, found {found}")));
            }
        };
        let part = |(i, part): (usize, &Value)| match part.get("type").and_then(Value::as_str) {
            Some(kind) if kinds.contains(&kind) => {
                let text = part.get("text").and_then(Value::as_str);
                text.map(str::to_owned).ok_or_else(|| ApiError::field(format!("{at}[{i}].text"), "expected a string"))
            }
            other => {
                let message = format!("the model reads text; there is no reading of {other:?}");
                Err(ApiError::field(format!("{at}[{i}].type"), message))
            }
        };
        parts.iter().enumerate().map(part).collect()
    }
}

fn message(item: &Item<'_>, messages: &mut Vec<Value>) -> Result<(), ApiError> {
    let role = match item.text("role") {
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant")) => role,
        other => {
            let message = format!("expected system, developer, user or assistant, found {other:?}");
            return Err(ApiError::field(format!("{}.role", item.at), message));
        }
    };
    if item.value.get("content").is_none_or(Value::is_null) {
        return Err(ApiError::field(format!("{}.content", item.at), "a message has no content"));
    }
    let content = item.parts("content", &["input_text", "output_text", "text"])?;
    match messages.last_mut().filter(|last| role == "assistant" && is_open(last)) {
        Some(last) => last["content"] = content.into(),
        None => messages.push(json!({ "role": role, "content": content })),
    }
    Ok(())
}

/// An assistant's message that has said nothing yet but what came before its content.
fn is_open(message: &Value) -> bool {
    message["role"] == "assistant" && message["content"] == "" && message["tool_calls"].is_null()
}

/// The assistant's message that is being put together, or a new one.
fn assistant(messages: &mut Vec<Value>) -> &mut Value {
    let last = messages.iter().rposition(|_| true).filter(|&i| messages[i]["role"] == "assistant");
    let at = last.unwrap_or_else(|| {
        messages.push(json!({ "role": "assistant", "content": "" }));
        messages.len() - 1
    });
    &mut messages[at]
}

fn call(item: &Item<'_>) -> Result<Value, ApiError> {
    let text = item.needed("arguments")?;
    let text = if text.trim().is_empty() { "{}" } else { text };
    let arguments: Value = serde_json::from_str(text)
        .map_err(|e| ApiError::field(format!("{}.arguments", item.at), format!("expected JSON: {e}")))?;
    Ok(json!({
        "id": item.needed("call_id")?,
        "type": "function",
        "function": { "name": item.needed("name")?, "arguments": arguments },
    }))
}

/// The text of parts that are all text. `at` is the request's name for them.
///
/// # Errors
/// A part that is no text.
pub(crate) fn text_of(parts: &[Value], at: &str) -> Result<String, ApiError> {
    let value = json!({ "parts": parts });
    Item { value: &value, at: at.to_owned() }.parts("parts", &["input_text", "output_text", "text"])
}

/// The items of a conversation as one text: who says what.
///
/// # Errors
/// Items that are not read.
pub(crate) fn transcript(items: &[Value]) -> Result<String, ApiError> {
    let line = |message: &Value| {
        let calls = message["tool_calls"].as_array().map(|calls| Value::from(calls.clone()).to_string());
        let said = message["content"].as_str().unwrap_or_default();
        format!("{}: {said}{}\n", message["role"].as_str().unwrap_or_default(), calls.unwrap_or_default())
    };
    Ok(messages(items)?.iter().map(line).collect())
}
