//! What happens to a text before it is cut into words.

use super::charsmap::CharsMap;
use super::error::Error;
use super::pattern::{CharSet, Pattern};
use std::borrow::Cow;
use std::sync::LazyLock;
use unicode_normalization::{UnicodeNormalization, is_nfc_quick, is_nfkc_quick};

/// One change of the text. Hugging Face's names.
#[derive(Clone, Debug)]
pub(super) enum Normalizer {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    Lowercase,
    StripAccents,
    Strip {
        left: bool,
        right: bool,
    },
    Prepend(String),
    Replace(Replace),
    Bert(Bert),
    Precompiled(CharsMap),
    /// SentencePiece's `remove_extra_whitespaces`: none at the ends, one between words.
    CollapseSpaces,
    /// Every byte as its printable stand-in.
    ByteLevel,
}

/// What to look for.
#[derive(Clone, Debug)]
pub(super) enum Replace {
    Literal { from: String, to: String },
    Matches { pattern: Pattern, to: String },
}

/// BERT's clean-up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bert {
    /// Drop control characters, make all white space spaces.
    pub(super) clean: bool,
    /// Put spaces around Chinese characters.
    pub(super) separate_chinese: bool,
    pub(super) strip_accents: bool,
    pub(super) lowercase: bool,
}

/// Marks that combine with the letter before them.
static MARKS: LazyLock<CharSet> = LazyLock::new(|| CharSet::new(r"\p{Mn}"));
/// Controls, formats and private characters.
static OTHERS: LazyLock<CharSet> = LazyLock::new(|| CharSet::new(r"[\p{Cc}\p{Cf}\p{Co}]"));

impl Normalizer {
    /// The text after this change.
    ///
    /// # Errors
    /// [`Error::Regex`] when a pattern runs past its limit.
    pub(super) fn apply<'a>(&self, text: Cow<'a, str>) -> Result<Cow<'a, str>, Error> {
        use unicode_normalization::IsNormalized::Yes;
        Ok(match self {
            Normalizer::Nfc if is_nfc_quick(text.chars()) == Yes => text,
            Normalizer::Nfc => text.nfc().collect(),
            Normalizer::Nfkc if is_nfkc_quick(text.chars()) == Yes => text,
            Normalizer::Nfkc => text.nfkc().collect(),
            Normalizer::Nfd if text.is_ascii() => text,
            Normalizer::Nfd => text.nfd().collect(),
            Normalizer::Nfkd if text.is_ascii() => text,
            Normalizer::Nfkd => text.nfkd().collect(),
            Normalizer::Lowercase => text.chars().flat_map(char::to_lowercase).collect(),
            Normalizer::StripAccents if text.is_ascii() => text,
            Normalizer::StripAccents => text.chars().filter(|&c| !MARKS.contains(c)).collect(),
            Normalizer::Strip { left, right } => strip(text, *left, *right),
            Normalizer::Prepend(prefix) if text.is_empty() || prefix.is_empty() => text,
            Normalizer::Prepend(prefix) => Cow::Owned(format!("{prefix}{text}")),
            Normalizer::Replace(replace) => replace.apply(text)?,
            Normalizer::Bert(bert) => Cow::Owned(bert.apply(&text)),
            Normalizer::Precompiled(map) => Cow::Owned(map.apply(&text)),
            Normalizer::CollapseSpaces => Cow::Owned(collapse_spaces(&text)),
            Normalizer::ByteLevel => Cow::Owned(super::bytes::to_printable(text.as_bytes())),
        })
    }
}

impl Replace {
    fn apply<'a>(&self, text: Cow<'a, str>) -> Result<Cow<'a, str>, Error> {
        match self {
            Replace::Literal { from, .. } if from.is_empty() || !text.contains(from.as_str()) => Ok(text),
            Replace::Literal { from, to } => Ok(Cow::Owned(text.replace(from.as_str(), to))),
            Replace::Matches { pattern, to } => {
                let mut out = String::with_capacity(text.len());
                let mut last = 0;
                pattern.each_match(&text, |found| {
                    out.push_str(&text[last..found.start]);
                    out.push_str(to);
                    last = found.end;
                })?;
                out.push_str(&text[last..]);
                Ok(Cow::Owned(out))
            }
        }
    }
}

impl Bert {
    fn apply(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            if self.clean {
                match c {
                    '\0' | '\u{FFFD}' => continue,
                    // Some white space is a control character too, and goes; these three stay.
                    '\t' | '\n' | '\r' => {
                        out.push(' ');
                        continue;
                    }
                    c if OTHERS.contains(c) => continue,
                    c if c.is_whitespace() => {
                        out.push(' ');
                        continue;
                    }
                    _ => {}
                }
            }
            if self.separate_chinese && is_chinese(c) {
                out.extend([' ', c, ' ']);
            } else {
                out.push(c);
            }
        }
        if self.strip_accents && !out.is_ascii() {
            out = out.nfd().filter(|&c| !MARKS.contains(c)).collect();
        }
        if self.lowercase {
            out = out.chars().flat_map(char::to_lowercase).collect();
        }
        out
    }
}

/// CJK ideographs, in the ranges of BERT's released tokenizer as Hugging Face has them.
fn is_chinese(c: char) -> bool {
    matches!(c as u32,
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F | 0x2B740..=0x2B81F
        | 0x2B920..=0x2CEAF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}

fn strip(text: Cow<'_, str>, left: bool, right: bool) -> Cow<'_, str> {
    let trimmed = if left { text.trim_start() } else { &text };
    let trimmed = if right { trimmed.trim_end() } else { trimmed };
    if trimmed.len() == text.len() { text } else { Cow::Owned(trimmed.to_owned()) }
}

fn collapse_spaces(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split(' ').filter(|w| !w.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}
