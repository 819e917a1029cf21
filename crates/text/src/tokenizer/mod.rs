//! Text to token ids and back.
//!
//! A [`Tokenizer`] is read from a `tokenizer.json`, from the metadata of a GGUF file, from a SentencePiece model, from
//! tiktoken ranks or from bare vocabulary files. All become the same line of stations: *added tokens* are found first;
//! what lies between them is *normalized*, *cut into words*, and each word goes through a *model* (BPE, SentencePiece's
//! BPE, unigram, WordPiece). Decoding needs only the vocabulary.

mod added;
mod bpe;
mod bytes;
mod charsmap;
mod error;
mod folder;
mod gguf;
mod json;
mod merge;
mod normalize;
mod pattern;
mod pre;
mod roles;
mod sentencepiece;
mod spm;
mod tiktoken;
mod to_gguf;
mod unigram;
mod vocab;
mod wordpiece;
mod words;

pub use error::Error;
pub use to_gguf::to_gguf;
pub use vocab::Role;
pub(crate) use vocab::Vocab;

use added::{Finder, Segment};
use merge::Merger;
use normalize::Normalizer;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use words::{Step, Words};

/// Longest text of one call, in bytes after normalization. Positions are 32-bit.
const LONGEST: usize = 1 << 30;
/// Words up to this many bytes are looked up among those already encoded in the same text.
const CACHED_WORD: usize = 48;

/// What to do about special tokens when encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Special {
    /// Special tokens written in the text (`<|im_end|>`) become their ids. Off, they are text like any other: right
    /// for anything a user typed.
    pub parse: bool,
    /// What the model wants around a text (BOS, EOS, CLS, SEP) is added.
    pub add: bool,
}

impl Special {
    /// Parse special tokens, add none: right for the output of a chat template.
    pub const PARSE: Special = Special { parse: true, add: false };
    /// Plain text, nothing added.
    pub const NONE: Special = Special { parse: false, add: false };
    /// Plain text with BOS, EOS and the like around it, as the model asks.
    pub const ADD: Special = Special { parse: false, add: true };
}

/// A model's vocabulary and the way it cuts text. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    vocab: Arc<Vocab>,
    /// Found in the text as it comes.
    added: Finder,
    normalizers: Vec<Normalizer>,
    /// Found in the normalized text.
    added_normalized: Finder,
    steps: Vec<Step>,
    model: Model,
    /// What goes around a text.
    before: Vec<u32>,
    after: Vec<u32>,
}

/// What encodes a word.
#[derive(Debug)]
enum Model {
    Bpe(bpe::Bpe),
    Spm(spm::Spm),
    Unigram(unigram::Unigram),
    WordPiece(wordpiece::WordPiece),
    /// Whole words only.
    Words {
        ids: vocab::Ids,
        unk: Option<u32>,
    },
}

impl Model {
    fn encode(&self, word: &str, merger: &mut Merger, out: &mut Vec<u32>) {
        match self {
            Model::Bpe(bpe) => bpe.encode(word, merger, out),
            Model::Spm(spm) => spm.encode(word, merger, out),
            Model::Unigram(unigram) => unigram.encode(word, out),
            Model::WordPiece(pieces) => pieces.encode(word, out),
            Model::Words { ids, unk } => out.extend(ids.get(word.as_bytes()).copied().or(*unk)),
        }
    }
}

