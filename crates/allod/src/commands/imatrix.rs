//! `allod imatrix`: what the columns of a model's matrices are worth.

use super::eval::Judge;
use crate::failure::Failure;
use crate::load;
use crate::printer::{Progress as Line, note};
use crate::template::Template;
use allod_cpu::Pool;
use allod_eval::Windows;
use allod_quantize::imatrix::{Collect, Imatrix, collect};
use allod_text::{Special, Tokenizer};
use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};
use std::io::{Write, stdout};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Collect importance statistics from a text
///
/// The text goes through the model, and the squares of what every matrix is multiplied with are summed by column (and by
/// expert). `allod quantize --imatrix` weighs its errors by them. Files have llama.cpp's GGUF form; its older .dat files
/// are read as well. Interrupted work goes on where it was saved last when the same command is given again.
#[derive(Args)]
#[command(after_help = "Examples:\n  allod imatrix model-f16.gguf --text calibration.txt -o model.imatrix.gguf\n  \
                        allod imatrix model-f16.gguf --chat conversations.jsonl -o chat.imatrix.gguf\n  \
                        allod imatrix --merge a.imatrix.gguf --merge b.dat -o both.imatrix.gguf")]
pub(crate) struct ImatrixArgs {
    /// The model to collect from, best unquantized
    #[arg(value_hint = clap::ValueHint::AnyPath, required_unless_present = "merge")]
    model: Option<PathBuf>,
    /// A text
    #[arg(long, short = 'f', value_name = "FILE", conflicts_with = "chat", value_hint = clap::ValueHint::FilePath)]
    text: Option<PathBuf>,
    /// Conversations to run through the chat template: a JSON object with `messages` on every line
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    chat: Option<PathBuf>,
    /// Where to write
    #[arg(long, short, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    output: PathBuf,
    /// Start from these statistics; may be given several times
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    merge: Vec<PathBuf>,
    /// Tokens of a chunk
    #[arg(long, value_name = "TOKENS", default_value = "512")]
    ctx: usize,
    /// Run at most so many chunks
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,
    /// Special tokens written in the text count as such
    #[arg(long)]
    parse_special: bool,
    /// Also for the output matrix
    #[arg(long)]
    process_output: bool,
    /// Save after so many chunks, to go on from there
    #[arg(long, value_name = "N", default_value = "10")]
    save_every: usize,
    /// Threads to compute with [default: all cores]; the file does not depend on it
    #[arg(long, short, value_name = "N")]
    threads: Option<usize>,
    /// Print {file, chunks, chunk_size, entries, unseen_experts}
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &ImatrixArgs) -> Result<ExitCode> {
    let mut statistics = Imatrix::default();
    for path in &args.merge {
        statistics.merge(&Imatrix::open(path)?).with_context(|| path.display().to_string())?;
    }
    match &args.model {
        Some(model) if args.text.is_some() || args.chat.is_some() => statistics = collected(args, model, statistics)?,
        None | Some(_) if !args.merge.is_empty() => {}
        _ => {
            let hint = "give a text with --text FILE, or conversations with --chat FILE";
            return Err(Failure::new("there is nothing to collect from", hint).into());
        }
    }
    statistics.unfinished = None;
    statistics.save(&args.output)?;
    let _ = std::fs::remove_file(partial(&args.output));
    report(args, &statistics)
}

