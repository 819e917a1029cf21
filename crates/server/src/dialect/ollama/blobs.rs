//! `HEAD` and `POST /api/blobs/{digest}`: files for new models.

use crate::app::App;
use crate::error::ApiError;
use crate::store::Store;
use crate::upload::Upload;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use futures_util::StreamExt;
use std::path::PathBuf;
use std::sync::Arc;

const KIND: &str = "blobs";

/// `sha256:` and 64 hexadecimal digits.
pub(super) fn check(digest: &str) -> Result<(), ApiError> {
    let hex = digest.strip_prefix("sha256:").or_else(|| digest.strip_prefix("sha256-"));
    match hex.filter(|h| h.len() == 64 && h.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))) {
        Some(_) => Ok(()),
        None => Err(ApiError::field("digest", format!("expected sha256: and 64 hexadecimal digits, found {digest:?}"))),
    }
}

fn place(store: &Store, digest: &str) -> PathBuf {
    store.blob(KIND, &digest.replacen(':', "-", 1))
}

/// The file of a digest, if it is here.
pub(crate) fn find(store: &Store, digest: &str) -> Option<PathBuf> {
    check(digest).ok()?;
    Some(place(store, digest)).filter(|p| p.is_file())
}

/// Whether a file is here.
#[cfg_attr(test, utoipa::path(head, path = "/api/blobs/{digest}", params(("digest" = String, Path)),
    responses((status = 200, description = "It is here"), (status = 404, description = "It is not"))))]
pub(crate) async fn head(State(app): State<Arc<App>>, Path(digest): Path<String>) -> Result<(), ApiError> {
    check(&digest)?;
    find(&app.store, &digest).map(drop).ok_or_else(|| ApiError::not_found(format!("{digest} is not here")))
}

/// Takes a file; what came must be what its digest says.
#[cfg_attr(test, utoipa::path(post, path = "/api/blobs/{digest}", params(("digest" = String, Path)),
    responses((status = 201, description = "It is here"), (status = 400, description = "It is another file"))))]
pub(crate) async fn post(
    State(app): State<Arc<App>>,
    Path(digest): Path<String>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    check(&digest)?;
    let upload = Upload {
        target: place(&app.store, &digest),
        limit: app.limits.upload,
        patience: app.limits.body_time,
        digest: Some(digest[digest.len() - 64..].to_owned()),
    };
    let chunks = body.into_data_stream();
    let told = |e| ApiError::invalid(format!("the body broke off: {e}"));
    upload.receive(&app.store, chunks.map(|chunk| chunk.map_err(told))).await?;
    Ok(StatusCode::CREATED)
}
