//! From the token ids of one answer to its text.

use allod_engine::{StopStrings, Token};
use allod_text::Detokenizer;

/// A piece of an answer: text that is certain, and the tokens since the last piece.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Delta {
    pub(crate) text: String,
    pub(crate) tokens: Vec<Token>,
}

impl Delta {
    pub(crate) fn append(&mut self, other: Delta) {
        self.text.push_str(&other.text);
        self.tokens.extend(other.tokens);
    }
}

/// The text of one answer on its way.
#[derive(Debug)]
pub(super) struct Decoder {
    detokenizer: Detokenizer,
    stops: StopStrings,
    texts: Vec<String>,
    include_stop: bool,
}

impl Decoder {
    pub(super) fn new(detokenizer: Detokenizer, stops: &[String], include_stop: bool) -> Decoder {
        Decoder { detokenizer, stops: StopStrings::new(stops.iter().cloned()), texts: stops.to_vec(), include_stop }
    }

    pub(super) fn push(&mut self, token: Token) -> Delta {
        let text = self.detokenizer.push(token.id);
        let text = match self.texts.is_empty() {
            true => text.to_owned(),
            false => self.stops.push(text),
        };
        Delta { text: text + self.stop_text(), tokens: vec![token] }
    }

    /// The stop string that ended the text.
    pub(super) fn stopped_by(&self) -> Option<&str> {
        self.stops.found().map(|i| self.texts[i].as_str())
    }

    pub(super) fn finish(&mut self) -> Delta {
        if self.stopped_by().is_some() {
            return Delta::default();
        }
        let rest = self.detokenizer.finish();
        let mut text = self.stops.push(&rest);
        text.push_str(self.stop_text());
        text.push_str(&self.stops.finish());
        Delta { text, tokens: Vec::new() }
    }

    fn stop_text(&self) -> &str {
        self.stopped_by().filter(|_| self.include_stop).unwrap_or_default()
    }
}
