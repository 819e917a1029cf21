//! `POST /v1/chat/completions`

use super::chat_answer;
use super::chat_stream::ChatStream;
use super::form::form;
use super::logprobs::Namer;
use super::message::{self, Message};
use crate::app::{App, Caller};
use crate::body::{self, Form, Refused};
use crate::dialect::structure::ResponseFormat;
use crate::error::ApiError;
use crate::generate::{Job, guide};
use crate::models::Lease;
use crate::prompt::{self, Talk};
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use std::sync::Arc;

form! {
    /// A chat to be answered.
    ChatForm {
        messages: Vec<Message>,
        max_completion_tokens: Option<u32>,
        /// Log-probabilities of the answer's tokens.
        #[serde(default)]
        logprobs: bool,
        /// So many likeliest tokens beside each.
        top_logprobs: Option<u32>,
        /// How much a reasoning model thinks; templates read it.
        reasoning_effort: Option<String>,
        /// Further variables of the template.
        #[cfg_attr(test, schema(value_type = Option<Object>))]
        chat_template_kwargs: Option<Map<String, Value>>,
        /// A template in place of the model's.
        chat_template: Option<String>,
        /// The prompt ends where the answer begins.
        add_generation_prompt: Option<bool>,
        /// The answer goes on in the last message.
        #[serde(default)]
        continue_final_message: bool,
        /// Documents to answer from; templates read them.
        #[cfg_attr(test, schema(value_type = Option<Vec<Object>>))]
        documents: Option<Vec<Value>>,
        /// The last message stands before each answer.
        #[serde(default)]
        echo: bool,
        /// What the answer is to look like.
        response_format: Option<ResponseFormat>,
        /// Only `text`.
        modalities: Option<Vec<String>>,
        /// `auto` or `default`.
        service_tier: Option<String>,
        /// Prefixes are always found; the key changes nothing about the answer.
        #[expect(dead_code, reason = "a hint that this server needs not")]
        prompt_cache_key: Option<String>,
    }
}

impl Form for ChatForm {
    const REFUSED: Refused = REFUSED;
}

const REFUSED: Refused = &[
    ("tools", "not offered yet"),
    ("tool_choice", "not offered yet"),
    ("parallel_tool_calls", "not offered yet"),
    ("include_reasoning", "reasoning is not told apart yet"),
    ("thinking_token_budget", "reasoning is not told apart yet"),
    ("store", "chats are not stored; /v1/responses are"),
    ("metadata", "chats are not stored; /v1/responses are"),
    ("safety_identifier", "use user"),
    ("audio", "there is no speech here"),
    ("prediction", "predicted outputs are not offered"),
    ("web_search_options", "the server does not search the web"),
    ("functions", "use tools"),
    ("function_call", "use tool_choice"),
    ("verbosity", "not offered; say in the instructions how long an answer is to be"),
];

/// Answers a chat.
#[cfg_attr(test, utoipa::path(post, path = "/v1/chat/completions", request_body = ChatForm,
    responses((status = 200, description = "An answer, or a stream of chunks"))))]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let form: ChatForm = body::json(&headers, body, &app.limits).await?;
    let place = app.enter()?;
    let lease = app.lease(&form.model).await?;
    let job = form.chat_job(&lease)?;
    let prompt_ids = if form.return_token_ids { job.prompts[0].clone() } else { Vec::new() };
    let kept = Kept::new(&form, &lease, prompt_ids);
    let running = app.run(lease, job, &form.account(caller)).await?;
    if form.stream {
        return Ok(crate::stream::respond(
            running,
            ChatStream::new(kept, form.stream_options, form.n.unwrap_or(1)),
            place,
        ));
    }
    Ok(axum::Json(chat_answer::collect(running, &kept).await?).into_response())
}

