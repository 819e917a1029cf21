//! `allod synth`: files of real shapes with random weights, for measuring.

use crate::failure::Failure;
use crate::load;
use allod_cpu::Pool;
use allod_quantize::synth;
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Write a model of a real shape with random weights
///
/// Such a file takes the time and memory of the real model and says nothing. It is for measurements.
#[derive(Args)]
#[command(after_help = "Examples:\n  allod synth qwen3-0.6b --type Q4_K_M -o shape.gguf\n  allod synth list")]
pub(crate) struct SynthArgs {
    /// The shape, such as qwen3-0.6b; `list` names them
    shape: String,
    /// A tensor type or a recipe, such as Q8_0 or Q4_K_M
    #[arg(long = "type", value_name = "TYPE", default_value = "Q4_K_M")]
    kind: String,
    /// The GGUF file to write
    #[arg(long, short, value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// Names the randomness
    #[arg(long, default_value = "0")]
    seed: u64,
    /// Threads to compute with [default: all cores]
    #[arg(long, short)]
    threads: Option<usize>,
}

#[expect(clippy::print_stdout, reason = "the list is the answer")]
pub(crate) fn run(args: &SynthArgs) -> Result<ExitCode> {
    if args.shape == "list" {
        synth::SHAPES.iter().for_each(|s| println!("{}", s.name));
        return Ok(ExitCode::SUCCESS);
    }
    let Some(output) = &args.output else {
        return Err(Failure::new("nowhere to write to", "name a file with -o, such as -o shape.gguf").into());
    };
    synth::write(&args.shape, &args.kind, output, args.seed, &Pool::new(load::threads(args.threads)))?;
    Ok(ExitCode::SUCCESS)
}
