//! `allod logits`: what a model computes for given ids, for comparison with other programs.

use crate::cli::ModelArg;
use crate::failure::Failure;
use crate::load;
use crate::printer::Progress;
use allod_cpu::{Cpu, KvType, Options};
use allod_engine::{Outputs, PagePool, Rows, Sequence, forward};
use allod_formats::safetensors::{Dtype, Writer};
use allod_models::Model;
use allod_plan::Rows as Kind;
use anyhow::{Context, Result};
use clap::Args;
use indexmap::IndexMap;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Positions of a sequence that run at once: every one of them gives a row of the whole vocabulary.
const CHUNK: usize = 128;

/// Write the logits of given token ids
///
/// The file holds `logits` [sequences, positions, vocabulary] f32; for encoders `hidden` [sequences, positions, width],
/// and every value asked for with --tap under its name.
#[derive(Args)]
#[command(after_help = "Examples:\n  echo '[[1, 15, 7], [1, 9, 3]]' > ids.json\n  \
                        allod logits model.gguf --ids ids.json -o logits.safetensors\n  \
                        allod logits model.gguf --ids ids.json -o out.safetensors --tap blk.0.ffn_norm")]
pub(crate) struct LogitsArgs {
    #[command(flatten)]
    model: ModelArg,
    /// A JSON file: sequences of ids, all equally long
    #[arg(long, value_hint = clap::ValueHint::FilePath)]
    ids: PathBuf,
    /// The safetensors file to write
    #[arg(long, short, value_hint = clap::ValueHint::FilePath)]
    output: PathBuf,
    /// Also write a named value of the plan (`allod inspect --plan` lists them); may be given several times
    #[arg(long, value_name = "NAME")]
    tap: Vec<String>,
    /// Threads to compute with [default: all cores]
    #[arg(long, short)]
    threads: Option<usize>,
}

/// One sequence, or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(Vec<u32>),
    Many(Vec<Vec<u32>>),
}

pub(crate) fn run(args: &LogitsArgs) -> Result<ExitCode> {
    let sequences = read(&args.ids)?;
    let positions = sequences[0].len();
    let (model, _) = load::model(load::source(&args.model.model)?, Some(positions))?;
    // Where every position sees every other, the whole sequence runs at once.
    let rows = if model.is_causal() { positions.min(CHUNK) } else { positions };
    let name = if model.arch.is_encoder() { "hidden" } else { "logits" };
    let options = Options {
        rows,
        outputs: rows,
        context: positions,
        taps: args.tap.clone(),
        cache_type: Some(KvType::F32),
        ..Options::default()
    };
    let mut cpu = load::prepare(&model, load::threads(args.threads), &options)?;
    write(args, &model, &mut cpu, &sequences, name, rows)?;
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> Result<Vec<Vec<u32>>> {
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    let hint = "write a JSON list of equally long lists of token ids, such as [[1, 2, 3], [4, 5, 6]]";
    let ids = serde_json::from_slice(&text);
    let sequences = match ids.map_err(|e| Failure::new(format!("{}: {e}", path.display()), hint))? {
        Ids::One(ids) => vec![ids],
        Ids::Many(all) => all,
    };
    let length = sequences.first().map_or(0, Vec::len);
    match sequences.iter().position(|s| s.len() != length || s.is_empty()) {
        Some(i) => {
            let message = format!("sequence {i} has {} ids, the first has {length}", sequences[i].len());
            Err(Failure::new(message, hint).into())
        }
        None if length == 0 => Err(Failure::new(format!("{}: no ids", path.display()), hint).into()),
        None => Ok(sequences),
    }
}

fn write(
    args: &LogitsArgs,
    model: &Model,
    cpu: &mut Cpu,
    sequences: &[Vec<u32>],
    name: &str,
    rows: usize,
) -> Result<()> {
    let (count, positions) = (sequences.len(), sequences[0].len());
    let shape = |kind: Kind, width: usize| match kind {
        Kind::Sequences => vec![count, width],
        Kind::Tokens | Kind::Outputs => vec![count, positions, width],
    };
    let plan = &model.plan;
    let kind = plan.result().map_or(Kind::Outputs, |v| plan.value(v).rows);
    let mut tensors = vec![(name.to_string(), Dtype::F32, shape(kind, plan.result_width()))];
    for tap in &args.tap {
        let info = plan.named(tap).map(|v| plan.value(v));
        tensors.extend(info.map(|info| (tap.clone(), Dtype::F32, shape(info.rows, info.width))));
    }
    let mut writer = Writer::create(&args.output, tensors, &IndexMap::new(), None)?;
    let mut taps: Vec<Vec<u8>> = vec![Vec::new(); args.tap.len()];
    let mut pool = PagePool::new(positions.div_ceil(allod_plan::PAGE));
    let mut progress = Progress::default();
    for (i, ids) in sequences.iter().enumerate() {
        let mut sequence = Sequence::new(0);
        allod_plan::Backend::clear_state(cpu, 0);
        for chunk in ids.chunks(rows) {
            progress.show(&format!("sequence {} of {count}, position {}", i + 1, sequence.tokens().len()));
            let batch = Rows { sequence: &mut sequence, tokens: chunk, outputs: Outputs::All };
            let results = forward(cpu, &mut pool, &mut [batch])?;
            writer.append(name, &le_bytes(results))?;
            for (tap, bytes) in args.tap.iter().zip(&mut taps) {
                bytes.extend(le_bytes(cpu.tap(tap).unwrap_or_default()));
            }
        }
        sequence.truncate(0, &mut pool);
    }
    for (tap, bytes) in args.tap.iter().zip(&taps) {
        writer.append(tap, bytes)?;
    }
    writer.finish()?;
    Ok(())
}

fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
