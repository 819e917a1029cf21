//! The commands and what they share.

use crate::commands::{
    architectures, batch, bench, completions, convert, embed, eval, imatrix, inspect, logits, pretrain, quantize, run,
    serve, synth, tokenize, tune, verify,
};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  allod run                                   talk to the small model that is built in
  allod run model.gguf                        talk to a model
  allod run model.gguf 'Why is the sky blue?' ask once
  git diff | allod run model.gguf 'Review:'   ask about what comes in through a pipe
  allod serve model.gguf                      answer OpenAI, Anthropic and Ollama clients
  allod inspect model.gguf                    what a file holds and what it needs
  allod bench model.gguf -p 512 -n 64         how fast it is here";

/// Open language models that you own outright: they run here, offline, and say the same thing every time.
#[derive(Parser)]
#[command(name = "allod", version, after_help = EXAMPLES, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    Run(Box<run::RunArgs>),
    Serve(Box<serve::ServeArgs>),
    Batch(batch::BatchArgs),
    Verify(verify::VerifyArgs),
    Inspect(inspect::InspectArgs),
    Tokenize(tokenize::TokenizeArgs),
    Logits(logits::LogitsArgs),
    Embed(embed::EmbedArgs),
    Bench(bench::BenchArgs),
    Convert(convert::ConvertArgs),
    Quantize(quantize::QuantizeArgs),
    Imatrix(imatrix::ImatrixArgs),
    Eval(eval::EvalArgs),
    Tune(Box<tune::TuneArgs>),
    Pretrain(Box<pretrain::PretrainArgs>),
    Synth(synth::SynthArgs),
    Architectures(architectures::ArchitecturesArgs),
    Completions(completions::CompletionsArgs),
}

/// The model of a command.
#[derive(Args)]
pub(crate) struct ModelArg {
    /// A .gguf file, a folder of safetensors, a llama2.c .bin, or `default`: the model that is built in
    #[arg(value_hint = clap::ValueHint::AnyPath)]
    pub(crate) model: PathBuf,
}
