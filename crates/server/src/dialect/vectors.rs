//! Embeddings in OpenAI's and Ollama's words.

use super::ollama::keep_alive;
use super::openai::Prompt;
use crate::app::{App, Caller};
use crate::body::{self, Form, Refused};
use crate::error::ApiError;
use crate::generate::{Vectors, embed, fitted, text_ids};
use crate::models::Lease;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use base64::Engine;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Most texts of a request.
const TEXTS: usize = 2048;

/// Texts to become vectors.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct EmbeddingForm {
    #[serde(default)]
    pub(crate) model: String,
    pub(crate) input: Prompt,
    /// `float` or `base64`.
    #[serde(default)]
    pub(crate) encoding_format: Encoding,
    /// Keeps the first so many numbers and brings the vector to length 1 (Matryoshka).
    pub(crate) dimensions: Option<usize>,
    pub(crate) user: Option<String>,
    /// Cuts texts that are too long, in place of refusing them.
    #[serde(default)]
    pub(crate) truncate: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoding {
    #[default]
    Float,
    Base64,
}

impl Form for EmbeddingForm {
    const REFUSED: Refused = &[("input_type", "say it in the text, as the model was trained")];
}

/// Makes vectors of texts.
#[cfg_attr(test, utoipa::path(post, path = "/v1/embeddings", request_body = EmbeddingForm,
    responses((status = 200, description = "The vectors"))))]
pub(crate) async fn openai(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let form: EmbeddingForm = body::json(&headers, body, &app.limits).await?;
    let _place = app.enter()?;
    let lease = app.lease_vectors(&form.model).await?;
    let model = lease.name.clone();
    let caller = form.user.as_deref().map_or_else(|| caller.clone(), |user| caller.on_account_of(user));
    let made = made(&app, lease, &form.input, form.truncate, form.dimensions, &caller).await?;
    let vector = |vector: &Vec<f32>| match form.encoding_format {
        Encoding::Float => json!(vector),
        Encoding::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            base64::engine::general_purpose::STANDARD.encode(bytes).into()
        }
    };
    let data = made
        .vectors
        .iter()
        .enumerate()
        .map(|(index, v)| json!({ "object": "embedding", "index": index, "embedding": vector(v) }));
    Ok(Json(json!({
        "object": "list",
        "data": data.collect::<Vec<_>>(),
        "model": model,
        "usage": { "prompt_tokens": made.tokens, "total_tokens": made.tokens },
    })))
}

/// The vectors of an input.
async fn made(
    app: &App,
    lease: Lease,
    input: &Prompt,
    truncate: bool,
    dimensions: Option<usize>,
    caller: &Caller,
) -> Result<Vectors, ApiError> {
    let texts: Vec<Vec<u32>> = match input {
        Prompt::Text(text) => vec![text_ids(&lease, text, truncate, "input")?],
        Prompt::Texts(texts) => {
            let one = |(i, text): (usize, &String)| text_ids(&lease, text, truncate, &format!("input[{i}]"));
            texts.iter().enumerate().map(one).collect::<Result<_, _>>()?
        }
        Prompt::Ids(ids) => vec![fitted(&lease, ids.clone(), truncate, "input")?],
        Prompt::Many(many) => {
            let one = |(i, ids): (usize, &Vec<u32>)| fitted(&lease, ids.clone(), truncate, &format!("input[{i}]"));
            many.iter().enumerate().map(one).collect::<Result<_, _>>()?
        }
    };
    if texts.is_empty() || texts.len() > TEXTS {
        return Err(ApiError::field("input", format!("expected 1 to {TEXTS} texts, found {}", texts.len())));
    }
    let mut made = embed(app, lease, texts, caller).await?;
    if let Some(keep) = dimensions {
        shorten(&mut made.vectors, keep)?;
    }
    Ok(made)
}

fn shorten(vectors: &mut [Vec<f32>], keep: usize) -> Result<(), ApiError> {
    let width = vectors.first().map_or(0, Vec::len);
    if keep == 0 || keep > width {
        return Err(ApiError::field("dimensions", format!("expected 1 to {width}, found {keep}")));
    }
    for vector in vectors {
        vector.truncate(keep);
        let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        if length > 0.0 {
            vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
        }
    }
    Ok(())
}

/// Ollama's form, the newer one.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct EmbedForm {
    #[serde(default)]
    pub(crate) model: String,
    pub(crate) input: Prompt,
    /// Cuts texts that are too long; Ollama does unless told otherwise, we do where told to.
    #[serde(default)]
    pub(crate) truncate: bool,
    pub(crate) dimensions: Option<usize>,
    #[cfg_attr(test, schema(value_type = Option<String>))]
    pub(crate) keep_alive: Option<Value>,
    #[cfg_attr(test, schema(value_type = Option<Object>))]
    pub(crate) options: Option<Map<String, Value>>,
}

impl Form for EmbedForm {
    const REFUSED: Refused = &[];
}

/// Makes vectors of texts, for Ollama's clients.
#[cfg_attr(test, utoipa::path(post, path = "/api/embed", request_body = EmbedForm,
    responses((status = 200, description = "The vectors"))))]
pub(crate) async fn ollama(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let form: EmbedForm = body::json(&headers, body, &app.limits).await?;
    let _place = app.enter()?;
    no_options(form.options.as_ref())?;
    let mut lease = app.lease_vectors(&form.model).await?;
    if let Some(keep) = form.keep_alive.as_ref().map(keep_alive).transpose()? {
        lease.keep_for(keep);
    }
    let model = if form.model.is_empty() { lease.name.clone() } else { form.model };
    let load = caller.arrived.elapsed();
    let made = made(&app, lease, &form.input, form.truncate, form.dimensions, &caller).await?;
    Ok(Json(json!({
        "model": model,
        "embeddings": made.vectors,
        "total_duration": caller.arrived.elapsed().as_nanos() as u64,
        "load_duration": load.as_nanos() as u64,
        "prompt_eval_count": made.tokens,
    })))
}

/// Options say how answers are made.
fn no_options(options: Option<&Map<String, Value>>) -> Result<(), ApiError> {
    match options.and_then(|o| o.keys().next()) {
        Some(name) => Err(ApiError::field(format!("options.{name}"), "it has no meaning for vectors")),
        None => Ok(()),
    }
}

/// Ollama's older form: one text.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct OldForm {
    #[serde(default)]
    pub(crate) model: String,
    pub(crate) prompt: String,
    #[cfg_attr(test, schema(value_type = Option<String>))]
    pub(crate) keep_alive: Option<Value>,
    #[cfg_attr(test, schema(value_type = Option<Object>))]
    pub(crate) options: Option<Map<String, Value>>,
}

impl Form for OldForm {
    const REFUSED: Refused = &[];
}

/// Makes a vector of one text.
#[cfg_attr(test, utoipa::path(post, path = "/api/embeddings", request_body = OldForm,
    responses((status = 200, description = "The vector"))))]
pub(crate) async fn ollama_old(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let form: OldForm = body::json(&headers, body, &app.limits).await?;
    let _place = app.enter()?;
    no_options(form.options.as_ref())?;
    let mut lease = app.lease_vectors(&form.model).await?;
    if let Some(keep) = form.keep_alive.as_ref().map(keep_alive).transpose()? {
        lease.keep_for(keep);
    }
    let made = made(&app, lease, &Prompt::Text(form.prompt), false, None, &caller).await?;
    Ok(Json(json!({ "embedding": made.vectors.into_iter().next() })))
}
