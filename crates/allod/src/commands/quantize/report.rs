//! What was written, and what it cost.

use super::QuantizeArgs;
use super::choose::Chosen;
use crate::commands::eval::with_error;
use crate::printer::note;
use allod_eval::Divergence;
use allod_formats::WeightSource;
use allod_quantize::run::{Report, TensorReport};
use allod_tensor::Tensor;
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

/// Tensors named in the table: those that lose most.
const WORST: usize = 10;

/// What became of a model, or would.
#[derive(Default)]
pub(super) struct Outcome {
    files: Vec<PathBuf>,
    tensors: Vec<TensorReport>,
    /// Tensors that an interrupted run had written.
    resumed: usize,
    bytes: u64,
    weights: u64,
    /// The source's bytes.
    before: u64,
    quality: Option<Divergence>,
}

impl Outcome {
    pub(super) fn planned(source: &dyn WeightSource, chosen: &Chosen) -> Outcome {
        let mut out = Outcome::default();
        for choice in &chosen.choices {
            let Some(info) = source.info(&choice.name) else { continue };
            let size = |t| Tensor::bytes_of(t, &info.shape).unwrap_or(0) as u64;
            let bytes = size(choice.to);
            (out.bytes, out.before) = (out.bytes + bytes, out.before + size(choice.from));
            out.weights += info.shape.iter().product::<usize>() as u64;
            out.tensors.push(TensorReport { choice: choice.clone(), bytes, error: None });
        }
        out
    }

    pub(super) fn of(r: Report, quality: Option<Divergence>) -> Outcome {
        let Report { paths, tensors, resumed, bytes_in, bytes_out, weights } = r;
        Outcome { files: paths, tensors, resumed, bytes: bytes_out, weights, before: bytes_in, quality }
    }

    fn bits(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.weights.max(1) as f64
    }
}

pub(super) fn tell(args: &QuantizeArgs, chosen: &Chosen, outcome: Outcome) -> Result<ExitCode> {
    let mut out = stdout().lock();
    if args.json {
        writeln!(out, "{}", object(chosen, &outcome))?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.dry_run {
        for t in &outcome.tensors {
            writeln!(out, "{:<8} {:>12}  {}", t.choice.to.name(), t.bytes, t.choice.name)?;
        }
    }
    if args.report {
        table(&mut out, &outcome)?;
    }
    let (before, after) = (outcome.before as f64 / 1e6, outcome.bytes as f64 / 1e6);
    note(&format!(
        "{}: {before:.1} MB of tensors become {after:.1} MB, {:.3} bits per weight",
        chosen.name,
        outcome.bits()
    ));
    Ok(ExitCode::SUCCESS)
}

fn object(chosen: &Chosen, o: &Outcome) -> Value {
    let tensor = |t: &TensorReport| {
        json!({ "name": t.choice.name, "from": t.choice.from.name(), "type": t.choice.to.name(), "bytes": t.bytes,
                "instead_of": t.choice.instead_of.map(|t| t.name()), "error": t.error })
    };
    let tensors: Vec<Value> = o.tensors.iter().map(tensor).collect();
    json!({ "recipe": chosen.name, "files": o.files, "bytes": o.bytes, "bytes_before": o.before,
            "bits_per_weight": o.bits(), "resumed": o.resumed, "tensors": tensors, "quality": o.quality })
}

/// Types with their share and loss, the tensors that lose most, and what the text says.
fn table(out: &mut impl Write, o: &Outcome) -> Result<()> {
    let mut types: BTreeMap<&str, (usize, u64, f64, usize)> = BTreeMap::new();
    for t in &o.tensors {
        let e = types.entry(t.choice.to.name()).or_default();
        (e.0, e.1) = (e.0 + 1, e.1 + t.bytes);
        if let Some(error) = t.error {
            (e.2, e.3) = (e.2 + error, e.3 + 1);
        }
    }
    writeln!(out, "{:<8} {:>7} {:>14}  {:>12}", "type", "tensors", "bytes", "mean loss")?;
    for (name, (count, bytes, loss, measured)) in &types {
        let loss = if *measured > 0 { format!("{:.3e}", loss / *measured as f64) } else { "-".into() };
        writeln!(out, "{name:<8} {count:>7} {bytes:>14}  {loss:>12}")?;
    }
    let mut worst: Vec<&TensorReport> = o.tensors.iter().filter(|t| t.error.is_some()).collect();
    worst.sort_by(|a, b| b.error.unwrap_or(0.0).total_cmp(&a.error.unwrap_or(0.0)));
    if !worst.is_empty() {
        writeln!(out, "\nthe part of their products that these lose most:")?;
    }
    for t in worst.iter().take(WORST) {
        writeln!(out, "{:<8} {:>10.3e}  {}", t.choice.to.name(), t.error.unwrap_or(0.0), t.choice.name)?;
    }
    if let Some(d) = &o.quality {
        writeln!(out, "\nperplexity     {}, before {}", with_error(d.perplexity), with_error(d.base_perplexity))?;
        writeln!(out, "KL divergence  {:.6} ± {:.6}", d.kl.value, d.kl.error)?;
        writeln!(out, "same top token {:.2} ± {:.2} %", 100.0 * d.same_top.value, 100.0 * d.same_top.error)?;
    }
    Ok(())
}
