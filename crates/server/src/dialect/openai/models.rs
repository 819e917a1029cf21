//! `GET /v1/models`, `GET /v1/models/{model}`

use crate::app::App;
use crate::error::ApiError;
use crate::models::{Spec, read};
use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

fn object(app: &App, name: &str, spec: &Spec) -> Value {
    let working = app.models.working().into_iter().find(|w| w.name == name);
    json!({
        "id": name,
        "object": "model",
        "type": "model",
        "display_name": name,
        "created_at": crate::time::rfc3339(spec.modified),
        "created": spec.modified.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        "owned_by": "allod",
        "root": spec.adapter.as_ref().map_or_else(|| name.to_owned(), |path| path.display().to_string()),
        "parent": spec.parent,
        "aliases": spec.aliases,
        "status": { "value": if working.is_some() { "loaded" } else { "unloaded" } },
        "max_model_len": working.map(|w| w.loaded.context),
    })
}

/// All models.
#[cfg_attr(test, utoipa::path(get, path = "/v1/models", responses((status = 200, description = "All models"))))]
pub(crate) async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let catalog = read(&app.models.catalog).clone();
    let data: Vec<Value> = catalog.entries().map(|(name, spec)| object(&app, name, spec)).collect();
    let id = |entry: Option<&Value>| entry.map(|e| e["id"].clone());
    let (first, last) = (id(data.first()), id(data.last()));
    // OpenAI's and Anthropic's clients read the same list.
    Json(json!({ "object": "list", "data": data, "has_more": false, "first_id": first, "last_id": last }))
}

/// One model.
#[cfg_attr(test, utoipa::path(get, path = "/v1/models/{model}", params(("model" = String, Path)),
    responses((status = 200, description = "The model"), (status = 404, description = "There is none of that name"))))]
pub(crate) async fn get(State(app): State<Arc<App>>, Path(model): Path<String>) -> Result<Json<Value>, ApiError> {
    let (name, spec) = app.models.find(&model)?;
    Ok(Json(object(&app, &name, &spec)))
}
