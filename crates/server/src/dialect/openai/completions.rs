//! `POST /v1/completions`

use super::completions_stream::{self, CompletionStream};
use super::form::form;
use super::logprobs::Namer;
use crate::app::{App, Caller};
use crate::body::{self, Form, Refused};
use crate::error::ApiError;
use crate::generate::{Job, check_answers};
use crate::models::Lease;
use crate::prompt;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;

/// What is to be continued.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(untagged, expecting = "a string, token ids, or an array of either")]
pub(crate) enum Prompt {
    Text(String),
    Ids(Vec<u32>),
    Texts(Vec<String>),
    Many(Vec<Vec<u32>>),
}

form! {
    /// Texts to be continued.
    CompletionForm {
        prompt: Prompt,
        /// What stands behind the text that is asked for (fill in the middle).
        suffix: Option<String>,
        /// The prompt stands before each answer.
        #[serde(default)]
        echo: bool,
        /// Log-probabilities, each with so many likeliest tokens.
        logprobs: Option<u32>,
        /// So many answers are made, of which the likeliest `n` are given.
        best_of: Option<u32>,
        /// What the model wants around a text (BOS) is added.
        add_special_tokens: Option<bool>,
    }
}

impl Form for CompletionForm {
    const REFUSED: Refused = super::form::REFUSED;
}

/// Most tokens of an answer where nobody says otherwise; OpenAI's.
const MAX_TOKENS: u32 = 16;

/// Continues texts.
#[cfg_attr(test, utoipa::path(post, path = "/v1/completions", request_body = CompletionForm,
    responses((status = 200, description = "The continuations, or a stream of chunks"))))]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let form: CompletionForm = body::json(&headers, body, &app.limits).await?;
    let place = app.enter()?;
    let lease = app.lease(&form.model).await?;
    let (job, texts) = form.completion_job(&lease)?;
    let kept = Kept::new(&form, &lease, &job, texts);
    let running = app.run(lease, job, &form.account(caller)).await?;
    if form.stream {
        return Ok(crate::stream::respond(running, CompletionStream::new(kept, form.stream_options), place));
    }
    Ok(axum::Json(completions_stream::collect(running, kept).await?).into_response())
}

/// What answers need to know of the request.
pub(super) struct Kept {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
    pub(super) namer: Namer,
    pub(super) logprobs: Option<u32>,
    pub(super) prompt_logprobs: bool,
    pub(super) prompts: Vec<Vec<u32>>,
    /// Texts of the prompts, where they stand before the answers.
    pub(super) echo: Option<Vec<String>>,
    /// Answers made to each prompt, and how many of them are given.
    pub(super) n: u32,
    pub(super) given: u32,
    pub(super) return_token_ids: bool,
}

impl Kept {
    fn new(form: &CompletionForm, lease: &Lease, job: &Job, texts: Vec<String>) -> Kept {
        Kept {
            id: form.id("cmpl-"),
            created: crate::ids::now(),
            model: lease.name.clone(),
            namer: Namer { tokenizer: lease.tokenizer.clone(), as_ids: form.return_tokens_as_token_ids },
            logprobs: form.logprobs,
            prompt_logprobs: form.prompt_logprobs.is_some(),
            prompts: job.prompts.clone(),
            echo: form.echo.then_some(texts),
            n: job.n,
            given: form.n.unwrap_or(1),
            return_token_ids: form.return_token_ids,
        }
    }
}

impl CompletionForm {
    /// The job and the texts of its prompts.
    fn completion_job(&self, lease: &Lease) -> Result<(Job, Vec<String>), ApiError> {
        if self.stream_options.is_some() && !self.stream {
            return Err(ApiError::field("stream_options", "only for streams"));
        }
        let (prompts, texts) = self.prompts(lease)?;
        let n = self.n.unwrap_or(1);
        if let Some(most) = self.best_of.filter(|most| *most < n || (self.stream && *most > n)) {
            let message = match self.stream {
                true => "the best are known when all are complete, so they cannot be streamed".into(),
                false => format!("expected at least n ({n}), found {most}"),
            };
            return Err(ApiError::field("best_of", message));
        }
        let mut job = self.job(lease, prompts)?;
        job.n = self.best_of.unwrap_or(n);
        check_answers(job.prompts.len(), job.n)?;
        let max = self.max_tokens.or(job.sampling.max_tokens).unwrap_or(MAX_TOKENS);
        job.silent = max == 0;
        if job.silent && !self.echo {
            return Err(ApiError::field("max_tokens", "0 makes sense only with echo"));
        }
        job.sampling.max_tokens = Some(max.max(1));
        // The likeliest are chosen by log-probabilities.
        job.sampling.logprobs = self.logprobs.or((job.n > n).then_some(0));
        job.sampling.validate(lease.vocabulary).map_err(|e| ApiError::field(e.name, &e))?;
        if self.echo && self.logprobs.is_some() && job.prompt_logprobs.is_none() {
            job.prompt_logprobs = self.logprobs;
        }
        Ok((job, texts))
    }

    fn prompts(&self, lease: &Lease) -> Result<(Vec<Vec<u32>>, Vec<String>), ApiError> {
        let texts = match &self.prompt {
            Prompt::Ids(ids) if ids.is_empty() => return Err(ApiError::field("prompt", "expected at least one token")),
            Prompt::Ids(ids) => return Ok(self.decoded(lease, vec![ids.clone()])),
            Prompt::Many(many) => return Ok(self.decoded(lease, many.clone())),
            Prompt::Text(text) => vec![text.clone()],
            Prompt::Texts(texts) => texts.clone(),
        };
        let encode = |text: &String| match &self.suffix {
            Some(suffix) => prompt::fill_in(lease, &[], text, suffix),
            None => prompt::plain(lease, text, self.add_special_tokens.unwrap_or(true)),
        };
        Ok((texts.iter().map(encode).collect::<Result<_, _>>()?, texts))
    }

    /// Prompts of token ids and their texts.
    fn decoded(&self, lease: &Lease, prompts: Vec<Vec<u32>>) -> (Vec<Vec<u32>>, Vec<String>) {
        let text = |ids: &Vec<u32>| if self.echo { lease.tokenizer.decode(ids, true) } else { String::new() };
        let texts = prompts.iter().map(text).collect();
        (prompts, texts)
    }
}
