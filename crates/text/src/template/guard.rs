//! Keeps what people write from becoming structure: a user who types `<|im_end|>` must not end his turn.
//!
//! A rendered conversation is one text, in which the template's special tokens and a user's copies of them look alike.
//! So a [`Guard`] marks the copies before the template sees them: a character that no text has goes behind the first
//! character of each. Templates trim, join and quote what they are given, and the marks go along. When the text is
//! encoded it is cut at the marks, and no special token reaches across a cut. A conversation without such copies is
//! rendered and encoded as if there were no guard.

use crate::{Conversation, Special, Tokenizer, tokenizer};
use aho_corasick::AhoCorasick;
use serde_json::{Map, Value};

/// A noncharacter, which Unicode keeps for uses like this one.
const MARK: char = '\u{10FFFE}';

/// What a [`Guard`] calls the one field of a message that is the program's own.
const ROLE: &str = "role";

/// The special tokens of a tokenizer, ready to be found in what people write.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Absent where the tokenizer has none.
    tokens: Option<AhoCorasick>,
}

impl Guard {
    /// A guard against the control tokens of `tokenizer`. Added tokens that are text (`<think>`) are left alone:
    /// templates look for them.
    pub fn new(tokenizer: &Tokenizer) -> Guard {
        let ids = 0..u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
        let special = ids.filter(|&id| tokenizer.is_special(id)).filter_map(|id| tokenizer.token_text(id));
        let mut special = special.filter(|text| !text.is_empty()).peekable();
        // Building fails only beyond billions of characters.
        Guard { tokens: special.peek().is_some().then(|| AhoCorasick::new(special).ok()).flatten() }
    }

    /// Marks what is written in messages, tools and documents.
    pub fn shield(&self, conversation: &mut Conversation) {
        for part in [&mut conversation.messages, &mut conversation.tools, &mut conversation.documents] {
            self.value(part);
        }
    }

    /// The ids of a text that a template made of a shielded conversation. Its own special tokens count as such.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn encode(&self, tokenizer: &Tokenizer, rendered: &str) -> Result<Vec<u32>, tokenizer::Error> {
        let mut ids = Vec::new();
        for piece in rendered.split(MARK).filter(|p| !p.is_empty()) {
            ids.extend(tokenizer.encode(piece, Special::PARSE)?);
        }
        Ok(ids)
    }

    /// The text without marks.
    pub fn plain(rendered: &str) -> String {
        rendered.replace(MARK, "")
    }

    fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|v| self.value(v)),
            Value::Object(fields) => {
                let mut shielded = Map::new();
                for (mut name, mut value) in std::mem::take(fields) {
                    if name != ROLE || !value.is_string() {
                        self.value(&mut value);
                    }
                    self.text(&mut name);
                    shielded.insert(name, value);
                }
                *fields = shielded;
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn text(&self, text: &mut String) {
        let Some(tokens) = &self.tokens else { return };
        let mut cuts: Vec<usize> = tokens.find_overlapping_iter(text.as_str()).map(|m| m.start()).collect();
        cuts.sort_unstable();
        cuts.dedup();
        for start in cuts.into_iter().rev() {
            let first = text[start..].chars().next().map_or(0, char::len_utf8);
            text.insert(start + first, MARK);
        }
    }
}
