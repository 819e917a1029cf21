//! `allod run`: ask once, or talk.

use crate::answer::{Answer, Ended, Sink};
use crate::chat::{Chat, Message, Role};
use crate::failure::Failure;
use crate::interrupt;
use crate::load::{self, DEFAULT, MachineArgs};
use crate::markdown::Mode;
use crate::printer::note;
use crate::receipt;
use crate::repl;
use crate::sampling::SamplingArgs;
use crate::template::Template;
use allod_engine::Finish;
use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use std::io::{IsTerminal, Write, stderr, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

const EXAMPLES: &str = "\
Examples:
  allod run                                       talk to the model that is built in
  allod run default 'a brave little fish'         ask it once
  allod run model.gguf                            talk to a model
  allod run model.gguf --system 'Answer in verse' 'Why is the sky blue?'
  allod run model.gguf 'Summarize:' < notes.txt   ask about a file
  allod run model.gguf --adapter my-lora 'Hi'     with a fine-tuned adapter added
  allod run model.gguf --draft small.gguf 'Hi'    with a smaller model that drafts
  allod run model.gguf --raw 'Once upon a time'   continue a text, without a chat template
  allod run model.gguf --temperature 0 --seed 1 --json 'Hi'";

/// Ask a model once, or talk to it
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunArgs {
    /// A .gguf file, a folder of safetensors, a llama2.c .bin, or `default`: the model that is built in
    #[arg(value_hint = clap::ValueHint::AnyPath)]
    model: Option<PathBuf>,
    /// What to ask; piped stdin comes after it. Without either, a conversation begins
    prompt: Vec<String>,
    /// Instructions that stand before the conversation
    #[arg(long)]
    system: Option<String>,
    /// Continue exactly the prompt: no chat template, nothing from stdin added
    #[arg(long)]
    raw: bool,
    /// Print one object with text, token_ids, prompt_token_ids and timings
    #[arg(long)]
    json: bool,
    /// Write a receipt of the answer here; `allod verify` makes the answer again from it
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, conflicts_with = "adapter")]
    receipt: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

pub(crate) fn run(args: RunArgs) -> Result<ExitCode> {
    let started = Instant::now();
    let model = args.model.as_deref().unwrap_or(Path::new(DEFAULT));
    let prompt = prompt(&args)?;
    if args.json && prompt.is_none() {
        return Err(Failure::new("--json needs a prompt", "allod run MODEL --json 'PROMPT'").into());
    }
    let mut chat = Chat::open(model, &args.machine, &args.sampling)?;
    if args.raw {
        chat.template = None;
    } else if chat.template.is_none() {
        note("this model has no chat template: it continues the text");
    }
    if args.receipt.is_some() && prompt.is_none() {
        return Err(Failure::new("--receipt needs a prompt", "allod run MODEL --receipt FILE 'PROMPT'").into());
    }
    let Some(prompt) = prompt else { return repl::run(chat, args.system) };
    let loaded = started.elapsed();

    let template = chat.template.take();
    let mut sink = if args.json {
        Sink::Silent
    } else {
        Sink::fitting(if template.is_some() { Mode::Markdown } else { Mode::Plain })
    };
    let (ids, answer) = match &template {
        Some(template) => chat.reply(template, &messages(args.system, prompt), &mut sink)?,
        None => chat.complete(&prompt, &mut sink)?,
    };
    if let Some(path) = &args.receipt {
        let digest = template.as_ref().map(Template::digest);
        receipt::write(path, model, &chat, digest, &ids, &answer)?;
    }
    if args.json {
        writeln!(stdout(), "{}", object(&ids, &answer, loaded.as_secs_f64()))?;
    } else if stderr().is_terminal() {
        note(&answer.summary());
    }
    told_end(&chat, &answer)
}

/// The prompt from arguments and stdin; `None` when there is neither and a person sits there.
fn prompt(args: &RunArgs) -> Result<Option<String>> {
    let given = (!args.prompt.is_empty()).then(|| args.prompt.join(" "));
    if stdin().is_terminal() || (args.raw && given.is_some()) {
        return Ok(given);
    }
    let piped = load::text(None)?;
    Ok(Some(match given {
        Some(given) if piped.trim().is_empty() => given,
        Some(given) => format!("{given}\n\n{}", piped.trim_end()),
        None if args.raw => piped,
        None => piped.trim_end().into(),
    }))
}

fn messages(system: Option<String>, prompt: String) -> Vec<Message> {
    let system = system.map(|content| Message { role: Role::System, content });
    system.into_iter().chain([Message { role: Role::User, content: prompt }]).collect()
}

fn object(prompt: &[u32], answer: &Answer, load_seconds: f64) -> Value {
    let stats = &answer.stats;
    let mut object = json!({
        "text": answer.text,
        "token_ids": answer.tokens.iter().map(|t| t.id).collect::<Vec<_>>(),
        "prompt_token_ids": prompt,
        "finish_reason": answer.ended.map(Ended::word),
        "seed": answer.seed,
        "timings": {
            "load_seconds": load_seconds,
            "first_token_seconds": stats.first_token.as_secs_f64(),
            "total_seconds": stats.total.as_secs_f64(),
            "prompt_tokens": stats.prompt_tokens,
            "cached_tokens": stats.cached_tokens,
            "generated_tokens": stats.generated_tokens,
            "prompt_tokens_per_second": stats.prompt_per_second(),
            "generated_tokens_per_second": stats.generated_per_second(),
        },
    });
    if !answer.reasoning.is_empty() {
        object["reasoning"] = answer.reasoning.as_str().into();
    }
    if answer.tokens.iter().any(|t| t.logprob.is_some()) {
        let one = |t: &allod_engine::Token| {
            let top: Vec<Value> = t.top.iter().map(|(id, p)| json!({ "id": id, "logprob": p })).collect();
            json!({ "id": t.id, "logprob": t.logprob, "top": top })
        };
        object["logprobs"] = answer.tokens.iter().map(one).collect();
    }
    object
}

/// Says what a reader must know about how the answer ended.
fn told_end(chat: &Chat, answer: &Answer) -> Result<ExitCode> {
    match answer.ended {
        Some(Ended::By(Finish::ContextFull)) => {
            let context = chat.session.context();
            note(&format!(
                "the answer is cut off: the context of {context} tokens is full (--ctx gives more room; the model was made for {})",
                chat.trained
            ));
        }
        Some(Ended::By(Finish::Cancelled)) => return Ok(ExitCode::from(interrupt::EXIT)),
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}
