//! `allod batch`: thousands of requests from a file, in OpenAI's batch format.

use crate::failure::Failure;
use crate::load::{DEFAULT, STORIES};
use crate::printer::{Progress, note};
use allod_server::{Batch, Catalog, Counts, Origin, Server, Settings, Sizing, Spec};
use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  allod batch in.jsonl out.jsonl --model model.gguf
  allod batch in.jsonl out.jsonl --model model.gguf --parallel 64 --json

A line asks:    {\"custom_id\": \"1\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": {\"messages\": …}}
A line answers: {\"id\": …, \"custom_id\": \"1\", \"response\": {\"status_code\": 200, \"body\": …}, \"error\": null}";

/// Answer the requests of a file, as OpenAI's batches
///
/// Answers come in the order in which they are ready; custom_id tells which is whose. A run that was stopped goes on
/// where it was when it is started again: what is answered in the output file is not asked again. A line that makes no
/// sense gets a line that says why. The exit code is 0 when every request was answered.
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
    #[arg(long, value_name = "N", default_value_t = 32)]
    parallel: usize,
    /// Tokens of prompt and answer together [default: what the model was trained for]
    #[arg(long, value_name = "TOKENS")]
    ctx: Option<usize>,
    /// Threads to compute with [default: all cores]
    #[arg(long, short, value_name = "N")]
    threads: Option<usize>,
    /// Write a summary to stdout as a JSON object
    #[arg(long)]
    json: bool,
}

/// The only model's name.
const MODEL: &str = "batch";

pub(crate) fn run(args: &BatchArgs) -> Result<ExitCode> {
    let origin = if args.model == Path::new(DEFAULT) {
        Origin::Embedded("allod-stories.gguf", STORIES)
    } else if args.model.exists() {
        Origin::Path(args.model.clone())
    } else {
        let hint = "give a .gguf file, a folder of safetensors or a llama2.c .bin";
        return Err(Failure::new(format!("there is no {}", args.model.display()), hint).into());
    };
    let mut catalog = Catalog::default();
    let sizing = Sizing { parallel: Some(args.parallel.max(1)), context: args.ctx, ..Sizing::default() };
    catalog.insert(MODEL, Spec { sizing, ..Spec::new(origin) });
    let data = std::env::temp_dir().join(format!("allod-batch-{}", std::process::id()));
    let settings =
        Settings { catalog, threads: args.threads.unwrap_or(0), data: Some(data.clone()), ..Settings::default() };
    let runtime = tokio::runtime::Runtime::new().context("the runtime")?;
    let started = Instant::now();
    let counts = runtime.block_on(answer(args, settings));
    // What the server kept is of no use without it; a folder that was never made cannot be removed.
    drop(std::fs::remove_dir_all(data));
    report(args, &counts?, started.elapsed())
}

async fn answer(args: &BatchArgs, settings: Settings) -> Result<Counts> {
    let server = Server::new(settings);
    server.preload(MODEL).await.map_err(anyhow::Error::msg)?;
    let batch = Batch {
        input: args.input.clone(),
        output: args.output.clone(),
        errors: None,
        endpoint: None,
        model: Some(MODEL.into()),
        parallel: args.parallel,
    };
    let mut progress = Progress::default();
    let mut told = false;
    let mut follow = |counts: &Counts| {
        if counts.resumed > 0 && !std::mem::replace(&mut told, true) {
            note(&format!("{} of {} are answered already", counts.resumed, counts.total));
        }
        progress.show(&format!("{} of {} requests", counts.completed + counts.failed, counts.total));
    };
    Ok(server.batch(&batch, &mut follow).await?)
}

fn report(args: &BatchArgs, counts: &Counts, time: Duration) -> Result<ExitCode> {
    if args.json {
        let summary = json!({
            "total": counts.total,
            "completed": counts.completed,
            "failed": counts.failed,
            "resumed": counts.resumed,
            "prompt_tokens": counts.prompt_tokens,
            "completion_tokens": counts.completion_tokens,
            "seconds": time.as_secs_f64(),
        });
        writeln!(stdout(), "{summary}")?;
    } else {
        let speed = counts.completion_tokens as f64 / time.as_secs_f64().max(1e-9);
        note(&format!(
            "{} answered, {} failed, in {:.1} s ({} tokens, {speed:.0} a second)",
            counts.completed,
            counts.failed,
            time.as_secs_f64(),
            counts.completion_tokens
        ));
    }
    if counts.failed > 0 {
        note(&format!("{} requests failed; their lines in {} say why", counts.failed, args.output.display()));
    }
    Ok(if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