fn collected(args: &ImatrixArgs, path: &Path, mut statistics: Imatrix) -> Result<Imatrix> {
    let pool = Arc::new(Pool::new(load::threads(args.threads)));
    let mut judge = Judge::open(path, args.ctx, &pool)?;
    let (tokens, text) = tokens(args, path, &judge)?;
    let windows = Windows::whole(args.ctx, tokens.len(), judge.bos)?.at_most(args.chunks);
    let work = work(args, path, &judge, &tokens)?;
    let before = statistics.chunks;
    let mut first = 0;
    if let Ok(saved) = Imatrix::open(partial(&args.output))
        && saved.unfinished.as_ref() == Some(&work)
    {
        first = saved.chunks.saturating_sub(before) as usize;
        note(&format!("{first} of {} chunks are done already", windows.count));
        statistics = saved;
    }
    let name = text.display().to_string();
    if !statistics.datasets.contains(&name) {
        statistics.datasets.push(name);
    }
    statistics.chunk_size = u32::try_from(args.ctx)?;
    statistics.unfinished = Some(work);
    let (mut line, mut failed) = (Line::default(), Ok(()));
    let what = Collect { tokens: &tokens, windows: &windows, first, output: args.process_output };
    let done = collect(&mut judge.cpu, &pool, &what, &mut statistics, &mut |p, statistics| {
        line.show(&format!("chunk {} of {}, {} s left", p.done, p.count, p.left.as_secs()));
        if p.done < p.count && p.done.is_multiple_of(args.save_every.max(1)) {
            failed = statistics.save(partial(&args.output));
        }
        if failed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    line.clear();
    failed?;
    done?;
    Ok(statistics)
}

/// The ids to run, and the file they come from.
fn tokens<'a>(args: &'a ImatrixArgs, model: &Path, judge: &Judge) -> Result<(Vec<u32>, &'a Path)> {
    let Some(tokenizer) = &judge.tokenizer else {
        return load::needed(None, model).map(|_| (vec![], model_text(args)));
    };
    if let Some(file) = &args.chat {
        return Ok((conversations(file, model, tokenizer)?, file));
    }
    let file = model_text(args);
    let special = Special { parse: args.parse_special, add: true };
    Ok((tokenizer.encode(&load::text(Some(file))?, special)?, file))
}

fn model_text(args: &ImatrixArgs) -> &Path {
    args.text.as_deref().unwrap_or(Path::new(""))
}

fn conversations(file: &Path, model: &Path, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let source = load::source(model)?;
    let template = Template::of(model, &*source, &[])?.ok_or_else(|| {
        Failure::new(format!("{} has no chat template", model.display()), "give a plain text with --text instead")
    })?;
    let mut ids = Vec::new();
    for (i, line) in load::text(Some(file))?.lines().enumerate().filter(|l| !l.1.trim().is_empty()) {
        let wrong = |what: String| {
            let hint = r#"write one object a line: {"messages": [{"role": "user", "content": "…"}, …]}"#;
            Failure::new(format!("{}: line {}: {what}", file.display(), i + 1), hint)
        };
        let mut object: Value = serde_json::from_str(line).map_err(|e| wrong(e.to_string()))?;
        let messages = object.get_mut("messages").map(Value::take).filter(Value::is_array);
        let messages = messages.ok_or_else(|| wrong("there are no messages".into()))?;
        let text = template.whole(messages, tokenizer).map_err(|e| wrong(e.to_string()))?;
        ids.extend(tokenizer.encode(&text, Special::PARSE)?);
    }
    Ok(ids)
}

/// Identifies the work, so that only its own unfinished statistics are taken up.
fn work(args: &ImatrixArgs, model: &Path, judge: &Judge, tokens: &[u32]) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut tell = |text: String| {
        hasher.update(text.as_bytes());
    };
    tell(judge.cpu.plan().dump());
    for path in [model].into_iter().chain(args.merge.iter().map(PathBuf::as_path)) {
        let meta = std::fs::metadata(path).ok();
        tell(format!("{path:?} {:?}", meta.map(|m| (m.len(), m.modified().ok()))));
    }
    tell(format!("{} {:?} {}", args.ctx, judge.bos, args.process_output));
    for token in tokens {
        hasher.update(&token.to_le_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Where statistics lie that are not complete yet.
fn partial(output: &Path) -> PathBuf {
    output.with_file_name(format!(".{}.unfinished", output.file_name().unwrap_or_default().to_string_lossy()))
}

fn report(args: &ImatrixArgs, statistics: &Imatrix) -> Result<ExitCode> {
    let counts = statistics.entries.values().flat_map(|e| &e.counts);
    let unseen = counts.filter(|&&c| c == 0.0).count();
    let Imatrix { chunks, chunk_size, entries, .. } = statistics;
    if args.json {
        let object = json!({ "file": args.output, "chunks": chunks, "chunk_size": chunk_size,
                             "entries": entries.len(), "unseen_experts": unseen });
        writeln!(stdout().lock(), "{object}")?;
        return Ok(ExitCode::SUCCESS);
    }
    note(&format!("wrote {}: {} matrices over {chunks} chunks", args.output.display(), entries.len()));
    if unseen > 0 {
        note(&format!("{unseen} experts were never chosen: they will be quantized as if every column mattered alike"));
    }
    Ok(ExitCode::SUCCESS)
}
