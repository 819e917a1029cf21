//! Tools, thinking and the form of answers, as Anthropic's clients ask for them.

use crate::chat::{Choice, Reasoning, Tools, function};
use crate::error::ApiError;
use allod_text::grammar::Spec;
use serde::Deserialize;
use serde_json::{Map, Value};

/// A tool that the client can run.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema), schema(as = anthropic::Tool))]
#[serde(deny_unknown_fields)]
pub(crate) struct Tool {
    /// Only `custom`: the server runs no tools of its own.
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    /// A JSON schema of the input.
    #[cfg_attr(test, schema(value_type = Option<Object>))]
    pub(crate) input_schema: Option<Value>,
    /// Calls keep to the schema also where the model is free to call or not.
    pub(crate) strict: Option<bool>,
    /// Input is always told as it is written.
    #[expect(dead_code, reason = "what the server does anyway")]
    pub(crate) eager_input_streaming: Option<bool>,
    /// Where to keep a prefix; prefixes are always kept.
    #[cfg_attr(test, schema(value_type = Option<Object>))]
    #[expect(dead_code, reason = "a hint that this server needs not")]
    pub(crate) cache_control: Option<Map<String, Value>>,
}

/// Whether tools have to be called.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ToolChoice {
    /// As the model likes.
    Auto {
        /// At most one call.
        #[serde(default)]
        disable_parallel_tool_use: bool,
    },
    /// At least one call.
    Any {
        /// Exactly one call.
        #[serde(default)]
        disable_parallel_tool_use: bool,
    },
    /// One call of this tool.
    Tool {
        /// Its name.
        name: String,
        /// There is one call in any case.
        #[serde(default)]
        #[expect(dead_code, reason = "there is one call in any case")]
        disable_parallel_tool_use: bool,
    },
    /// No calls.
    None,
}

/// Whether the model thinks before it answers.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Thinking {
    /// It does, for so many tokens at most.
    Enabled {
        /// At least 1024, and less than `max_tokens`.
        budget_tokens: u32,
        /// `omitted` leaves the text of it out.
        display: Option<Display>,
    },
    /// It does, as long as it likes.
    Adaptive {
        /// `omitted` leaves the text of it out.
        display: Option<Display>,
    },
    /// It does not.
    Disabled,
}

/// What is told of thinking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub(crate) enum Display {
    /// All of it.
    Summarized,
    /// That there was some.
    Omitted,
}

/// How an answer is to be written.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct OutputConfig {
    /// low, medium, high, xhigh or max: how much the model thinks.
    pub(crate) effort: Option<String>,
    pub(crate) format: Option<OutputFormat>,
}

/// What an answer keeps to.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum OutputFormat {
    /// JSON that a schema describes.
    JsonSchema {
        /// The schema.
        #[cfg_attr(test, schema(value_type = Object))]
        schema: Value,
    },
}

impl OutputConfig {
    pub(super) fn structure(&self) -> Option<(Spec, &'static str)> {
        let OutputFormat::JsonSchema { schema } = self.format.as_ref()?;
        Some((Spec::JsonSchema(schema.clone()), "output_config.format"))
    }
}

/// The tools in the form that all dialects share.
///
/// # Errors
/// Tools that the server would have to run.
pub(super) fn read(tools: &[Tool], choice: Option<&ToolChoice>) -> Result<Tools, ApiError> {
    let mut read = Tools::default();
    for (i, tool) in tools.iter().enumerate() {
        let at = format!("tools[{i}]");
        if let Some(kind) = tool.kind.as_ref().filter(|kind| *kind != "custom") {
            let message = format!("the server runs no tools of its own; expected custom, found {kind:?}");
            return Err(ApiError::field(format!("{at}.type"), message));
        }
        read.list.push(function(&tool.name, tool.description.as_deref(), tool.input_schema.as_ref(), &at)?);
        read.strict |= tool.strict.unwrap_or(false);
    }
    let single = |alone: &bool| !alone;
    (read.choice, read.parallel) = match choice {
        None => (Choice::Auto, true),
        Some(ToolChoice::Auto { disable_parallel_tool_use: alone }) => (Choice::Auto, single(alone)),
        Some(ToolChoice::Any { disable_parallel_tool_use: alone }) => (Choice::Required, single(alone)),
        Some(ToolChoice::Tool { name, .. }) => (Choice::Named(name.clone()), true),
        Some(ToolChoice::None) => (Choice::None, true),
    };
    Ok(read)
}

/// What a request says about thinking.
///
/// # Errors
/// A budget out of range.
pub(super) fn reasoning(
    thinking: Option<&Thinking>,
    effort: Option<&String>,
    max_tokens: Option<u32>,
) -> Result<Reasoning, ApiError> {
    let effort = effort.map(|effort| (effort.clone(), "output_config.effort"));
    let (on, budget) = match thinking {
        None => (None, None),
        Some(Thinking::Disabled) => (Some(false), None),
        Some(Thinking::Adaptive { .. }) => (Some(true), None),
        Some(Thinking::Enabled { budget_tokens, .. }) => {
            if *budget_tokens < LEAST {
                let message = format!("expected at least {LEAST}, found {budget_tokens}");
                return Err(ApiError::field("thinking.budget_tokens", message));
            }
            if let Some(max) = max_tokens.filter(|max| budget_tokens >= max) {
                let message = format!("expected less than max_tokens ({max}), found {budget_tokens}");
                return Err(ApiError::field("thinking.budget_tokens", message));
            }
            (Some(true), Some((*budget_tokens, "thinking.budget_tokens")))
        }
    };
    Ok(Reasoning { on: on.map(|on| (on, "thinking")), effort, budget })
}

/// Least budget of thinking.
const LEAST: u32 = 1024;

impl Thinking {
    /// Whether its text is told.
    pub(super) fn is_shown(&self) -> bool {
        let (Thinking::Enabled { display, .. } | Thinking::Adaptive { display }) = self else { return true };
        *display != Some(Display::Omitted)
    }
}
