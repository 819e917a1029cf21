//! `allod eval kl`.

use super::{Judge, TextArgs, shown, with_error};
use crate::cli::ModelArg;
use crate::failure::Failure;
use crate::load;
use crate::printer::Progress as Line;
use allod_cpu::Pool;
use allod_eval::{Base, Divergence, LogitsReader, Scorer, Windows, kl, reference_windows};
use anyhow::Result;
use clap::Args;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// How far a model strays from a reference
///
/// The reference is a file of predictions that `allod eval perplexity --save-logits` or llama.cpp wrote, or a model that
/// runs beside this one over a text. Told are the Kullback-Leibler divergence of predictions, both perplexities, how
/// much the right token's probability changed, and how often both favour the same token, with standard errors.
#[derive(Args)]
#[command(after_help = "Examples:\n  allod eval kl model-q4.gguf --base base.kld\n  \
                        allod eval kl model-q4.gguf --reference model-f16.gguf --text wiki.test.raw --chunks 40")]
pub(crate) struct KlArgs {
    #[command(flatten)]
    model: ModelArg,
    /// A file of saved predictions; it brings its text
    #[arg(long, value_name = "FILE", conflicts_with_all = ["reference", "text", "ctx"], value_hint = clap::ValueHint::FilePath)]
    base: Option<PathBuf>,
    /// A model to compare with, over --text
    #[arg(long, value_name = "MODEL", value_hint = clap::ValueHint::AnyPath)]
    reference: Option<PathBuf>,
    #[command(flatten)]
    text: TextArgs,
    /// Threads to compute with [default: all cores]
    #[arg(long, short, value_name = "N")]
    threads: Option<usize>,
    /// Print all numbers as one object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &KlArgs) -> Result<ExitCode> {
    let pool = Arc::new(Pool::new(load::threads(args.threads)));
    let found = match (&args.base, &args.reference) {
        (Some(base), _) => against_file(args, base, &pool)?,
        (None, Some(reference)) => against_model(args, reference, &pool)?,
        (None, None) => {
            let hint = "give --base FILE (saved predictions), or --reference MODEL and --text FILE";
            return Err(Failure::new("there is nothing to compare with", hint).into());
        }
    };
    if args.json {
        writeln!(stdout().lock(), "{}", serde_json::to_string(&found)?)?;
    } else {
        table(&found)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn against_file(args: &KlArgs, base: &Path, pool: &Arc<Pool>) -> Result<Divergence> {
    let mut file = LogitsReader::open(base)?;
    let mut judge = Judge::open(&args.model.model, file.context, pool)?;
    let windows = reference_windows(&file, judge.bos).at_most(args.text.chunks);
    let tokens = std::mem::take(&mut file.tokens);
    compare(&mut judge, Base::File(&mut file), &tokens, &windows, pool)
}

fn against_model(args: &KlArgs, reference: &Path, pool: &Arc<Pool>) -> Result<Divergence> {
    let text = load::text(args.text.text.as_deref())?;
    let mut judge = Judge::open(&args.model.model, args.text.ctx, pool)?;
    let mut other = Judge::open(reference, args.text.ctx, pool)?;
    let tokens = judge.encode(&args.model.model, &text)?;
    let windows = Windows::halves(args.text.ctx, tokens.len(), judge.bos)?.at_most(args.text.chunks);
    compare(&mut judge, Base::Model(&mut Scorer::new(&mut other.cpu, pool)), &tokens, &windows, pool)
}

/// Runs both and shows the progress.
pub(crate) fn compare(
    judge: &mut Judge,
    mut base: Base<'_, '_>,
    tokens: &[u32],
    windows: &Windows,
    pool: &Pool,
) -> Result<Divergence> {
    let (mut scorer, mut line) = (Scorer::new(&mut judge.cpu, pool), Line::default());
    Ok(kl(&mut scorer, &mut base, tokens, windows, &mut shown(&mut line, "divergence"))?)
}

fn table(d: &Divergence) -> Result<()> {
    let mut out = stdout().lock();
    let (k, p) = (&d.kl_percentiles, &d.delta_p_percentiles);
    writeln!(out, "perplexity        {}  (reference {})", with_error(d.perplexity), with_error(d.base_perplexity))?;
    writeln!(out, "ratio             {:.5} ± {:.5}", d.ratio.value, d.ratio.error)?;
    writeln!(out, "KL divergence     {:.6} ± {:.6}", d.kl.value, d.kl.error)?;
    writeln!(out, "  median {:.6}, 90 % {:.6}, 99 % {:.6}, most {:.6}", k.median, k.p90, k.p99, k.maximum)?;
    let percent = |v: f64| format!("{:+.3} %", 100.0 * v);
    writeln!(out, "right token       {} (rms {:.3} %)", percent(d.delta_p.value), 100.0 * d.delta_p_rms.value)?;
    writeln!(out, "  1 % {}, median {}, 99 % {}", percent(p.p1), percent(p.median), percent(p.p99))?;
    writeln!(out, "same top token    {:.2} ± {:.2} %", 100.0 * d.same_top.value, 100.0 * d.same_top.error)?;
    writeln!(out, "tokens            {} of {} windows", d.tokens, d.windows)?;
    Ok(())
}
