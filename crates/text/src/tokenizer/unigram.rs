//! Unigram language model: the segmentation with the highest sum of scores, by Viterbi search (Kudo 2018).

use super::bytes;
use super::error::Error;
use super::vocab::{Kind, Token};
use std::collections::HashMap;

/// How much worse than the worst token an unknown character is (SentencePiece's `kUnkPenalty`).
const UNKNOWN_PENALTY: f64 = 10.0;

/// A unigram model.
#[derive(Clone, Debug)]
pub(super) struct Unigram {
    /// Children of each node of a trie over bytes.
    edges: HashMap<(u32, u8), u32, foldhash::fast::RandomState>,
    /// Token that ends at each node, with its score.
    ends: Vec<Option<(u32, f64)>>,
    unk: Option<u32>,
    unknown_score: f64,
    byte_ids: Option<Box<[u32; 256]>>,
}

/// Best way to reach a byte of the text.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    from: u32,
    id: Option<u32>,
}

impl Unigram {
    /// A model of `tokens` with a score each. With `byte_fallback`, unknown characters are spelled in byte tokens.
    ///
    /// # Errors
    /// [`Error::Malformed`] when a score is not a number.
    pub(super) fn new(
        tokens: &[Token],
        scores: &[f64],
        unk: Option<u32>,
        byte_fallback: bool,
    ) -> Result<Unigram, Error> {
        let mut model =
            Unigram { edges: HashMap::default(), ends: vec![None], unk, unknown_score: 0.0, byte_ids: None };
        let mut byte_ids = [u32::MAX; 256];
        let mut worst = f64::INFINITY;
        for ((id, token), &score) in (0u32..).zip(tokens).zip(scores) {
            if score.is_nan() {
                return Err(Error::malformed("scores", "numbers", "NaN"));
            }
            match token.kind {
                Kind::Byte => {
                    if let Some(byte) = bytes::parse_hex(&token.text) {
                        byte_ids[byte as usize] = id;
                    }
                }
                Kind::Normal => {
                    worst = worst.min(score);
                    model.insert(token.text.as_bytes(), id, score);
                }
                // They are found before anything else; here a score of 0 makes them win as well.
                Kind::UserDefined => model.insert(token.text.as_bytes(), id, 0.0),
                Kind::Unused | Kind::Control | Kind::Unknown => {}
            }
        }
        model.unknown_score = if worst.is_finite() { worst - UNKNOWN_PENALTY } else { -UNKNOWN_PENALTY };
        model.byte_ids = (byte_fallback && !byte_ids.contains(&u32::MAX)).then(|| Box::new(byte_ids));
        Ok(model)
    }

    fn insert(&mut self, text: &[u8], id: u32, score: f64) {
        if text.is_empty() {
            return;
        }
        let mut node = 0;
        for &byte in text {
            let fresh = self.ends.len() as u32;
            node = *self.edges.entry((node, byte)).or_insert(fresh);
            if node == fresh {
                self.ends.push(None);
            }
        }
        self.ends[node as usize].get_or_insert((id, score));
    }

    /// Appends the ids of `text`.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let mut best = vec![Best { score: f64::NEG_INFINITY, from: 0, id: None }; text.len() + 1];
        best[0].score = 0.0;
        for (start, c) in text.char_indices() {
            self.extend(text.as_bytes(), start, c.len_utf8(), &mut best);
        }
        let mut path = Vec::new();
        let mut end = text.len();
        while end > 0 {
            let Best { from, id, .. } = best[end];
            path.push((from as usize, end, id.filter(|&id| Some(id) != self.unk)));
            end = from as usize;
        }
        let mut unknown = false;
        for (start, end, id) in path.into_iter().rev() {
            match (id, &self.byte_ids) {
                (Some(id), _) => out.push(id),
                (None, Some(ids)) => out.extend(text.as_bytes()[start..end].iter().map(|&b| ids[b as usize])),
                // A run of unknown characters is one token.
                (None, None) if unknown => {}
                (None, None) => out.extend(self.unk),
            }
            unknown = id.is_none();
        }
    }

    /// Tries every token that begins at `start`.
    fn extend(&self, text: &[u8], start: usize, char_len: usize, best: &mut [Best]) {
        let base = best[start].score;
        let mut node = 0;
        let mut covered = false;
        for (end, &byte) in text.iter().enumerate().skip(start) {
            let Some(&child) = self.edges.get(&(node, byte)) else { break };
            node = child;
            if let Some((id, score)) = self.ends[node as usize] {
                covered |= end + 1 - start == char_len;
                improve(&mut best[end + 1], Best { score: base + score, from: start as u32, id: Some(id) });
            }
        }
        if !covered {
            let unknown = Best { score: base + self.unknown_score, from: start as u32, id: None };
            improve(&mut best[start + char_len], unknown);
        }
    }
}

fn improve(current: &mut Best, candidate: Best) {
    if candidate.score > current.score {
        *current = candidate;
    }
}
