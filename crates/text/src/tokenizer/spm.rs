//! SentencePiece's BPE: neighbours merge when their text is a token, best score first (Kudo & Richardson 2018).

use super::bytes;
use super::error::Error;
use super::merge::Merger;
use super::vocab::{Ids, Kind, Token};

/// A character that has no token of its own; it may still be part of one.
const CHARACTER: u32 = u32::MAX;

/// A score-ordered merge model.
#[derive(Clone, Debug)]
pub(super) struct Spm {
    ids: Ids,
    /// Order of merging by id: the better the score, the lower.
    ranks: Vec<u32>,
    byte_ids: Box<[Option<u32>; 256]>,
    unk: Option<u32>,
}

impl Spm {
    /// A model of `tokens` with a score each.
    ///
    /// # Errors
    /// [`Error::Malformed`] when a score is not a number.
    pub(super) fn new(tokens: &[Token], scores: &[f32], unk: Option<u32>) -> Result<Spm, Error> {
        let mut ids = Ids::default();
        let mut byte_ids = Box::new([None; 256]);
        for (id, token) in (0u32..).zip(tokens) {
            match token.kind {
                // Control tokens must not arise from text, so they take no part in merging.
                Kind::Control | Kind::Unknown => {}
                Kind::Byte => {
                    if let Some(byte) = bytes::parse_hex(&token.text) {
                        byte_ids[byte as usize] = Some(id);
                    }
                }
                Kind::Normal | Kind::UserDefined | Kind::Unused => {
                    ids.entry(token.text.as_bytes().into()).or_insert(id);
                }
            }
        }
        let ranks = scores.iter().map(|&score| rank(score)).collect::<Option<Vec<u32>>>();
        let ranks = ranks.ok_or_else(|| Error::malformed("tokenizer.ggml.scores", "numbers", "NaN"))?;
        Ok(Spm { ids, ranks, byte_ids, unk })
    }

    /// Appends the ids of `text`.
    pub(super) fn encode(&self, text: &str, merger: &mut Merger, out: &mut Vec<u32>) {
        merger.clear();
        for (start, c) in text.char_indices() {
            let id = self.ids.get(&text.as_bytes()[start..start + c.len_utf8()]).copied();
            merger.push(id.unwrap_or(CHARACTER), start, c.len_utf8());
        }
        merger.run(|left, right| {
            let (start, end) = (left.start as usize, (right.start + right.len) as usize);
            let id = *self.ids.get(&text.as_bytes()[start..end])?;
            Some((*self.ranks.get(id as usize)?, id))
        });
        let mut after_unknown = false;
        for symbol in merger.symbols() {
            if symbol.id != CHARACTER {
                out.push(symbol.id);
                after_unknown = false;
                continue;
            }
            let start = symbol.start as usize;
            let character = &text.as_bytes()[start..start + symbol.len as usize];
            // Spelled in bytes, or the unknown token where the vocabulary lacks one of them; once for a run of them.
            let ids = character.iter().map(|&b| self.byte_ids[b as usize]).collect::<Option<Vec<u32>>>();
            after_unknown = match ids {
                Some(ids) => {
                    out.extend(ids);
                    false
                }
                None => {
                    out.extend(self.unk.filter(|_| !after_unknown));
                    true
                }
            };
        }
    }
}

/// Maps scores to ranks so that a higher score has a lower rank; equal scores stay equal.
fn rank(score: f32) -> Option<u32> {
    if score.is_nan() {
        return None;
    }
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    Some(!ascending)
}
