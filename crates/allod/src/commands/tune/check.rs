//! `allod tune check`: what would be learned, before anything is.

use super::args::Settings;
use super::job::{data, encoder};
use crate::load;
use crate::printer::{harmless, size, styled};
use allod_text::Tokenizer;
use allod_train::data::source::Dataset;
use allod_train::data::{Encoder, Item};
use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use std::io::{IsTerminal, Write, stdout};
use std::process::ExitCode;

/// Show what would be learned: problems by file and line, lengths, duplicates, and one example with its loss mask
#[derive(Args)]
#[command(after_help = "Examples:\n  allod tune check model.gguf --data chats.jsonl\n  \
                        allod tune check --config run.toml --json")]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    settings: Settings,
    /// Show this example, from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    example: usize,
    /// Print one object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &CheckArgs) -> Result<ExitCode> {
    let mut config = args.settings.config()?;
    config.data.skip_problems = true;
    let source = load::source(&config.model)?;
    let encoder = encoder(&config, &*source)?;
    let (data, held_out) = data(&config, &encoder, &std::env::temp_dir())?;
    let shown = data.train.get(args.example).map(|item| pieces(&encoder, &data, item));
    let bad = data.report.problem_count > 0;
    let mut out = stdout().lock();
    if args.json {
        writeln!(out, "{}", object(&data, held_out.len(), shown.as_deref()))?;
    } else {
        print(&mut out, &data, held_out.len(), config.data.max_length)?;
        if let Some(sides) = shown {
            show(&mut out, args.example, &sides)?;
        }
    }
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A run of text that is learned, or is not.
type Piece = (bool, String);

/// The sequences of an item as text, cut where the mask changes.
fn pieces(encoder: &Encoder, data: &Dataset, item: &Item) -> Vec<Vec<Piece>> {
    let side = |number: u32| {
        let s = data.store.get(number);
        let mut runs: Vec<(bool, Vec<u32>)> = Vec::new();
        for (i, (id, learned)) in s.ids().zip(s.learned()).enumerate() {
            // Nothing predicts the first.
            let learned = learned && i > 0;
            match runs.last_mut() {
                Some((last, ids)) if *last == learned => ids.push(id),
                _ => runs.push((learned, vec![id])),
            }
        }
        runs.into_iter().map(|(learned, ids)| (learned, text(encoder.tokenizer(), &ids))).collect()
    };
    item.sequences().map(side).collect()
}

fn text(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let bytes: Vec<u8> =
        ids.iter().flat_map(|&id| tokenizer.token_bytes(id).unwrap_or_default().into_owned()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn object(data: &Dataset, held_out: usize, shown: Option<&[Vec<Piece>]>) -> Value {
    let r = &data.report;
    let files = r.files.iter().map(
        |(name, f)| json!({ "file": name, "form": f.form.to_string(), "examples": f.examples, "tokens": f.tokens }),
    );
    let problems =
        r.problems.iter().map(|p| json!({ "file": p.file, "line": p.line, "message": p.message, "hint": p.hint }));
    let example = shown.map(|sides| {
        let side = |side: &Vec<Piece>| -> Value {
            side.iter().map(|(learned, text)| json!({ "learned": learned, "text": text })).collect()
        };
        sides.iter().map(side).collect::<Value>()
    });
    let [least, median, p90, p99, most] = r.quantiles();
    json!({
        "examples": data.train.len(),
        "held_out": held_out,
        "tokens": r.tokens(),
        "learned_tokens": r.learned,
        "files": files.collect::<Vec<_>>(),
        "lengths": { "min": least, "median": median, "p90": p90, "p99": p99, "max": most },
        "truncated": { "sequences": r.cut.0, "tokens": r.cut.1 },
        "duplicates": r.duplicates,
        "skipped": r.skipped.iter().map(|(why, n)| ((*why).to_owned(), Value::from(*n))).collect::<serde_json::Map<_, _>>(),
        "problem_count": r.problem_count,
        "problems": problems.collect::<Vec<_>>(),
        "digest": data.store.digest().to_hex().to_string(),
        "example": example,
    })
}

fn print(out: &mut impl Write, data: &Dataset, held_out: usize, longest: usize) -> Result<()> {
    let r = &data.report;
    for (name, f) in &r.files {
        writeln!(out, "{name}: {}, {} examples, {} tokens", f.form, f.examples, f.tokens)?;
    }
    let share = 100.0 * r.learned as f64 / (r.tokens().max(1)) as f64;
    writeln!(
        out,
        "{} to learn from, {held_out} held out; {} tokens, {} learned ({share:.0} %)",
        data.train.len(),
        r.tokens(),
        r.learned
    )?;
    let [least, median, p90, p99, most] = r.quantiles();
    writeln!(out, "lengths: least {least}, median {median}, 90 % {p90}, 99 % {p99}, most {most}")?;
    if r.cut.0 > 0 {
        writeln!(out, "cut to {longest} tokens: {} sequences, which lose {} tokens", r.cut.0, r.cut.1)?;
    }
    if r.duplicates > 0 {
        writeln!(out, "{} examples came before, word for word", r.duplicates)?;
    }
    for (why, n) in &r.skipped {
        writeln!(out, "left out {n}: {why}")?;
    }
    for p in &r.problems {
        writeln!(out, "problem: {p}")?;
    }
    if r.problem_count > r.problems.len() {
        writeln!(out, "and {} more problems", r.problem_count - r.problems.len())?;
    }
    Ok(())
}

/// An example: what is learned in green, or between ⟦ and ⟧ where there are no colours.
fn show(out: &mut impl Write, number: usize, sides: &[Vec<Piece>]) -> Result<()> {
    let colours = stdout().is_terminal() && styled();
    writeln!(out, "\nexample {number}, what is learned {}:", if colours { "in green" } else { "between ⟦ and ⟧" })?;
    for (i, side) in sides.iter().enumerate() {
        if sides.len() > 1 {
            writeln!(out, "{}", "─".repeat(size().0.min(40)))?;
            writeln!(out, "{}", if i == 0 { "first sequence" } else { "second sequence" })?;
        }
        for (learned, text) in side {
            let text = harmless(text);
            match (learned, colours) {
                (true, true) => write!(out, "\x1b[32m{text}\x1b[0m")?,
                (false, true) => write!(out, "\x1b[2m{text}\x1b[0m")?,
                (true, false) => write!(out, "⟦{text}⟧")?,
                (false, false) => write!(out, "{text}")?,
            }
        }
        writeln!(out)?;
    }
    Ok(())
}