impl Tokenizer {
    /// The ids of `text`.
    ///
    /// # Errors
    /// [`Error::TooLong`], or [`Error::Regex`] when a pattern of the vocabulary takes too many steps on this text.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>, Error> {
        let parts = &*self.parts;
        let mut out = Vec::with_capacity(text.len() / 4 + 2);
        let mut merger = Merger::default();
        if special.add {
            out.extend(&parts.before);
        }
        check_length(text)?;
        for segment in parts.added.segments(text, special.parse) {
            match segment {
                Segment::Token(id) => out.push(id),
                Segment::Text { text, start } => {
                    parts.encode_between(text, start == 0, special.parse, &mut merger, &mut out)?;
                }
            }
        }
        if special.add {
            out.extend(&parts.after);
        }
        Ok(out)
    }

    /// The text of `ids`; special tokens are left out if `skip_special`. Bytes that are no UTF-8 become U+FFFD, ids
    /// outside the vocabulary nothing.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut detokenizer = self.detokenizer(skip_special);
        let mut text = String::with_capacity(ids.len() * 4);
        for &id in ids {
            text.push_str(detokenizer.push(id));
        }
        text.push_str(&detokenizer.finish());
        text
    }

    /// Decodes ids one at a time.
    pub fn detokenizer(&self, skip_special: bool) -> crate::Detokenizer {
        crate::Detokenizer::new(Arc::clone(&self.parts.vocab), skip_special)
    }

    /// The raw bytes that `id` adds to a text, a special token's as it is written; `None` outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        self.parts.vocab.bytes(id)
    }

    /// The token as the vocabulary spells it (`Ġhello`, `▁hello`, `<0x0A>`).
    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.parts.vocab.get(id).map(|token| &*token.text)
    }

    /// The id of a token by the vocabulary's spelling.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.parts.vocab.find(text)
    }

    /// True for control tokens and the unknown token: structure, not text.
    pub fn is_special(&self, id: u32) -> bool {
        self.parts.vocab.get(id).is_some_and(|token| token.kind.is_special())
    }

    /// Number of ids.
    pub fn vocab_size(&self) -> usize {
        self.parts.vocab.tokens.len()
    }

    /// The token that plays `role`.
    pub fn special(&self, role: Role) -> Option<u32> {
        self.parts.vocab.role(role)
    }

    /// All ids that end a generation, ascending.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.parts.vocab.stops
    }

    /// A text begins with BOS when special tokens are added.
    pub fn add_bos(&self) -> bool {
        self.special(Role::Bos).is_some_and(|id| self.parts.before.contains(&id))
    }

    /// A text ends with EOS when special tokens are added.
    pub fn add_eos(&self) -> bool {
        self.special(Role::Eos).is_some_and(|id| self.parts.after.contains(&id))
    }
}

impl Parts {
    /// Encodes what lies between two added tokens. `first`: the text begins here.
    fn encode_between(
        &self,
        text: &str,
        first: bool,
        parse: bool,
        merger: &mut Merger,
        out: &mut Vec<u32>,
    ) -> Result<(), Error> {
        let mut normalized = Cow::Borrowed(text);
        for normalizer in &self.normalizers {
            normalized = normalizer.apply(normalized)?;
        }
        check_length(&normalized)?;
        for segment in self.added_normalized.segments(&normalized, parse) {
            match segment {
                Segment::Token(id) => out.push(id),
                Segment::Text { text, start } => self.encode_words(text, first && start == 0, merger, out)?,
            }
        }
        Ok(())
    }

    fn encode_words(&self, text: &str, first: bool, merger: &mut Merger, out: &mut Vec<u32>) -> Result<(), Error> {
        let mut words = Words::new(Cow::Borrowed(text));
        for step in &self.steps {
            words.step(step, first)?;
        }
        let mut seen: HashMap<&str, (usize, usize), foldhash::fast::RandomState> = HashMap::default();
        for word in words.iter() {
            if let Some(&(start, end)) = seen.get(word) {
                out.extend_from_within(start..end);
                continue;
            }
            let start = out.len();
            self.model.encode(word, merger, out);
            if word.len() <= CACHED_WORD {
                seen.insert(word, (start, out.len()));
            }
        }
        Ok(())
    }
}

fn check_length(text: &str) -> Result<(), Error> {
    match text.len() > LONGEST {
        true => Err(Error::TooLong { bytes: text.len(), limit: LONGEST }),
        false => Ok(()),
    }
}
