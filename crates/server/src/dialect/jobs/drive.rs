//! A batch from its first check to its files, across restarts of the server.

use super::batches::{BatchRecord, KIND, Status};
use super::files::{FileRecord, content};
use crate::app::{App, Caller};
use crate::batch::{Batch, BatchError, Counts, Refusal, Run, refuse_rest, run};
use crate::error::ApiError;
use crate::models::lock;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::Notify;

/// Batches that are answered side by side; others wait.
pub(crate) const BATCHES: usize = 2;
/// Requests of a batch that are answered side by side.
const PARALLEL: usize = 16;
/// Most lines of a batch.
const LINES: usize = 1_000_000;
/// Faults that are told of a file.
const FAULTS: usize = 50;

/// A batch at work.
#[derive(Debug, Default)]
pub(crate) struct AtWork {
    counts: [AtomicUsize; 3],
    cancelled: Notify,
}

impl AtWork {
    pub(super) fn counts(&self) -> [usize; 3] {
        self.counts.each_ref().map(|n| n.load(Relaxed))
    }

    pub(super) fn cancel(&self) {
        self.cancelled.notify_one();
    }

    fn set(&self, counts: &Counts) {
        let values = [counts.total, counts.completed, counts.failed];
        self.counts.iter().zip(values).for_each(|(to, n)| to.store(n, Relaxed));
    }
}

/// Goes on with what was going on when the server ended.
pub(crate) fn resume(app: &Arc<App>) {
    for record in app.store.all::<BatchRecord>(KIND) {
        if !record.status.is_over() {
            tracing::info!(id = record.id, "a batch goes on");
            start(app, record);
        }
    }
}

/// Lets a batch be answered.
pub(super) fn start(app: &Arc<App>, record: BatchRecord) {
    let live = Arc::new(AtWork::default());
    lock(&app.batches).insert(record.id.clone(), Arc::clone(&live));
    let app = Arc::clone(app);
    tokio::spawn(async move {
        let id = record.id.clone();
        if let Err(error) = drive(&app, record, &live).await {
            tracing::error!(id, error = error.message, "a batch could not be written down; it goes on after a restart");
        }
        lock(&app.batches).remove(&id);
    });
}

/// How the answering of a batch ended.
enum End {
    Done,
    Cancelled,
    Expired,
    /// The server ends; nothing is decided.
    Suspended,
    Broken(String),
}

async fn drive(app: &Arc<App>, mut record: BatchRecord, live: &AtWork) -> Result<(), ApiError> {
    let mut end = End::Cancelled;
    if record.status != Status::Cancelling {
        let work = work(app, &mut record, live);
        end = tokio::select! {
            end = work => end?,
            () = live.cancelled.notified() => End::Cancelled,
        };
    }
    record.counts = live.counts();
    match end {
        End::Suspended => return Ok(()),
        End::Broken(message) => {
            record.refuse(&[(None, Refusal { code: "input_file", message, param: Some("input_file_id") })]);
            return record.save(app);
        }
        End::Done if record.status == Status::Failed => return record.save(app),
        End::Done => record.enter(Status::Finalizing),
        End::Cancelled => record.enter(Status::Cancelling),
        End::Expired => {}
    }
    record.save(app)?;
    let shown = [0, 1].map(|which| keep(app, &record, which));
    let [output, errors] = shown;
    record.shown = [output?, errors?];
    record.enter(match end {
        End::Cancelled => Status::Cancelled,
        End::Expired => Status::Expired,
        _ => Status::Completed,
    });
    record.save(app)
}

