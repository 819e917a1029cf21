//! Typed decisions: questions about a text, answered with calibrated probabilities. `/v1/systemone` as Ollama's client
//! asks it, `/v1/decisions` as OpenAI's does.

use crate::app::{App, Caller};
use crate::body::{self, Form, Refused};
use crate::error::ApiError;
use crate::generate::score;
use crate::models::Lease;
use crate::prompt::{self, Talk};
use allod_text::Special;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What was decided among labels.
pub(super) struct Decided {
    pub(super) best: usize,
    pub(super) probabilities: Vec<f64>,
    /// Tokens read.
    pub(super) tokens: usize,
}

/// How likely each label follows the question, against how likely it follows when nothing was said. That difference is
/// contextual calibration (Zhao et al., "Calibrate Before Use", 2021): it takes away what the model prefers anyway.
///
/// # Errors
/// Labels that cannot be told apart; what the engine refuses.
pub(super) async fn decide(
    app: &App,
    lease: Lease,
    state: &str,
    question: &str,
    labels: &[String],
    caller: &Caller,
) -> Result<Decided, ApiError> {
    if labels.iter().collect::<BTreeSet<_>>().len() < labels.len() {
        return Err(ApiError::field("labels", "two labels are the same"));
    }
    if labels.len() < 2 || labels.iter().any(String::is_empty) {
        return Err(ApiError::field("labels", "expected at least two labels that are not empty"));
    }
    let prompt = |state: &str| {
        let content = format!("{state}\n\n{question}\nAnswer with one of: {}.", labels.join(", "));
        let messages = vec![json!({ "role": "user", "content": content })];
        let talk = Talk { messages, add_generation_prompt: true, ..Talk::default() };
        prompt::chat(&lease, &talk).map(|r| r.ids)
    };
    let prompts = vec![prompt(state)?, prompt("")?];
    let label = |text: &String| lease.tokenizer.encode(text, Special::NONE).map_err(|e| ApiError::field("labels", e));
    let labels = labels.iter().map(label).collect::<Result<Vec<_>, _>>()?;
    let tokens = prompts.iter().chain(&labels).map(Vec::len).sum();
    let scores = score(app, lease, prompts, labels, caller).await?;
    let gains: Vec<f64> = scores[0].iter().zip(&scores[1]).map(|(with, without)| with - without).collect();
    let most = gains.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = gains.iter().map(|g| (g - most).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let probabilities: Vec<f64> = weights.iter().map(|w| w / sum).collect();
    let best = probabilities.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i);
    Ok(Decided { best, probabilities, tokens })
}

/// A text, or JSON that is read as one.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Questions about a state, by name.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct SystemOneForm {
    #[serde(default)]
    pub(crate) model: String,
    /// What is known: a text, or JSON.
    #[cfg_attr(test, schema(value_type = Object))]
    pub(crate) state: Value,
    pub(crate) questions: BTreeMap<String, Question>,
    #[cfg_attr(test, schema(value_type = Option<String>))]
    pub(crate) keep_alive: Option<Value>,
}

impl Form for SystemOneForm {
    const REFUSED: Refused = &[("stream", "a decision is one answer")];
}

/// A question with the kind of its answer.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Question {
    /// One of several.
    Choice {
        /// What is asked.
        #[cfg_attr(test, schema(value_type = Object))]
        instructions: Value,
        /// The answers, each with what it means.
        #[cfg_attr(test, schema(value_type = Object))]
        criteria: Map<String, Value>,
    },
    /// Whether something is so.
    Noul {
        /// What is asked.
        #[cfg_attr(test, schema(value_type = Object))]
        instructions: Value,
        /// What `true` and `false` mean.
        criteria: Option<BTreeMap<String, String>>,
    },
    /// How much, from the lowest of several levels up.
    Score {
        /// What is asked.
        #[cfg_attr(test, schema(value_type = Object))]
        instructions: Value,
        /// What each level means, the lowest first.
        criteria: Vec<String>,
    },
}

/// A question as the model reads it: what is asked, and the labels with what each means.
struct Asked {
    question: String,
    labels: Vec<String>,
}

impl Asked {
    fn new(instructions: String, labels: impl IntoIterator<Item = (String, Option<String>)>) -> Asked {
        let mut asked = Asked { question: instructions, labels: Vec::new() };
        for (label, meaning) in labels {
            if let Some(meaning) = meaning.filter(|meaning| *meaning != label) {
                asked.question.push_str(&format!("\n{label}: {meaning}"));
            }
            asked.labels.push(label);
        }
        asked
    }
}

