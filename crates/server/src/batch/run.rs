//! Answering a file of requests, many at once.

use super::line::{Asked, Lines, Outcome, Refusal, Request};
use crate::app::{App, Caller};
use crate::error::{ApiError, Dialect, Kind};
use axum::Router;
use axum::body::Body;
use axum::http::{Request as HttpRequest, header};
use serde_json::Value;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::task::JoinSet;
use tower::ServiceExt;

/// A file of requests and where their answers go.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Requests, one a line, in OpenAI's batch format.
    pub input: PathBuf,
    /// Answers, one a line. Lines that are there already are kept and not asked again.
    pub output: PathBuf,
    /// Where the lines go that failed; by default among the answers.
    pub errors: Option<PathBuf>,
    /// The only path that may be asked; by default any that makes sense in a batch.
    pub endpoint: Option<String>,
    /// The model that answers, whatever a request says; by default what it says.
    pub model: Option<String>,
    /// Requests answered side by side.
    pub parallel: usize,
}

/// How far a batch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lines that ask.
    pub total: usize,
    /// Answered.
    pub completed: usize,
    /// Refused, or answered with an error.
    pub failed: usize,
    /// Of these, lines that an earlier run had done.
    pub resumed: usize,
    /// Tokens of prompts in this run.
    pub prompt_tokens: u64,
    /// Tokens of answers in this run.
    pub completion_tokens: u64,
}

/// Why a batch could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's word.
        error: io::Error,
    },
    /// The file for answers holds something else.
    #[error("{path}:{line}: expected an answer of a batch, found something else; name another file for the answers")]
    NoAnswers {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The server ends; the batch goes on when it is started again.
    #[error("the server ends before the batch is complete")]
    Ending,
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> BatchError {
    let path = path.to_owned();
    |error| BatchError::File { path, error }
}

impl Batch {
    /// The lines that ask.
    pub(crate) fn lines(&self) -> Result<Lines<BufReader<File>>, BatchError> {
        let reader = BufReader::new(File::open(&self.input).map_err(file(&self.input))?);
        Ok(Lines::new(reader, self.endpoint.as_deref()))
    }
}

/// A batch on its way.
pub(crate) struct Run<'r> {
    pub(crate) app: &'r Arc<App>,
    pub(crate) caller: Caller,
    /// Called after each line.
    pub(crate) progress: &'r mut (dyn FnMut(&Counts) + Send),
}

/// Answers what is not answered yet. Dropped, it leaves whole lines only.
///
/// # Errors
/// The files, and the server's end.
pub(crate) async fn run(batch: &Batch, run: Run<'_>) -> Result<Counts, BatchError> {
    let mut files = Files::open(batch)?;
    let mut counts = files.count(batch)?;
    (run.progress)(&counts);
    let router = crate::router::routes(run.app);
    let mut lines = batch.lines()?;
    let mut running = JoinSet::new();
    loop {
        while running.len() < batch.parallel.max(1) && !run.app.draining.load(Relaxed) {
            let Some(asked) = lines.next() else { break };
            let mut asked = asked.map_err(file(&batch.input))?;
            if files.done.contains_key(&asked.id) {
                continue;
            }
            if let (Ok(request), Some(model)) = (&mut asked.request, &batch.model) {
                request.body["model"] = model.as_str().into();
            }
            let (app, router, caller) = (Arc::clone(run.app), router.clone(), run.caller.clone());
            running.spawn(async move { outcome(&app, router, caller, &asked).await.map(|outcome| (asked, outcome)) });
        }
        let Some(done) = running.join_next().await else { break };
        // A panic is the router's to catch, so only an aborted task ends so.
        let Some((asked, outcome)) = done.ok().flatten() else { continue };
        files.write(&asked, &outcome)?;
        counts.add(&outcome);
        (run.progress)(&counts);
    }
    files.sync()?;
    if counts.completed + counts.failed < counts.total { Err(BatchError::Ending) } else { Ok(counts) }
}

/// Answers what is not answered with a refusal.
///
/// # Errors
/// The files.
pub(crate) fn refuse_rest(batch: &Batch, refusal: &Refusal) -> Result<Counts, BatchError> {
    let mut files = Files::open(batch)?;
    let outcome = Outcome::Refused(refusal.clone());
    for line in batch.lines()? {
        let asked = line.map_err(file(&batch.input))?;
        if !files.done.contains_key(&asked.id) {
            files.write(&asked, &outcome)?;
            files.done.insert(asked.id, false);
        }
    }
    files.sync()?;
    files.count(batch)
}

impl Counts {
    fn add(&mut self, outcome: &Outcome) {
        if outcome.is_good() {
            self.completed += 1;
        } else {
            self.failed += 1;
        }
        if let Outcome::Answered { body, .. } = outcome {
            let tokens = |names: [&str; 2]| names.iter().find_map(|name| body["usage"][name].as_u64()).unwrap_or(0);
            self.prompt_tokens += tokens(["prompt_tokens", "input_tokens"]);
            self.completion_tokens += tokens(["completion_tokens", "output_tokens"]);
        }
    }
}

