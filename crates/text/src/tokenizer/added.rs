//! Tokens that are found in a text before it is cut into words: special tokens and those added by hand.

use super::error::Error;
use aho_corasick::{AhoCorasick, MatchKind};

/// A token found by its text.
#[derive(Clone, Debug)]
pub(super) struct Added {
    pub(super) id: u32,
    pub(super) text: String,
    /// Structure, not text: found only where special tokens are parsed.
    pub(super) special: bool,
    /// Swallows the white space before it.
    pub(super) lstrip: bool,
    /// Swallows the white space after it.
    pub(super) rstrip: bool,
    /// Not inside a word.
    pub(super) single_word: bool,
}

/// A part of a text.
pub(super) enum Segment<'a> {
    Text { text: &'a str, start: usize },
    Token(u32),
}

/// Finds added tokens, longest first.
#[derive(Clone, Debug)]
pub(super) struct Finder {
    all: Option<Set>,
    plain: Option<Set>,
}

#[derive(Clone, Debug)]
struct Set {
    automaton: AhoCorasick,
    tokens: Vec<Added>,
}

impl Finder {
    /// A finder of `tokens`; empty texts are left out.
    ///
    /// # Errors
    /// [`Error::Malformed`] when there are more than an automaton holds.
    pub(super) fn new(tokens: Vec<Added>) -> Result<Finder, Error> {
        let plain = tokens.iter().filter(|t| !t.special).cloned().collect();
        Ok(Finder { all: Set::new(tokens)?, plain: Set::new(plain)? })
    }

    /// Cuts `text` at its added tokens; special ones count only if `parse`.
    pub(super) fn segments<'a>(&self, text: &'a str, parse: bool) -> Vec<Segment<'a>> {
        let mut out = Vec::new();
        let mut last = 0;
        let set = if parse { &self.all } else { &self.plain };
        for (start, end, id) in set.iter().flat_map(|set| set.find(text)) {
            // A token to the right that swallows white space cannot swallow what is already taken.
            let (start, end) = (start.max(last), end.max(last));
            if start > last {
                out.push(Segment::Text { text: &text[last..start], start: last });
            }
            out.push(Segment::Token(id));
            last = end;
        }
        if last < text.len() {
            out.push(Segment::Text { text: &text[last..], start: last });
        }
        out
    }
}

impl Set {
    fn new(mut tokens: Vec<Added>) -> Result<Option<Set>, Error> {
        tokens.retain(|t| !t.text.is_empty());
        if tokens.is_empty() {
            return Ok(None);
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|t| &t.text))
            .map_err(|e| Error::malformed("added tokens", "as many as an automaton holds", e.to_string()))?;
        Ok(Some(Set { automaton, tokens }))
    }

    fn find<'s>(&'s self, text: &'s str) -> impl Iterator<Item = (usize, usize, u32)> + 's {
        self.automaton.find_iter(text).filter_map(move |m| {
            let token = &self.tokens[m.pattern().as_usize()];
            let (before, after) = (&text[..m.start()], &text[m.end()..]);
            if token.single_word && (before.ends_with(is_word) || after.starts_with(is_word)) {
                return None;
            }
            let start = if token.lstrip { before.trim_end().len() } else { m.start() };
            let end = if token.rstrip { text.len() - after.trim_start().len() } else { m.end() };
            Some((start, end, token.id))
        })
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
