//! What an answer is to look like: `response_format`, vLLM's `structured_outputs`, Ollama's `format`.

use crate::body::kind_of;
use crate::error::ApiError;
use allod_text::grammar::Spec;
use serde::Deserialize;
use serde_json::Value;

/// OpenAI's `response_format`.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ResponseFormat {
    /// Anything.
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that a schema describes.
    JsonSchema {
        /// The schema.
        json_schema: NamedSchema,
    },
}

/// A schema with a name.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct NamedSchema {
    /// For people and logs.
    #[expect(dead_code, reason = "the client's own name for it")]
    pub(crate) name: Option<String>,
    /// What it is for.
    #[expect(dead_code, reason = "a note to people")]
    pub(crate) description: Option<String>,
    #[cfg_attr(test, schema(value_type = Object))]
    pub(crate) schema: Value,
    /// Answers are always held to the schema.
    #[expect(dead_code, reason = "schemas are always enforced")]
    pub(crate) strict: Option<bool>,
}

impl ResponseFormat {
    pub(crate) fn spec(&self) -> Option<Spec> {
        match self {
            ResponseFormat::Text => None,
            ResponseFormat::JsonObject => Some(Spec::JsonObject),
            ResponseFormat::JsonSchema { json_schema } => Some(Spec::JsonSchema(json_schema.schema.clone())),
        }
    }
}

/// vLLM's `structured_outputs`: one of these.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StructuredOutputs {
    #[cfg_attr(test, schema(value_type = Option<Object>))]
    pub(crate) json: Option<Value>,
    pub(crate) json_object: Option<bool>,
    pub(crate) regex: Option<String>,
    pub(crate) choice: Option<Vec<String>>,
    /// GBNF where it has a rule `root`, else Lark.
    pub(crate) grammar: Option<String>,
}

impl StructuredOutputs {
    /// What the answer is held to.
    ///
    /// # Errors
    /// None or several of them; a schema that is no JSON.
    pub(crate) fn spec(&self) -> Result<Spec, ApiError> {
        let schema = match &self.json {
            Some(Value::String(text)) => Some(
                serde_json::from_str::<Value>(text)
                    .map_err(|e| ApiError::field("structured_outputs.json", format!("expected a JSON schema: {e}")))?,
            ),
            other => other.clone(),
        };
        let grammar = self.grammar.clone().map(|text| match text.contains("root") && text.contains("::=") {
            true => Spec::Gbnf(text),
            false => Spec::Lark(text),
        });
        let all = [
            schema.map(Spec::JsonSchema),
            self.json_object.filter(|&wanted| wanted).map(|_| Spec::JsonObject),
            self.regex.clone().map(Spec::Regex),
            self.choice.clone().map(Spec::Choice),
            grammar,
        ];
        let mut given: Vec<Spec> = all.into_iter().flatten().collect();
        match (given.pop(), given.len()) {
            (Some(spec), 0) => Ok(spec),
            (_, more) => {
                let found = if more == 0 { 0 } else { more + 1 };
                Err(ApiError::field("structured_outputs", format!("expected one kind of structure, found {found}")))
            }
        }
    }
}

/// Ollama's `format`: `"json"` or a schema.
///
/// # Errors
/// Anything else.
pub(crate) fn ollama(format: &Value) -> Result<Option<Spec>, ApiError> {
    match format {
        Value::String(text) if text.is_empty() => Ok(None),
        Value::String(text) if text == "json" => Ok(Some(Spec::JsonObject)),
        Value::Object(_) => Ok(Some(Spec::JsonSchema(format.clone()))),
        other => {
            let message = format!("expected \"json\" or a JSON schema, found {}", kind_of(other));
            Err(ApiError::field("format", message))
        }
    }
}
