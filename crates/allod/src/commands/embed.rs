//! `allod embed`: one vector for each text.

use crate::cli::ModelArg;
use crate::failure::Failure;
use crate::load;
use crate::printer::{Progress, note};
use allod_cpu::{Cpu, Options};
use allod_engine::{Outputs, PagePool, Rows, Sequence, forward};
use allod_models::{Output, Pooling, model_for};
use allod_plan::PAGE;
use allod_text::{Special, Tokenizer};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufWriter, Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Turn texts into vectors
///
/// Each line of the input is a text; a line that is a JSON object is taken by its "text" field, and its other fields are
/// kept. Empty lines are left out. Pooling and normalization are the model's own, unless --pooling says otherwise. A
/// text of more tokens than the model takes is an error, unless --truncate.
#[derive(Args)]
#[command(after_help = "Examples:\n  allod embed minilm --file lines.txt > vectors.jsonl\n  \
                        echo 'a sentence' | allod embed bert.gguf\n  \
                        allod embed minilm --file lines.txt --format npy -o vectors.npy\n  \
                        allod embed bert.gguf --file lines.txt --pooling cls --truncate")]
pub(crate) struct EmbedArgs {
    #[command(flatten)]
    model: ModelArg,
    /// A single text; without it and --file, stdin
    text: Option<String>,
    /// Read texts from a file, one a line
    #[arg(long, short, conflicts_with = "text", value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// How the rows of a text become one vector [default: as the model's files say]
    #[arg(long, value_enum)]
    pooling: Option<Pool>,
    /// With --pooling, leave the vectors as long as they are; without, they get length 1
    #[arg(long, requires = "pooling")]
    no_normalize: bool,
    /// Of texts longer than the model takes, use the first tokens
    #[arg(long)]
    truncate: bool,
    /// What to write
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
    /// Where to write it [default: stdout]
    #[arg(long, short, value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// Threads to compute with [default: all cores]
    #[arg(long, short)]
    threads: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One JSON object a line, with an "embedding" field
    Jsonl,
    /// A NumPy array [texts, width] of f32
    Npy,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pool {
    /// Their mean
    Mean,
    /// The first
    Cls,
    /// The last
    Last,
}

impl EmbedArgs {
    fn output(&self) -> Output {
        let Some(pooling) = self.pooling else { return Output::Embedding };
        let how = match pooling {
            Pool::Mean => allod_plan::Pool::Mean,
            Pool::Cls => allod_plan::Pool::First,
            Pool::Last => allod_plan::Pool::Last,
        };
        Output::Pooled(Pooling { how, normalize: !self.no_normalize })
    }
}

/// A text, the line it stands on, and the fields that came with it.
struct Item {
    line: usize,
    text: String,
    fields: serde_json::Map<String, Value>,
}

pub(crate) fn run(args: &EmbedArgs) -> Result<ExitCode> {
    let path = &args.model.model;
    let items = items(args)?;
    let source = load::source(path)?;
    let tokenizer = load::needed(load::tokenizer(path, &*source)?, path)?;
    let model = model_for(source, None, args.output())?;
    let takes = model.config.trained_context;
    let ids = items
        .iter()
        .map(|item| {
            let ids = encode(&tokenizer, &item.text, args.truncate.then_some(takes))?;
            if (1..=takes).contains(&ids.len()) {
                return Ok(ids);
            }
            let message = format!("line {}: {} tokens, the model takes 1 to {takes}", item.line, ids.len());
            Err(Failure::new(message, "split it into shorter texts, or cut it with --truncate").into())
        })
        .collect::<Result<Vec<_>>>()?;
    let longest = ids.iter().map(Vec::len).max().unwrap_or(1);
    let options = Options { rows: longest, context: longest, ..Options::default() };
    let mut cpu = load::prepare(&model, load::threads(args.threads), &options)?;
    let mut vectors = Vec::with_capacity(ids.len());
    let mut progress = Progress::default();
    for (i, ids) in ids.iter().enumerate() {
        progress.show(&format!("text {} of {}", i + 1, items.len()));
        vectors.push(embed(&mut cpu, ids, longest)?);
    }
    progress.clear();
    match &args.output {
        Some(path) => {
            let file = File::create(path).with_context(|| path.display().to_string())?;
            write(&mut BufWriter::new(file), args.format, items, &vectors)?;
        }
        None => write(&mut stdout().lock(), args.format, items, &vectors)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The ids of a text, at most `most` of them: those that the tokenizer puts around it stay.
fn encode(tokenizer: &Tokenizer, text: &str, most: Option<usize>) -> Result<Vec<u32>> {
    let mut ids = tokenizer.encode(text, Special { parse: false, add: true })?;
    let Some(over) = most.map(|most| ids.len().saturating_sub(most)).filter(|&n| n > 0) else { return Ok(ids) };
    let bare = tokenizer.encode(text, Special { parse: false, add: false })?;
    let before = ids.windows(bare.len().max(1)).position(|w| w == bare).unwrap_or(0);
    let kept = before + bare.len().saturating_sub(over);
    ids.drain(kept..(kept + over).min(ids.len()));
    Ok(ids)
}

/// The vector of one text, computed alone.
fn embed(cpu: &mut Cpu, ids: &[u32], longest: usize) -> Result<Vec<f32>> {
    allod_plan::Backend::clear_state(cpu, 0);
    let mut pool = PagePool::new(longest.div_ceil(PAGE));
    let mut sequence = Sequence::new(0);
    let batch = Rows { sequence: &mut sequence, tokens: ids, outputs: Outputs::Last };
    let vector = forward(cpu, &mut pool, &mut [batch])?.to_vec();
    sequence.truncate(0, &mut pool);
    Ok(vector)
}

fn items(args: &EmbedArgs) -> Result<Vec<Item>> {
    let plain = |line: usize, text: &str| Item { line, text: text.to_owned(), fields: serde_json::Map::new() };
    if let Some(text) = &args.text {
        return Ok(vec![plain(1, text)]);
    }
    let text = load::text(args.file.as_deref())?;
    let from = args.file.as_deref().unwrap_or(Path::new("stdin"));
    let item = |(i, line): (usize, &str)| match serde_json::from_str::<Value>(line) {
        Ok(Value::Object(fields)) => match fields.get("text").and_then(Value::as_str) {
            Some(text) => Ok(Item { line: i + 1, text: text.to_owned(), fields }),
            None => {
                let message = format!("{}:{}: the object has no \"text\" of type string", from.display(), i + 1);
                Err(Failure::new(message, "write lines such as {\"text\": \"a sentence\"}").into())
            }
        },
        _ => Ok(plain(i + 1, line)),
    };
    let (empty, full): (Vec<_>, Vec<_>) = text.lines().enumerate().partition(|(_, line)| line.trim().is_empty());
    if !empty.is_empty() {
        note(&format!("{} empty lines are left out, the first is line {}", empty.len(), empty[0].0 + 1));
    }
    full.into_iter().map(item).collect()
}

fn write(out: &mut impl Write, format: Format, items: Vec<Item>, vectors: &[Vec<f32>]) -> Result<()> {
    if format == Format::Jsonl {
        for (item, vector) in items.into_iter().zip(vectors) {
            let mut fields = item.fields;
            fields.entry("text").or_insert(item.text.into());
            fields.insert("embedding".into(), json!(vector));
            writeln!(out, "{}", Value::Object(fields))?;
        }
    } else {
        out.write_all(&npy_header(vectors.len(), vectors.first().map_or(0, Vec::len)))?;
        for value in vectors.iter().flatten() {
            out.write_all(&value.to_le_bytes())?;
        }
    }
    out.flush()?;
    Ok(())
}

/// The head of a NumPy file, version 1.0: magic, length, and a Python dictionary padded to 64 bytes.
fn npy_header(rows: usize, columns: usize) -> Vec<u8> {
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    while !(10 + text.len() + 1).is_multiple_of(64) {
        text.push(' ');
    }
    text.push('\n');
    let mut head = b"\x93NUMPY\x01\x00".to_vec();
    // The text holds two numbers and some words: far below 65,536 bytes.
    head.extend((text.len() as u16).to_le_bytes());
    head.extend(text.bytes());
    head
}
