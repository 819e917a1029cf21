//! What a tokenizer is made of, whichever file described it.

use super::vocab::Vocab;
use serde_json::{Value, json};
use tokenizers::AddedToken;

/// What stands for a space.
pub(super) const SPACE: char = '▁';

/// A vocabulary and the way a text becomes ids of it: what a `tokenizer.json` says, and more.
#[derive(Debug)]
pub(super) struct Description {
    pub(super) vocab: Vocab,
    pub(super) added: Vec<Added>,
    /// As in a `tokenizer.json`; null where there is none.
    pub(super) normalizer: Value,
    /// As in a `tokenizer.json`; null where there is none.
    pub(super) pre_tokenizer: Value,
    /// As in a `tokenizer.json`; null where there is none.
    pub(super) decoder: Value,
    pub(super) model: Model,
    /// What goes before a text.
    pub(super) before: Vec<u32>,
    /// What goes after it.
    pub(super) after: Vec<u32>,
}

/// A token that is found by its text before the text is cut into words.
#[derive(Clone, Debug)]
pub(super) struct Added {
    pub(super) id: u32,
    pub(super) token: AddedToken,
}

/// What encodes a word.
#[derive(Debug)]
pub(super) enum Model {
    Bpe(Bpe),
    Unigram {
        /// Text and score by id.
        pieces: Vec<(String, f64)>,
        unk: Option<u32>,
        byte_fallback: bool,
    },
    WordPiece {
        ids: Vec<(String, u32)>,
        unk: String,
        /// Begins the tokens that continue a word.
        prefix: String,
        /// Longer words, in characters, are unknown.
        max_chars: usize,
    },
    /// Whole words only.
    Words {
        ids: Vec<(String, u32)>,
        unk: String,
    },
}

/// A model of ranked merges.
#[derive(Debug, Default)]
pub(super) struct Bpe {
    /// Texts and ids; of equal texts the first counts.
    pub(super) ids: Vec<(String, u32)>,
    /// Merged first comes first.
    pub(super) merges: Vec<(String, String)>,
    /// Merges of texts that are no tokens can never happen and are passed over; otherwise they are an error.
    pub(super) lenient: bool,
    pub(super) unk: Option<String>,
    /// A run of unknown characters is one token.
    pub(super) fuse_unk: bool,
    /// Characters that have no token become `<0x..>` tokens.
    pub(super) byte_fallback: bool,
    /// Words that are tokens are taken whole (`ignore_merges`).
    pub(super) whole_words: bool,
    /// Begins the tokens that continue a word.
    pub(super) prefix: Option<String>,
    /// Ends the tokens that end a word.
    pub(super) suffix: Option<String>,
}

impl Model {
    /// The texts that the model may give, by id, for models that have a list of them.
    pub(super) fn ids(&self) -> &[(String, u32)] {
        match self {
            Model::Bpe(bpe) => &bpe.ids,
            Model::WordPiece { ids, .. } | Model::Words { ids, .. } => ids,
            Model::Unigram { .. } => &[],
        }
    }
}

/// `parts` as one normalizer or pre-tokenizer; `key` names the list.
pub(super) fn sequence(key: &str, mut parts: Vec<Value>) -> Value {
    match parts.len() {
        0 => Value::Null,
        1 => parts.remove(0),
        _ => json!({"type": "Sequence", key: parts}),
    }
}

/// A pre-tokenizer that cuts around the matches of `pattern`.
pub(super) fn split(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

/// The normalizer that writes spaces as [`SPACE`].
pub(super) fn spaces() -> Value {
    json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
}

/// Words that begin with a run of [`SPACE`] wherever none of the tokens `texts` reaches across the place before it;
/// `None` where [`SPACE`] alone is no token, and what comes before it matters.
pub(super) fn words<'t>(texts: impl Iterator<Item = &'t str>) -> Option<String> {
    let (mut glued, mut has_space) = (Vec::new(), false);
    for text in texts {
        has_space |= text.chars().eq([SPACE]);
        for (before, c) in text.chars().zip(text.chars().skip(1)) {
            if c == SPACE && before != SPACE && !glued.contains(&before) {
                glued.push(before);
            }
        }
    }
    let class: String = glued.iter().map(|&c| format!(r"\x{{{:X}}}", u32::from(c))).collect();
    let glue = if class.is_empty() { String::new() } else { format!("[{class}]{SPACE}*|") };
    has_space.then(|| format!("{SPACE}*(?:{glue}[^{SPACE}])+|{SPACE}+"))
}
