//! Whether the server lives, and how it does.

use crate::app::App;
use crate::error::ApiError;
use crate::metrics::Text;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// The process answers, and every engine that is at work does.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Result<axum::Json<serde_json::Value>, ApiError> {
    for working in app.models.working() {
        if crate::metrics::stats(&working.loaded).await.is_none() {
            let message = format!("the engine of {} has stopped", working.name);
            return Err(ApiError::new(crate::error::Kind::Overloaded, message));
        }
    }
    Ok(axum::Json(serde_json::json!({ "status": "ok" })))
}

/// New requests are taken.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<axum::Json<serde_json::Value>, ApiError> {
    app.enter().map(drop)?;
    health(State(app)).await
}

/// How much is being done.
pub(crate) async fn load(State(app): State<Arc<App>>) -> axum::Json<serde_json::Value> {
    let active = app.active.load(std::sync::atomic::Ordering::Relaxed);
    let working = app.models.working();
    let models = working.iter().map(|w| serde_json::json!({ "model": w.name, "requests": w.active }));
    axum::Json(serde_json::json!({
        "server_load": active,
        "models": models.collect::<Vec<_>>(),
        "memory_budget": app.models.budget(),
    }))
}

/// Prometheus metrics.
pub(crate) async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, ApiError> {
    let form = Text::accepted(headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()));
    let text = app.metrics.expose(&app.models, form).await.map_err(ApiError::internal)?;
    Ok(([(header::CONTENT_TYPE, form.content_type())], text).into_response())
}
