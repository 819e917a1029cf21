//! `allod verify`: making the answers of a receipt again.

use crate::failure::Failure;
use crate::load::{DEFAULT, STORIES, threads};
use allod_server::{Difference, Origin, VerifyError};
use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  allod run model.gguf 'Why is the sky blue?' --receipt receipt.json
  allod verify receipt.json --model model.gguf

A server gives receipts too: with \"receipt\": true in a request, or the header x-allod-receipt: true.";

/// Make the answers of a receipt again, and confirm them byte for byte
///
/// The receipt names the model, its tokenizer and template, the sampler's parameters and the tokens of prompt and answer.
/// Everything is compared; the first difference is named. The exit code is 0 when the receipt holds.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct VerifyArgs {
    /// The receipt, or an answer that carries one; `-` is stdin
    #[arg(value_hint = clap::ValueHint::FilePath)]
    receipt: PathBuf,
    /// The model: a .gguf file, a folder of safetensors, or a llama2.c .bin
    #[arg(long, default_value = DEFAULT, value_hint = clap::ValueHint::AnyPath)]
    model: PathBuf,
    /// Threads to compute with [default: all cores]; the answer does not depend on it
    #[arg(long, short, value_name = "N")]
    threads: Option<usize>,
    /// Print an object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &VerifyArgs) -> Result<ExitCode> {
    let receipt = read(&args.receipt)?;
    let built_in = args.model == Path::new(DEFAULT);
    let origin = match built_in {
        true => Origin::Embedded("allod-stories.gguf", STORIES),
        false if args.model.exists() => Origin::Path(args.model.clone()),
        false => {
            let hint = "give the model that answered: a .gguf file, a folder of safetensors or a llama2.c .bin";
            return Err(Failure::new(format!("there is no {}", args.model.display()), hint).into());
        }
    };
    let runtime = tokio::runtime::Runtime::new().context("the runtime")?;
    let told = runtime.block_on(allod_server::verify(&receipt, origin, threads(args.threads)));
    let object = match &told {
        Ok(verified) => json!({ "verified": true, "answers": verified.answers, "tokens": verified.tokens }),
        Err(VerifyError::Differs(Difference { field, expected, found, meaning })) => {
            json!({ "verified": false, "field": field, "expected": expected, "found": found, "meaning": meaning })
        }
        Err(error) => json!({ "verified": false, "error": error.to_string() }),
    };
    match told {
        _ if args.json => writeln!(stdout(), "{object}")?,
        Ok(verified) => {
            writeln!(stdout(), "verified: {} answers, {} tokens, byte for byte", verified.answers, verified.tokens)?;
        }
        Err(VerifyError::Differs(difference)) => {
            writeln!(stdout(), "not verified: {difference}")?;
            if built_in && difference.field == "model.digest" {
                return Err(Failure::new("this was the model that is built in", "name another with --model").into());
            }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(if object["verified"] == true { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The receipt in a file, or in an answer that is there.
fn read(path: &Path) -> Result<Value> {
    let text = crate::load::text(Some(path).filter(|path| *path != Path::new("-")))?;
    let value: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let inside = value.get("receipt").filter(|receipt| receipt.is_object()).cloned();
    Ok(inside.unwrap_or(value))
}
