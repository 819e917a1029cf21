//! From ids to the parts of an answer.

use super::{Event, Format, Parser};
use crate::{Detokenizer, Tokenizer};
use serde_json::Value;
use std::collections::BTreeSet;

/// A [`Parser`] that is given ids: special tokens that the format uses reach it as text, others vanish.
#[derive(Clone, Debug)]
pub struct Reader {
    tokenizer: Tokenizer,
    detokenizer: Detokenizer,
    parser: Parser,
    /// Special tokens that are part of a marker.
    shown: BTreeSet<u32>,
}

impl Reader {
    /// A reader of the answer that continues `prompt`; see [`Parser::new`].
    pub fn new(tokenizer: &Tokenizer, format: &Format, prompt: &str, tools: &Value) -> Reader {
        let shown = shown(tokenizer, format);
        let detokenizer = tokenizer.detokenizer(false).continuing();
        Reader { tokenizer: tokenizer.clone(), detokenizer, parser: Parser::new(format, prompt, tools), shown }
    }

    /// A reader that takes everything as content, without special tokens.
    pub fn raw(tokenizer: &Tokenizer) -> Reader {
        let detokenizer = tokenizer.detokenizer(false).continuing();
        Reader { tokenizer: tokenizer.clone(), detokenizer, parser: Parser::off(), shown: BTreeSet::new() }
    }

    /// All special tokens are text, as `skip_special_tokens: false` wants it.
    pub fn showing_special(mut self) -> Reader {
        let ids = 0..u32::try_from(self.tokenizer.vocab_size()).unwrap_or(u32::MAX);
        self.shown = ids.filter(|&id| self.tokenizer.is_special(id)).collect();
        self
    }

    /// The text that reaches the parser for `id`; [`Reader::push`] where nothing stands between.
    pub fn text(&mut self, id: u32) -> String {
        if self.tokenizer.is_special(id) && !self.shown.contains(&id) {
            return String::new();
        }
        self.detokenizer.push(id).to_owned()
    }

    /// Takes the next id.
    pub fn push(&mut self, id: u32) -> Vec<Event> {
        let text = self.text(id);
        self.parser.push(&text)
    }

    /// Takes text in place of an id: what stop strings left of it.
    pub fn push_text(&mut self, text: &str) -> Vec<Event> {
        self.parser.push(text)
    }

    /// What the last ids left of a character.
    pub fn text_left(&mut self) -> String {
        self.detokenizer.finish()
    }

    /// The end of the answer.
    pub fn finish(&mut self) -> Vec<Event> {
        let rest = self.detokenizer.finish();
        let mut events = self.parser.push(&rest);
        events.extend(self.parser.finish());
        events
    }
}

/// The special tokens in the markers of `format`.
fn shown(tokenizer: &Tokenizer, format: &Format) -> BTreeSet<u32> {
    let ids = |marker: &str| tokenizer.encode(marker, crate::Special::PARSE).unwrap_or_default();
    let all = format.markers().into_iter().flat_map(ids);
    all.filter(|&id| tokenizer.is_special(id)).collect()
}
