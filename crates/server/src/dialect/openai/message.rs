//! Messages of a chat as clients send them, and as templates read them.

use crate::error::ApiError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Message {
    pub(crate) role: Role,
    pub(crate) content: Option<Content>,
    pub(crate) name: Option<String>,
    pub(crate) tool_calls: Option<Vec<ToolCall>>,
    /// Of which call this is the result.
    pub(crate) tool_call_id: Option<String>,
    /// What the assistant refused; templates read it as its text.
    pub(crate) refusal: Option<String>,
    pub(crate) reasoning_content: Option<String>,
    pub(crate) reasoning: Option<String>,
    /// Comes back with the assistant's message; empty.
    #[cfg_attr(test, schema(value_type = Option<Vec<Object>>))]
    #[expect(dead_code, reason = "clients send back what they were given")]
    pub(crate) annotations: Option<Vec<Value>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(untagged, expecting = "a string or an array of parts with a type")]
pub(crate) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a message; only text is read.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(crate) struct Part {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) text: Option<String>,
    pub(crate) refusal: Option<String>,
    #[serde(flatten)]
    #[cfg_attr(test, schema(value_type = Object))]
    pub(crate) rest: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct ToolCall {
    /// Its place among the calls of a message, in streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<u32>,
    pub(crate) id: String,
    #[serde(rename = "type", default = "function")]
    pub(crate) kind: String,
    pub(crate) function: FunctionCall,
}

fn function() -> String {
    "function".into()
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct FunctionCall {
    pub(crate) name: String,
    /// A JSON object, written as a string.
    pub(crate) arguments: String,
}

/// The messages in the form that templates read.
///
/// # Errors
/// Parts that are no text, arguments that are no JSON.
pub(crate) fn for_template(messages: &[Message]) -> Result<Vec<Value>, ApiError> {
    messages.iter().enumerate().map(|(i, message)| one(message, &format!("messages[{i}]"))).collect()
}

fn one(message: &Message, at: &str) -> Result<Value, ApiError> {
    let mut out = Map::new();
    let role = if message.role == Role::Developer { Role::System } else { message.role };
    out.insert("role".into(), json!(role));
    let content = match &message.content {
        Some(content) => Some(text(content, &format!("{at}.content"))?),
        None => message.refusal.clone(),
    };
    let calls = message.tool_calls.as_deref().unwrap_or_default();
    match (content, role) {
        (Some(content), _) => drop(out.insert("content".into(), content.into())),
        (None, Role::Assistant) => {
            drop(out.insert("content".into(), if calls.is_empty() { "".into() } else { Value::Null }))
        }
        (None, _) => return Err(ApiError::field(format!("{at}.content"), "expected a text, found none")),
    }
    if let Some(name) = &message.name {
        out.insert("name".into(), name.as_str().into());
    }
    if let Some(id) = &message.tool_call_id {
        out.insert("tool_call_id".into(), id.as_str().into());
    }
    if let Some(reasoning) = message.reasoning_content.as_ref().or(message.reasoning.as_ref()) {
        out.insert("reasoning_content".into(), reasoning.as_str().into());
    }
    if !calls.is_empty() {
        if role != Role::Assistant {
            return Err(ApiError::field(format!("{at}.tool_calls"), "only the assistant calls tools"));
        }
        let calls = calls.iter().enumerate().map(|(j, call)| tool_call(call, &format!("{at}.tool_calls[{j}]")));
        out.insert("tool_calls".into(), calls.collect::<Result<Vec<_>, _>>()?.into());
    }
    Ok(Value::Object(out))
}

/// Templates read arguments as an object, as Transformers' tool calls have them.
fn tool_call(call: &ToolCall, at: &str) -> Result<Value, ApiError> {
    let arguments = if call.function.arguments.trim().is_empty() { "{}" } else { &call.function.arguments };
    let arguments: Value = serde_json::from_str(arguments)
        .map_err(|e| ApiError::field(format!("{at}.function.arguments"), format!("expected JSON: {e}")))?;
    Ok(json!({
        "id": call.id,
        "type": "function",
        "function": { "name": call.function.name, "arguments": arguments },
    }))
}

/// The text of a content.
///
/// # Errors
/// A part that is no text.
pub(crate) fn text(content: &Content, at: &str) -> Result<String, ApiError> {
    let parts = match content {
        Content::Text(text) => return Ok(text.clone()),
        Content::Parts(parts) => parts,
    };
    let mut whole = String::new();
    for (i, part) in parts.iter().enumerate() {
        let text = match part.kind.as_str() {
            "text" | "input_text" | "output_text" => part.text.as_deref(),
            "refusal" => part.refusal.as_deref(),
            other => {
                let message = format!("the model reads text; there is no reading of {other:?}");
                let error = ApiError::field(format!("{at}[{i}].type"), message);
                return Err(error.with_code("unsupported_content"));
            }
        };
        let known = ["annotations", "logprobs", "cache_control", "prompt_cache_breakpoint"];
        if let Some(name) = part.rest.keys().find(|k| !known.contains(&k.as_str())) {
            return Err(ApiError::field(format!("{at}[{i}].{name}"), "there is no such field here"));
        }
        let text = text.ok_or_else(|| ApiError::field(format!("{at}[{i}].text"), "expected a text, found none"))?;
        whole.push_str(text);
    }
    Ok(whole)
}
