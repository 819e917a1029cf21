//! `/v1/batches`: files of requests that are answered while nobody waits.

use super::drive::{AtWork, start};
use super::files::{FileRecord, check_expiry};
use super::{page, query};
use crate::app::{App, Caller};
use crate::batch::{ENDPOINTS, Refusal};
use crate::body::{self, Form, Refused};
use crate::error::{ApiError, Kind};
use crate::models::lock;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;

pub(super) const KIND: &str = "batches";

/// A batch to be answered.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct BatchForm {
    /// A file for `batch`, of a request a line.
    input_file_id: String,
    /// The path that every line asks.
    endpoint: String,
    /// How long it may take, in hours or days: `24h`.
    completion_window: String,
    #[cfg_attr(test, schema(value_type = Option<Object>))]
    metadata: Option<Map<String, Value>>,
    output_expires_after: Option<Expiry>,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
struct Expiry {
    /// Only `created_at`.
    anchor: String,
    /// An hour to 30 days.
    seconds: u64,
}

impl Form for BatchForm {
    const REFUSED: Refused = &[];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    Validating,
    Failed,
    InProgress,
    Finalizing,
    Completed,
    Expired,
    Cancelling,
    Cancelled,
}

impl Status {
    pub(super) fn is_over(self) -> bool {
        matches!(self, Status::Failed | Status::Completed | Status::Expired | Status::Cancelled)
    }
}

/// A batch as it is written down. Times are seconds since 1970.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct BatchRecord {
    pub(super) id: String,
    pub(super) endpoint: String,
    pub(super) input: String,
    pub(super) window: String,
    pub(super) status: Status,
    pub(super) errors: Option<Value>,
    /// Files for answers and for lines that failed; clients see them when they are complete and not empty.
    pub(super) files: [String; 2],
    pub(super) shown: [bool; 2],
    pub(super) created: u64,
    pub(super) expires: u64,
    /// When each status began.
    pub(super) times: Map<String, Value>,
    /// Lines in all, answered, and failed.
    pub(super) counts: [usize; 3],
    pub(super) metadata: Option<Map<String, Value>>,
    /// Seconds that the files stay.
    pub(super) keep: Option<u64>,
    pub(super) owner: Option<String>,
}

impl BatchRecord {
    pub(super) fn enter(&mut self, status: Status) {
        self.status = status;
        if let Ok(Value::String(name)) = serde_json::to_value(status) {
            self.times.insert(format!("{name}_at"), crate::ids::now().into());
        }
    }

    pub(super) fn refuse(&mut self, refusals: &[(Option<usize>, Refusal)]) {
        let one = |(line, refusal): &(Option<usize>, Refusal)| json!({ "code": refusal.code, "message": refusal.message, "param": refusal.param, "line": line });
        self.errors = Some(json!({ "object": "list", "data": refusals.iter().map(one).collect::<Vec<_>>() }));
        self.enter(Status::Failed);
    }

    pub(super) fn save(&self, app: &App) -> Result<(), ApiError> {
        app.store.put(KIND, &self.id, self).map_err(ApiError::internal)
    }

    fn load(app: &App, caller: &Caller, id: &str) -> Result<BatchRecord, ApiError> {
        let found: Option<BatchRecord> = app.store.get(KIND, id).map_err(ApiError::internal)?;
        let seen = found.filter(|batch| caller.may_see(batch.owner.as_deref()));
        seen.ok_or_else(|| ApiError::not_found(format!("there is no batch {id:?}")))
    }

    fn object(&self, live: Option<&AtWork>) -> Value {
        let time = |name: &str| self.times.get(&format!("{name}_at")).cloned();
        let file = |which: usize| self.shown[which].then_some(&self.files[which]);
        let [total, completed, failed] = live.map_or(self.counts, AtWork::counts);
        json!({
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": self.errors,
            "input_file_id": self.input,
            "completion_window": self.window,
            "status": self.status,
            "output_file_id": file(0),
            "error_file_id": file(1),
            "created_at": self.created,
            "in_progress_at": time("in_progress"),
            "expires_at": self.expires,
            "finalizing_at": time("finalizing"),
            "completed_at": time("completed"),
            "failed_at": time("failed"),
            "expired_at": time("expired"),
            "cancelling_at": time("cancelling"),
            "cancelled_at": time("cancelled"),
            "request_counts": { "total": total, "completed": completed, "failed": failed },
            "metadata": self.metadata,
        })
    }
}

fn live(app: &App, id: &str) -> Option<Arc<AtWork>> {
    lock(&app.batches).get(id).cloned()
}

/// Most hours of a completion window.
const HOURS: u64 = 24 * 30;