impl Question {
    fn asked(&self) -> Asked {
        match self {
            Question::Choice { instructions, criteria } => Asked::new(
                text(instructions),
                criteria.iter().map(|(label, meaning)| (label.clone(), meaning.as_str().map(str::to_owned))),
            ),
            Question::Noul { instructions, criteria } => {
                let meaning = |label: &str| criteria.as_ref().and_then(|c| c.get(label).cloned());
                Asked::new(text(instructions), ["false", "true"].map(|label| (label.to_owned(), meaning(label))))
            }
            Question::Score { instructions, criteria } => {
                let levels = criteria.iter().enumerate().map(|(i, meaning)| (i.to_string(), Some(meaning.clone())));
                Asked::new(text(instructions), levels)
            }
        }
    }

    fn answer(&self, labels: &[String], decided: &Decided) -> Value {
        let probabilities: Map<String, Value> =
            labels.iter().cloned().zip(decided.probabilities.iter().map(|&p| p.into())).collect();
        let confidence = decided.probabilities[decided.best];
        match self {
            Question::Choice { .. } => json!({
                "type": "choice", "choice": labels[decided.best], "probabilities": probabilities,
                "confidence": confidence,
            }),
            Question::Noul { .. } => json!({ "type": "noul", "noul": decided.probabilities[1] }),
            Question::Score { criteria, .. } => {
                let legend: Map<String, Value> =
                    labels.iter().cloned().zip(criteria.iter().map(|c| c.as_str().into())).collect();
                json!({
                    "type": "score", "score": expectation(decided), "legend": legend, "probabilities": probabilities,
                    "confidence": confidence,
                })
            }
        }
    }
}

/// Says which question an error is about.
fn at(error: ApiError, place: String) -> ApiError {
    match error.param {
        Some(_) => ApiError { param: Some(place), ..error },
        None => error,
    }
}

/// The expected level.
fn expectation(decided: &Decided) -> f64 {
    decided.probabilities.iter().enumerate().map(|(i, p)| i as f64 * p).sum()
}

/// Answers questions about a state.
#[cfg_attr(test, utoipa::path(post, path = "/v1/systemone", request_body = SystemOneForm,
    responses((status = 200, description = "An answer to each question, by its name"))))]
pub(crate) async fn systemone(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let form: SystemOneForm = body::json(&headers, body, &app.limits).await?;
    let _place = app.enter()?;
    let keep = form.keep_alive.as_ref().map(super::ollama::keep_alive).transpose()?;
    let state = text(&form.state);
    let mut answers = Map::new();
    let (mut model, mut tokens) = (String::new(), 0);
    for (name, question) in &form.questions {
        let mut lease = app.lease(&form.model).await?;
        if let Some(keep) = keep {
            lease.keep_for(keep);
        }
        model.clone_from(&lease.name);
        let Asked { question: asked, labels } = question.asked();
        let decided = decide(&app, lease, &state, &asked, &labels, &caller).await;
        let decided = decided.map_err(|e| at(e, format!("questions.{name}")))?;
        tokens += decided.tokens;
        answers.insert(name.clone(), question.answer(&labels, &decided));
    }
    Ok(Json(json!({
        "model": model, "answers": answers, "usage": { "input_tokens": tokens, "output_tokens": 0 },
    })))
}

/// Questions about an input, in order.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct DecisionForm {
    #[serde(default)]
    pub(crate) model: String,
    /// A text, or items of a conversation.
    #[cfg_attr(test, schema(value_type = Object))]
    pub(crate) input: Value,
    pub(crate) questions: Vec<OpenAiQuestion>,
    /// Prefixes are always found; the key changes nothing about the answer.
    #[expect(dead_code, reason = "a hint that this server needs not")]
    pub(crate) prompt_cache_key: Option<String>,
}

impl Form for DecisionForm {
    const REFUSED: Refused =
        &[("prompt_cache_options", "prefixes are always kept"), ("safety_identifier", "not offered")];
}

/// A question with the kind of its answer.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum OpenAiQuestion {
    /// How likely a statement is true.
    Predicate {
        /// The statement.
        #[cfg_attr(test, schema(value_type = Object))]
        instructions: Value,
        /// Comes back with the answer.
        name: Option<String>,
    },
    /// One of several.
    Choice {
        /// What is asked.
        #[cfg_attr(test, schema(value_type = Object))]
        instructions: Value,
        /// The answers.
        choices: Vec<OneChoice>,
        /// Comes back with the answer.
        name: Option<String>,
    },
    /// How much, from the lowest of several levels up.
    Score {
        /// What is asked.
        #[cfg_attr(test, schema(value_type = Object))]
        instructions: Value,
        /// The levels, the lowest first.
        levels: Vec<Level>,
        /// Comes back with the answer.
        name: Option<String>,
    },
}

