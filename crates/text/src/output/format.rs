//! How a model writes reasoning, content and tool calls.

use super::marker::Marker;
use crate::{Special, Tokenizer};

/// The way a chat template writes an answer; see [`Format::learn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    pub(super) reasoning: Reasoning,
    /// What encloses the content, where anything does.
    pub(super) content: (Marker, Marker),
    /// What ends an answer, beside tokens that do.
    pub(super) end: Marker,
    /// What is written before markers and means nothing.
    pub(super) noise: String,
    pub(super) calls: Option<Calls>,
    pub(super) channels: Option<Channels>,
}

/// How reasoning begins and ends in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thinking {
    /// The token that begins it; `None` where the prompt has begun it.
    pub start: Option<u32>,
    /// The tokens that end it, at least one.
    pub end: Vec<u32>,
}

/// What encloses reasoning. Without an opening, the answer begins with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reasoning {
    pub(super) open: Marker,
    pub(super) close: Marker,
}

/// What encloses calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Calls {
    /// Around all calls of an answer.
    pub(super) section: (Marker, Marker),
    /// Around each call.
    pub(super) each: (Marker, Marker),
    pub(super) body: Body,
}

/// What a call looks like between its markers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one a model")]
pub(super) enum Body {
    /// `{"name": …, "arguments": …}`, or a list of those.
    Object { name: String, arguments: String, id: Option<String>, list: bool },
    /// `{"the_name": {…}}`, or a list of those.
    Keyed { list: bool },
    /// The name, a marker, and the arguments in JSON.
    Named { after_name: Marker },
    /// The name, a marker, and each argument between markers of its own.
    Pairs { after_name: Marker, key: Marker, value: Marker, close: Marker, string_word: Option<String> },
    /// `[name(key='value'), …]`.
    Python,
    /// `name{key:<|"|>value<|"|>}`.
    Gemma,
}

/// Formats whose answer is a row of messages, each with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channels {
    /// gpt-oss: `<|channel|>analysis<|message|>…<|end|>`, calls `to=functions.name`.
    Harmony,
    /// `to=self<|message|>…<|eom|>`.
    Recipients,
    /// Functionary 3.2: `>>>name\n…`, content for `all`.
    Arrows,
}

impl Channels {
    /// What ends a header.
    pub(super) fn header_end(self) -> &'static str {
        match self {
            Channels::Harmony | Channels::Recipients => "<|message|>",
            Channels::Arrows => "\n",
        }
    }

    /// What ends a message.
    pub(super) fn ends(self) -> &'static [&'static str] {
        match self {
            Channels::Harmony => &["<|end|>", "<|call|>", "<|return|>", "<|start|>"],
            Channels::Recipients => &["<|eom|>", "<|eot|>", "<|start|>"],
            Channels::Arrows => &[">>>", "<|eot_id|>", "<|eom_id|>"],
        }
    }
}

impl Default for Format {
    /// Reasoning in `<think>`, no calls.
    fn default() -> Format {
        let reasoning = Reasoning { open: Marker::new("<think>"), close: Marker::new("</think>") };
        let none = (Marker::default(), Marker::default());
        Format { reasoning, content: none, end: Marker::default(), noise: String::new(), calls: None, channels: None }
    }
}

impl Format {
    /// True when the format knows how calls are written.
    pub fn has_calls(&self) -> bool {
        self.calls.is_some() || matches!(self.channels, Some(Channels::Harmony | Channels::Arrows))
    }

    /// True when `template` shows a marker of the format: its models write more than text.
    pub fn is_shown_by(&self, template: &str) -> bool {
        self.channels.is_some()
            || self.markers().iter().any(|marker| *marker != PYTHON_TAG && template.contains(marker))
    }

    /// True when `template` shows reasoning.
    pub fn reasons_in(&self, template: &str) -> bool {
        let marked = !self.reasoning.close.is_empty() && template.contains(&*self.reasoning.close.text);
        marked || matches!(self.channels, Some(Channels::Harmony | Channels::Recipients))
    }

    /// True when `prompt` has ended the reasoning before the answer begins.
    pub fn is_closed_in(&self, prompt: &str) -> bool {
        !self.reasoning.close.is_empty() && prompt.trim_end().ends_with(&*self.reasoning.close.text)
    }

    /// How reasoning begins and ends in the tokens of an answer that continues `prompt`. `None` where there is none, or
    /// where it cannot be told by tokens.
    pub fn thinking(&self, prompt: &str, tokenizer: &Tokenizer) -> Option<Thinking> {
        let (open, close) = (&self.reasoning.open.text, &self.reasoning.close.text);
        let prompt = prompt.trim_end();
        if self.channels.is_some() || close.is_empty() || prompt.ends_with(&**close) {
            return None;
        }
        let ids = |text: &str| tokenizer.encode(text, Special::PARSE).ok();
        let end = ids(close).filter(|ids| !ids.is_empty())?;
        if open.is_empty() || prompt.ends_with(&**open) {
            return Some(Thinking { start: None, end });
        }
        match ids(open)?.as_slice() {
            [start] => Some(Thinking { start: Some(*start), end }),
            _ => None,
        }
    }

    /// The markers: a special token that is part of one must reach the parser as text.
    pub fn markers(&self) -> Vec<&str> {
        let Format { reasoning, content, end, noise, calls, channels } = self;
        let mut all = vec![&reasoning.open, &reasoning.close, &content.0, &content.1, end];
        if let Some(calls) = calls {
            all.extend([&calls.section.0, &calls.section.1, &calls.each.0, &calls.each.1]);
            match &calls.body {
                Body::Named { after_name } => all.push(after_name),
                Body::Pairs { after_name, key, value, close, .. } => all.extend([after_name, key, value, close]),
                _ => {}
            }
        }
        let mut texts: Vec<&str> =
            all.into_iter().map(|marker| &*marker.text).filter(|text| !text.is_empty()).collect();
        if let Some(channels) = channels {
            texts.extend(channels.ends());
            texts.extend([channels.header_end(), "<|channel|>", "<|constrain|>", "<|start|>"]);
        }
        if matches!(calls, Some(Calls { body: Body::Gemma, .. })) {
            texts.push("<|\"|>");
        }
        texts.extend([PYTHON_TAG, noise].into_iter().filter(|text| !text.is_empty()));
        texts
    }
}

/// Llama's mark of a call to a tool; models write it before JSON calls too.
pub(super) const PYTHON_TAG: &str = "<|python_tag|>";
