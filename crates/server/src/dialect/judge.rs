//! Which text fits best: `/v1/rerank`, `/v1/score`, `/v1/classify`.

use crate::app::{App, Caller};
use crate::body::{self, Form, Refused};
use crate::error::ApiError;
use crate::generate::{embed, text_ids};
use crate::models::Lease;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// One text or several.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(untagged, expecting = "a string or an array of strings")]
pub(crate) enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    fn into_vec(self) -> Vec<String> {
        match self {
            Texts::One(text) => vec![text],
            Texts::Many(texts) => texts,
        }
    }
}

/// Documents to be put in order.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct RerankForm {
    #[serde(default)]
    pub(crate) model: String,
    pub(crate) query: String,
    pub(crate) documents: Vec<String>,
    /// Only the best so many.
    pub(crate) top_n: Option<usize>,
    #[serde(default)]
    pub(crate) return_documents: bool,
    /// Cuts texts that are too long, in place of refusing them.
    #[serde(default)]
    pub(crate) truncate: bool,
}

impl Form for RerankForm {
    const REFUSED: Refused = &[];
}

/// Puts documents in the order of how near they are to a query: the cosine of their vectors.
#[cfg_attr(test, utoipa::path(post, path = "/v1/rerank", request_body = RerankForm,
    responses((status = 200, description = "Documents with their scores, best first"))))]
pub(crate) async fn rerank(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let form: RerankForm = body::json(&headers, body, &app.limits).await?;
    let _place = app.enter()?;
    let lease = app.lease_vectors(&form.model).await?;
    let model = lease.name.clone();
    let (scores, tokens) = near(&app, lease, &[form.query], &form.documents, form.truncate, &caller).await?;
    let mut order: Vec<(usize, f64)> = scores.into_iter().enumerate().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    order.truncate(form.top_n.unwrap_or(usize::MAX));
    let result = |(index, score): (usize, f64)| {
        let mut result = json!({ "index": index, "relevance_score": score });
        if form.return_documents {
            result["document"] = json!({ "text": form.documents[index] });
        }
        result
    };
    Ok(Json(json!({
        "id": crate::ids::new("rerank-"),
        "object": "list",
        "model": model,
        "results": order.into_iter().map(result).collect::<Vec<_>>(),
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    })))
}

/// The cosine of each left text with each right one, or of the pairs where there are as many.
async fn near(
    app: &App,
    lease: Lease,
    left: &[String],
    right: &[String],
    truncate: bool,
    caller: &Caller,
) -> Result<(Vec<f64>, usize), ApiError> {
    if left.is_empty() || right.is_empty() {
        return Err(ApiError::field("documents", "expected at least one text on each side"));
    }
    if left.len() > 1 && left.len() != right.len() {
        let message =
            format!("expected one text or as many as on the other side, found {} and {}", left.len(), right.len());
        return Err(ApiError::field("text_1", message));
    }
    let texts = left.iter().chain(right).enumerate();
    let ids =
        texts.map(|(i, text)| text_ids(&lease, text, truncate, &format!("text {i}"))).collect::<Result<_, _>>()?;
    let made = embed(app, lease, ids, caller).await?;
    let (left, right) = made.vectors.split_at(left.len());
    let scores = right.iter().enumerate().map(|(i, b)| cosine(&left[i.min(left.len() - 1)], b)).collect();
    Ok((scores, made.tokens))
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths == 0.0 { 0.0 } else { dot(a, b) / lengths }
}

/// Texts to be compared.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct ScoreForm {
    #[serde(default)]
    pub(crate) model: String,
    #[serde(alias = "queries", alias = "data_1")]
    pub(crate) text_1: Texts,
    #[serde(alias = "documents", alias = "data_2")]
    pub(crate) text_2: Texts,
    #[serde(default)]
    pub(crate) truncate: bool,
}

impl Form for ScoreForm {
    const REFUSED: Refused = &[];
}

/// How near texts are: the cosine of their vectors.
#[cfg_attr(test, utoipa::path(post, path = "/v1/score", request_body = ScoreForm,
    responses((status = 200, description = "A score for each pair"))))]
pub(crate) async fn compare(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let form: ScoreForm = body::json(&headers, body, &app.limits).await?;
    let _place = app.enter()?;
    let lease = app.lease_vectors(&form.model).await?;
    let model = lease.name.clone();
    let (left, right) = (form.text_1.into_vec(), form.text_2.into_vec());
    let (scores, tokens) = near(&app, lease, &left, &right, form.truncate, &caller).await?;
    let data = scores.iter().enumerate().map(|(i, s)| json!({ "index": i, "object": "score", "score": s }));
    Ok(Json(json!({
        "id": crate::ids::new("score-"),
        "object": "list",
        "model": model,
        "data": data.collect::<Vec<_>>(),
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    })))
}

/// Texts to be given one of several labels.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct ClassifyForm {
    #[serde(default)]
    pub(crate) model: String,
    pub(crate) input: Texts,
    pub(crate) labels: Vec<String>,
    /// What is to be decided.
    pub(crate) instructions: Option<String>,
}

impl Form for ClassifyForm {
    const REFUSED: Refused = &[];
}

/// Gives texts the label that the model finds likeliest.
#[cfg_attr(test, utoipa::path(post, path = "/v1/classify", request_body = ClassifyForm,
    responses((status = 200, description = "A label for each text, with the probabilities of all"))))]
pub(crate) async fn classify(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let form: ClassifyForm = body::json(&headers, body, &app.limits).await?;
    let _place = app.enter()?;
    let texts = form.input.into_vec();
    if texts.is_empty() {
        return Err(ApiError::field("input", "expected at least one text"));
    }
    let mut data = Vec::new();
    let mut model = String::new();
    for (index, text) in texts.iter().enumerate() {
        let lease = app.lease(&form.model).await?;
        model.clone_from(&lease.name);
        let question = form.instructions.as_deref().unwrap_or("Which label fits the text?");
        let decided = super::decisions::decide(&app, lease, text, question, &form.labels, &caller).await?;
        data.push(json!({
            "index": index,
            "label": form.labels[decided.best],
            "probs": decided.probabilities,
            "num_classes": form.labels.len(),
        }));
    }
    Ok(Json(json!({
        "id": crate::ids::new("classify-"), "object": "list", "model": model, "labels": form.labels, "data": data,
    })))
}
