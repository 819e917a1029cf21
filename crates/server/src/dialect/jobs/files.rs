//! `/v1/files`: what clients upload, and what batches leave.

use super::{page, query};
use crate::app::{App, Caller};
use crate::body::{Form, Refused};
use crate::error::ApiError;
use crate::store::Store;
use crate::upload::Upload;
use axum::body::Body;
use axum::extract::multipart::{Field, Multipart, MultipartError, MultipartRejection};
use axum::extract::{Path, State};
use axum::http::{HeaderValue, Uri, header};
use axum::response::Response;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

const KIND: &str = "files";
const CONTENT: &str = "file-content";

/// What files may be for.
const PURPOSES: &[&str] = &["assistants", "batch", "evals", "fine-tune", "user_data", "vision"];

/// A file as it is written down.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct FileRecord {
    pub(super) id: String,
    pub(super) filename: String,
    pub(super) bytes: u64,
    pub(super) created: u64,
    pub(super) purpose: String,
    /// When it is removed.
    pub(super) expires: Option<u64>,
    /// The key whose it is.
    pub(super) owner: Option<String>,
}

impl FileRecord {
    fn object(&self) -> Value {
        json!({
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created,
            "expires_at": self.expires,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": null,
        })
    }

    /// Writes down a file whose content is there.
    pub(super) fn save(&self, store: &Store) -> Result<(), ApiError> {
        store.put(KIND, &self.id, self).map_err(ApiError::internal)
    }

    /// A file that a caller may see.
    pub(super) fn load(app: &App, caller: &Caller, id: &str) -> Result<FileRecord, ApiError> {
        let found: Option<FileRecord> = app.store.get(KIND, id).map_err(ApiError::internal)?;
        let seen = found.filter(|file| caller.may_see(file.owner.as_deref()));
        seen.ok_or_else(|| ApiError::not_found(format!("there is no file {id:?}")))
    }

    fn remove(&self, store: &Store) -> std::io::Result<()> {
        store.delete(KIND, &self.id)?;
        match std::fs::remove_file(content(store, &self.id)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// Where a file's bytes lie.
pub(super) fn content(store: &Store, id: &str) -> PathBuf {
    store.blob(CONTENT, id)
}

/// Removes files whose time is over.
pub(crate) fn sweep(store: &Store) {
    let now = crate::ids::now();
    for file in store.all::<FileRecord>(KIND) {
        if file.expires.is_some_and(|at| at <= now)
            && let Err(error) = file.remove(store)
        {
            tracing::warn!(id = file.id, %error, "a file whose time is over could not be removed");
        }
    }
}

/// The fields of an upload, for the document; they are read as they come.
#[cfg(test)]
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(crate) struct FileForm {
    /// The file's bytes.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// What it is for: `batch`, `fine-tune`, `assistants`, `evals`, `user_data` or `vision`.
    purpose: String,
    /// Only `created_at`.
    #[schema(rename = "expires_after[anchor]")]
    anchor: Option<String>,
    /// Seconds from then until it is removed, an hour to 30 days.
    #[schema(rename = "expires_after[seconds]")]
    seconds: Option<u64>,
}

fn broken(error: MultipartError) -> ApiError {
    ApiError::invalid(format!("the form: {}", error.body_text()))
}

/// Takes a file.
#[cfg_attr(test, utoipa::path(post, path = "/v1/files",
    request_body(content = FileForm, content_type = "multipart/form-data"),
    responses((status = 200, description = "The file"), (status = 400, description = "The form makes no sense"))))]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Json<Value>, ApiError> {
    let mut form = form.map_err(|e| ApiError::invalid(format!("expected multipart/form-data: {}", e.body_text())))?;
    let _place = app.enter()?;
    let id = crate::ids::new("file-");
    let read = read(&app, &id, &mut form).await.and_then(|read| {
        let owner = caller.owner_id();
        let record = read.record(&id, owner)?;
        record.save(&app.store)?;
        Ok(record)
    });
    match read {
        Ok(record) => Ok(Json(record.object())),
        Err(error) => {
            // It may not have come so far.
            drop(std::fs::remove_file(content(&app.store, &id)));
            Err(error)
        }
    }
}

/// The fields of an upload as they came.
#[derive(Debug, Default)]
struct Read {
    /// Its name and bytes.
    file: Option<(String, u64)>,
    purpose: Option<String>,
    anchor: Option<String>,
    seconds: Option<String>,
}

/// Most bytes of a field that is no file.
const FIELD: usize = 1024;

async fn read(app: &App, id: &str, form: &mut Multipart) -> Result<Read, ApiError> {
    let mut read = Read::default();
    let patience = app.limits.body_time;
    let slow = |_| ApiError::new(crate::error::Kind::Timeout, format!("nothing came for {} s", patience.as_secs()));
    while let Some(field) = tokio::time::timeout(patience, form.next_field()).await.map_err(slow)?.map_err(broken)? {
        let name = field.name().unwrap_or_default().to_owned();
        match name.as_str() {
            "file" if read.file.is_some() => return Err(ApiError::field("file", "expected one file, found two")),
            "file" => {
                let filename = field.file_name().unwrap_or("file").chars().take(255).collect();
                let limit = app.limits.upload;
                let upload = Upload { target: content(&app.store, id), limit, patience, digest: None };
                let chunks = futures_util::stream::unfold(field, |mut field| async move {
                    let chunk = field.chunk().await.map_err(broken).transpose()?;
                    Some((chunk, field))
                });
                let bytes = upload.receive(&app.store, std::pin::pin!(chunks)).await?;
                read.file = Some((filename, bytes));
            }
            "purpose" => read.purpose = Some(text(field, &name).await?),
            "expires_after[anchor]" => read.anchor = Some(text(field, &name).await?),
            "expires_after[seconds]" => read.seconds = Some(text(field, &name).await?),
            _ => return Err(ApiError::field(name, "there is no such field here").with_code("unknown_parameter")),
        }
    }
    Ok(read)
}

