//! What will be trained on: counts, lengths, duplicates, problems.

use super::{
    Form,
    encode::{Encoded, Tokens},
};
use crate::error::Problem;
use indexmap::IndexMap;
use std::{collections::HashSet, path::Path};

/// Problems that are kept word for word.
const KEPT: usize = 50;

/// What was seen while data were read.
#[derive(Debug, Default)]
pub struct Report {
    /// For each file: its form, examples and ids.
    pub files: IndexMap<String, FileReport>,
    /// The first problems.
    pub problems: Vec<Problem>,
    /// How many there were.
    pub problem_count: usize,
    /// Examples that teach nothing, by why.
    pub skipped: IndexMap<&'static str, usize>,
    /// Ids of every sequence that is trained on.
    pub lengths: Vec<u32>,
    /// Ids that are learned.
    pub learned: u64,
    /// Sequences that were cut, and the ids that went.
    pub cut: (usize, u64),
    /// Examples that occurred before.
    pub duplicates: usize,
    seen: HashSet<[u8; 16]>,
}

/// One file's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// The form of its records.
    pub form: Form,
    /// Examples that are trained on.
    pub examples: usize,
    /// Their ids.
    pub tokens: u64,
}

impl Report {
    pub(super) fn problem(&mut self, problem: Problem) {
        self.problem_count += 1;
        if self.problems.len() < KEPT {
            self.problems.push(problem);
        }
    }

    pub(super) fn count(&mut self, path: &Path, form: Form, encoded: &Encoded) {
        let name = path.display().to_string();
        let file = self.files.entry(name).or_insert(FileReport { form, examples: 0, tokens: 0 });
        let sides: Vec<&Tokens> = match encoded {
            Encoded::One(t) | Encoded::Judged(t, _) => vec![t],
            Encoded::Pair(a, b, _) => vec![a, b],
            Encoded::Skipped(why) => {
                *self.skipped.entry(*why).or_default() += 1;
                return;
            }
        };
        file.examples += 1;
        file.tokens += sides.iter().map(|t| t.ids.len() as u64).sum::<u64>();
        let mut hasher = blake3::Hasher::new();
        for tokens in sides {
            self.lengths.push(tokens.ids.len() as u32);
            self.learned += tokens.learned.iter().skip(1).filter(|l| **l).count() as u64;
            if tokens.cut > 0 {
                self.cut.0 += 1;
                self.cut.1 += tokens.cut as u64;
            }
            hasher.update(bytemuck::cast_slice(&tokens.ids)).update(&[0xFF; 4]);
        }
        let hash: [u8; 32] = hasher.finalize().into();
        let mut short = [0; 16];
        short.copy_from_slice(&hash[..16]);
        if !self.seen.insert(short) {
            self.duplicates += 1;
        }
    }

    /// Ids of all sequences.
    pub fn tokens(&self) -> u64 {
        self.lengths.iter().map(|&n| u64::from(n)).sum()
    }

    /// Why examples were skipped, for a message.
    pub fn reasons(&self) -> String {
        if self.skipped.is_empty() {
            return String::new();
        }
        let reasons: Vec<String> = self.skipped.iter().map(|(why, n)| format!("{n}: {why}")).collect();
        format!(" ({})", reasons.join("; "))
    }

    /// Least, median, nine tenths, ninety-nine hundredths and greatest of the lengths.
    pub fn quantiles(&self) -> [u32; 5] {
        let mut lengths = self.lengths.clone();
        lengths.sort_unstable();
        let at = |q: f64| lengths.get(((lengths.len().max(1) - 1) as f64 * q).round() as usize).copied().unwrap_or(0);
        [0.0, 0.5, 0.9, 0.99, 1.0].map(at)
    }
}
