//! `POST /v1/chat/completions`

use super::chat_answer;
use super::chat_stream::ChatStream;
use super::form::form;
use super::logprobs::Namer;
use super::message::{self, Message};
use super::tools::{self, Tool};
use crate::app::{App, Caller};
use crate::body::{self, Form, Refused};
use crate::chat::{Exchange, Opening, Reasoning};
use crate::dialect::structure::ResponseFormat;
use crate::error::ApiError;
use crate::generate::Job;
use crate::models::Lease;
use crate::prompt::Talk;
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
        /// Tools that the answer may call.
        tools: Option<Vec<Tool>>,
        /// `none`, `auto`, `required`, one function, or a list of allowed ones.
        #[cfg_attr(test, schema(value_type = Option<Object>))]
        tool_choice: Option<Value>,
        /// More than one call may come; they may where this is left out.
        parallel_tool_calls: Option<bool>,
        /// How much a reasoning model thinks: none, minimal, low, medium, high, xhigh, max.
        reasoning_effort: Option<String>,
        /// Most tokens of reasoning.
        thinking_token_budget: Option<u32>,
        /// False leaves the reasoning out of the answer.
        include_reasoning: Option<bool>,
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
    ("best_of", "only completions choose among answers"),
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
    let kept = Kept::new(&form, &lease, prompt_ids, app.reasoning_field);
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
    /// The field that reasoning is told in, if it is to be told.
    pub(crate) reasoning_field: Option<&'static str>,
}

impl Kept {
    fn new(form: &ChatForm, lease: &Lease, prompt_ids: Vec<u32>, reasoning_field: &'static str) -> Kept {
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
            reasoning_field: form.include_reasoning.unwrap_or(true).then_some(reasoning_field),
        }
    }
}

impl ChatForm {
    /// The prompt and everything else of the job.
    fn chat_job(&self, lease: &Lease) -> Result<Job, ApiError> {
        self.check()?;
        let opening = self.opening(lease)?;
        let mut job = self.job(lease, vec![opening.rendered.ids.clone()])?;
        if self.max_completion_tokens.is_some() {
            job.sampling.max_tokens = self.max_completion_tokens;
        }
        if job.constraint.is_some() && opening.is_held() {
            return Err(ApiError::field("structured_outputs", "the answer is held to something else already"));
        }
        opening.hold(&mut job);
        if self.logprobs {
            job.sampling.logprobs = Some(self.top_logprobs.unwrap_or(0));
        }
        job.sampling.validate(lease.vocabulary).map_err(|e| ApiError::field(e.name, &e))?;
        Ok(job)
    }

    /// The prompt, and what holds and reads the answer.
    pub(crate) fn opening(&self, lease: &Lease) -> Result<Opening, ApiError> {
        let mut tools = tools::read(self.tools.as_deref().unwrap_or_default(), "tools")?;
        tools::choose(&mut tools, self.tool_choice.as_ref())?;
        tools.parallel = self.parallel_tool_calls.unwrap_or(true);
        let talk = Talk {
            messages: message::for_template(&self.messages)?,
            tools: None,
            documents: self.documents.clone(),
            add_generation_prompt: self.add_generation_prompt.unwrap_or(!self.continue_final_message),
            continue_final: self.continue_final_message,
            variables: self.chat_template_kwargs.clone().unwrap_or_default(),
            template: self.chat_template.clone(),
        };
        let reasoning = Reasoning {
            on: None,
            effort: self.reasoning_effort.clone().map(|effort| (effort, "reasoning_effort")),
            budget: self.thinking_token_budget.map(|tokens| (tokens, "thinking_token_budget")),
        };
        let structure = self.response_format.as_ref().and_then(ResponseFormat::spec);
        let structure = structure.map(|spec| (spec, "response_format"));
        Exchange { talk, tools, reasoning, structure }.open(lease)
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