/// An answer to choose.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct OneChoice {
    /// A text or a boolean.
    #[cfg_attr(test, schema(value_type = Object))]
    pub(crate) value: Value,
    pub(crate) description: Option<String>,
}

/// A level of a score.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Level {
    pub(crate) label: String,
    pub(crate) description: Option<String>,
}

impl OpenAiQuestion {
    fn asked(&self, at: &str) -> Result<Asked, ApiError> {
        let instructions = |value: &Value| match value {
            Value::Array(parts) => super::responses::text_of(parts, &format!("{at}.instructions")),
            other => Ok(text(other)),
        };
        Ok(match self {
            OpenAiQuestion::Predicate { instructions: asked, .. } => {
                let question = format!("Is this true? {}", instructions(asked)?);
                Asked::new(question, ["false", "true"].map(|label| (label.to_owned(), None)))
            }
            OpenAiQuestion::Choice { instructions: asked, choices, .. } => {
                if let Some(i) = choices.iter().position(|c| !c.value.is_string() && !c.value.is_boolean()) {
                    return Err(ApiError::field(format!("{at}.choices[{i}].value"), "expected a string or a boolean"));
                }
                let labels = choices.iter().map(|choice| (text(&choice.value), choice.description.clone()));
                Asked::new(instructions(asked)?, labels)
            }
            OpenAiQuestion::Score { instructions: asked, levels, .. } => {
                let labels = levels.iter().map(|level| (level.label.clone(), level.description.clone()));
                Asked::new(instructions(asked)?, labels)
            }
        })
    }

    fn answer(&self, decided: &Decided) -> Value {
        let probabilities = &decided.probabilities;
        let confidence = probabilities[decided.best];
        match self {
            OpenAiQuestion::Predicate { name, .. } => {
                json!({ "type": "predicate", "name": name, "probability": probabilities[1] })
            }
            OpenAiQuestion::Choice { name, choices, .. } => {
                let each = choices.iter().zip(probabilities);
                let each: Vec<Value> = each.map(|(c, p)| json!({ "value": c.value, "probability": p })).collect();
                json!({
                    "type": "choice", "name": name, "choice": choices[decided.best].value, "confidence": confidence,
                    "probabilities": each,
                })
            }
            OpenAiQuestion::Score { name, levels, .. } => {
                let each = levels.iter().zip(probabilities).enumerate();
                let each: Vec<Value> =
                    each.map(|(i, (level, p))| json!({ "label": level.label, "value": i, "probability": p })).collect();
                json!({
                    "type": "score", "name": name, "score": expectation(decided), "confidence": confidence,
                    "probabilities": each,
                })
            }
        }
    }
}

/// Answers questions about an input.
#[cfg_attr(test, utoipa::path(post, path = "/v1/decisions", request_body = DecisionForm,
    responses((status = 200, description = "An answer to each question, in order"))))]
pub(crate) async fn decisions(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let form: DecisionForm = body::json(&headers, body, &app.limits).await?;
    let _place = app.enter()?;
    let state = match &form.input {
        Value::Array(items) => super::responses::transcript(items)?,
        other => text(other),
    };
    if form.questions.is_empty() {
        return Err(ApiError::field("questions", "expected at least one question"));
    }
    let mut answers = Vec::new();
    let (mut model, mut tokens) = (String::new(), 0);
    for (i, question) in form.questions.iter().enumerate() {
        let lease = app.lease(&form.model).await?;
        model.clone_from(&lease.name);
        let at = format!("questions[{i}]");
        let Asked { question: asked, labels } = question.asked(&at)?;
        let decided = decide(&app, lease, &state, &asked, &labels, &caller).await.map_err(|e| self::at(e, at))?;
        tokens += decided.tokens;
        answers.push(question.answer(&decided));
    }
    Ok(Json(json!({
        "model": model,
        "answers": answers,
        "usage": {
            "input_tokens": tokens,
            "input_tokens_details": { "cache_write_tokens": 0, "cached_tokens": 0 },
            "output_tokens": 0,
            "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": tokens,
        },
    })))
}
