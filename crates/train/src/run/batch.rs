//! Examples laid flat for the model, and its log-probabilities handed back to them.

use crate::{
    data::{Item, Store},
    objective::{Objective, Sample, Scored},
};
use allod_plan::{RowLimits, TrainBatch};
use std::ops::Range;

/// Rows of any number of sequences.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    tokens: Vec<u32>,
    sequences: Vec<Range<usize>>,
    targets: Vec<Option<u32>>,
    /// For each sequence, whether each of its targets is learned.
    learned: Vec<Vec<bool>>,
}

/// How a sequence is scored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Targets {
    /// What is learned.
    Learned,
    /// Every token.
    All,
    /// Its last row by the value head.
    Value,
}

impl Rows {
    fn push(&mut self, store: &Store, number: u32, targets: Targets) {
        let s = store.get(number);
        let ids: Vec<u32> = s.ids().collect();
        let learned: Vec<bool> = s.learned().collect();
        let start = self.tokens.len();
        if targets == Targets::Value {
            self.tokens.extend(&ids);
            self.targets.resize(self.tokens.len(), None);
            self.sequences.push(start..self.tokens.len());
            self.learned.push(vec![true]);
            return;
        }
        let wanted = |i: usize| targets == Targets::All || learned[i];
        // Nothing depends on what comes after the last target.
        let end = (1..ids.len()).rev().find(|&i| wanted(i)).unwrap_or(1);
        self.tokens.extend(&ids[..end.min(ids.len())]);
        self.targets.extend((1..=end).map(|i| ids.get(i).copied().filter(|_| i < ids.len() && wanted(i))));
        self.targets.truncate(self.tokens.len());
        self.sequences.push(start..self.tokens.len());
        self.learned.push((1..=end).filter(|&i| i < ids.len() && wanted(i)).map(|i| learned[i]).collect());
    }

    /// For the model.
    pub fn batch(&self, seed: u64, embedding_noise: f32) -> TrainBatch<'_> {
        TrainBatch { tokens: &self.tokens, sequences: &self.sequences, targets: &self.targets, seed, embedding_noise }
    }

    /// Rows, targets and sequences.
    pub fn size(&self) -> RowLimits {
        RowLimits {
            tokens: self.tokens.len(),
            // Targets, or sequences that a value head reads.
            outputs: self.learned.iter().map(Vec::len).sum(),
            sequences: self.sequences.len(),
        }
    }

    /// True where there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// The values of a pass, sequence by sequence.
    pub fn split(&self, values: &[f32]) -> Vec<Vec<f32>> {
        let mut rest = values;
        let mut take = |n: usize| {
            let (first, others) = rest.split_at(n.min(rest.len()));
            rest = others;
            first.to_vec()
        };
        self.learned.iter().map(|l| take(l.len())).collect()
    }
}

/// A micro-batch: the rows that are learned from, and those of companions, which are only looked at.
#[derive(Debug)]
pub struct Micro {
    /// Items in order.
    pub items: Vec<Item>,
    /// Their sequences.
    pub rows: Rows,
    /// The companions'.
    pub companions: Rows,
    /// Terms of the loss: learned tokens, or examples.
    pub terms: f64,
}

impl Micro {
    /// The rows of `items` for an objective.
    pub fn new(objective: &Objective, store: &Store, items: Vec<Item>) -> Micro {
        let (mut rows, mut companions) = (Rows::default(), Rows::default());
        let answer = if matches!(objective, Objective::Reward(_)) { Targets::Value } else { Targets::Learned };
        for item in &items {
            match *item {
                Item::One(s) => rows.push(store, s, answer),
                Item::Pair(a, b, _) => {
                    rows.push(store, a, if objective.scores_prompts() { Targets::All } else { answer });
                    rows.push(store, b, answer);
                }
                Item::Judged(s, kl, _) => {
                    rows.push(store, s, answer);
                    if kl != s {
                        companions.push(store, kl, answer);
                    }
                }
            }
        }
        let terms = match objective {
            Objective::Sft(_) => rows.learned.iter().flatten().filter(|l| **l).count() as f64,
            _ => items.len() as f64,
        };
        Micro { items, rows, companions, terms }
    }

    /// The samples of an objective. `reference` gives a sequence's log-probabilities by its number.
    pub fn samples<'a>(
        &'a self,
        scores: &'a [Vec<f32>],
        collisions: &'a [Vec<f32>],
        companions: &'a [Vec<f32>],
        reference: &'a dyn Fn(u32) -> &'a [f32],
    ) -> Vec<Sample<'a>> {
        let (mut at, mut beside) = (0, 0);
        let mut out = Vec::with_capacity(self.items.len());
        for item in &self.items {
            let mut next = |number: u32| {
                at += 1;
                Scored {
                    logps: &scores[at - 1],
                    reference: reference(number),
                    collisions: &collisions[at - 1],
                    learned: &self.rows.learned[at - 1],
                }
            };
            out.push(match *item {
                Item::One(s) => Sample::One(next(s)),
                Item::Pair(a, b, margin) => Sample::Pair(next(a), next(b), margin),
                Item::Judged(s, kl, desirable) => {
                    let answer = next(s);
                    let companion = (kl != s).then(|| {
                        beside += 1;
                        Scored {
                            logps: &companions[beside - 1],
                            reference: reference(kl),
                            collisions: &[],
                            learned: &self.companions.learned[beside - 1],
                        }
                    });
                    Sample::Judged(answer, companion, desirable)
                }
            });
        }
        out
    }
}
