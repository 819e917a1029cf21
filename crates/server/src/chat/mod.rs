//! A conversation with what its answer may be: text, reasoning, calls of tools. Every dialect of chat comes through here.

mod reasoning;
mod tools;

pub(crate) use reasoning::Reasoning;
pub(crate) use tools::{Choice, Tools, arguments, function};

use crate::error::ApiError;
use crate::generate::{Job, Reading, guide};
use crate::models::Lease;
use crate::prompt::{self, Rendered, Talk};
use allod_engine::engine::{Grammar, Thinking};
use allod_text::grammar::Spec;
use allod_text::output::{self, Format, Otherwise};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// A conversation to be answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exchange {
    pub(crate) talk: Talk,
    pub(crate) tools: Tools,
    pub(crate) reasoning: Reasoning,
    /// What content is held to, and the request's name for it.
    pub(crate) structure: Option<(Spec, &'static str)>,
}

/// The beginning of an answer: its prompt, and what holds and reads it.
pub(crate) struct Opening {
    pub(crate) rendered: Rendered,
    constraint: Option<Arc<dyn Grammar>>,
    thinking: Option<Thinking>,
    reading: Option<Reading>,
    budget: Option<u32>,
}

impl Exchange {
    /// Writes the prompt and makes ready what holds the answer.
    ///
    /// # Errors
    /// A field that the model's template cannot honour.
    pub(crate) fn open(self, lease: &Lease) -> Result<Opening, ApiError> {
        let Exchange { mut talk, tools, reasoning, structure } = self;
        tools.check()?;
        name_results(&mut talk.messages);
        talk.tools = tools.shown();
        let Some(template) = prompt::template(lease, &talk)? else {
            reasoning.without_template(&talk)?;
            let rendered = prompt::without_template(lease, &talk)?;
            let constraint = structure.map(|(spec, field)| guide(lease, &spec, field)).transpose()?;
            return Ok(Opening { rendered, constraint, thinking: None, reading: None, budget: None });
        };
        if let Some(name) = talk.variables.keys().find(|name| !template.reads(name)) {
            let message = "the model's chat template reads no variable of this name";
            return Err(ApiError::field(format!("chat_template_kwargs.{name}"), message));
        }
        let format = template.format();
        let budget = reasoning.settle(&template, &format, &mut talk.variables)?;
        let rendered = prompt::rendered(lease, &talk, &template)?;
        let thinking = format.thinking(&rendered.text, &lease.tokenizer);
        let constraint = constraint(lease, &format, &tools, structure)?;
        let budget = match (budget, &thinking) {
            // A prompt that has closed the reasoning leaves nothing to measure.
            (Some((_, field)), None) if !format.is_closed_in(&rendered.text) => {
                return Err(ApiError::field(field, "the end of this model's reasoning cannot be told by its tokens"));
            }
            (budget, thinking) => budget.filter(|_| thinking.is_some()).map(|(tokens, _)| tokens),
        };
        let thinking = thinking.filter(|_| constraint.is_some() || budget.is_some());
        let reads = talk.tools.is_some() || format.is_shown_by(template.source());
        let reading = reads.then(|| Reading {
            format: (*format).clone(),
            prompt: rendered.text.clone(),
            tools: talk.tools.clone().map_or(Value::Null, Value::from),
            single: talk.tools.is_some() && !tools.parallel,
        });
        let thinking = thinking.map(|t| Thinking { start: t.start, end: t.end, budget });
        Ok(Opening { rendered, constraint, thinking, reading, budget })
    }
}

impl Opening {
    /// True when it holds the answer to something.
    pub(crate) fn is_held(&self) -> bool {
        self.constraint.is_some()
    }

    /// Gives a job what holds and reads its answers. What the job is held to already stays.
    pub(crate) fn hold(self, job: &mut Job) {
        let held = job.constraint.is_some() || self.constraint.is_some() || self.budget.is_some();
        job.constraint = job.constraint.take().or(self.constraint);
        job.thinking = self.thinking.filter(|_| held);
        job.reading = self.reading.map(Arc::new);
        job.template = self.rendered.template;
    }
}

/// Some templates name the tool beside its result; most clients give only the id of the call.
fn name_results(messages: &mut [Value]) {
    let mut names = HashMap::new();
    for message in messages {
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            if let (Some(id), Some(name)) = (call["id"].as_str(), call["function"]["name"].as_str()) {
                names.insert(id.to_owned(), name.to_owned());
            }
        }
        let id = message["tool_call_id"].as_str();
        if let Some(name) = id.and_then(|id| names.get(id)).filter(|_| message["name"].is_null()) {
            message["name"] = name.as_str().into();
        }
    }
}

/// What the answer behind its reasoning is held to.
fn constraint(
    lease: &Lease,
    format: &Format,
    tools: &Tools,
    structure: Option<(Spec, &'static str)>,
) -> Result<Option<Arc<dyn Grammar>>, ApiError> {
    let list = Value::from(tools.list.clone());
    let forced = |choice| match structure {
        Some((_, field)) => Err(ApiError::field(field, "an answer that has to be a call has no content")),
        None => {
            let spec = format.forced(&list, choice, &lease.tokenizer);
            guide(lease, &spec.map_err(|e| ApiError::field("tool_choice", e))?, "tools").map(Some)
        }
    };
    match (&tools.choice, &structure) {
        (Choice::Required, _) => forced(output::Choice::Required { parallel: tools.parallel }),
        (Choice::Named(name), _) => forced(output::Choice::Named(name)),
        (Choice::Auto, Some((spec, field))) if !tools.list.is_empty() => {
            let schema = match spec {
                Spec::JsonObject => json!({ "type": "object" }),
                Spec::JsonSchema(schema) => schema.clone(),
                _ => return guide(lease, spec, field).map(Some),
            };
            let otherwise = Otherwise::Json(schema);
            let spec = format.offered(&list, tools.parallel, &otherwise, &lease.tokenizer);
            guide(lease, &spec.map_err(|e| ApiError::field(*field, e))?, field).map(Some)
        }
        (_, Some((spec, field))) => guide(lease, spec, field).map(Some),
        (Choice::Auto, None) if tools.strict => {
            let spec = format.offered(&list, tools.parallel, &Otherwise::Text, &lease.tokenizer);
            guide(lease, &spec.map_err(|e| ApiError::field("tools", e))?, "tools").map(Some)
        }
        (Choice::Auto | Choice::None, None) => Ok(None),
    }
}
