//! `POST /infill`, as llama.cpp has it: what stands between two texts, for editors.

use crate::app::{App, Caller};
use crate::body::{self, Form, Refused};
use crate::dialect::ollama::Stop;
use crate::error::{ApiError, Dialect};
use crate::generate::{Delta, Job, Output, Piece, Reason, Running, check_stops, layered};
use crate::models::Lease;
use crate::prompt;
use crate::stream::{Frames, Writer};
use allod_engine::{SamplingParams, Stats};
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// A gap to be filled.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct InfillForm {
    #[serde(default)]
    pub(crate) model: String,
    /// What stands before the gap.
    pub(crate) input_prefix: String,
    /// What stands behind it.
    pub(crate) input_suffix: String,
    /// Other files that may help.
    #[serde(default)]
    pub(crate) input_extra: Vec<Extra>,
    /// How the gap's text begins.
    #[serde(default)]
    pub(crate) prompt: String,
    /// Most tokens of the answer; negative numbers are no limit.
    pub(crate) n_predict: Option<i64>,
    pub(crate) temperature: Option<f32>,
    pub(crate) top_k: Option<u32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) seed: Option<i64>,
    pub(crate) repeat_penalty: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    /// The order of the sampler's stages.
    pub(crate) samplers: Option<Vec<String>>,
    pub(crate) stop: Option<Stop>,
    #[serde(default)]
    pub(crate) stream: bool,
    /// Only true: prefixes are always found.
    pub(crate) cache_prompt: Option<bool>,
}

/// A file beside the one with the gap.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Extra {
    pub(crate) text: String,
    #[serde(default)]
    pub(crate) filename: String,
}

impl Form for InfillForm {
    const REFUSED: Refused = &[
        ("id_slot", "there are no slots"),
        ("t_max_predict_ms", "use n_predict"),
        ("n_probs", "use /v1/completions with suffix and logprobs"),
        ("n_indent", "not offered"),
    ];
}

/// Fills a gap.
#[cfg_attr(test, utoipa::path(post, path = "/infill", request_body = InfillForm,
    responses((status = 200, description = "What fills the gap, or a stream of pieces"))))]
pub(crate) async fn infill(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let form: InfillForm = body::json(&headers, body, &app.limits).await?;
    let place = app.enter()?;
    let lease = app.lease(&form.model).await?;
    let job = form.job(&lease)?;
    let answer = Answer { model: lease.name.clone(), index: 0 };
    let running = app.run(lease, job, &caller).await?;
    if form.stream {
        return Ok(crate::stream::respond(running, answer, place));
    }
    Ok(Json(answer.collect(running).await?).into_response())
}

impl InfillForm {
    fn job(&self, lease: &Lease) -> Result<Job, ApiError> {
        if self.cache_prompt == Some(false) {
            return Err(ApiError::field("cache_prompt", "prefixes are always found"));
        }
        let extra: Vec<(&str, &str)> = self.input_extra.iter().map(|e| (&*e.filename, &*e.text)).collect();
        let mut ids = prompt::fill_in(lease, &extra, &self.input_prefix, &self.input_suffix)
            .map_err(|e| ApiError { param: Some("input_suffix".into()), ..e })?;
        ids.extend(prompt::encode(lease, &self.prompt, allod_text::Special::NONE)?);
        let most = self.n_predict.filter(|&n| n >= 0);
        if most == Some(0) {
            return Err(ApiError::field("n_predict", "expected at least one token"));
        }
        let values = [
            ("temperature", self.temperature.map(Value::from)),
            ("top_k", self.top_k.map(Value::from)),
            ("top_p", self.top_p.map(Value::from)),
            ("min_p", self.min_p.map(Value::from)),
            ("repeat_penalty", self.repeat_penalty.map(Value::from)),
            ("presence_penalty", self.presence_penalty.map(Value::from)),
            ("frequency_penalty", self.frequency_penalty.map(Value::from)),
            ("samplers", self.samplers.clone().map(Value::from)),
            ("max_tokens", most.map(|n| u32::try_from(n).unwrap_or(u32::MAX).into())),
        ];
        let values = values.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        let mut sampling = layered(&SamplingParams::default(), lease, values)?;
        // llama.cpp's -1 is any seed.
        sampling.seed = self.seed.filter(|&seed| seed != -1).map(|seed| seed as u64).or(sampling.seed);
        sampling
            .validate(lease.vocabulary)
            .map_err(|e| ApiError::field(e.name, format!("expected {}, found {}", e.expected, e.found)))?;
        let stop = self.stop.clone().map_or_else(|| lease.spec.stop.clone(), Stop::into_vec);
        check_stops(&stop)?;
        Ok(Job { stop, ..Job::new(ids, sampling) })
    }
}

struct Answer {
    model: String,
    index: u32,
}

impl Answer {
    fn piece(&self, delta: &Delta) -> Value {
        let tokens: Vec<u32> = delta.tokens.iter().map(|t| t.id).collect();
        json!({ "index": self.index, "content": delta.text(), "tokens": tokens, "stop": false, "model": self.model })
    }

    fn last(&self, delta: &Delta, reason: &Reason, stats: &Stats) -> Value {
        let (kind, word) = match reason {
            Reason::StopString(text) => ("word", text.as_str()),
            Reason::Length | Reason::ContextFull => ("limit", ""),
            Reason::End | Reason::StopToken(_) | Reason::Cancelled => ("eos", ""),
        };
        let mut object = self.piece(delta);
        object["stop"] = true.into();
        object["stop_type"] = kind.into();
        object["stopping_word"] = word.into();
        object["truncated"] = false.into();
        object["tokens_evaluated"] = stats.prompt_tokens.into();
        object["tokens_cached"] = stats.cached_tokens.into();
        object["tokens_predicted"] = stats.generated_tokens.into();
        object
    }

    async fn collect(self, mut running: Running) -> Result<Value, ApiError> {
        let mut whole = Delta::default();
        let mut end = (Reason::Cancelled, Stats::default());
        while let Some(output) = running.next().await {
            match output?.piece {
                Piece::Delta(delta) => whole.append(delta),
                Piece::Finished(reason, stats) => end = (reason, stats),
                Piece::Prompt(_) | Piece::Scored(_) | Piece::Embedded(_) => {}
            }
        }
        Ok(self.last(&whole, &end.0, &end.1))
    }
}

impl Writer for Answer {
    const CONTENT_TYPE: &'static str = "text/event-stream; charset=utf-8";

    fn output(&mut self, output: Output, out: &mut Frames) {
        match output.piece {
            Piece::Delta(delta) => out.data(&self.piece(&delta)),
            Piece::Finished(reason, stats) => out.data(&self.last(&Delta::default(), &reason, &stats)),
            Piece::Prompt(_) | Piece::Scored(_) | Piece::Embedded(_) => {}
        }
    }

    fn end(&mut self, _out: &mut Frames) {}

    fn failed(&mut self, error: &ApiError, out: &mut Frames) {
        out.data(&error.body(Dialect::OpenAi));
    }

    fn quiet(&mut self, out: &mut Frames) {
        out.comment();
    }
}