/// Checks a batch and answers it, as far as that goes.
async fn work(app: &Arc<App>, record: &mut BatchRecord, live: &AtWork) -> Result<End, ApiError> {
    let Ok(_turn) = app.batch_turns.acquire().await else { return Ok(End::Suspended) };
    let Some(caller) = caller(app, record) else {
        return Ok(End::Broken("the key that the batch was made with is no longer there".into()));
    };
    let [output, errors] = record.files.each_ref().map(|id| content(&app.store, id));
    let batch = Batch {
        input: content(&app.store, &record.input),
        output,
        errors: Some(errors),
        endpoint: Some(record.endpoint.clone()),
        model: None,
        parallel: PARALLEL,
    };
    if record.status == Status::Validating {
        let (checked, faults) = tokio::task::spawn_blocking(move || {
            let faults = faults(&batch);
            (batch, faults)
        })
        .await
        .map_err(ApiError::internal)?;
        let faults = match faults {
            Ok(faults) => faults,
            Err(error) => return Ok(End::Broken(error.to_string())),
        };
        if !faults.is_empty() {
            record.refuse(&faults);
            return Ok(End::Done);
        }
        record.enter(Status::InProgress);
        record.save(app)?;
        return answer(app, record, live, caller, &checked).await;
    }
    answer(app, record, live, caller, &batch).await
}

async fn answer(
    app: &Arc<App>,
    record: &BatchRecord,
    live: &AtWork,
    caller: Caller,
    batch: &Batch,
) -> Result<End, ApiError> {
    let left = Duration::from_secs(record.expires.saturating_sub(crate::ids::now()));
    let mut progress = |counts: &Counts| live.set(counts);
    let answered = tokio::time::timeout(left, run(batch, Run { app, caller, progress: &mut progress })).await;
    Ok(match answered {
        Err(_) => {
            let message = format!("the batch was not complete within {}", record.window);
            let refusal = Refusal { code: "batch_expired", message, param: None };
            match refuse_rest(batch, &refusal) {
                Ok(counts) => live.set(&counts),
                Err(error) => return Ok(End::Broken(error.to_string())),
            }
            End::Expired
        }
        Ok(Ok(_)) => End::Done,
        Ok(Err(BatchError::Ending)) => End::Suspended,
        Ok(Err(error)) => End::Broken(error.to_string()),
    })
}

/// On whose account a batch is answered: behind those who wait for their answers.
fn caller(app: &App, record: &BatchRecord) -> Option<Caller> {
    let mut caller = Caller { priority: -1, ..Caller::owner() };
    if let Some(owner) = &record.owner {
        let key = app.keys.all().into_iter().find(|key| key.record.id == *owner)?;
        caller.client = key.client();
        caller.key = Some(key);
    }
    Some(caller)
}

/// What is wrong with the lines of a file.
fn faults(batch: &Batch) -> Result<Vec<(Option<usize>, Refusal)>, BatchError> {
    let mut faults = Vec::new();
    let mut count = 0;
    for line in batch.lines()? {
        let asked = line.map_err(|error| BatchError::File { path: batch.input.clone(), error })?;
        count += 1;
        if let Err(refusal) = asked.request {
            faults.push((Some(asked.number), refusal));
        }
        if faults.len() == FAULTS || count > LINES {
            break;
        }
    }
    if count == 0 || count > LINES {
        let message = format!("expected 1 to {LINES} lines, found {}", if count == 0 { "none" } else { "more" });
        faults.push((None, Refusal { code: "invalid_file", message, param: Some("input_file_id") }));
    }
    Ok(faults)
}

/// Makes a file of a batch one that clients see, unless it is empty.
fn keep(app: &App, record: &BatchRecord, which: usize) -> Result<bool, ApiError> {
    let id = &record.files[which];
    let path = content(&app.store, id);
    let bytes = std::fs::metadata(&path).map_or(0, |file| file.len());
    if bytes == 0 {
        // It may never have been made.
        drop(std::fs::remove_file(&path));
        return Ok(false);
    }
    let created = crate::ids::now();
    let file = FileRecord {
        id: id.clone(),
        filename: format!("{}_{}.jsonl", record.id, ["output", "error"][which]),
        bytes,
        created,
        purpose: "batch_output".into(),
        expires: record.keep.map(|seconds| created + seconds),
        owner: record.owner.clone(),
    };
    file.save(&app.store)?;
    Ok(true)
}
