//! What is asked for.

use crate::body::{Form, Refused};
use crate::error::ApiError;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// An input to be answered.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct ResponseForm {
    #[serde(default)]
    pub(crate) model: String,
    #[cfg_attr(test, schema(value_type = Object))]
    pub(crate) input: Value,
    /// Stands before the conversation; that of an earlier response does not.
    pub(crate) instructions: Option<String>,
    /// The response that this one goes on from.
    pub(crate) previous_response_id: Option<String>,
    /// The server remembers the response.
    pub(crate) store: Option<bool>,
    #[serde(default)]
    pub(crate) stream: bool,
    /// The response is made while nobody waits for it.
    #[serde(default)]
    pub(crate) background: bool,
    pub(crate) max_output_tokens: Option<u32>,
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    #[cfg_attr(test, schema(value_type = Option<Object>))]
    pub(crate) metadata: Option<Map<String, Value>>,
    pub(crate) reasoning: Option<Reasoning>,
    pub(crate) text: Option<Text>,
    /// Only `disabled`: nothing is cut.
    pub(crate) truncation: Option<String>,
    pub(crate) service_tier: Option<String>,
    pub(crate) user: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Reasoning {
    pub(crate) effort: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Text {
    pub(crate) format: Option<Format>,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Format {
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

impl Form for ResponseForm {
    const REFUSED: Refused = &[
        ("conversation", "use previous_response_id"),
        ("prompt", "prompts are not stored here"),
        ("include", "nothing more is kept than what is returned"),
        ("tools", "not offered in responses yet; use chat completions"),
        ("tool_choice", "not offered in responses yet; use chat completions"),
        ("parallel_tool_calls", "not offered in responses yet; use chat completions"),
        ("top_logprobs", "use chat completions"),
        ("max_tool_calls", "the server calls no tools"),
    ];
}

impl ResponseForm {
    pub(super) fn check(&self) -> Result<(), ApiError> {
        let one_of = |name: &str, found: Option<&str>, known: &[&str]| match found {
            Some(found) if !known.contains(&found) => {
                Err(ApiError::field(name, format!("expected {}, found {found:?}", known.join(" or "))))
            }
            _ => Ok(()),
        };
        one_of("truncation", self.truncation.as_deref(), &["disabled"])?;
        one_of("service_tier", self.service_tier.as_deref(), &["auto", "default"])?;
        let format = self.text.as_ref().and_then(|t| t.format.as_ref());
        one_of("text.format.type", format.map(|f| f.kind.as_str()), &["text"])?;
        if self.background && self.store == Some(false) {
            return Err(ApiError::field("background", "what is made in the background has to be stored"));
        }
        Ok(())
    }

    /// The input as items.
    pub(super) fn items(&self) -> Result<Vec<Value>, ApiError> {
        let items = match &self.input {
            Value::String(text) => vec![json!({ "type": "message", "role": "user", "content": text })],
            Value::Array(items) => items.clone(),
            other => {
                let message = format!("expected a string or an array of items, found {}", crate::body::kind_of(other));
                return Err(ApiError::field("input", message));
            }
        };
        if items.is_empty() {
            return Err(ApiError::field("input", "expected at least one item"));
        }
        items.iter().try_for_each(|item| for_template(item).map(drop))?;
        Ok(items)
    }
}

/// An item as templates read messages.
pub(super) fn for_template(item: &Value) -> Result<Value, ApiError> {
    let text = |name: &str| item.get(name).and_then(Value::as_str);
    match text("type").unwrap_or("message") {
        "message" => {}
        other => return Err(ApiError::field("input", format!("there is no reading of items of type {other:?}"))),
    }
    let role = match text("role") {
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant")) => role,
        other => return Err(ApiError::field("input", format!("expected a role, found {other:?}"))),
    };
    let content = match item.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let part = |part: &Value| match part.get("type").and_then(Value::as_str) {
                Some("input_text" | "output_text" | "text") => {
                    let text = part.get("text").and_then(Value::as_str);
                    text.map(str::to_owned).ok_or_else(|| ApiError::field("input", "a part of a message has no text"))
                }
                other => {
                    Err(ApiError::field("input", format!("the model reads text; there is no reading of {other:?}")))
                }
            };
            parts.iter().map(part).collect::<Result<String, _>>()?
        }
        _ => return Err(ApiError::field("input", "a message has no content")),
    };
    Ok(json!({ "role": role, "content": content }))
}
