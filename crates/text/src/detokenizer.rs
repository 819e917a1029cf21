//! Ids to text, one at a time.

use crate::tokenizer::{Kind, Vocab};
use std::sync::Arc;

/// Decodes ids as they come, and never gives out half a character: bytes wait until they complete one, or cannot.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    vocab: Arc<Vocab>,
    skip_special: bool,
    /// The next text is the first: its leading space may be the vocabulary's, not the text's.
    at_start: bool,
    /// The beginning of a character.
    pending: Vec<u8>,
    text: String,
}

impl Detokenizer {
    pub(crate) fn new(vocab: Arc<Vocab>, skip_special: bool) -> Detokenizer {
        let at_start = vocab.strip_space;
        Detokenizer { vocab, skip_special, at_start, pending: Vec::new(), text: String::new() }
    }

    /// The ids continue a text that stands already: a leading space belongs to it.
    pub fn continuing(mut self) -> Detokenizer {
        self.at_start = false;
        self
    }

    /// The text that `id` completes; often a word, sometimes nothing.
    pub fn push(&mut self, id: u32) -> &str {
        self.text.clear();
        let Some(token) = self.vocab.get(id) else { return "" };
        let special = token.kind.is_special();
        if special && self.skip_special {
            return "";
        }
        if let Some(bytes) = self.vocab.bytes(id) {
            let first = self.at_start && !special;
            if first && self.vocab.strip_all && token.kind == Kind::Normal {
                self.pending.extend(bytes.iter().filter(|&&b| b != b' '));
            } else {
                self.pending.extend_from_slice(bytes.strip_prefix(b" ").filter(|_| first).unwrap_or(&bytes));
            }
            self.at_start = false;
        }
        self.drain();
        &self.text
    }

    /// What was waiting for the rest of a character: U+FFFD, or nothing. The next id begins a new text.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        self.at_start = self.vocab.strip_space;
        rest
    }

    /// Moves whole characters from `pending` to `text`.
    fn drain(&mut self) {
        let mut done = 0;
        loop {
            match std::str::from_utf8(&self.pending[done..]) {
                Ok(text) => {
                    self.text.push_str(text);
                    done = self.pending.len();
                    break;
                }
                Err(error) => {
                    let valid = &self.pending[done..done + error.valid_up_to()];
                    self.text.push_str(&String::from_utf8_lossy(valid));
                    done += error.valid_up_to();
                    let Some(invalid) = error.error_len() else { break };
                    self.text.push('\u{FFFD}');
                    done += invalid;
                }
            }
        }
        self.pending.drain(..done);
    }
}
