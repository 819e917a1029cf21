//! `POST /api/chat`

use super::answer::{Answer, Shape};
use super::generate::{check_shift, load_only, respond, yes};
use super::options::{Options, keep_alive, think};
use crate::app::{App, Caller};
use crate::body::{self, Form, Refused};
use crate::chat::{Exchange, Opening};
use crate::dialect::openai::{Tool, read_tools};
use crate::dialect::structure;
use crate::error::ApiError;
use crate::models::Lease;
use crate::prompt::Talk;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// A conversation to be answered.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatForm {
    #[serde(default)]
    pub(crate) model: String,
    /// Without any the model is only loaded, or given up where `keep_alive` is 0.
    #[serde(default)]
    pub(crate) messages: Vec<Message>,
    /// Tools that the answer may call.
    #[serde(default)]
    pub(crate) tools: Vec<Tool>,
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
    /// Leaves the oldest messages out where they do not fit, in place of refusing them.
    #[serde(default)]
    pub(crate) truncate: bool,
    /// Only false: the context is never shifted.
    pub(crate) shift: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Message {
    pub(crate) role: String,
    #[serde(default)]
    pub(crate) content: String,
    pub(crate) thinking: Option<String>,
    pub(crate) tool_calls: Option<Vec<ToolCall>>,
    pub(crate) tool_name: Option<String>,
    pub(crate) tool_call_id: Option<String>,
    pub(crate) images: Option<Vec<String>>,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct ToolCall {
    pub(crate) id: Option<String>,
    pub(crate) function: Function,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Function {
    pub(crate) index: Option<u32>,
    pub(crate) name: String,
    #[cfg_attr(test, schema(value_type = Object))]
    pub(crate) arguments: Map<String, Value>,
}

impl Form for ChatForm {
    const REFUSED: Refused =
        &[("tool_choice", "Ollama's clients leave the choice to the model; use /v1/chat/completions")];
}

/// Answers a conversation.
#[cfg_attr(test, utoipa::path(post, path = "/api/chat", request_body = ChatForm,
    responses((status = 200, description = "An answer, or a stream of lines"))))]
pub(crate) async fn chat(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let form: ChatForm = body::json(&headers, body, &app.limits).await?;
    let place = app.enter()?;
    let options = Options::read(form.options.as_ref())?;
    let keep = form.keep_alive.as_ref().map(keep_alive).transpose()?;
    check_shift(form.shift)?;
    if form.messages.is_empty() {
        return load_only(&app, &form.model, keep, Shape::Chat).await;
    }
    let mut lease = app.lease(&form.model).await?;
    if let Some(keep) = keep {
        lease.keep_for(keep);
    }
    let (opening, truncated) = form.opening(&lease, options.context(&lease)?)?;
    let mut job = options.job(&lease, opening.rendered.ids.clone())?;
    opening.hold(&mut job);
    let mut answer = Answer::new(&lease, &form.model, Shape::Chat, caller.arrived).truncated(truncated);
    if form.logprobs {
        job.sampling.logprobs = Some(form.top_logprobs.unwrap_or(0));
        answer = answer.with_logprobs(&lease, form.top_logprobs);
    }
    respond(&app, lease, job, answer, form.stream, &caller, place).await
}

impl ChatForm {
    /// The prompt with what holds the answer, and whether messages had to be left out.
    fn opening(&self, lease: &Lease, context: usize) -> Result<(Opening, bool), ApiError> {
        let messages = self.messages.iter().enumerate().map(|(i, m)| m.for_template(&format!("messages[{i}]")));
        let talk =
            Talk { messages: messages.collect::<Result<_, _>>()?, add_generation_prompt: true, ..Talk::default() };
        let structure = self.format.as_ref().map(structure::ollama).transpose()?.flatten();
        let mut exchange = Exchange {
            talk,
            tools: read_tools(&self.tools, "tools")?,
            reasoning: think(self.think.as_ref())?,
            structure: structure.map(|spec| (spec, "format")),
        };
        let mut truncated = false;
        loop {
            let opening = exchange.clone().open(lease)?;
            let messages = &mut exchange.talk.messages;
            let oldest = messages.iter().position(|m| m["role"] != "system");
            let too_long = self.truncate && opening.rendered.ids.len() >= context;
            match oldest.filter(|&i| too_long && i + 1 < messages.len()) {
                Some(oldest) => drop(messages.remove(oldest)),
                None => return Ok((opening, truncated)),
            }
            truncated = true;
        }
    }
}

impl Message {
    /// The message as templates read it.
    pub(super) fn for_template(&self, at: &str) -> Result<Value, ApiError> {
        if !["system", "user", "assistant", "tool"].contains(&self.role.as_str()) {
            let message = format!("expected system, user, assistant or tool, found {:?}", self.role);
            return Err(ApiError::field(format!("{at}.role"), message));
        }
        if self.images.as_ref().is_some_and(|i| !i.is_empty()) {
            return Err(ApiError::field(format!("{at}.images"), "the model reads text"));
        }
        let mut out = json!({ "role": self.role, "content": self.content });
        if let Some(thinking) = &self.thinking {
            out["reasoning_content"] = thinking.as_str().into();
        }
        if let Some(name) = &self.tool_name {
            out["name"] = name.as_str().into();
        }
        if let Some(id) = &self.tool_call_id {
            out["tool_call_id"] = id.as_str().into();
        }
        if let Some(calls) = self.tool_calls.as_ref().filter(|c| !c.is_empty()) {
            let call = |(i, call): (usize, &ToolCall)| {
                json!({
                    "id": call.id.clone().unwrap_or_else(|| format!("call_{}", call.function.index.unwrap_or(i as u32))),
                    "type": "function",
                    "function": { "name": call.function.name, "arguments": call.function.arguments },
                })
            };
            out["tool_calls"] = calls.iter().enumerate().map(call).collect();
        }
        Ok(out)
    }
}
