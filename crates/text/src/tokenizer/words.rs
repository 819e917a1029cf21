//! Cutting a normalized text into the words that a model encodes one by one.

use super::bytes;
use super::error::Error;
use super::pattern::Pattern;
use std::borrow::Cow;
use std::ops::Range;

/// What becomes of the places where a pattern matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Matches disappear.
    Removed,
    /// Each match is a word.
    Isolated,
    /// A match ends the word before it.
    MergedWithPrevious,
    /// A match begins the word after it.
    MergedWithNext,
    /// Matches that touch are one word.
    Contiguous,
}

/// When SentencePiece's stand-in for a space is put before a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefix {
    Never,
    /// Only where the whole text begins.
    First,
    /// Also after every special token.
    Always,
}

/// One step of cutting.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Cut where `pattern` matches, or where it does not (`invert`).
    Split { pattern: Pattern, cut: Cut, invert: bool },
    /// Put a space before every word that does not begin with one.
    PrefixSpace,
    /// Spaces become `stand_in`, which begins every word if `split`.
    Metaspace { stand_in: char, prefix: Prefix, split: bool },
    /// Cut before every `stand_in` that no token has behind the character before it; `glued` are the characters after
    /// which some token does. Words cut this way are encoded exactly as the text would be.
    Boundaries { stand_in: char, glued: Vec<char> },
    /// Bytes become their printable stand-ins, and what follows cuts those.
    ByteLevel,
    /// Words of `n` characters.
    FixedLength(usize),
}

/// A text and the words in it.
pub(super) struct Words<'a> {
    pub(super) text: Cow<'a, str>,
    pub(super) spans: Vec<Range<u32>>,
}

impl<'a> Words<'a> {
    /// `text` as one word.
    pub(super) fn new(text: Cow<'a, str>) -> Words<'a> {
        let whole = 0..text.len() as u32;
        Words { text, spans: vec![whole] }
    }

    /// The words.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.spans.iter().map(|s| &self.text[range(s)])
    }

    /// Takes one step. `first`: the text stands at the very beginning.
    ///
    /// # Errors
    /// [`Error::Regex`] when a pattern runs past its limit.
    pub(super) fn step(&mut self, step: &Step, first: bool) -> Result<(), Error> {
        match step {
            Step::Split { pattern, cut, invert } => self.split(pattern, *cut, *invert)?,
            Step::PrefixSpace => self.rewrite(|_, word| match word.starts_with(' ') {
                true => Cow::Borrowed(word),
                false => Cow::Owned(format!(" {word}")),
            }),
            Step::ByteLevel => self.rewrite(|_, word| Cow::Owned(bytes::to_printable(word.as_bytes()))),
            &Step::Metaspace { stand_in, prefix, split } => {
                self.rewrite(|start, word| {
                    let replaced = word.replace(' ', stand_in.encode_utf8(&mut [0; 4]));
                    let wanted = prefix == Prefix::Always || prefix == Prefix::First && first && start == 0;
                    match wanted && !replaced.starts_with(stand_in) {
                        true => Cow::Owned(format!("{stand_in}{replaced}")),
                        false => Cow::Owned(replaced),
                    }
                });
                if split {
                    self.cut_before(|_, c| c == stand_in);
                }
            }
            Step::Boundaries { stand_in, glued } => {
                self.cut_before(|before, c| c == *stand_in && before != *stand_in && !glued.contains(&before));
            }
            Step::FixedLength(n) => {
                let mut count = 0;
                self.cut_before(|_, _| {
                    count += 1;
                    count % n == 0
                });
            }
        }
        self.spans.retain(|s| s.start < s.end);
        Ok(())
    }

    fn split(&mut self, pattern: &Pattern, cut: Cut, invert: bool) -> Result<(), Error> {
        let mut out = Vec::with_capacity(self.spans.len().max(self.text.len() / 8));
        for span in &self.spans {
            let word = &self.text[range(span)];
            let mut parts = Parts { out: &mut out, cut, first: true, last_matched: false, base: span.start };
            let mut end = 0;
            pattern.each_match(word, |found| {
                if found.start > end {
                    parts.add(end..found.start, invert);
                }
                parts.add(found.clone(), !invert);
                end = found.end;
            })?;
            if end < word.len() {
                parts.add(end..word.len(), invert);
            }
        }
        self.spans = out;
        Ok(())
    }

    /// Cuts between two characters where `boundary(before, after)`.
    fn cut_before(&mut self, mut boundary: impl FnMut(char, char) -> bool) {
        let mut out = Vec::with_capacity(self.spans.len().max(self.text.len() / 8));
        for span in &self.spans {
            let (mut start, mut before) = (span.start, None);
            for (at, c) in self.text[range(span)].char_indices() {
                let at = span.start + at as u32;
                if before.is_some_and(|before| boundary(before, c)) {
                    out.push(start..at);
                    start = at;
                }
                before = Some(c);
            }
            out.push(start..span.end);
        }
        self.spans = out;
    }

    fn rewrite<'w>(&'w mut self, change: impl for<'s> Fn(u32, &'s str) -> Cow<'s, str>) {
        let mut text = String::with_capacity(self.text.len() + 16);
        let mut spans = Vec::with_capacity(self.spans.len());
        for span in &self.spans {
            let start = text.len() as u32;
            text.push_str(&change(span.start, &self.text[range(span)]));
            spans.push(start..text.len() as u32);
        }
        *self = Words { text: Cow::Owned(text), spans };
    }
}

/// Puts the parts of one word together as `cut` says.
struct Parts<'o> {
    out: &'o mut Vec<Range<u32>>,
    cut: Cut,
    first: bool,
    last_matched: bool,
    base: u32,
}

impl Parts<'_> {
    fn add(&mut self, part: Range<usize>, matched: bool) {
        let part = self.base + part.start as u32..self.base + part.end as u32;
        let joins = match self.cut {
            Cut::Removed if matched => {
                self.first = true;
                return;
            }
            Cut::Removed | Cut::Isolated => false,
            Cut::MergedWithPrevious => matched && !self.last_matched,
            Cut::MergedWithNext => !matched && self.last_matched,
            Cut::Contiguous => matched == self.last_matched,
        };
        match self.out.last_mut() {
            Some(last) if joins && !self.first => last.end = part.end,
            _ => self.out.push(part),
        }
        self.first = false;
        self.last_matched = matched;
    }
}

fn range(span: &Range<u32>) -> Range<usize> {
    span.start as usize..span.end as usize
}
