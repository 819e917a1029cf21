//! `allod completions`: the shell completes commands and flags.

use crate::cli::Cli;
use anyhow::Result;
use clap::{Args, CommandFactory};
use std::io::stdout;
use std::process::ExitCode;

/// Print completions for a shell
#[derive(Args)]
#[command(after_help = "Examples:\n  allod completions bash > ~/.local/share/bash-completion/completions/allod\n  \
                        allod completions zsh > ~/.zfunc/_allod\n  \
                        allod completions fish > ~/.config/fish/completions/allod.fish")]
pub(crate) struct CompletionsArgs {
    shell: clap_complete::Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Result<ExitCode> {
    clap_complete::generate(args.shell, &mut Cli::command(), "allod", &mut stdout());
    Ok(ExitCode::SUCCESS)
}
