//! Tokens without a model's answer: `/tokenize`, `/detokenize`, and prompts as they would be (`…/render`), in vLLM's
//! and llama.cpp's words.

use super::openai::Message;
use super::openai::chat::ChatForm;
use crate::app::App;
use crate::body::{self, Form, Refused};
use crate::error::ApiError;
use crate::prompt::{self, Talk};
use allod_text::Special;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// A text or a conversation to be cut into tokens.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenizeForm {
    #[serde(default)]
    pub(crate) model: String,
    /// The text; `content` in llama.cpp's words.
    #[serde(alias = "content")]
    pub(crate) prompt: Option<String>,
    pub(crate) messages: Option<Vec<Message>>,
    /// What the model wants around a text (BOS) is added; for a text, true where it is left out.
    #[serde(alias = "add_special")]
    pub(crate) add_special_tokens: Option<bool>,
    /// Special tokens written in the text become their ids; true where it is left out.
    pub(crate) parse_special: Option<bool>,
    /// The tokens' texts too.
    #[serde(default, alias = "with_pieces")]
    pub(crate) return_token_strs: bool,
    pub(crate) add_generation_prompt: Option<bool>,
    #[serde(default)]
    pub(crate) continue_final_message: bool,
    #[cfg_attr(test, schema(value_type = Option<Object>))]
    pub(crate) chat_template_kwargs: Option<Map<String, Value>>,
    pub(crate) chat_template: Option<String>,
}

impl Form for TokenizeForm {
    const REFUSED: Refused = &[];
}

/// Cuts a text or a conversation into tokens.
#[cfg_attr(test, utoipa::path(post, path = "/tokenize", request_body = TokenizeForm,
    responses((status = 200, description = "The tokens"))))]
pub(crate) async fn tokenize(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let form: TokenizeForm = body::json(&headers, body, &app.limits).await?;
    let lease = app.lease(&form.model).await?;
    let ids = match (&form.prompt, &form.messages) {
        (Some(text), None) => {
            let special =
                Special { parse: form.parse_special.unwrap_or(true), add: form.add_special_tokens.unwrap_or(true) };
            lease.tokenizer.encode(text, special).map_err(|e| ApiError::field("prompt", e))?
        }
        (None, Some(messages)) => {
            let talk = Talk {
                messages: super::openai::for_template(messages)?,
                add_generation_prompt: form.add_generation_prompt.unwrap_or(!form.continue_final_message),
                continue_final: form.continue_final_message,
                variables: form.chat_template_kwargs.clone().unwrap_or_default(),
                template: form.chat_template.clone(),
                ..Talk::default()
            };
            prompt::chat(&lease, &talk)?.ids
        }
        _ => return Err(ApiError::field("prompt", "give either a prompt or messages")),
    };
    let strings =
        form.return_token_strs.then(|| ids.iter().map(|&id| lease.tokenizer.token_text(id)).collect::<Vec<_>>());
    Ok(Json(json!({
        "count": ids.len(),
        "max_model_len": lease.context,
        "tokens": ids,
        "token_strs": strings,
    })))
}

/// Tokens to be put together.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct DetokenizeForm {
    #[serde(default)]
    pub(crate) model: String,
    pub(crate) tokens: Vec<u32>,
    /// Special tokens are left out.
    #[serde(default)]
    pub(crate) skip_special_tokens: bool,
}

impl Form for DetokenizeForm {
    const REFUSED: Refused = &[];
}

/// The text of tokens.
#[cfg_attr(test, utoipa::path(post, path = "/detokenize", request_body = DetokenizeForm,
    responses((status = 200, description = "The text"))))]
pub(crate) async fn detokenize(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let form: DetokenizeForm = body::json(&headers, body, &app.limits).await?;
    let lease = app.lease(&form.model).await?;
    let size = lease.tokenizer.vocab_size();
    if let Some(i) = form.tokens.iter().position(|&id| id as usize >= size) {
        return Err(ApiError::field(
            format!("tokens[{i}]"),
            format!("expected ids below {size}, found {}", form.tokens[i]),
        ));
    }
    let text = lease.tokenizer.decode(&form.tokens, form.skip_special_tokens);
    Ok(Json(json!({ "prompt": text, "content": text })))
}

/// A chat's prompt, as text and as tokens, without an answer.
#[cfg_attr(test, utoipa::path(post, path = "/v1/chat/completions/render", request_body = ChatForm,
    responses((status = 200, description = "The prompt"))))]
pub(crate) async fn render(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let form: ChatForm = body::json(&headers, body, &app.limits).await?;
    let lease = app.lease(&form.model).await?;
    let rendered = form.opening(&lease)?.rendered;
    Ok(Json(json!({
        "model": lease.name,
        "prompt": rendered.text,
        "token_ids": rendered.ids,
        "count": rendered.ids.len(),
        "max_model_len": lease.context,
    })))
}
