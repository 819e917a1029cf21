//! `allod quantize`: a model in fewer bits.

use crate::failure::Failure;
use crate::load;
use crate::printer::{Progress, note};
use allod_cpu::Pool;
use allod_formats::gguf::Split;
use allod_quantize::imatrix::Imatrix;
use allod_quantize::recipe::{self, Pattern, Recipe};
use allod_quantize::run::{self, Warning};
use allod_tensor::DType;
use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use std::io::{Write, stdout};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Write a model in fewer bits
///
/// The recipe decides the type of every tensor, by the rules of llama.cpp's recipe of that name. The same input gives
/// the same bytes on any machine. Interrupted work goes on where it stopped when the same command is given again.
#[derive(Args)]
#[command(after_help = "Examples:\n  allod quantize Qwen3-0.6B --to Q4_K_M -o qwen3-q4.gguf\n  \
                        allod quantize model.gguf --to Q8_0 -o small.gguf --dry-run\n  \
                        allod quantize model.gguf --to Q4_K_M --tensor-type 'ffn_down=Q6_K' -o model-q4.gguf")]
pub(crate) struct QuantizeArgs {
    /// A safetensors folder or a GGUF file
    #[arg(value_hint = clap::ValueHint::AnyPath)]
    source: PathBuf,
    /// The recipe, such as Q4_K_M, Q8_0 or IQ4_XS
    #[arg(long, value_name = "RECIPE", default_value = "Q4_K_M")]
    to: String,
    /// The GGUF file to write
    #[arg(long, short, value_hint = clap::ValueHint::FilePath)]
    output: PathBuf,
    /// Importance statistics in llama.cpp's GGUF format
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    imatrix: Option<PathBuf>,
    /// Another type for tensors whose name matches a pattern; may be given several times, the first match counts
    #[arg(long, value_name = "PATTERN=TYPE")]
    tensor_type: Vec<String>,
    /// The recipe's default type for every matrix
    #[arg(long)]
    pure: bool,
    /// Only say what would be written
    #[arg(long)]
    dry_run: bool,
    /// Threads to compute with [default: all cores]; the file does not depend on it
    #[arg(long, short)]
    threads: Option<usize>,
    /// Print one object with files, bytes, bits_per_weight and tensors
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &QuantizeArgs) -> Result<ExitCode> {
    let recipe = recipe::by_name(&args.to).ok_or_else(|| {
        let names: Vec<&str> = recipe::RECIPES.iter().map(|r| r.name).collect();
        Failure::new(format!("there is no recipe {}", args.to), format!("one of {}", names.join(", ")))
    })?;
    let source = load::source(&args.source)?;
    let statistics = args.imatrix.as_ref().map(Imatrix::open).transpose()?;
    let overrides = args.tensor_type.iter().map(|o| parse(o)).collect::<Result<_>>()?;
    let options = recipe::Options { overrides, pure: args.pure, ..recipe::Options::default() };
    let choices = recipe.choose_for(&*source, statistics.is_some(), &options);
    run::warnings(&choices, Some(recipe), statistics.as_ref()).iter().for_each(|w| note(&warn(w)));
    if args.dry_run {
        let bytes = run::size(&*source, &choices);
        return report(args, recipe, &[], bytes, choices.iter().map(|c| (c.name.as_str(), c.to)), None);
    }
    let request = run::Request {
        source: &*source,
        choices,
        recipe: recipe.name.into(),
        file_type: recipe.file_type,
        imatrix: statistics.as_ref().zip(args.imatrix.as_deref()),
        out: &args.output,
        split: Split::Never,
        measure: false,
    };
    let (mut progress, start) = (Progress::default(), Instant::now());
    let done = run::run(&request, &Pool::new(load::threads(args.threads)), &mut |p| {
        let share = p.done as f64 / p.total.max(1) as f64;
        let left = start.elapsed().as_secs_f64() * (1.0 - share) / share.max(1e-3);
        progress.show(&format!(
            "{:>3.0} %, {left:.0} s left: {} of {}: {}",
            share * 100.0,
            p.index + 1,
            p.count,
            p.tensor
        ));
        ControlFlow::Continue(())
    })?;
    progress.clear();
    let tensors = done.tensors.iter().map(|t| (t.choice.name.as_str(), t.choice.to));
    report(args, recipe, &done.paths, done.bytes_out, tensors, Some(done.bits_per_weight()))
}

fn report<'a>(
    args: &QuantizeArgs,
    recipe: &Recipe,
    files: &[PathBuf],
    bytes: u64,
    mut tensors: impl Iterator<Item = (&'a str, DType)>,
    bits: Option<f64>,
) -> Result<ExitCode> {
    let mut out = stdout().lock();
    if args.json {
        let tensors: Vec<_> = tensors.map(|(name, dtype)| json!({ "name": name, "type": dtype.name() })).collect();
        let object = json!({ "recipe": recipe.name, "files": files, "bytes": bytes, "bits_per_weight": bits, "tensors": tensors });
        writeln!(out, "{object}")?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.dry_run {
        tensors.try_for_each(|(name, dtype)| writeln!(out, "{:<8} {name}", dtype.name()))?;
    }
    let bits = bits.map_or(String::new(), |b| format!(", {b:.2} bits per weight"));
    note(&format!("{}: {:.1} MB of tensors{bits}", recipe.name, bytes as f64 / 1e6));
    Ok(ExitCode::SUCCESS)
}

fn parse(text: &str) -> Result<(Pattern, DType)> {
    let hint = "write PATTERN=TYPE, such as 'ffn_down=Q6_K'";
    let wrong = || Failure::new(format!("{text} names no type"), hint);
    let (pattern, name) = text.rsplit_once('=').ok_or_else(wrong)?;
    let dtype = DType::from_name(name).ok_or_else(wrong)?;
    Ok((Pattern::new(pattern).context("--tensor-type")?, dtype))
}

fn warn(w: &Warning) -> String {
    match w {
        Warning::Requantized(n, t) => format!("{n} tensors were quantized before ({t}) and lose a second time"),
        Warning::NeedsImatrix(n, t) => format!("{n} tensors come out badly as {t} without --imatrix"),
        Warning::Fallback(n) => {
            format!("{n} tensors have rows that no block of the wished type divides: another is used")
        }
        Warning::NoStatistics(n) => format!("{n} matrices have no importance statistics"),
    }
}
