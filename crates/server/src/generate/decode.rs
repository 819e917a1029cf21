//! From the token ids of one answer to its parts.

use allod_engine::{StopStrings, Token};
use allod_text::output::{Format, Reader};
use allod_text::{Detokenizer, Tokenizer};
use serde_json::Value;

/// Content, reasoning, and tool calls, piece by piece; every call has an id.
pub(crate) use allod_text::output::Event as Part;

/// A piece of an answer: what is certain, and the tokens since the last piece.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Delta {
    pub(crate) parts: Vec<Part>,
    pub(crate) tokens: Vec<Token>,
    /// How many of the tokens are reasoning.
    pub(crate) reasoning: usize,
}

impl Delta {
    pub(crate) fn append(&mut self, other: Delta) {
        for part in other.parts {
            match (self.parts.last_mut(), part) {
                (Some(Part::Content(text)), Part::Content(more))
                | (Some(Part::Reasoning(text)), Part::Reasoning(more))
                | (Some(Part::Arguments(text)), Part::Arguments(more)) => text.push_str(&more),
                (_, part) => self.parts.push(part),
            }
        }
        self.tokens.extend(other.tokens);
        self.reasoning += other.reasoning;
    }

    /// The content.
    pub(crate) fn text(&self) -> String {
        let content = |part: &Part| if let Part::Content(text) = part { Some(text.clone()) } else { None };
        self.parts.iter().filter_map(content).collect()
    }
}

/// How an answer is told apart.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) format: Format,
    /// What the answer continues.
    pub(crate) prompt: String,
    /// The tools that may be called, in OpenAI's shape, or null.
    pub(crate) tools: Value,
    /// The answer ends with its first call.
    pub(crate) single: bool,
}

/// The parts of one answer on its way.
#[derive(Debug)]
pub(super) struct Decoder {
    source: Source,
    stops: StopStrings,
    texts: Vec<String>,
    include_stop: bool,
    single: bool,
    /// There are tools; without any, what looks like a call is content.
    callable: bool,
    called: bool,
}

#[derive(Debug)]
enum Source {
    Text(Detokenizer),
    Parts(Box<Reader>),
}

impl Decoder {
    /// A decoder of an answer that is text, or that `reading` tells apart.
    pub(super) fn new(tokenizer: &Tokenizer, skip_special: bool, reading: Option<&Reading>) -> Decoder {
        let source = match reading {
            None => Source::Text(tokenizer.detokenizer(skip_special).continuing()),
            Some(Reading { format, prompt, tools, .. }) => {
                let reader = Reader::new(tokenizer, format, prompt, tools);
                Source::Parts(Box::new(if skip_special { reader } else { reader.showing_special() }))
            }
        };
        Decoder {
            source,
            stops: StopStrings::default(),
            texts: Vec::new(),
            include_stop: false,
            single: reading.is_some_and(|reading| reading.single),
            callable: reading.is_some_and(|reading| !reading.tools.is_null()),
            called: false,
        }
    }

    /// Texts that end the content.
    pub(super) fn stopping_at(self, stops: &[String], include_stop: bool) -> Decoder {
        Decoder { stops: StopStrings::new(stops.iter().cloned()), texts: stops.to_vec(), include_stop, ..self }
    }

    pub(super) fn push(&mut self, token: Token) -> Delta {
        let parts = match &mut self.source {
            Source::Text(detokenizer) => vec![Part::Content(detokenizer.push(token.id).to_owned())],
            Source::Parts(reader) => reader.push(token.id),
        };
        let reasoning = usize::from(parts.iter().any(|part| matches!(part, Part::Reasoning(_))));
        Delta { parts: self.given(parts), tokens: vec![token], reasoning }
    }

    /// The stop string that ended the text.
    pub(super) fn stopped_by(&self) -> Option<&str> {
        self.stops.found().map(|i| self.texts[i].as_str())
    }

    /// True when the one call that was to come has come.
    pub(super) fn has_called(&self) -> bool {
        self.called
    }

    /// True when nothing more is to come.
    pub(super) fn is_over(&self) -> bool {
        self.called || self.stopped_by().is_some()
    }

    pub(super) fn finish(&mut self) -> Delta {
        if self.is_over() {
            return Delta::default();
        }
        let rest = match &mut self.source {
            Source::Text(detokenizer) => vec![Part::Content(detokenizer.finish())],
            Source::Parts(reader) => reader.finish(),
        };
        let mut parts = self.given(rest);
        content(self.stops.finish(), &mut parts);
        Delta { parts, ..Delta::default() }
    }

    /// What of these parts may be told.
    fn given(&mut self, parts: Vec<Part>) -> Vec<Part> {
        let mut given = Vec::new();
        for part in parts {
            if self.is_over() {
                break;
            }
            match part {
                Part::Content(text) => {
                    let mut certain = if self.texts.is_empty() { text } else { self.stops.push(&text) };
                    certain.push_str(self.stopped_by().filter(|_| self.include_stop).unwrap_or_default());
                    content(certain, &mut given);
                }
                Part::Arguments(text) if !self.callable => content(text, &mut given),
                Part::Call { .. } | Part::CallEnd if !self.callable => {}
                Part::Call { name, id } => {
                    // What was held back stands before the call.
                    content(self.stops.finish(), &mut given);
                    given.push(Part::Call { name, id: id.or_else(|| Some(crate::ids::call())) });
                }
                Part::CallEnd => {
                    self.called = self.single;
                    given.push(part);
                }
                part => given.push(part),
            }
        }
        given
    }
}

fn content(text: String, parts: &mut Vec<Part>) {
    if !text.is_empty() {
        parts.push(Part::Content(text));
    }
}
