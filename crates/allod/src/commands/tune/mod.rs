//! `allod tune`: a model learns from examples.

mod args;
mod check;
mod job;
mod run;
mod verify;

pub(crate) use args::one_of;
pub(crate) use job::Job;
pub(crate) use run::train;

use crate::failure::Failure;
use allod_train::run::Config;
use anyhow::Result;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  allod tune model.gguf --data chats.jsonl -o my-lora
  allod tune model.gguf --data pairs.jsonl --objective dpo --lr 5e-6 -o my-dpo
  allod tune model.gguf --data notes.txt --rank 32 --target all-linear --packing -o notes
  allod tune --config run.toml --resume
  allod tune check model.gguf --data chats.jsonl        what would be learned, before anything is
  allod tune verify my-lora                             replay the run and compare
  allod run model.gguf --adapter my-lora/adapter        try what was learned";

/// Teach a model from examples
///
/// Data may be JSON lines, a JSON array, CSV, text or Parquet; chats, instructions, prompts with completions, pairs of
/// answers and texts are recognized by their fields. What is written: an adapter for PEFT and for llama.cpp, figures of
/// every step, checkpoints that the same command continues from with --resume, and a manifest that `allod tune verify`
/// replays. The same files, settings and seed give the same bytes, on any number of threads.
#[derive(Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct TuneArgs {
    #[command(subcommand)]
    command: Option<TuneCommand>,
    #[command(flatten)]
    settings: args::Settings,
    /// Go on from the newest checkpoint in the output folder
    #[arg(long)]
    resume: bool,
    /// Threads to compute with [default: all cores]; the result does not depend on it
    #[arg(long, short, value_name = "N")]
    threads: Option<usize>,
    /// Print one line of JSON for each step and evaluation on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum TuneCommand {
    Check(Box<check::CheckArgs>),
    Verify(VerifyArgs),
}

/// Replay a finished run and compare every loss
#[derive(Args)]
pub(crate) struct VerifyArgs {
    /// The folder of the run
    #[arg(value_hint = clap::ValueHint::DirPath)]
    run: PathBuf,
    /// Replay the first steps only
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Threads to compute with [default: all cores]
    #[arg(long, short, value_name = "N")]
    threads: Option<usize>,
    /// Print one object with what was compared
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &TuneArgs) -> Result<ExitCode> {
    match &args.command {
        Some(TuneCommand::Check(check)) => check::run(check),
        Some(TuneCommand::Verify(verify)) => verify::run(verify),
        None => {
            let config = args.settings.config()?;
            fresh(&config, args.resume)?;
            let job = Job::new(&config, args.threads)?;
            train(job, args.resume, args.json)
        }
    }
}

/// A folder that holds another run is not written over by accident.
pub(crate) fn fresh(config: &Config, resume: bool) -> Result<()> {
    if !resume && config.output.join(allod_train::run::metrics::FILE).exists() {
        let message = format!("{} holds a run already", config.output.display());
        return Err(Failure::new(message, "go on with --resume, or name another folder with -o").into());
    }
    Ok(())
}
