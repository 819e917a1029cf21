//! `allod eval perplexity`.

use super::{Judge, TextArgs, shown, with_error};
use crate::cli::ModelArg;
use crate::failure::Failure;
use crate::load;
use crate::printer::Progress as Line;
use allod_cpu::Pool;
use allod_eval::{Perplexity, Scorer, Windows, perplexity, save_logits};
use anyhow::Result;
use clap::Args;
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// How well a model predicts a text
///
/// Perplexity as llama.cpp defines it: the text is cut into windows of --ctx tokens, and the tokens of each one's second
/// half count. With --stride, windows overlap and only their last tokens count. The result does not depend on threads.
#[derive(Args)]
#[command(after_help = "Examples:\n  allod eval perplexity model.gguf --text wiki.test.raw\n  \
                        allod eval perplexity model.gguf --text book.txt --ctx 1024 --stride 256\n  \
                        allod eval perplexity f16.gguf --text wiki.test.raw --chunks 40 --save-logits base.kld")]
pub(crate) struct PerplexityArgs {
    #[command(flatten)]
    model: ModelArg,
    #[command(flatten)]
    text: TextArgs,
    /// Move on by so many tokens and count only these
    #[arg(long, value_name = "TOKENS")]
    stride: Option<usize>,
    /// Save all predictions, for `allod eval kl --base` (llama.cpp's format)
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, conflicts_with = "stride")]
    save_logits: Option<PathBuf>,
    /// Threads to compute with [default: all cores]
    #[arg(long, short, value_name = "N")]
    threads: Option<usize>,
    /// Print {perplexity, nll: {value, error}, tokens, windows}
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &PerplexityArgs) -> Result<ExitCode> {
    let text = load::text(args.text.text.as_deref())?;
    let pool = Arc::new(Pool::new(load::threads(args.threads)));
    let context = args.text.ctx + args.stride.unwrap_or(0) / 2;
    let mut judge = Judge::open(&args.model.model, context, &pool)?;
    let tokens = judge.encode(&args.model.model, &text)?;
    let windows = match args.stride {
        Some(stride) => Windows::strided(args.text.ctx, stride, tokens.len()),
        None => Windows::halves(args.text.ctx, tokens.len(), judge.bos),
    };
    let windows = windows?.at_most(args.text.chunks);
    if windows.count == 0 {
        return Err(Failure::new("no windows to run", "give --chunks a number from 1 on").into());
    }
    let (mut scorer, mut line) = (Scorer::new(&mut judge.cpu, &pool), Line::default());
    let found = match &args.save_logits {
        Some(path) => save_logits(&mut scorer, &tokens, &windows, path, &mut shown(&mut line, "perplexity")),
        None => perplexity(&mut scorer, &tokens, &windows, None, &mut shown(&mut line, "perplexity")),
    };
    line.clear();
    print(args, &found?)
}

fn print(args: &PerplexityArgs, p: &Perplexity) -> Result<ExitCode> {
    let mut out = stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(p)?)?;
    } else {
        let Perplexity { tokens, windows, .. } = p;
        writeln!(out, "perplexity {} over {tokens} tokens of {windows} windows", with_error(p.perplexity))?;
    }
    Ok(ExitCode::SUCCESS)
}
