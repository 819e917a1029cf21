//! Drafts: tokens that may follow, found cheaply, to be checked by the target in one step. A draft never changes a
//! byte: the target samples every position with that position's noise, and what differs is thrown away.

mod lookup;
mod model;
mod pace;
mod past;

pub(super) use model::{DraftModel, Want};
pub(super) use pace::Pace;
pub(super) use past::Past;

use lookup::Lookup;

/// Steps without a draft after one that does not pay, doubled each time up to a limit.
const REST: usize = 4;
const LONGEST_REST: usize = 128;
/// Weight of earlier drafts for each new one.
const MEMORY: f64 = 0.9;

/// Where a draft came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The text itself, past answers, a constraint: no cost to speak of.
    Text,
    /// The draft model.
    Model,
}

/// Drafts of one sequence: what was found in its text, and how often each source was right.
#[derive(Debug)]
pub(super) struct Drafter {
    lookup: Lookup,
    text: Record,
    model: Record,
}

/// How often drafts from one source were right, and whether they rest.
#[derive(Debug)]
struct Record {
    right: f64,
    tried: f64,
    rest: usize,
    next_rest: usize,
}

impl Drafter {
    pub(super) fn new() -> Drafter {
        Drafter { lookup: Lookup::new(), text: Record::new(), model: Record::new() }
    }

    /// Up to `limit` tokens that may follow `tokens`, from the text so far.
    pub(super) fn look_up<'t>(&mut self, tokens: &'t [u32], limit: usize) -> &'t [u32] {
        self.lookup.draft(tokens, limit)
    }

    /// How many tokens from a source are worth their rows.
    pub(super) fn length(&mut self, source: Source, pace: impl Fn(f64) -> usize) -> usize {
        self.record(source).length(pace)
    }

    /// Learns that `kept` of `drafted` tokens were right.
    pub(super) fn learn(&mut self, source: Source, drafted: usize, kept: usize) {
        self.record(source).learn(drafted, kept);
    }

    fn record(&mut self, source: Source) -> &mut Record {
        match source {
            Source::Text => &mut self.text,
            Source::Model => &mut self.model,
        }
    }
}

impl Record {
    fn new() -> Record {
        // As if two of three had been right: hopeful, and soon set right.
        Record { right: 2.0, tried: 3.0, rest: 0, next_rest: REST }
    }

    fn length(&mut self, pace: impl Fn(f64) -> usize) -> usize {
        if self.rest > 0 {
            self.rest -= 1;
            return 0;
        }
        match pace(self.right / self.tried) {
            0 => {
                // It does not pay now; a single token tells whether that changes.
                self.rest = self.next_rest;
                self.next_rest = (self.next_rest * 2).min(LONGEST_REST);
                1
            }
            length => length,
        }
    }

    fn learn(&mut self, drafted: usize, kept: usize) {
        self.right = MEMORY * self.right + kept as f64;
        self.tried = MEMORY * self.tried + (kept + usize::from(kept < drafted)) as f64;
        if kept > 0 {
            self.next_rest = REST;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drafts_that_never_hold_become_rare() {
        let pace = Pace::default();
        let mut record = Record::new();
        let mut drafted = 0;
        for _ in 0..1000 {
            let draft = record.length(|right| pace.length(1, right, 0.0, 8));
            if draft > 0 {
                drafted += draft;
                record.learn(draft, 0);
            }
        }
        assert!(drafted < 40, "{drafted}");
    }

    #[test]
    fn drafts_that_hold_become_long() {
        let pace = Pace::default();
        let mut record = Record::new();
        let mut longest = 0;
        for _ in 0..20 {
            longest = record.length(|right| pace.length(1, right, 0.0, 8));
            record.learn(longest, longest);
        }
        assert_eq!(longest, 8);
    }
}
