//! `allod quantize`: a model in fewer bits.

mod choose;
mod report;

use super::convert::{bytes, tokenizer_keys};
use super::eval::{Judge, compare};
use crate::failure::Failure;
use crate::load;
use crate::printer::{Progress, note};
use allod_cpu::Pool;
use allod_eval::{Base, Divergence, Scorer, Windows};
use allod_formats::WeightSource;
use allod_formats::gguf::Split;
use allod_models::convert::AsGguf;
use allod_quantize::imatrix::Imatrix;
use allod_quantize::run::{self, Warning};
use anyhow::{Context, Result};
use clap::{ArgGroup, Args};
use report::Outcome;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Write a model in fewer bits
///
/// The type of every tensor comes from a recipe by llama.cpp's rules (--to), from a size that is to be met with the
/// least loss (--bpw, --fit), or from a file (--recipe). The same input gives the same bytes on any machine. Interrupted
/// work goes on where it stopped when the same command is given again.
#[derive(Args)]
#[command(group = ArgGroup::new("target").args(["to", "bpw", "fit", "recipe"]))]
#[command(after_help = "Examples:\n  allod quantize Qwen3-0.6B --to Q4_K_M -o qwen3-q4.gguf\n  \
                        allod quantize model.gguf --to Q4_K_M --tensor-type 'ffn_down=Q6_K' -o model-q4.gguf --report\n  \
                        allod quantize model.gguf --bpw 4.5 --imatrix model.imatrix.gguf --calibration text.txt -o small.gguf\n  \
                        allod quantize model.gguf --fit 4G -o fits.gguf --dry-run\n  \
                        allod quantize model.gguf --recipe small.recipe.json -o again.gguf")]
