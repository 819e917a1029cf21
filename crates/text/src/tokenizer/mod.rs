//! Text to token ids and back.
//!
//! A [`Tokenizer`] is read from a `tokenizer.json`, from the metadata of a GGUF file, from a SentencePiece model, from
//! tiktoken ranks or from bare vocabulary files. All become the same `Description`, which the tokenizers
//! library works from: *added tokens* are found first; what lies between them is *normalized*, *cut into words*, and each
//! word goes through a *model* (BPE, unigram, WordPiece). Decoding needs only the vocabulary, and is
//! ours, for ids come one at a time; so are the roles that tokens play, and the ways from and to GGUF.

mod bytes;
mod charsmap;
mod description;
mod error;
mod folder;
mod gguf;
mod json;
mod pipeline;
mod pre;
mod roles;
mod scores;
mod sentencepiece;
mod steps;
mod tiktoken;
mod to_folder;
mod to_gguf;
mod vocab;

pub use error::Error;
pub use to_folder::to_folder;
pub use to_gguf::to_gguf;
pub use vocab::Role;
pub(crate) use vocab::{Kind, Vocab};

use pipeline::Pipeline;
use std::borrow::Cow;
use std::sync::Arc;

/// Longest text of one call, in bytes. The library takes about a hundred bytes for each.
const LONGEST: usize = 1 << 28;

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
    /// Where special tokens in the text become their ids.
    parsing: Pipeline,
    /// Where they are text.
    plain: Pipeline,
    /// What goes around a text.
    before: Vec<u32>,
    after: Vec<u32>,
}

impl Tokenizer {
    /// The ids of `text`.
    ///
    /// # Errors
    /// [`Error::TooLong`]; [`Error::Text`] when the vocabulary has nothing for some of it, not even an unknown token.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>, Error> {
        if text.len() > LONGEST {
            return Err(Error::TooLong { bytes: text.len(), limit: LONGEST });
        }
        let parts = &*self.parts;
        let pipeline = if special.parse { &parts.parsing } else { &parts.plain };
        let encoding = pipeline.encode_fast(text, false).map_err(|e| Error::Text(e.to_string()))?;
        let ids = encoding.get_ids();
        Ok(match special.add {
            true => [&parts.before, ids, &parts.after].concat(),
            false => ids.to_vec(),
        })
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
