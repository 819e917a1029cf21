//! `allod convert`: between a safetensors folder and GGUF, both ways.

use crate::failure::Failure;
use crate::load;
use crate::printer::{Progress, note};
use allod_formats::Metadata;
use allod_formats::gguf::{Layout, Split};
use allod_models::convert::{FolderOptions, GgufOptions, to_gguf, to_safetensors};
use allod_tensor::DType;
use allod_text::tokenizer;
use anyhow::{Context, Result};
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Turn a safetensors folder into GGUF, or a GGUF file into a folder
///
/// A folder (or a .safetensors or llama2.c file) becomes a GGUF file with tokenizer, chat template and the model card's
/// licence and lineage; a GGUF file becomes a Hugging Face folder with tokenizer and chat template. Nothing needs
/// converting in order to run.
#[derive(Args)]
#[command(after_help = "Examples:\n  allod convert Qwen3-0.6B -o qwen3.gguf\n  \
                        allod convert Qwen3-0.6B --type Q8_0 -o qwen3-q8.gguf --split 2G\n  \
                        allod convert qwen3.gguf -o folder --type BF16\n  \
                        allod convert Qwen3-0.6B --adapter my-lora -o merged.gguf")]
pub(crate) struct ConvertArgs {
    /// The model to convert
    #[arg(value_hint = clap::ValueHint::AnyPath)]
    source: PathBuf,
    /// Where to write: a file that ends in .gguf, or a folder
    #[arg(long, short, value_hint = clap::ValueHint::AnyPath)]
    output: PathBuf,
    /// Type of the matrices: F32, F16, BF16, and for GGUF also Q8_0, Q4_0 and other plain ones [default: as they are]
    #[arg(long = "type", value_name = "TYPE")]
    dtype: Option<String>,
    /// Write several files of at most this size each, such as 2G or 500M
    #[arg(long, value_name = "SIZE")]
    split: Option<String>,
    /// A LoRA adapter to add to the weights: a PEFT folder or a GGUF adapter. May be given several times
    #[arg(long, value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    adapter: Vec<PathBuf>,
    /// Further metadata of the GGUF file, or other values in place of the model's. May be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    meta: Vec<String>,
    /// Replace what is there
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &ConvertArgs) -> Result<ExitCode> {
    if args.output.exists() && !args.force {
        let message = format!("{} is there already", args.output.display());
        return Err(Failure::new(message, "name another place, or replace it with --force").into());
    }
    let source = load::adapted(load::source(&args.source)?, &args.adapter)?;
    let dtype = args.dtype.as_deref().map(dtype).transpose()?;
    let split = args.split.as_deref().map(bytes).transpose()?;
    let to_file = args.output.extension().is_some_and(|e| e == "gguf");
    if !to_file && !args.meta.is_empty() {
        let message = format!("--meta is for GGUF files, and {} is to be a folder", args.output.display());
        return Err(Failure::new(message, "name a file that ends in .gguf, or leave --meta out").into());
    }
    let mut progress = Progress::default();
    progress.show("converting …");
    let files = if to_file {
        let mut extra = tokenizer_keys(&args.source)?;
        if extra.is_empty() && source.metadata().str("tokenizer.ggml.model").is_none() {
            note("the model brings no tokenizer: the file will have none, and runs on token ids only");
            extra.set("tokenizer.ggml.model", load::NO_TOKENIZER);
        }
        if let Some(template) = load::template_of(&args.adapter)? {
            extra.set(load::CHAT_TEMPLATE, template);
        }
        for (key, value) in load::metadata(&args.meta)? {
            extra.set(key, value);
        }
        let split = split.map_or(Split::Never, Split::Bytes);
        let options = GgufOptions { matrices: dtype, layout: Layout { split, ..Layout::default() } };
        to_gguf(&*source, &extra, &args.output, &options)?
    } else {
        let dequantized = dtype.unwrap_or(DType::BF16);
        let mut files = to_safetensors(&*source, &args.output, &FolderOptions { dequantized, shard_bytes: split })?;
        match tokenizer::to_folder(source.metadata(), &args.output) {
            Ok(written) => files.extend(written),
            Err(e @ tokenizer::Error::Unsupported { .. }) => note(&format!("the tokenizer is left out: {e}")),
            Err(e) => return Err(e).context("the model's tokenizer"),
        }
        files
    };
    progress.clear();
    files.iter().for_each(|f| note(&format!("wrote {}", f.display())));
    Ok(ExitCode::SUCCESS)
}

/// The tokenizer's keys and the chat templates of a folder; nothing where there is none.
pub(crate) fn tokenizer_keys(source: &Path) -> Result<Metadata> {
    let Some(folder) = load::folder(source) else { return Ok(Metadata::default()) };
    match tokenizer::to_gguf(folder) {
        Ok(keys) => Ok(keys),
        Err(tokenizer::Error::NotFound { .. }) => Ok(Metadata::default()),
        Err(e) => Err(e).context("the model's tokenizer"),
    }
}

fn dtype(name: &str) -> Result<DType> {
    let hint = "for example F16, BF16 or Q8_0; `allod quantize` writes the others";
    DType::from_name(name).ok_or_else(|| Failure::new(format!("there is no tensor type {name}"), hint).into())
}

/// A size such as `500M` or `2G`, in powers of 1000.
pub(crate) fn bytes(text: &str) -> Result<u64> {
    let unit = |c: char| match c.to_ascii_uppercase() {
        'K' => Some(1_000),
        'M' => Some(1_000_000),
        'G' => Some(1_000_000_000u64),
        _ => None,
    };
    let (number, factor) = match text.chars().next_back().and_then(unit) {
        Some(factor) => (&text[..text.len() - 1], factor),
        None => (text, 1),
    };
    let size = number.parse::<f64>().ok().map(|n| n * factor as f64).filter(|n| *n >= 1.0 && *n < 1e18);
    let hint = "give a number with K, M or G, such as 500M";
    size.map(|n| n as u64).ok_or_else(|| Failure::new(format!("{text} is no size"), hint).into())
}
