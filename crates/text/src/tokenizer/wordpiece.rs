//! WordPiece: the longest token that begins a word, then the longest that continues it (Schuster & Nakajima 2012).

use super::vocab::Ids;

/// A greedy longest-match model.
#[derive(Clone, Debug)]
pub(super) struct WordPiece {
    /// Tokens that begin a word.
    heads: Ids,
    /// Tokens that continue one, without their prefix.
    tails: Ids,
    unk: Option<u32>,
    /// Longer words, in characters, are unknown.
    max_chars: usize,
    longest: usize,
}

impl WordPiece {
    /// A model of word beginnings and continuations.
    pub(super) fn new(heads: Ids, tails: Ids, unk: Option<u32>, max_chars: usize) -> WordPiece {
        let longest = heads.keys().chain(tails.keys()).map(|text| text.len()).max().unwrap_or(0);
        WordPiece { heads, tails, unk, max_chars, longest }
    }

    /// Appends the ids of one word.
    pub(super) fn encode(&self, word: &str, out: &mut Vec<u32>) {
        let before = out.len();
        if word.chars().nth(self.max_chars).is_some() || !self.pieces(word, out) {
            out.truncate(before);
            out.extend(self.unk);
        }
    }

    fn pieces(&self, word: &str, out: &mut Vec<u32>) -> bool {
        let mut start = 0;
        while start < word.len() {
            let ids = if start == 0 { &self.heads } else { &self.tails };
            let longest = word.len().min(start + self.longest);
            let ends = (start + 1..=longest).rev().filter(|&end| word.is_char_boundary(end));
            let Some((end, id)) = ends.into_iter().find_map(|end| Some((end, *ids.get(&word.as_bytes()[start..end])?)))
            else {
                return false;
            };
            out.push(id);
            start = end;
        }
        true
    }
}
