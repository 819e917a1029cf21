//! `allod batch`: thousands of requests from a file, in OpenAI's batch format.

use crate::failure::Failure;
use crate::load::{DEFAULT, STORIES};
use crate::printer::{Progress, note};
use allod_server::{Catalog, Origin, Server, Settings, Sizing, Spec};
use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::task::JoinSet;

const EXAMPLES: &str = "\
Examples:
  allod batch in.jsonl out.jsonl --model model.gguf
  allod batch in.jsonl out.jsonl --model model.gguf --parallel 64

A line asks:    {\"custom_id\": \"1\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": {\"messages\": …}}
A line answers: {\"id\": …, \"custom_id\": \"1\", \"response\": {\"status_code\": 200, \"body\": …}, \"error\": null}";

/// Paths that a line may ask; others have no place in a batch.
const PATHS: &[&str] = &["/v1/chat/completions", "/v1/completions", "/v1/embeddings"];

/// Answer the requests of a file, as OpenAI's batches
///
/// Answers come in the order in which they are ready. A run that was stopped goes on where it was when it is started
/// again: what is answered in the output file is not asked again.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BatchArgs {
    /// Requests, one a line
    #[arg(value_hint = clap::ValueHint::FilePath)]
    input: PathBuf,
    /// Where the answers go
    #[arg(value_hint = clap::ValueHint::FilePath)]
    output: PathBuf,
    /// The model that answers, whatever name a request gives; `default` is the one that is built in
    #[arg(long, default_value = DEFAULT, value_hint = clap::ValueHint::AnyPath)]
    model: PathBuf,
    /// Requests answered side by side
    #[arg(long, value_name = "N", default_value_t = 16)]
    parallel: usize,
    /// Tokens of prompt and answer together [default: what the model was trained for]
    #[arg(long, value_name = "TOKENS")]
    ctx: Option<usize>,
    /// Threads to compute with [default: all cores]
    #[arg(long, short, value_name = "N")]
    threads: Option<usize>,
}

/// A line that asks.
struct Asked {
    custom_id: String,
    /// Path and body, or what is wrong with them.
    request: Result<(String, Vec<u8>), String>,
}

pub(crate) fn run(args: &BatchArgs) -> Result<ExitCode> {
    let origin = if args.model == Path::new(DEFAULT) {
        Origin::Embedded("allod-stories.gguf", STORIES)
    } else if args.model.exists() {
        Origin::Path(args.model.clone())
    } else {
        let hint = "give a .gguf file, a folder of safetensors or a llama2.c .bin";
        return Err(Failure::new(format!("there is no {}", args.model.display()), hint).into());
    };
    let total = check(&args.input)?;
    let (mut output, done) = reopen(&args.output)?;
    let mut catalog = Catalog::default();
    let sizing = Sizing { parallel: Some(args.parallel.max(1)), context: args.ctx, ..Sizing::default() };
    catalog.insert(MODEL, Spec { sizing, ..Spec::new(origin) });
    let data = std::env::temp_dir().join(format!("allod-batch-{}", std::process::id()));
    let settings =
        Settings { catalog, threads: args.threads.unwrap_or(0), data: Some(data.clone()), ..Settings::default() };
    if !done.is_empty() {
        note(&format!("{} of {total} are answered already", done.len()));
    }
    let runtime = tokio::runtime::Runtime::new().context("the runtime")?;
    let failed = runtime.block_on(answer(args, settings, &mut output, &done, total));
    // Nothing is kept there; a folder that was never made cannot be removed.
    drop(std::fs::remove_dir_all(data));
    Ok(if failed? == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The only model's name.
const MODEL: &str = "batch";

/// Answers what is not done; gives how many requests failed.
async fn answer(
    args: &BatchArgs,
    settings: Settings,
    output: &mut File,
    done: &HashSet<String>,
    total: usize,
) -> Result<usize> {
    let server = Arc::new(Server::new(settings));
    let mut progress = Progress::default();
    let mut running = JoinSet::new();
    let (mut answered, mut failed) = (done.len(), 0);
    let mut lines = BufReader::new(open(&args.input)?).lines();
    loop {
        while running.len() < args.parallel.max(1) {
            let Some(line) = lines.next() else { break };
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            let asked = read(&line);
            if done.contains(&asked.custom_id) {
                continue;
            }
            let server = Arc::clone(&server);
            running.spawn(async move { reply(&server, asked).await });
        }
        let Some(line) = running.join_next().await else { break };
        let line = line.context("a request")?;
        failed += usize::from(!line["error"].is_null() || line["response"]["status_code"] != 200);
        output.write_all(format!("{line}\n").as_bytes()).with_context(|| args.output.display().to_string())?;
        answered += 1;
        progress.show(&format!("{answered} of {total} requests"));
    }
    progress.clear();
    if failed > 0 {
        note(&format!("{failed} requests failed; their lines say why"));
    }
    Ok(failed)
}

/// The line that answers.
async fn reply(server: &Server, asked: Asked) -> Value {
    let id = format!("batch_req_{}", &blake3::hash(asked.custom_id.as_bytes()).to_hex()[..24]);
    let (path, body) = match asked.request {
        Ok(request) => request,
        Err(message) => {
            let error = json!({ "code": "invalid_request", "message": message });
            return json!({ "id": id, "custom_id": asked.custom_id, "response": null, "error": error });
        }
    };
    let (status, body) = server.post(&path, body).await;
    let body: Value =
        serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned().into());
    let response = json!({ "status_code": status, "request_id": id, "body": body });
    json!({ "id": id, "custom_id": asked.custom_id, "response": response, "error": null })
}

/// Reads a line that asks.
fn read(line: &str) -> Asked {
    let value: Value = match serde_json::from_str(line) {
        Ok(value) => value,
        Err(error) => return Asked { custom_id: String::new(), request: Err(error.to_string()) },
    };
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Asked { custom_id: text("custom_id"), request: request(&value, text("method"), text("url")) }
}

fn request(value: &Value, method: String, path: String) -> Result<(String, Vec<u8>), String> {
    if method != "POST" {
        return Err(format!("method: expected POST, found {method:?}"));
    }
    if !PATHS.contains(&path.as_str()) {
        return Err(format!("url: expected one of {}, found {path:?}", PATHS.join(", ")));
    }
    let mut body = value.get("body").filter(|body| body.is_object()).cloned().ok_or("body: expected an object")?;
    if body.get("stream").is_some_and(|stream| stream == true) {
        return Err("body.stream: a batch does not stream".into());
    }
    body["model"] = MODEL.into();
    Ok((path, body.to_string().into_bytes()))
}

/// Counts the requests; each needs an id of its own.
fn check(path: &Path) -> Result<usize> {
    let mut ids = HashSet::new();
    let mut total = 0;
    for (line, number) in BufReader::new(open(path)?).lines().zip(1..) {
        let line = line.with_context(|| format!("{}:{number}", path.display()))?;
        if line.trim().is_empty() {
            continue;
        }
        total += 1;
        let id = read(&line).custom_id;
        let hint = "give every line a \"custom_id\" of its own: it tells which answer is whose";
        if id.is_empty() {
            return Err(Failure::new(format!("{}:{number}: no custom_id", path.display()), hint).into());
        }
        if !ids.insert(id) {
            return Err(Failure::new(format!("{}:{number}: this custom_id came before", path.display()), hint).into());
        }
    }
    Ok(total)
}

/// The output file, ready for further lines, and the ids that are answered in it. A line that was cut in the middle goes.
fn reopen(path: &Path) -> Result<(File, HashSet<String>)> {
    let name = || path.display().to_string();
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).with_context(name)?;
    let (mut done, mut whole, mut line) = (HashSet::new(), 0, Vec::new());
    let mut reader = BufReader::new(&file);
    while reader.read_until(b'\n', &mut line).with_context(name)? > 0 {
        let answer = serde_json::from_slice::<Value>(&line).ok().filter(|_| line.ends_with(b"\n"));
        let Some(id) = answer.as_ref().and_then(|a| a.get("custom_id")).and_then(Value::as_str) else {
            if line.ends_with(b"\n") {
                let hint = "name another file for the answers";
                return Err(Failure::new(format!("{} holds something else than answers", name()), hint).into());
            }
            break;
        };
        done.insert(id.to_owned());
        whole += line.len() as u64;
        line.clear();
    }
    file.set_len(whole).with_context(name)?;
    file.seek(SeekFrom::Start(whole)).with_context(name)?;
    Ok((file, done))
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| path.display().to_string())
}
