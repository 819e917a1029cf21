//! `POST /v1/messages` and `/v1/messages/count_tokens`

use super::answer::{Answer, collect};
use super::message::{self, Content, Message, Role};
use super::tools::{self, OutputConfig, Thinking, Tool, ToolChoice};
use crate::app::{App, Caller};
use crate::body::{self, Form, Refused};
use crate::chat::Exchange;
use crate::error::ApiError;
use crate::generate::{Job, check_stops, layered};
use crate::models::Lease;
use crate::prompt::Talk;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// A conversation to be answered.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct MessagesForm {
    #[serde(default)]
    pub(crate) model: String,
    pub(crate) messages: Vec<Message>,
    /// Most tokens of the answer.
    pub(crate) max_tokens: u32,
    /// Instructions that stand before the conversation.
    #[cfg_attr(test, schema(value_type = Option<Object>))]
    pub(crate) system: Option<Content>,
    pub(crate) stop_sequences: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) stream: bool,
    pub(crate) temperature: Option<f32>,
    pub(crate) top_k: Option<u32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) metadata: Option<Metadata>,
    /// `auto` or `standard_only`.
    pub(crate) service_tier: Option<String>,
    /// Tools that the answer may call.
    #[serde(default)]
    pub(crate) tools: Vec<Tool>,
    pub(crate) tool_choice: Option<ToolChoice>,
    pub(crate) thinking: Option<Thinking>,
    #[serde(default)]
    pub(crate) output_config: OutputConfig,
    /// Where to keep a prefix; prefixes are always kept.
    #[cfg_attr(test, schema(value_type = Option<Object>))]
    #[expect(dead_code, reason = "a hint that this server needs not")]
    pub(crate) cache_control: Option<Map<String, Value>>,
}

/// Who asks.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Metadata {
    pub(crate) user_id: Option<String>,
}

const REFUSED: Refused = &[
    ("container", "the server runs no code"),
    ("mcp_servers", "the server calls no others"),
    ("context_management", "nothing is cut"),
    ("inference_geo", "the model runs here"),
];

impl Form for MessagesForm {
    const REFUSED: Refused = REFUSED;
}

/// Answers a conversation.
#[cfg_attr(test, utoipa::path(post, path = "/v1/messages", request_body = MessagesForm,
    responses((status = 200, description = "An answer, or a stream of events"))))]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let form: MessagesForm = body::json(&headers, body, &app.limits).await?;
    let place = app.enter()?;
    let lease = app.lease(&form.model).await?;
    let job = form.job(&lease)?;
    let caller = match form.metadata.as_ref().and_then(|m| m.user_id.as_deref()) {
        Some(user) => caller.on_account_of(user),
        None => caller,
    };
    let shown = form.thinking.as_ref().is_none_or(Thinking::is_shown);
    let answer = Answer::new(&lease, job.prompts[0].len(), shown);
    let running = app.run(lease, job, &caller).await?;
    if form.stream {
        return Ok(crate::stream::respond(running, answer, place));
    }
    Ok(Json(collect(running, answer).await?).into_response())
}

impl MessagesForm {
    fn job(&self, lease: &Lease) -> Result<Job, ApiError> {
        if let Some(tier) = self.service_tier.as_ref().filter(|t| !["auto", "standard_only"].contains(&t.as_str())) {
            return Err(ApiError::field("service_tier", format!("expected auto or standard_only, found {tier:?}")));
        }
        let exchange = Exchange {
            talk: talk(&self.messages, self.system.as_ref())?,
            tools: tools::read(&self.tools, self.tool_choice.as_ref())?,
            reasoning: tools::reasoning(
                self.thinking.as_ref(),
                self.output_config.effort.as_ref(),
                Some(self.max_tokens),
            )?,
            structure: self.output_config.structure(),
        };
        let opening = exchange.open(lease)?;
        let values = [
            ("temperature", self.temperature.map(Value::from)),
            ("top_k", self.top_k.map(Value::from)),
            ("top_p", self.top_p.map(Value::from)),
            ("max_tokens", Some(self.max_tokens.into())),
        ];
        let values = values.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        let sampling = layered(&crate::dialect::openai::neutral(), lease, values)?;
        sampling
            .validate(lease.vocabulary)
            .map_err(|e| ApiError::field(e.name, format!("expected {}, found {}", e.expected, e.found)))?;
        let stop = self.stop_sequences.clone().unwrap_or_else(|| lease.spec.stop.clone());
        check_stops(&stop)?;
        let mut job = Job { stop, ..Job::new(opening.rendered.ids.clone(), sampling) };
        opening.hold(&mut job);
        Ok(job)
    }
}

/// The conversation as templates read it. An answer that the client has begun is gone on with.
fn talk(messages: &[Message], system: Option<&Content>) -> Result<Talk, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::field("messages", "expected at least one message"));
    }
    let mut turns = message::for_template(messages)?;
    if let Some(system) = system {
        turns.insert(0, json!({ "role": "system", "content": message::text(system, "system")? }));
    }
    let begun = messages.last().is_some_and(|m| m.role == Role::Assistant);
    Ok(Talk { messages: turns, add_generation_prompt: true, continue_final: begun, ..Talk::default() })
}

/// A conversation to be counted.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct CountForm {
    #[serde(default)]
    pub(crate) model: String,
    pub(crate) messages: Vec<Message>,
    #[cfg_attr(test, schema(value_type = Option<Object>))]
    pub(crate) system: Option<Content>,
    #[serde(default)]
    pub(crate) tools: Vec<Tool>,
    pub(crate) tool_choice: Option<ToolChoice>,
    pub(crate) thinking: Option<Thinking>,
    #[serde(default)]
    pub(crate) output_config: OutputConfig,
    #[cfg_attr(test, schema(value_type = Option<Object>))]
    #[expect(dead_code, reason = "a hint that this server needs not")]
    pub(crate) cache_control: Option<Map<String, Value>>,
}

impl Form for CountForm {
    const REFUSED: Refused = REFUSED;
}

/// Counts the tokens of a conversation's prompt.
#[cfg_attr(test, utoipa::path(post, path = "/v1/messages/count_tokens", request_body = CountForm,
    responses((status = 200, description = "The number of tokens"))))]
pub(crate) async fn count(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let form: CountForm = body::json(&headers, body, &app.limits).await?;
    let lease = app.lease(&form.model).await?;
    let exchange = Exchange {
        talk: talk(&form.messages, form.system.as_ref())?,
        tools: tools::read(&form.tools, form.tool_choice.as_ref())?,
        reasoning: tools::reasoning(form.thinking.as_ref(), form.output_config.effort.as_ref(), None)?,
        structure: form.output_config.structure(),
    };
    Ok(Json(json!({ "input_tokens": exchange.open(&lease)?.rendered.ids.len() })))
}
