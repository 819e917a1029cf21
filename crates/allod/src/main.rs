//! `allod`: the command line over the rooms. It parses what was asked, hands it to a command, and says what went
//! wrong. Answers go to stdout; everything else goes to stderr.

mod answer;
mod chat;
mod cli;
mod commands;
mod config;
mod failure;
mod interrupt;
mod load;
mod markdown;
mod printer;
mod receipt;
mod repl;
mod sampling;
mod template;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    if !matches!(cli.command, cli::Command::Serve(_)) {
        interrupt::install();
    }
    let done = match cli.command {
        cli::Command::Run(args) => commands::run::run(*args),
        cli::Command::Serve(args) => commands::serve::run(&args),
        cli::Command::Batch(args) => commands::batch::run(&args),
        cli::Command::Verify(args) => commands::verify::run(&args),
        cli::Command::Inspect(args) => commands::inspect::run(&args),
        cli::Command::Tokenize(args) => commands::tokenize::run(&args),
        cli::Command::Logits(args) => commands::logits::run(&args),
        cli::Command::Embed(args) => commands::embed::run(&args),
        cli::Command::Convert(args) => commands::convert::run(&args),
        cli::Command::Quantize(args) => commands::quantize::run(&args),
        cli::Command::Imatrix(args) => commands::imatrix::run(&args),
        cli::Command::Eval(args) => commands::eval::run(&args),
        cli::Command::Tune(args) => commands::tune::run(&args),
        cli::Command::Pretrain(args) => commands::pretrain::run(&args),
        cli::Command::Synth(args) => commands::synth::run(&args),
        cli::Command::Architectures(args) => commands::architectures::run(&args),
        cli::Command::Bench(args) => commands::bench::run(&args),
        cli::Command::Completions(args) => commands::completions::run(&args),
    };
    match done {
        Ok(code) => code,
        Err(error) => failure::report(&error),
    }
}