/// The seconds of a completion window.
fn window(text: &str) -> Result<u64, ApiError> {
    let hours = match text.split_at_checked(text.len().saturating_sub(1)) {
        Some((digits, "h")) => digits.parse().ok(),
        Some((digits, "d")) => digits.parse::<u64>().ok().and_then(|days| days.checked_mul(24)),
        _ => None,
    };
    let hours = hours.filter(|hours| (1..=HOURS).contains(hours));
    let wrong = || ApiError::field("completion_window", format!("expected 1h to {HOURS}h, found {text:?}"));
    hours.map(|hours| hours * 3600).ok_or_else(wrong)
}

/// Begins a batch.
#[cfg_attr(test, utoipa::path(post, path = "/v1/batches", request_body = BatchForm,
    responses((status = 200, description = "The batch"), (status = 400, description = "A field makes no sense"),
    (status = 404, description = "There is no such file"))))]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let form: BatchForm = body::json(&headers, body, &app.limits).await?;
    if !ENDPOINTS.contains(&form.endpoint.as_str()) {
        let message = format!("expected one of {}, found {:?}", ENDPOINTS.join(", "), form.endpoint);
        return Err(ApiError::field("endpoint", message));
    }
    let seconds = window(&form.completion_window)?;
    let keep = match &form.output_expires_after {
        Some(expiry) if expiry.anchor != "created_at" => {
            let message = format!("expected created_at, found {:?}", expiry.anchor);
            return Err(ApiError::field("output_expires_after.anchor", message));
        }
        Some(expiry) => Some(check_expiry(Some(expiry.seconds), "output_expires_after.seconds")?),
        None => None,
    };
    let input = FileRecord::load(&app, &caller, &form.input_file_id)?;
    if input.purpose != "batch" {
        let message = format!("expected a file for batch, found one for {}", input.purpose);
        return Err(ApiError::field("input_file_id", message));
    }
    let now = crate::ids::now();
    let record = BatchRecord {
        id: crate::ids::new("batch_"),
        endpoint: form.endpoint,
        input: input.id,
        window: form.completion_window,
        status: Status::Validating,
        errors: None,
        files: [crate::ids::new("file-"), crate::ids::new("file-")],
        shown: [false; 2],
        created: now,
        expires: now + seconds,
        times: Map::new(),
        counts: [0; 3],
        metadata: form.metadata,
        keep,
        owner: caller.owner_id(),
    };
    record.save(&app)?;
    let object = record.object(None);
    start(&app, record);
    Ok(Json(object))
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(crate) struct ListForm {
    /// Most entries, 1 to 100.
    limit: Option<usize>,
    /// Begins behind this one.
    after: Option<String>,
}

impl Form for ListForm {
    const REFUSED: Refused = &[];
}

/// All batches, newest first.
#[cfg_attr(test, utoipa::path(get, path = "/v1/batches", params(ListForm),
    responses((status = 200, description = "The batches"), (status = 400, description = "A parameter makes no sense"))))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Json<Value>, ApiError> {
    let form: ListForm = query(&uri)?;
    let limit = form.limit.unwrap_or(20);
    if !(1..=100).contains(&limit) {
        return Err(ApiError::field("limit", format!("expected 1 to 100, found {limit}")));
    }
    let mut all = app.store.all::<BatchRecord>(KIND);
    all.retain(|batch| caller.may_see(batch.owner.as_deref()));
    all.sort_by(|a, b| (b.created, &b.id).cmp(&(a.created, &a.id)));
    let data = all.iter().map(|batch| batch.object(live(&app, &batch.id).as_deref())).collect();
    Ok(Json(page(data, form.after.as_deref(), limit)?))
}

/// A batch.
#[cfg_attr(test, utoipa::path(get, path = "/v1/batches/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "The batch"), (status = 404, description = "There is none"))))]
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let live = live(&app, &id);
    Ok(Json(BatchRecord::load(&app, &caller, &id)?.object(live.as_deref())))
}

/// Ends a batch; what is answered by then stays.
#[cfg_attr(test, utoipa::path(post, path = "/v1/batches/{id}/cancel", params(("id" = String, Path)),
    responses((status = 200, description = "It ends"), (status = 404, description = "There is none"),
    (status = 409, description = "It is over already"))))]
pub(crate) async fn cancel(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let record = BatchRecord::load(&app, &caller, &id)?;
    match live(&app, &id) {
        Some(live) => {
            live.cancel();
            let mut told = record;
            told.enter(Status::Cancelling);
            Ok(Json(told.object(Some(&live))))
        }
        None if record.status == Status::Cancelled => Ok(Json(record.object(None))),
        None => {
            let status = serde_json::to_value(record.status).unwrap_or_default();
            let status = status.as_str().unwrap_or_default();
            Err(ApiError::new(Kind::Conflict, format!("the batch is {status} already")))
        }
    }
}
