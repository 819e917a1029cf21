//! Tools as OpenAI's clients send them.

use crate::chat::{Choice, Tools, function};
use crate::error::ApiError;
use serde::Deserialize;
use serde_json::Value;

/// A function that the client can run.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Tool {
    /// Only `function`.
    #[serde(rename = "type", default = "kind")]
    pub(crate) kind: String,
    pub(crate) function: Function,
}

fn kind() -> String {
    "function".into()
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema), schema(as = FunctionDefinition))]
#[serde(deny_unknown_fields)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    /// A JSON schema of the arguments.
    #[cfg_attr(test, schema(value_type = Option<Object>))]
    pub(crate) parameters: Option<Value>,
    /// Calls keep to the schema also where the model is free to call or not.
    pub(crate) strict: Option<bool>,
}

/// The tools in the form that all dialects share. `at` is the request's name for the list.
///
/// # Errors
/// Tools that are no functions.
pub(crate) fn read(tools: &[Tool], at: &str) -> Result<Tools, ApiError> {
    let mut read = Tools::default();
    for (i, tool) in tools.iter().enumerate() {
        if tool.kind != "function" {
            let message = format!("only functions are called, found {:?}", tool.kind);
            return Err(ApiError::field(format!("{at}[{i}].type"), message));
        }
        let Function { name, description, parameters, strict } = &tool.function;
        let at = format!("{at}[{i}].function");
        read.list.push(function(name, description.as_deref(), parameters.as_ref(), &at)?);
        read.strict |= strict.unwrap_or(false);
    }
    Ok(read)
}

/// Takes in `tool_choice`.
///
/// # Errors
/// It is none of the forms, or names tools that are not there.
pub(super) fn choose(tools: &mut Tools, choice: Option<&Value>) -> Result<(), ApiError> {
    let Some(choice) = choice else { return Ok(()) };
    let name = |value: &Value| value["function"]["name"].as_str().map(str::to_owned);
    match choice["type"].as_str() {
        Some("allowed_tools") => allowed(tools, &choice["allowed_tools"], name),
        Some("function") => {
            let name = name(choice).ok_or_else(|| ApiError::field("tool_choice.function.name", "expected a name"))?;
            tools.choice = Choice::Named(name);
            Ok(())
        }
        _ => {
            tools.choice = word(choice)?;
            Ok(())
        }
    }
}

/// A choice that is one word.
///
/// # Errors
/// It is none that is known.
pub(crate) fn word(choice: &Value) -> Result<Choice, ApiError> {
    match choice.as_str() {
        Some("none") => Ok(Choice::None),
        Some("auto") => Ok(Choice::Auto),
        Some("required") => Ok(Choice::Required),
        _ => {
            let message = format!("expected none, auto, required, or an object of type function, found {choice}");
            Err(ApiError::field("tool_choice", message))
        }
    }
}

/// Takes in `{mode, tools}`, by the names of those that are allowed.
///
/// # Errors
/// It is of another form, or names tools that are not there.
pub(crate) fn allowed(
    tools: &mut Tools,
    choice: &Value,
    name: impl Fn(&Value) -> Option<String>,
) -> Result<(), ApiError> {
    let wrong = |what: &str| ApiError::field("tool_choice", format!("allowed_tools: expected {what}"));
    let names: Option<Vec<String>> = choice["tools"].as_array().and_then(|list| list.iter().map(name).collect());
    let names = names.filter(|names| !names.is_empty()).ok_or_else(|| wrong("a list of functions"))?;
    tools.choice = match choice["mode"].as_str() {
        Some("auto") => Choice::Auto,
        Some("required") => Choice::Required,
        _ => return Err(wrong("mode auto or required")),
    };
    tools.only(&names.iter().map(String::as_str).collect::<Vec<_>>())
}
