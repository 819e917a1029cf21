//! `allod eval kl`.

use super::{Judge, TextArgs, shown, with_error};
use crate::failure::Failure;
use crate::load;
use crate::printer::Progress as Line;
use allod_cpu::Pool;
use allod_eval::{Base, Divergence, LogitsReader, Point, Scorer, Windows, kl, plot, reference_windows};
use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// How far models stray from a reference
///
/// The reference is a file of predictions that `allod eval perplexity --save-logits` or llama.cpp wrote, or a model that
/// runs beside the others over a text. Told are the Kullback-Leibler divergence of predictions, both perplexities, how
/// much the right token's probability changed, and how often both favour the same token, with standard errors.
#[derive(Args)]
#[command(after_help = "Examples:\n  allod eval kl model-q4.gguf --base base.kld\n  \
                        allod eval kl model-q4.gguf --reference model-f16.gguf --text wiki.test.raw --chunks 40\n  \
                        allod eval kl q2.gguf q4.gguf q8.gguf --base base.kld --svg size-against-kl.svg")]
pub(crate) struct KlArgs {
    /// The models to compare
    #[arg(required = true, value_hint = clap::ValueHint::AnyPath)]
    models: Vec<PathBuf>,
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
    /// Draw the models' sizes against their divergence
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    svg: Option<PathBuf>,
    /// Print all numbers as one object; for several models a list of {model, bytes, divergence}
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &KlArgs) -> Result<ExitCode> {
    let pool = Arc::new(Pool::new(load::threads(args.threads)));
    // Read before the first model is: stdin comes once.
    let text = args.reference.as_ref().map(|_| load::text(args.text.text.as_deref())).transpose()?;
    let mut all = Vec::new();
    for model in &args.models {
        let found = match (&args.base, &args.reference, &text) {
            (Some(base), ..) => against_file(args, model, base, &pool)?,
            (None, Some(reference), Some(text)) => against_model(args, model, reference, text, &pool)?,
            _ => {
                let hint = "give --base FILE (saved predictions), or --reference MODEL and --text FILE";
                return Err(Failure::new("there is nothing to compare with", hint).into());
            }
        };
        if args.models.len() > 1 && !args.json {
            line(model, &found, all.is_empty())?;
        }
        all.push((model, found));
    }
    if let Some(file) = &args.svg {
        let points = all.iter().map(|(model, d)| point(model, d)).collect::<Vec<_>>();
        allod_formats::write_file(file, plot("Size against divergence", &points).as_bytes())?;
    }
    match &all[..] {
        [(_, one)] if args.json => writeln!(stdout().lock(), "{}", serde_json::to_string(one)?)?,
        [(_, one)] => table(one)?,
        several if args.json => {
            let object = |(m, d): &(&PathBuf, Divergence)| json!({ "model": m, "bytes": size(m), "divergence": d });
            writeln!(stdout().lock(), "{}", Value::from_iter(several.iter().map(object)))?;
        }
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Bytes of a model's file, or of the files in its folder.
fn size(model: &Path) -> u64 {
    let of = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
    let Ok(entries) = std::fs::read_dir(model) else { return of(model) };
    entries.filter_map(|e| Some(of(&e.ok()?.path()))).sum()
}

fn point(model: &Path, d: &Divergence) -> Point {
    let label = model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Point { label, bytes: size(model), kl: d.kl.value, error: d.kl.error }
}

/// A model's line among several.
fn line(model: &Path, d: &Divergence, first: bool) -> Result<()> {
    let mut out = stdout().lock();
    if first {
        writeln!(out, "{:>12}  {:>20}  {:>10}  {:>8}  model", "bytes", "KL divergence", "perplexity", "same top")?;
    }
    let (kl, error, top) = (d.kl.value, d.kl.error, 100.0 * d.same_top.value);
    let (bytes, perplexity) = (size(model), d.perplexity.value);
    writeln!(out, "{bytes:>12}  {kl:.6} ± {error:.6}  {perplexity:>10.4}  {top:>6.2} %  {}", model.display())?;
    Ok(())
}

fn against_file(args: &KlArgs, model: &Path, base: &Path, pool: &Arc<Pool>) -> Result<Divergence> {
    let mut file = LogitsReader::open(base)?;
    let mut judge = Judge::open(model, file.context, pool)?;
    let windows = reference_windows(&file, judge.bos).at_most(args.text.chunks);
    let tokens = std::mem::take(&mut file.tokens);
    compare(&mut judge, Base::File(&mut file), &tokens, &windows, pool)
}

fn against_model(args: &KlArgs, model: &Path, reference: &Path, text: &str, pool: &Arc<Pool>) -> Result<Divergence> {
    let mut judge = Judge::open(model, args.text.ctx, pool)?;
    let mut other = Judge::open(reference, args.text.ctx, pool)?;
    let tokens = judge.encode(model, text)?;
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