pub(crate) struct QuantizeArgs {
    /// A safetensors folder or a GGUF file
    #[arg(value_hint = clap::ValueHint::AnyPath)]
    source: PathBuf,
    /// The recipe, such as Q4_K_M, Q8_0 or IQ4_XS [default: Q4_K_M]
    #[arg(long, value_name = "RECIPE")]
    to: Option<String>,
    /// Choose the types that lose least at so many bits per weight; they are written to OUTPUT's .recipe.json
    #[arg(long, value_name = "BITS")]
    bpw: Option<f64>,
    /// Choose the types that lose least in a file of this size, such as 4G or 700M
    #[arg(long, value_name = "SIZE")]
    fit: Option<String>,
    /// Take the types from a file that --bpw or --fit wrote
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    recipe: Option<PathBuf>,
    /// The GGUF file to write
    #[arg(long, short, value_hint = clap::ValueHint::FilePath)]
    output: PathBuf,
    /// Importance statistics: `allod imatrix` or llama.cpp collects them
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    imatrix: Option<PathBuf>,
    /// A text over which --bpw and --fit measure what noise in each matrix does to the logits
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, requires = "target")]
    calibration: Option<PathBuf>,
    /// Another type for tensors whose name matches a pattern; may be given several times, the first match counts
    #[arg(long, value_name = "PATTERN=TYPE")]
    tensor_type: Vec<String>,
    /// The type of the output matrix
    #[arg(long, value_name = "TYPE")]
    output_tensor_type: Option<String>,
    /// The type of the token embeddings
    #[arg(long, value_name = "TYPE")]
    token_embedding_type: Option<String>,
    /// Keep the output matrix as it is
    #[arg(long)]
    leave_output_tensor: bool,
    /// The recipe's default type for every matrix
    #[arg(long)]
    pure: bool,
    /// Write several files of at most this size each, such as 2G
    #[arg(long, value_name = "SIZE")]
    split_max_size: Option<String>,
    /// Only say what would be written
    #[arg(long)]
    dry_run: bool,
    /// Measure the error of every tensor and tell
    #[arg(long)]
    report: bool,
    /// With --report: also perplexity before and after over this text, and the divergence between them
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, requires = "report")]
    text: Option<PathBuf>,
    /// Tokens of a window of --text and --calibration
    #[arg(long, value_name = "TOKENS", default_value = "512")]
    ctx: usize,
    /// Run at most so many windows of --text
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,
    /// Threads to compute with [default: all cores]; the file does not depend on it
    #[arg(long, short)]
    threads: Option<usize>,
    /// Print one object with recipe, files, bytes, bits_per_weight, resumed, tensors and quality
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &QuantizeArgs) -> Result<ExitCode> {
    let source = opened(&args.source)?;
    let split = args.split_max_size.as_deref().map(bytes).transpose()?.map_or(Split::Never, Split::Bytes);
    let statistics = args.imatrix.as_ref().map(Imatrix::open).transpose()?;
    if let Some(m) = &statistics {
        check(m, &*source)?;
    }
    let pool = Arc::new(Pool::new(load::threads(args.threads)));
    let chosen = choose::choose(args, &*source, statistics.as_ref(), &pool)?;
    run::warnings(&chosen.choices, chosen.recipe, statistics.as_ref()).iter().for_each(|w| note(&warn(w)));
    if args.dry_run {
        return report::tell(args, &chosen, Outcome::planned(&*source, &chosen));
    }
    if let Some(file) = chosen.save(&args.output)? {
        note(&format!("the types are in {}", file.display()));
    }
    let request = run::Request {
        source: &*source,
        choices: chosen.choices.clone(),
        recipe: chosen.name.clone(),
        file_type: chosen.file_type,
        imatrix: statistics.as_ref().zip(args.imatrix.as_deref()),
        out: &args.output,
        split,
        measure: args.report,
    };
    let mut progress = Progress::default();
    let done = run::run(&request, &pool, &mut |p| {
        let left = p.left.map_or(String::new(), |t| format!(", {} s left", t.as_secs()));
        let share = 100.0 * p.done as f64 / p.total.max(1) as f64;
        progress.show(&format!("{share:>3.0} %{left}: {} of {}: {}", p.index + 1, p.count, p.tensor));
        ControlFlow::Continue(())
    })?;
    progress.clear();
    if done.resumed > 0 {
        note(&format!("{} of {} tensors were there from a run that was interrupted", done.resumed, done.tensors.len()));
    }
    let quality = args.text.as_ref().map(|text| quality(args, text, &done.paths[0], &pool)).transpose()?;
    report::tell(args, &chosen, Outcome::of(done, quality))
}

/// The source as a GGUF file holds it, with tokenizer and chat template.
fn opened(path: &Path) -> Result<Box<dyn WeightSource>> {
    let source = load::source(path)?;
    Ok(if load::folder(path).is_some() { Box::new(AsGguf::new(source, &tokenizer_keys(path)?)) } else { source })
}

/// Statistics that speak of none of the model's matrices, or of others of the same name, are another model's.
fn check(statistics: &Imatrix, source: &dyn WeightSource) -> Result<()> {
    let hint = "collect them again from this model with `allod imatrix`";
    let mut known = 0;
    for name in statistics.entries.keys() {
        let Some(info) = source.info(name) else { continue };
        statistics.weights(name, &info).map_err(|e| Failure::new(e.to_string(), hint))?;
        known += 1;
    }
    if known == 0 {
        let message = format!("the statistics name no matrix of {}: they are another model's", source.origin());
        return Err(Failure::new(message, hint).into());
    }
    Ok(())
}

/// The divergence of the written file from its source.
fn quality(args: &QuantizeArgs, text: &Path, written: &Path, pool: &Arc<Pool>) -> Result<Divergence> {
    let mut before = Judge::open(&args.source, args.ctx, pool).context("the source cannot be run for --text")?;
    let tokens = before.encode(&args.source, &load::text(Some(text))?)?;
    let windows = Windows::halves(args.ctx, tokens.len(), before.bos)?.at_most(args.chunks);
    let mut after = Judge::open(written, args.ctx, pool)?;
    compare(&mut after, Base::Model(&mut Scorer::new(&mut before.cpu, pool)), &tokens, &windows, pool)
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