async fn text(mut field: Field<'_>, name: &str) -> Result<String, ApiError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(broken)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > FIELD {
            return Err(ApiError::field(name, format!("expected at most {FIELD} bytes")));
        }
    }
    String::from_utf8(bytes).map_err(|_| ApiError::field(name, "expected UTF-8"))
}

impl Read {
    fn record(self, id: &str, owner: Option<String>) -> Result<FileRecord, ApiError> {
        let (filename, bytes) = self.file.ok_or_else(|| ApiError::field("file", "expected a file, found none"))?;
        let purpose = self.purpose.unwrap_or_default();
        if !PURPOSES.contains(&purpose.as_str()) {
            let message = format!("expected one of {}, found {purpose:?}", PURPOSES.join(", "));
            return Err(ApiError::field("purpose", message));
        }
        let created = crate::ids::now();
        let expires = match (self.anchor.as_deref(), self.seconds) {
            (None | Some("created_at"), None) => None,
            (Some("created_at"), Some(seconds)) => {
                let seconds = seconds.parse().ok();
                Some(created + check_expiry(seconds, "expires_after[seconds]")?)
            }
            (found, _) => {
                let message = format!("expected created_at, found {found:?}");
                return Err(ApiError::field("expires_after[anchor]", message));
            }
        };
        Ok(FileRecord { id: id.into(), filename, bytes, created, purpose, expires, owner })
    }
}

/// Seconds that a file may stay, as OpenAI bounds them.
pub(super) fn check_expiry(seconds: Option<u64>, field: &str) -> Result<u64, ApiError> {
    let seconds = seconds.filter(|s| (3600..=2_592_000).contains(s));
    seconds.ok_or_else(|| ApiError::field(field, "expected a number of seconds from 3600 to 2592000"))
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(crate) struct ListForm {
    /// Only files for this.
    purpose: Option<String>,
    /// Most entries, 1 to 10000.
    limit: Option<usize>,
    /// `asc` or `desc` by age.
    order: Option<String>,
    /// Begins behind this one.
    after: Option<String>,
}

impl Form for ListForm {
    const REFUSED: Refused = &[];
}

/// All files.
#[cfg_attr(test, utoipa::path(get, path = "/v1/files", params(ListForm),
    responses((status = 200, description = "The files"), (status = 400, description = "A parameter makes no sense"))))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Json<Value>, ApiError> {
    let form: ListForm = query(&uri)?;
    let mut files = app.store.all::<FileRecord>(KIND);
    files.retain(|file| caller.may_see(file.owner.as_deref()));
    files.retain(|file| form.purpose.as_ref().is_none_or(|purpose| *purpose == file.purpose));
    files.sort_by(|a, b| (b.created, &b.id).cmp(&(a.created, &a.id)));
    match form.order.as_deref() {
        None | Some("desc") => {}
        Some("asc") => files.reverse(),
        Some(other) => return Err(ApiError::field("order", format!("expected asc or desc, found {other:?}"))),
    }
    let limit = form.limit.unwrap_or(10_000);
    if !(1..=10_000).contains(&limit) {
        return Err(ApiError::field("limit", format!("expected 1 to 10000, found {limit}")));
    }
    Ok(Json(page(files.iter().map(FileRecord::object).collect(), form.after.as_deref(), limit)?))
}

/// A file.
#[cfg_attr(test, utoipa::path(get, path = "/v1/files/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "The file"), (status = 404, description = "There is none"))))]
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(FileRecord::load(&app, &caller, &id)?.object()))
}

/// Removes a file.
#[cfg_attr(test, utoipa::path(delete, path = "/v1/files/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "It is removed"), (status = 404, description = "There is none"))))]
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    FileRecord::load(&app, &caller, &id)?.remove(&app.store).map_err(ApiError::internal)?;
    Ok(Json(json!({ "id": id, "object": "file", "deleted": true })))
}

/// A file's bytes.
#[cfg_attr(test, utoipa::path(get, path = "/v1/files/{id}/content", params(("id" = String, Path)),
    responses((status = 200, description = "The bytes", content_type = "application/octet-stream"),
    (status = 404, description = "There is none"))))]
pub(crate) async fn download(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    use tokio::io::AsyncReadExt;
    let record = FileRecord::load(&app, &caller, &id)?;
    let file = tokio::fs::File::open(content(&app.store, &id)).await.map_err(ApiError::internal)?;
    // The head promises so many bytes.
    let stream = futures_util::stream::try_unfold(file.take(record.bytes), |mut file| async move {
        let mut chunk = vec![0; 1 << 16];
        let n = file.read(&mut chunk).await?;
        chunk.truncate(n);
        Ok::<_, std::io::Error>((n > 0).then_some((chunk, file)))
    });
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    // Never a type that a browser would show or run.
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(record.bytes));
    Ok(response)
}
