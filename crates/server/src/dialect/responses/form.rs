//! What is asked for.

use crate::body::{Form, Refused};
use crate::chat::{Choice, Tools, function};
use crate::dialect::openai::{allowed, word};
use crate::error::ApiError;
use allod_text::grammar::Spec;
use serde::{Deserialize, Serialize};
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
    /// Functions that the answer may call.
    #[cfg_attr(test, schema(value_type = Option<Vec<FunctionTool>>))]
    pub(crate) tools: Option<Vec<Value>>,
    /// `none`, `auto`, `required`, one function, or a list of allowed ones.
    #[cfg_attr(test, schema(value_type = Option<Object>))]
    pub(crate) tool_choice: Option<Value>,
    /// More than one call may come; they may where this is left out.
    pub(crate) parallel_tool_calls: Option<bool>,
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

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Text {
    pub(crate) format: Option<Format>,
}

/// What the text of an answer keeps to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Format {
    /// Nothing.
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that a schema describes.
    JsonSchema {
        /// For people and logs.
        name: Option<String>,
        /// What it is for.
        description: Option<String>,
        /// The schema.
        #[cfg_attr(test, schema(value_type = Object))]
        schema: Value,
        /// Answers are always held to the schema.
        strict: Option<bool>,
    },
}

/// A function that the client can run.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct FunctionTool {
    /// Only `function`: the server runs no tools of its own.
    #[serde(rename = "type")]
    #[expect(dead_code, reason = "it was looked at before")]
    pub(crate) kind: String,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    /// A JSON schema of the arguments.
    #[cfg_attr(test, schema(value_type = Option<Object>))]
    pub(crate) parameters: Option<Value>,
    /// Calls keep to the schema also where the model is free to call or not.
    pub(crate) strict: Option<bool>,
}

impl Form for ResponseForm {
    const REFUSED: Refused = &[
        ("conversation", "use previous_response_id"),
        ("prompt", "prompts are not stored here"),
        ("include", "nothing more is kept than what is returned"),
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
        if self.background && self.store == Some(false) {
            return Err(ApiError::field("background", "what is made in the background has to be stored"));
        }
        Ok(())
    }

    /// The tools, and which of them are to be called.
    pub(super) fn tools(&self) -> Result<Tools, ApiError> {
        let mut tools = Tools { parallel: self.parallel_tool_calls.unwrap_or(true), ..Tools::default() };
        for (i, tool) in self.tools.iter().flatten().enumerate() {
            let at = format!("tools[{i}]");
            if let Some(kind) = tool["type"].as_str().filter(|kind| *kind != "function") {
                let message = format!("the server runs no tools of its own; expected function, found {kind:?}");
                return Err(ApiError::field(format!("{at}.type"), message));
            }
            let tool: FunctionTool = serde_json::from_value(tool.clone()).map_err(|e| ApiError::field(&at, e))?;
            let name = tool.name.as_deref().unwrap_or_default();
            tools.list.push(function(name, tool.description.as_deref(), tool.parameters.as_ref(), &at)?);
            tools.strict |= tool.strict.unwrap_or(false);
        }
        let Some(choice) = &self.tool_choice else { return Ok(tools) };
        let name = |value: &Value| value["name"].as_str().map(str::to_owned);
        match choice["type"].as_str() {
            Some("allowed_tools") => allowed(&mut tools, choice, name)?,
            Some("function") => {
                let name = name(choice).ok_or_else(|| ApiError::field("tool_choice.name", "expected a name"))?;
                tools.choice = Choice::Named(name);
            }
            _ => tools.choice = word(choice)?,
        }
        Ok(tools)
    }

    /// What content is held to.
    pub(super) fn structure(&self) -> Option<(Spec, &'static str)> {
        let spec = match self.text.as_ref()?.format.as_ref()? {
            Format::Text => return None,
            Format::JsonObject => Spec::JsonObject,
            Format::JsonSchema { schema, .. } => Spec::JsonSchema(schema.clone()),
        };
        Some((spec, "text.format"))
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
        super::input::messages(&items)?;
        Ok(items)
    }
}
