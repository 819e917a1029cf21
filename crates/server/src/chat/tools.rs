//! The tools of a request, in one form for every dialect.

use crate::error::ApiError;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Most tools of a request, and most characters of a name.
const MOST: usize = 512;
const NAME: usize = 128;

/// Which tools an answer may call.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    /// In OpenAI's shape, which templates read.
    pub(crate) list: Vec<Value>,
    pub(crate) choice: Choice,
    /// More than one call may come.
    pub(crate) parallel: bool,
    /// Calls that the model makes of its own accord are held to the tools' schemas too.
    pub(crate) strict: bool,
}

/// Whether tools have to be called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Choice {
    /// As the model likes.
    #[default]
    Auto,
    /// Not at all: they are not even shown.
    None,
    /// One or more.
    Required,
    /// This one.
    Named(String),
}

impl Default for Tools {
    fn default() -> Tools {
        Tools { list: Vec::new(), choice: Choice::Auto, parallel: true, strict: false }
    }
}

impl Tools {
    /// The tools that the model is shown.
    pub(super) fn shown(&self) -> Option<Vec<Value>> {
        (!self.list.is_empty() && self.choice != Choice::None).then(|| self.list.clone())
    }

    pub(super) fn check(&self) -> Result<(), ApiError> {
        if self.list.len() > MOST {
            return Err(ApiError::field("tools", format!("at most {MOST} are read, found {}", self.list.len())));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.list.iter().map(named).find(|name| !seen.insert(*name)) {
            return Err(ApiError::field("tools", format!("there are two tools {twice:?}")));
        }
        match &self.choice {
            Choice::Auto | Choice::None => Ok(()),
            Choice::Required if self.list.is_empty() => {
                Err(ApiError::field("tool_choice", "there are no tools to choose from"))
            }
            Choice::Named(name) if !seen.contains(name.as_str()) => {
                Err(ApiError::field("tool_choice", format!("there is no tool {name:?}")))
            }
            Choice::Required | Choice::Named(_) => Ok(()),
        }
    }

    /// Only the tools of these names are left, where a request allows no others.
    ///
    /// # Errors
    /// A name that no tool has.
    pub(crate) fn only(&mut self, names: &[&str]) -> Result<(), ApiError> {
        if let Some(name) = names.iter().find(|name| !self.list.iter().any(|tool| named(tool) == **name)) {
            return Err(ApiError::field("tool_choice", format!("there is no tool {name:?}")));
        }
        self.list.retain(|tool| names.contains(&named(tool)));
        Ok(())
    }
}

/// The name of a tool in OpenAI's shape.
fn named(tool: &Value) -> &str {
    tool["function"]["name"].as_str().unwrap_or_default()
}

/// A tool in OpenAI's shape. `at` is the request's name for it.
///
/// # Errors
/// A name that no model could write, parameters that are no schema of an object.
pub(crate) fn function(
    name: &str,
    description: Option<&str>,
    parameters: Option<&Value>,
    at: &str,
) -> Result<Value, ApiError> {
    let usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
    if name.is_empty() || name.len() > NAME || !name.chars().all(usual) {
        let message = format!("expected 1 to {NAME} letters, digits, or any of _-.:/, found {name:?}");
        return Err(ApiError::field(format!("{at}.name"), message));
    }
    let parameters = match parameters {
        None | Some(Value::Null) => json!({ "type": "object", "properties": {} }),
        Some(Value::Object(schema)) => object(schema, at)?,
        Some(other) => {
            let message = format!("expected a JSON schema, found {}", crate::body::kind_of(other));
            return Err(ApiError::field(format!("{at}.parameters"), message));
        }
    };
    // Some templates cannot do without a description.
    let description = description.unwrap_or_default();
    let function = json!({ "name": name, "description": description, "parameters": parameters });
    Ok(json!({ "type": "function", "function": function }))
}

/// A schema of an object; templates look at its properties.
fn object(schema: &Map<String, Value>, at: &str) -> Result<Value, ApiError> {
    let mut schema = schema.clone();
    let kind = schema.entry("type").or_insert_with(|| "object".into());
    if kind != "object" {
        let message = format!("arguments are an object, found {kind}");
        return Err(ApiError::field(format!("{at}.parameters.type"), message));
    }
    if schema.get("properties").is_none_or(Value::is_null) {
        schema.insert("properties".into(), json!({}));
    }
    if schema.get("required").is_some_and(Value::is_null) {
        schema.remove("required");
    }
    Ok(schema.into())
}

/// The arguments of a call as an object. What a model wrote that is none stands under `raw`, so that nothing is lost.
pub(crate) fn arguments(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => fields.into(),
        _ if text.trim().is_empty() => json!({}),
        _ => json!({ "raw": text }),
    }
}
