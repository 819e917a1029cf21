//! A conversation: messages, the template that makes a prompt of them, and the session that answers.

use crate::answer::{Answer, Pipe, Sink, answer};
use crate::load::{self, MachineArgs};
use crate::sampling::{SamplingArgs, recommended};
use crate::template::Template;
use allod_cpu::{Activations, KvType};
use allod_engine::{Cancel, Request, SamplingParams, Session, StopStrings};
use allod_text::output::{Format, Reader};
use allod_text::{Guard, Special, Tokenizer};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Something that was said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) role: Role,
    pub(crate) content: String,
}

/// Who said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    System,
    User,
    Assistant,
}

/// A model that answers.
pub(crate) struct Chat {
    pub(crate) name: String,
    pub(crate) session: Session,
    pub(crate) tokenizer: Tokenizer,
    /// Absent where the model has none: then texts are continued, not answered.
    pub(crate) template: Option<Template>,
    /// Keeps special tokens out of what is said.
    guard: Guard,
    /// How the model tells reasoning from answer.
    format: Format,
    pub(crate) sampling: SamplingParams,
    pub(crate) stop: Vec<String>,
    /// Positions the model was trained for.
    pub(crate) trained: usize,
    /// Identifies the program that its file describes.
    pub(crate) plan: String,
    /// Positions that it is planned for.
    pub(crate) planned: usize,
    pub(crate) cache_type: KvType,
    pub(crate) activations: Activations,
}

impl Chat {
    /// Opens a model for talking to it.
    pub(crate) fn open(path: &Path, machine: &MachineArgs, flags: &SamplingArgs) -> Result<Chat> {
        let source = load::source(path)?;
        let tokenizer = load::needed(load::tokenizer(path, &*source)?, path)?;
        let template = Template::of(path, &*source, &machine.adapter)?;
        let format = template.as_ref().map(|template| template.format(&tokenizer)).unwrap_or_default();
        let sampling = flags.over(&recommended(source.metadata())?, Some(&tokenizer))?;
        let (model, context) = load::model(load::adapted(source, &machine.adapter)?, machine.ctx)?;
        sampling.validate(model.config.vocab)?;
        let name = model.source.metadata().str("general.name").map_or_else(|| path.display().to_string(), String::from);
        let (session, cache_type, activations) = load::session(&model, &tokenizer, context, machine)?;
        let trained = model.config.trained_context;
        let guard = Guard::new(&tokenizer);
        let plan = format!("blake3:{}", model.plan.digest().to_hex());
        let (stop, planned) = (flags.stop.clone(), context);
        Ok(Chat {
            guard,
            name,
            session,
            tokenizer,
            template,
            format,
            sampling,
            stop,
            trained,
            plan,
            planned,
            cache_type,
            activations,
        })
    }

    /// Continues a text as it stands. Special tokens written in it count as such.
    pub(crate) fn complete(&mut self, text: &str, sink: &mut Sink) -> Result<(Vec<u32>, Answer)> {
        let prompt = self.tokenizer.encode(text, Special { parse: true, add: true })?;
        self.generate(prompt, Reader::raw(&self.tokenizer), sink)
    }

    /// Answers the last of the messages.
    pub(crate) fn reply(
        &mut self,
        template: &Template,
        messages: &[Message],
        sink: &mut Sink,
    ) -> Result<(Vec<u32>, Answer)> {
        let text = template.render(messages, &self.guard, &self.tokenizer).context("the model's chat template")?;
        let prompt = self.guard.encode(&self.tokenizer, &text)?;
        let reader = Reader::new(&self.tokenizer, &self.format, &text, &serde_json::Value::Null);
        self.generate(prompt, reader, sink)
    }

    fn generate(&mut self, prompt: Vec<u32>, reader: Reader, sink: &mut Sink) -> Result<(Vec<u32>, Answer)> {
        let pipe = Pipe { reader, stops: StopStrings::new(self.stop.iter().cloned()) };
        let request = Request {
            prompt: prompt.clone(),
            sampling: self.sampling.clone(),
            eos: self.tokenizer.stop_tokens().to_vec(),
            cancel: Cancel::default(),
        };
        Ok((prompt, answer(&mut self.session, request, pipe, sink)?))
    }
}
