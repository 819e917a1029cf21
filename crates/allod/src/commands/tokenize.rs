//! `allod tokenize`: text to token ids.

use crate::cli::ModelArg;
use crate::load;
use allod_text::Special;
use anyhow::Result;
use clap::Args;
use serde_json::json;
use std::io::{Write, stdout};
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
    let text = match &args.text {
        Some(text) => text.clone(),
        None => load::text(args.file.as_deref())?,
    };
    let source = load::source(path)?;
    let tokenizer = load::needed(load::tokenizer(path, &*source)?, path)?;
    let ids = tokenizer.encode(&text, Special { parse: true, add: args.add_special })?;
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
