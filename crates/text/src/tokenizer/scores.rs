//! Merges of vocabularies that have none: every cut of a token into two tokens is one, in the order of what they make.

use std::cmp::Reverse;
use std::collections::HashMap;

/// A token cut in two: the token, its halves, and where it was cut in bytes.
struct Cut {
    whole: usize,
    left: u32,
    right: u32,
    at: usize,
}

/// All cuts of `tokens` into two of them; of equal texts the first counts.
fn cuts(tokens: &[(&str, u32)]) -> Vec<Cut> {
    let mut ids: HashMap<&str, u32> = HashMap::with_capacity(tokens.len());
    for &(text, id) in tokens {
        ids.entry(text).or_insert(id);
    }
    let mut cuts = Vec::with_capacity(tokens.len() * 2);
    for (whole, &(text, _)) in tokens.iter().enumerate() {
        for (at, _) in text.char_indices().skip(1) {
            if let (Some(&left), Some(&right)) = (ids.get(&text[..at]), ids.get(&text[at..])) {
                cuts.push(Cut { whole, left, right, at });
            }
        }
    }
    cuts
}

fn merges(tokens: &[(&str, u32)], cuts: Vec<Cut>) -> Vec<(String, String)> {
    let halves = |cut: Cut| {
        let (left, right) = tokens[cut.whole].0.split_at(cut.at);
        (left.to_owned(), right.to_owned())
    };
    cuts.into_iter().map(halves).collect()
}

/// Merges of SentencePiece's BPE, best score first; equal ones in the order that Transformers gives them when it
/// converts such a model: longer halves first. `scores` by id holds no NaN.
pub(super) fn merges_of_scores<'t>(
    tokens: impl Iterator<Item = (&'t str, u32)>,
    scores: &[f32],
) -> Vec<(String, String)> {
    let tokens: Vec<_> = tokens.collect();
    let mut cuts = cuts(&tokens);
    cuts.sort_by(|a, b| {
        let score = |cut: &Cut| scores[tokens[cut.whole].1 as usize];
        let lengths = |cut: &Cut| {
            let (left, right) = tokens[cut.whole].0.split_at(cut.at);
            (left.chars().count(), right.chars().count())
        };
        let order = |cut: &Cut| (cut.whole, cut.left, cut.right);
        score(b).total_cmp(&score(a)).then_with(|| lengths(b).cmp(&lengths(a))).then_with(|| order(a).cmp(&order(b)))
    });
    merges(&tokens, cuts)
}

/// Merges of a vocabulary whose ids are ranks (tiktoken), lowest first.
pub(super) fn merges_of_ranks(ids: &[(String, u32)]) -> Vec<(String, String)> {
    let tokens: Vec<(&str, u32)> = ids.iter().map(|(text, id)| (&**text, *id)).collect();
    let mut cuts = cuts(&tokens);
    cuts.sort_by_key(|cut| (tokens[cut.whole].1, cut.left, cut.right, Reverse(cut.at)));
    merges(&tokens, cuts)
}
