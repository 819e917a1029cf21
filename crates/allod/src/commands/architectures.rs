//! `allod architectures`: what the registry holds, as facts read off it.

use allod_models::{Arch, arch};
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::io::{Write, stdout};
use std::process::ExitCode;

/// List the architectures that run here
///
/// `family` is what GGUF files call it. An encoder has no head: it gives embeddings, and no text. The other columns
/// tell what can be done: compute its network (run), read and write GGUF files and safetensors folders, make
/// embeddings, and train it, whole or by adapters (tune).
#[derive(Args)]
#[command(after_help = "Examples:\n  allod architectures\n  allod architectures --json")]
pub(crate) struct ArchitecturesArgs {
    /// Print a list of {name, family, kind, classes, run, gguf, safetensors, embed, tune}
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    /// Transformers' `model_type`.
    name: &'static str,
    /// `general.architecture` of its GGUF files.
    family: &'static str,
    kind: &'static str,
    classes: &'static [&'static str],
    run: bool,
    gguf: bool,
    safetensors: bool,
    embed: bool,
    tune: bool,
}

fn row(a: &Arch) -> Row {
    let can = a.abilities();
    Row {
        name: a.model_type,
        family: a.gguf,
        kind: if a.is_encoder() { "encoder" } else { "decoder" },
        classes: a.classes,
        run: can.run,
        gguf: can.gguf,
        safetensors: can.safetensors,
        embed: can.embed,
        tune: can.tune,
    }
}

pub(crate) fn run(args: &ArchitecturesArgs) -> Result<ExitCode> {
    let mut rows: Vec<Row> = arch::ALL.iter().map(|a| row(a)).collect();
    rows.sort_by_key(|r| r.name);
    let mut out = stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let abilities = ["run", "gguf", "safetensors", "embed", "tune"];
    writeln!(out, "{:<18} {:<16} {:<8} {}", "name", "family", "kind", abilities.join("  "))?;
    for r in rows {
        let cells = abilities.iter().zip([r.run, r.gguf, r.safetensors, r.embed, r.tune]);
        let cells: Vec<String> =
            cells.map(|(name, can)| format!("{:<1$}", if can { "yes" } else { "no" }, name.len())).collect();
        writeln!(out, "{}", format!("{:<18} {:<16} {:<8} {}", r.name, r.family, r.kind, cells.join("  ")).trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}
