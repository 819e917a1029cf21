//! `/admin/…`: keys and who used what.

use crate::app::App;
use crate::auth::{KeyLimits, Scope};
use crate::body::{self, Form, Refused};
use crate::error::ApiError;
use crate::live::Reloaded;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// A key to be made.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyForm {
    name: String,
    scope: Scope,
    #[serde(default)]
    limits: KeyLimits,
}

impl Form for KeyForm {
    const REFUSED: Refused = &[];
}

/// Makes a key; it is told only in this answer.
pub(crate) async fn create_key(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let form: KeyForm = body::json(&headers, body, &app.limits).await?;
    let (key, record) = app.keys.create(&form.name, form.scope, form.limits).map_err(ApiError::internal)?;
    Ok(Json(json!({
        "id": record.id,
        "name": record.name,
        "scope": record.scope,
        "limits": record.limits,
        "created": record.created,
        "key": key,
    })))
}

/// Reads the configuration again.
pub(crate) async fn reload(State(app): State<Arc<App>>) -> Result<Json<Reloaded>, ApiError> {
    tokio::task::spawn_blocking(move || crate::live::reload(&app)).await.map_err(ApiError::internal)?.map(Json)
}

/// All keys and what was done with them.
pub(crate) async fn keys(State(app): State<Arc<App>>) -> Json<Value> {
    let one = |key: Arc<crate::auth::Key>| {
        json!({
            "id": key.record.id,
            "name": key.record.name,
            "scope": key.record.scope,
            "limits": key.record.limits,
            "created": key.record.created,
            "usage": key.usage.record(),
        })
    };
    Json(json!({ "data": app.keys.all().into_iter().map(one).collect::<Vec<_>>() }))
}

/// Takes a key away.
pub(crate) async fn revoke_key(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    match app.keys.revoke(&id).map_err(ApiError::internal)? {
        true => Ok(Json(json!({ "id": id, "deleted": true }))),
        false => Err(ApiError::not_found(format!("there is no key {id:?} that was made here"))),
    }
}
