//! The model's chat template, filled with a conversation.

use crate::chat::Message;
use allod_formats::WeightSource;
use allod_text::output::Format;
use allod_text::template::{Error, Templates};
use allod_text::{Conversation, Guard, Role, Tokenizer};
use anyhow::Result;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A compiled template.
pub(crate) struct Template(allod_text::Template);

impl Template {
    /// The template of a model with adapters, if it has one.
    pub(crate) fn of(path: &Path, source: &dyn WeightSource, adapters: &[PathBuf]) -> Result<Option<Template>> {
        let mut templates = Templates::from_gguf(source.metadata());
        if path.is_dir() {
            templates = Templates::from_folder(path)?;
        }
        if let Some(template) = crate::load::template_of(adapters)? {
            templates = Templates { default: Some(template), ..Templates::default() };
        }
        Ok(templates.compile(false)?.map(Template))
    }

    /// The text before the model's answer, with the marks of `guard`.
    pub(crate) fn render(&self, messages: &[Message], guard: &Guard, tokenizer: &Tokenizer) -> Result<String, Error> {
        let messages = serde_json::to_value(messages).map_err(|e| Error::Input(e.to_string()))?;
        self.text(messages, Some(guard), tokenizer)
    }

    /// A conversation that has ended.
    pub(crate) fn whole(&self, messages: Value, tokenizer: &Tokenizer) -> Result<String, Error> {
        self.text(messages, None, tokenizer)
    }

    /// Identifies it.
    pub(crate) fn digest(&self) -> String {
        allod_server::text_digest(self.0.source())
    }

    /// The way the template has models write.
    pub(crate) fn format(&self, tokenizer: &Tokenizer) -> Format {
        Format::learn(&self.0, &variables(tokenizer))
    }

    /// A conversation that goes on where a guard is given, else one that has ended.
    fn text(&self, messages: Value, guard: Option<&Guard>, tokenizer: &Tokenizer) -> Result<String, Error> {
        let (variables, add_generation_prompt) = (variables(tokenizer), guard.is_some());
        let mut conversation = Conversation { messages, add_generation_prompt, variables, ..Conversation::default() };
        guard.into_iter().for_each(|g| g.shield(&mut conversation));
        Ok(self.0.render(&conversation)?.text)
    }
}

/// What templates call the special tokens.
fn variables(tokenizer: &Tokenizer) -> Map<String, Value> {
    let token = |role| Some(Value::from(tokenizer.token_text(tokenizer.special(role)?)?));
    let names =
        [("bos_token", Role::Bos), ("eos_token", Role::Eos), ("unk_token", Role::Unk), ("pad_token", Role::Pad)];
    names.into_iter().filter_map(|(name, role)| Some((name.to_string(), token(role)?))).collect()
}