/// What answers need to know of the request.
pub(crate) struct Kept {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) namer: Option<Namer>,
    pub(crate) top: usize,
    pub(crate) tokenizer_names: Namer,
    pub(crate) prompt_ids: Vec<u32>,
    pub(crate) return_token_ids: bool,
    /// Stands before each answer.
    pub(crate) echo: String,
}

impl Kept {
    fn new(form: &ChatForm, lease: &Lease, prompt_ids: Vec<u32>) -> Kept {
        let names = Namer { tokenizer: lease.tokenizer.clone(), as_ids: form.return_tokens_as_token_ids };
        let echo = form.messages.last().filter(|_| form.echo).and_then(|m| m.content.as_ref());
        Kept {
            id: form.id("chatcmpl-"),
            created: crate::ids::now(),
            model: lease.name.clone(),
            namer: form.logprobs.then(|| names.clone()),
            top: form.top_logprobs.unwrap_or(0) as usize,
            tokenizer_names: names,
            prompt_ids,
            return_token_ids: form.return_token_ids,
            echo: echo.and_then(|c| message::text(c, "").ok()).unwrap_or_default(),
        }
    }
}

impl ChatForm {
    /// The prompt and everything else of the job.
    fn chat_job(&self, lease: &Lease) -> Result<Job, ApiError> {
        self.check()?;
        let rendered = prompt::chat(lease, &self.talk()?)?;
        let mut job = self.job(lease, vec![rendered.ids])?;
        job.template = rendered.template;
        if self.max_completion_tokens.is_some() {
            job.sampling.max_tokens = self.max_completion_tokens;
        }
        if let Some(spec) = self.response_format.as_ref().and_then(ResponseFormat::spec) {
            if job.constraint.is_some() {
                return Err(ApiError::field("response_format", "give it or structured_outputs, not both"));
            }
            job.constraint = Some(guide(lease, &spec, "response_format")?);
        }
        if self.logprobs {
            job.sampling.logprobs = Some(self.top_logprobs.unwrap_or(0));
        }
        job.sampling.validate(lease.vocabulary).map_err(|e| ApiError::field(e.name, &e))?;
        Ok(job)
    }

    /// The conversation in the form that templates read.
    pub(crate) fn talk(&self) -> Result<Talk, ApiError> {
        let mut variables = self.chat_template_kwargs.clone().unwrap_or_default();
        if let Some(effort) = &self.reasoning_effort {
            variables.entry("reasoning_effort").or_insert_with(|| effort.as_str().into());
            variables.entry("enable_thinking").or_insert_with(|| (effort != "none").into());
        }
        Ok(Talk {
            messages: message::for_template(&self.messages)?,
            tools: None,
            documents: self.documents.clone(),
            add_generation_prompt: self.add_generation_prompt.unwrap_or(!self.continue_final_message),
            continue_final: self.continue_final_message,
            variables,
            template: self.chat_template.clone(),
        })
    }

    fn check(&self) -> Result<(), ApiError> {
        if self.messages.is_empty() {
            return Err(ApiError::field("messages", "expected at least one message"));
        }
        if self.max_tokens == Some(0) {
            return Err(ApiError::field("max_tokens", "expected at least 1"));
        }
        if self.top_logprobs.is_some() && !self.logprobs {
            return Err(ApiError::field("top_logprobs", "ask for logprobs too"));
        }
        if let Some(other) = self.modalities.iter().flatten().find(|m| *m != "text") {
            return Err(ApiError::field("modalities", format!("expected \"text\", found {other:?}")));
        }
        if let Some(tier) = self.service_tier.as_ref().filter(|t| !["auto", "default"].contains(&t.as_str())) {
            return Err(ApiError::field("service_tier", format!("expected auto or default, found {tier:?}")));
        }
        if self.continue_final_message && self.add_generation_prompt == Some(true) {
            return Err(ApiError::field("continue_final_message", "an answer either goes on or begins"));
        }
        if self.stream_options.is_some() && !self.stream {
            return Err(ApiError::field("stream_options", "only for streams"));
        }
        Ok(())
    }
}
