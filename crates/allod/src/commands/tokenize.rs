//! `allod tokenize`: text to token ids.

use crate::cli::ModelArg;
use crate::failure::Failure;
use crate::load;
use allod_text::Special;
use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use std::io::{Read, Write, stdin, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

/// Show the token ids of a text
#[derive(Args)]
#[command(after_help = "Examples:\n  allod tokenize model.gguf 'Hello world'\n  \
                        allod tokenize model.gguf --file book.txt --json\n  \
                        echo -n Hello | allod tokenize vocabulary.gguf --add-special")]
pub(crate) struct TokenizeArgs {
    #[command(flatten)]
    model: ModelArg,
    /// The text; without it and --file, stdin
    text: Option<String>,
    /// Read the text from a file
    #[arg(long, short, conflicts_with = "text", value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// Add what the model wants around a text, such as BOS
    #[arg(long)]
    add_special: bool,
    /// Print one object: {"token_ids": [...]}
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &TokenizeArgs) -> Result<ExitCode> {
    let path = &args.model.model;
    let source = load::source(path)?;
    let tokenizer = load::needed(load::tokenizer(path, &*source)?, path)?;
    let ids = tokenizer.encode(&text(args)?, Special { parse: true, add: args.add_special })?;
    let mut out = stdout().lock();
    if args.json {
        writeln!(out, "{}", json!({ "token_ids": ids }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for id in ids {
        let bytes = tokenizer.token_bytes(id).unwrap_or_default();
        writeln!(out, "{id:>8}  {:?}", String::from_utf8_lossy(&bytes))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(args: &TokenizeArgs) -> Result<String> {
    if let Some(text) = &args.text {
        return Ok(text.clone());
    }
    let (bytes, from) = match &args.file {
        Some(path) => (std::fs::read(path).with_context(|| path.display().to_string())?, path.display().to_string()),
        None => {
            let mut bytes = Vec::new();
            stdin().lock().read_to_end(&mut bytes)?;
            (bytes, "stdin".into())
        }
    };
    utf8(bytes, &from)
}

/// The bytes as text, or an error that says where they stop being text.
pub(crate) fn utf8(bytes: Vec<u8>, from: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Failure::new(format!("{from}: byte {at} is not UTF-8"), "convert it, for example with iconv -t utf-8").into()
    })
}