/// Most times that a line is tried while the server has no room for it, a second or more apart.
const TRIES: u32 = 100;

/// Asks a line. `None` when the server ends first.
async fn outcome(app: &App, router: Router, caller: Caller, asked: &Asked) -> Option<Outcome> {
    let request = match &asked.request {
        Ok(request) => request,
        Err(refusal) => return Some(Outcome::Refused(refusal.clone())),
    };
    for _ in 0..TRIES {
        let answer = call(&router, caller.clone(), request).await;
        let seconds = match answer {
            Ok((status, body)) => return Some(Outcome::Answered { status, body }),
            Err(seconds) if !app.draining.load(Relaxed) => seconds,
            Err(_) => return None,
        };
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
    let message = format!("the server had no room for it, {TRIES} times");
    Some(Outcome::Refused(Refusal { code: "overloaded", message, param: None }))
}

/// Status and body of a request; else the seconds after which there may be room for it.
async fn call(router: &Router, caller: Caller, request: &Request) -> Result<(u16, Value), u64> {
    let body = Body::from(request.body.to_string());
    let made = HttpRequest::post(&request.path)
        .header(header::CONTENT_TYPE, "application/json")
        .extension(caller)
        .body(body)
        .map_err(ApiError::internal);
    let mut response = match made {
        Ok(made) => router.clone().oneshot(made).await.unwrap_or_else(|e| match e {}),
        Err(error) => return Ok((500, error.body(Dialect::OpenAi))),
    };
    let status = response.status().as_u16();
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        if error.kind == Kind::Overloaded {
            return Err(error.retry_after.unwrap_or(1));
        }
        return Ok((status, error.body(Dialect::of(&request.path))));
    }
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap_or_default();
    let text = || String::from_utf8_lossy(&bytes).into_owned().into();
    Ok((status, serde_json::from_slice(&bytes).unwrap_or_else(|_| text())))
}

/// The files that answers go to.
struct Files {
    output: (File, PathBuf),
    errors: Option<(File, PathBuf)>,
    /// Ids of lines that are answered, and whether with success.
    done: HashMap<String, bool>,
}

impl Files {
    fn open(batch: &Batch) -> Result<Files, BatchError> {
        let mut done = HashMap::new();
        let output = (reopen(&batch.output, &mut done)?, batch.output.clone());
        let errors = match &batch.errors {
            Some(path) => Some((reopen(path, &mut done)?, path.clone())),
            None => None,
        };
        Ok(Files { output, errors, done })
    }

    /// How much of a batch is answered here.
    fn count(&self, batch: &Batch) -> Result<Counts, BatchError> {
        let mut counts = Counts::default();
        for line in batch.lines()? {
            let asked = line.map_err(file(&batch.input))?;
            counts.total += 1;
            match self.done.get(&asked.id) {
                Some(true) => counts.completed += 1,
                Some(false) => counts.failed += 1,
                None => {}
            }
        }
        counts.resumed = counts.completed + counts.failed;
        Ok(counts)
    }

    fn write(&mut self, asked: &Asked, outcome: &Outcome) -> Result<(), BatchError> {
        let bad = self.errors.as_mut().filter(|_| !outcome.is_good());
        let (to, path) = bad.unwrap_or(&mut self.output);
        to.write_all(format!("{}\n", outcome.line(asked)).as_bytes()).map_err(file(path))
    }

    fn sync(&self) -> Result<(), BatchError> {
        let all = std::iter::once(&self.output).chain(&self.errors);
        all.into_iter().try_for_each(|(to, path)| to.sync_all().map_err(file(path)))
    }
}

/// A file of answers, ready for further lines; what is answered in it is added to `done`. A line that was cut in the
/// middle goes.
fn reopen(path: &Path, done: &mut HashMap<String, bool>) -> Result<File, BatchError> {
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let mut to = options.map_err(file(path))?;
    let (mut whole, mut line, mut number) = (0, Vec::new(), 1);
    let mut reader = BufReader::new(&to);
    while reader.read_until(b'\n', &mut line).map_err(file(path))? > 0 {
        let answer = serde_json::from_slice::<Value>(&line).unwrap_or_default();
        match answer["id"].as_str().filter(|id| id.starts_with("batch_req_") && line.ends_with(b"\n")) {
            Some(id) => {
                let good = matches!(answer["response"]["status_code"].as_u64(), Some(200..300));
                done.insert(id.to_owned(), good);
            }
            None if line.ends_with(b"\n") => return Err(BatchError::NoAnswers { path: path.to_owned(), line: number }),
            None => break,
        }
        whole += line.len() as u64;
        number += 1;
        line.clear();
    }
    to.set_len(whole).and_then(|()| to.seek(SeekFrom::Start(whole))).map_err(file(path))?;
    Ok(to)
}
