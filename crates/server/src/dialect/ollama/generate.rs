//! `POST /api/generate`

use super::answer::{self, Answer, Shape};
use super::options::{Options, keep_alive, think};
use crate::app::{App, Caller};
use crate::body::{self, Form, Refused};
use crate::chat::{Exchange, Opening};
use crate::dialect::structure;
use crate::error::ApiError;
use crate::generate::guide;
use crate::models::Lease;
use crate::prompt::{self, Talk};
use allod_text::grammar::Spec;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// A text to be answered or continued.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct GenerateForm {
    #[serde(default)]
    pub(crate) model: String,
    /// Without one the model is only loaded, or given up where `keep_alive` is 0.
    #[serde(default)]
    pub(crate) prompt: String,
    /// What stands behind the text that is asked for.
    pub(crate) suffix: Option<String>,
    pub(crate) system: Option<String>,
    /// The prompt as it stands, without the model's template.
    #[serde(default)]
    pub(crate) raw: bool,
    /// Tokens of the conversation so far, from an earlier answer.
    pub(crate) context: Option<Vec<u32>>,
    /// Whether a reasoning model thinks, or how much: true, false, low, medium, high, max.
    #[cfg_attr(test, schema(value_type = Option<Object>))]
    pub(crate) think: Option<Value>,
    #[serde(default = "yes")]
    pub(crate) stream: bool,
    #[cfg_attr(test, schema(value_type = Option<Object>))]
    pub(crate) options: Option<Map<String, Value>>,
    #[cfg_attr(test, schema(value_type = Option<String>))]
    pub(crate) keep_alive: Option<Value>,
    /// `"json"` or a JSON schema.
    #[cfg_attr(test, schema(value_type = Option<Object>))]
    pub(crate) format: Option<Value>,
    /// Log-probabilities of the answer's tokens.
    #[serde(default)]
    pub(crate) logprobs: bool,
    pub(crate) top_logprobs: Option<u32>,
    /// Keeps the end of a prompt that does not fit, in place of refusing it.
    #[serde(default)]
    pub(crate) truncate: bool,
    /// Only false: the context is never shifted.
    pub(crate) shift: Option<bool>,
}

pub(super) fn yes() -> bool {
    true
}

impl Form for GenerateForm {
    const REFUSED: Refused = &[
        ("images", "the model reads text"),
        ("template", "make a model with another template (POST /api/create)"),
        ("width", "there are no images here"),
        ("height", "there are no images here"),
        ("steps", "there are no images here"),
    ];
}

/// Answers a text.
#[cfg_attr(test, utoipa::path(post, path = "/api/generate", request_body = GenerateForm,
    responses((status = 200, description = "An answer, or a stream of lines"))))]
pub(crate) async fn generate(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let form: GenerateForm = body::json(&headers, body, &app.limits).await?;
    let place = app.enter()?;
    let options = Options::read(form.options.as_ref())?;
    let keep = form.keep_alive.as_ref().map(keep_alive).transpose()?;
    check_shift(form.shift)?;
    if form.prompt.is_empty() && form.suffix.is_none() && !form.raw {
        return load_only(&app, &form.model, keep, Shape::Generate).await;
    }
    let mut lease = app.lease(&form.model).await?;
    if let Some(keep) = keep {
        lease.keep_for(keep);
    }
    let (mut ids, opening) = form.prompt_ids(&lease)?;
    let context = options.context(&lease)?;
    let truncated = form.truncate && ids.len() >= context;
    if truncated {
        ids.drain(..ids.len() + 1 - context);
    }
    let mut job = options.job(&lease, ids)?;
    match opening {
        Some(opening) => opening.hold(&mut job),
        None => job.constraint = form.structure()?.map(|spec| guide(&lease, &spec, "format")).transpose()?,
    }
    let mut answer = Answer::new(&lease, &form.model, Shape::Generate, caller.arrived).truncated(truncated);
    if form.logprobs {
        job.sampling.logprobs = Some(form.top_logprobs.unwrap_or(0));
        answer = answer.with_logprobs(&lease, form.top_logprobs);
    }
    if !form.raw {
        answer = answer.with_context(job.prompts[0].clone());
    }
    respond(&app, lease, job, answer, form.stream, &caller, place).await
}

/// Runs a job and answers, in lines or in one object.
pub(super) async fn respond(
    app: &App,
    lease: Lease,
    job: crate::generate::Job,
    answer: Answer,
    stream: bool,
    caller: &Caller,
    place: crate::app::Place,
) -> Result<Response, ApiError> {
    let running = app.run(lease, job, caller).await?;
    if stream {
        return Ok(crate::stream::respond(running, answer, place));
    }
    Ok(axum::Json(answer::collect(running, answer).await?).into_response())
}

pub(super) fn check_shift(shift: Option<bool>) -> Result<(), ApiError> {
    match shift {
        Some(true) => Err(ApiError::field("shift", "the context is never shifted: an answer ends where it is full")),
        _ => Ok(()),
    }
}

/// Loads a model, or gives it up.
pub(super) async fn load_only(
    app: &App,
    model: &str,
    keep: Option<Option<Duration>>,
    shape: Shape,
) -> Result<Response, ApiError> {
    if keep == Some(Some(Duration::ZERO)) {
        let (name, spec) = app.models.find(model)?;
        app.models.unload(&spec);
        return Ok(axum::Json(answer::empty(&name, shape, "unload")).into_response());
    }
    let mut lease = app.lease(model).await?;
    if let Some(keep) = keep {
        lease.keep_for(keep);
    }
    Ok(axum::Json(answer::empty(&lease.name, shape, "load")).into_response())
}

impl GenerateForm {
    fn structure(&self) -> Result<Option<Spec>, ApiError> {
        Ok(self.format.as_ref().map(structure::ollama).transpose()?.flatten())
    }

    /// The prompt, and what holds the answer where it is the answer of a chat.
    fn prompt_ids(&self, lease: &Lease) -> Result<(Vec<u32>, Option<Opening>), ApiError> {
        let mut ids = self.context.clone().unwrap_or_default();
        if self.suffix.is_some() || self.raw {
            if self.think.is_some() {
                return Err(ApiError::field("think", "a text that is only continued is not thought about"));
            }
            ids.extend(match &self.suffix {
                Some(suffix) => prompt::fill_in(lease, &[], &self.prompt, suffix)?,
                None => prompt::plain(lease, &self.prompt, ids.is_empty())?,
            });
            return Ok((ids, None));
        }
        let system = self.system.as_ref().map(|text| json!({ "role": "system", "content": text }));
        let user = json!({ "role": "user", "content": self.prompt });
        let messages = system.into_iter().chain([user]).collect();
        let exchange = Exchange {
            talk: Talk { messages, add_generation_prompt: true, ..Talk::default() },
            reasoning: think(self.think.as_ref())?,
            structure: self.structure()?.map(|spec| (spec, "format")),
            ..Exchange::default()
        };
        let opening = exchange.open(lease)?;
        ids.extend(&opening.rendered.ids);
        Ok((ids, Some(opening)))
    }
}
