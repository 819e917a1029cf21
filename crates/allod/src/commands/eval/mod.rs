//! `allod eval`: what a model is worth.

mod kl;
mod perplexity;

pub(crate) use kl::compare;

use crate::load;
use crate::printer::Progress as Line;
use allod_cpu::{Cpu, Options, Pool};
use allod_eval::{Estimate, Progress};
use allod_models::Model;
use allod_text::Tokenizer;
use allod_text::tokenizer::{Role, Special};
use anyhow::Result;
use clap::{Args, Subcommand};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Measure what a model is worth
#[derive(Args)]
pub(crate) struct EvalArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Perplexity(perplexity::PerplexityArgs),
    Kl(kl::KlArgs),
}

pub(crate) fn run(args: &EvalArgs) -> Result<ExitCode> {
    match &args.what {
        What::Perplexity(args) => perplexity::run(args),
        What::Kl(args) => kl::run(args),
    }
}

/// A text and how it is cut.
#[derive(Args, Clone)]
pub(crate) struct TextArgs {
    /// The text; stdin without it
    #[arg(long, short = 'f', value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) text: Option<PathBuf>,
    /// Tokens of a window
    #[arg(long, value_name = "TOKENS", default_value = "512")]
    pub(crate) ctx: usize,
    /// Run at most so many windows
    #[arg(long, value_name = "N")]
    pub(crate) chunks: Option<usize>,
}

/// A model that scores.
pub(crate) struct Judge {
    pub(crate) cpu: Cpu,
    pub(crate) tokenizer: Option<Tokenizer>,
    /// What stands at the start of every window.
    pub(crate) bos: Option<u32>,
}

impl Judge {
    /// Opens a model for windows of `context` tokens.
    pub(crate) fn open(path: &Path, context: usize, pool: &Arc<Pool>) -> Result<Judge> {
        let source = load::source(path)?;
        let tokenizer = load::tokenizer(path, &*source)?;
        let (model, _) = load::model(source, Some(context.max(1)))?;
        Judge::of(&model, tokenizer, context, pool)
    }

    /// Prepares an opened model.
    pub(crate) fn of(model: &Model, tokenizer: Option<Tokenizer>, context: usize, pool: &Arc<Pool>) -> Result<Judge> {
        let mut line = Line::default();
        line.show("preparing the model …");
        let outputs = allod_eval::outputs(model.plan.result_width());
        let options = Options { rows: load::ROWS.max(outputs), outputs, context, ..Options::default() };
        let cpu = Cpu::new(&model.plan, &*model.source, Arc::clone(pool), &options)?;
        let bos = tokenizer.as_ref().filter(|t| t.add_bos()).and_then(|t| t.special(Role::Bos));
        Ok(Judge { cpu, tokenizer, bos })
    }

    /// The ids of a text, special tokens of the vocabulary's own accord included.
    pub(crate) fn encode(&self, path: &Path, text: &str) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer.as_ref();
        let Some(tokenizer) = tokenizer else { return load::needed(None, path).map(|_| vec![]) };
        Ok(tokenizer.encode(text, Special { parse: false, add: true })?)
    }
}

/// Shows how far the work is.
pub(crate) fn shown<'a>(line: &'a mut Line, label: &'a str) -> impl FnMut(Progress) -> ControlFlow<()> + 'a {
    move |p| {
        let left = p.left.as_secs();
        line.show(&format!("{} of {}: {label} {:.4}, {left} s left", p.done, p.count, p.value));
        ControlFlow::Continue(())
    }
}

/// `12.345 ± 0.067`
pub(crate) fn with_error(e: Estimate) -> String {
    format!("{:.4} ± {:.4}", e.value, e.error)
}
