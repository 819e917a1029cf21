//! `allod architectures`: what the registry holds, as facts read off it.

use allod_models::{Arch, arch};
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::io::{Write, stdout};
use std::process::ExitCode;

/// List the architectures that run here
///
/// Each runs from GGUF and straight from a safetensors folder, and gives embeddings. A decoder also generates text.
#[derive(Args)]
#[command(after_help = "Examples:\n  allod architectures\n  allod architectures --json")]
pub(crate) struct ArchitecturesArgs {
    /// Print a list of {name, gguf, kind, classes, generate, embed}
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    /// Transformers' `model_type`.
    name: &'static str,
    /// `general.architecture` of its GGUF files.
    gguf: &'static str,
    kind: &'static str,
    classes: &'static [&'static str],
    generate: bool,
    embed: bool,
}

fn row(a: &Arch) -> Row {
    let encoder = a.is_encoder();
    Row {
        name: a.model_type,
        gguf: a.gguf,
        kind: if encoder { "encoder" } else { "decoder" },
        classes: a.classes,
        generate: !encoder,
        embed: true,
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
    writeln!(out, "{:<18} {:<16} {:<8} classes", "name", "gguf", "kind")?;
    for r in rows {
        writeln!(out, "{:<18} {:<16} {:<8} {}", r.name, r.gguf, r.kind, r.classes.join(", "))?;
    }
    Ok(ExitCode::SUCCESS)
}
