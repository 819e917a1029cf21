//! `/v1/streams/{id}`: going on with a stream, and ending it.

use super::event_stream;
use crate::app::{App, Caller};
use crate::error::ApiError;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(crate) struct Resume {
    /// The number of the last event that the client has, in place of the header `Last-Event-ID`.
    pub(crate) starting_after: Option<u64>,
}

impl Resume {
    /// The number of the first event that the client lacks.
    ///
    /// # Errors
    /// `Last-Event-ID` is no number.
    pub(crate) fn from(&self, headers: &HeaderMap) -> Result<u64, ApiError> {
        let wrong = || ApiError::field("Last-Event-ID", "expected the number of an event");
        let header = match headers.get("last-event-id") {
            Some(value) => Some(value.to_str().ok().and_then(|text| text.trim().parse().ok()).ok_or_else(wrong)?),
            None => None,
        };
        Ok(self.starting_after.or(header).map_or(0, |last: u64| last.saturating_add(1)))
    }
}

/// Goes on with a stream.
#[cfg_attr(test, utoipa::path(get, path = "/v1/streams/{id}",
    params(("id" = String, Path), ("Last-Event-ID" = Option<u64>, Header), Resume),
    responses((status = 200, description = "The events that follow", content_type = "text/event-stream"),
    (status = 400, description = "No number of an event"), (status = 404, description = "It is not kept"))))]
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    resume: Result<Query<Resume>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(resume) = resume.map_err(|e| ApiError::invalid(e.body_text()))?;
    let body = app.streams.find(&id, &caller)?.read(resume.from(&headers)?)?;
    Ok(event_stream(body, super::EVENTS))
}

/// Ends a stream and what makes it.
#[cfg_attr(test, utoipa::path(delete, path = "/v1/streams/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "It ends"), (status = 404, description = "It is not kept"))))]
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    app.streams.find(&id, &caller)?.end();
    Ok(Json(json!({ "id": id, "object": "stream", "deleted": true })))
}
