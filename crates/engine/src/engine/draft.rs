//! Prompt lookup: what followed the last few tokens when they stood in the text before is likely to follow again
//! (Saxena, "Prompt Lookup Decoding", 2023). A wrong guess costs a row, never a byte.

use std::collections::HashMap;

/// Tokens that must match.
const GRAM: usize = 3;
/// Tokens without a draft after a draft of length one has failed, doubled by each further failure up to a limit.
const REST: usize = 4;
const LONGEST_REST: usize = 128;

/// Drafts for one sequence, longer while they hold and ever rarer while they do not.
#[derive(Debug)]
pub(super) struct Drafter {
    /// Where the latest run of these tokens but the last ends.
    seen: HashMap<[u32; GRAM], usize>,
    indexed: usize,
    length: usize,
    longest: usize,
    rest: usize,
    next_rest: usize,
}

impl Drafter {
    pub(super) fn new(longest: usize) -> Drafter {
        let length = longest.min(4);
        Drafter { seen: HashMap::new(), indexed: GRAM, length, longest, rest: 0, next_rest: REST }
    }

    /// Up to `limit` tokens that may follow `tokens`.
    pub(super) fn draft<'t>(&mut self, tokens: &'t [u32], limit: usize) -> &'t [u32] {
        while self.indexed < tokens.len() {
            if let Some(gram) = tokens[..self.indexed].last_chunk() {
                self.seen.insert(*gram, self.indexed);
            }
            self.indexed += 1;
        }
        if self.rest > 0 {
            self.rest -= 1;
            return &[];
        }
        let Some(&start) = tokens.last_chunk().and_then(|gram: &[u32; GRAM]| self.seen.get(gram)) else { return &[] };
        let end = tokens.len().min(start + self.length.min(limit));
        &tokens[start..end]
    }

    /// Learns that `kept` of `drafted` tokens were right.
    pub(super) fn learn(&mut self, drafted: usize, kept: usize) {
        if kept == drafted {
            self.length = (self.length * 2).min(self.longest);
        } else if kept > 0 {
            self.length = (kept + 1).min(self.longest);
        } else if self.length > 1 {
            self.length /= 2;
        } else {
            self.rest = self.next_rest;
            self.next_rest = (self.next_rest * 2).min(LONGEST_REST);
        }
        if kept > 0 {
            self.next_rest = REST;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_before_is_drafted() {
        let mut drafter = Drafter::new(8);
        assert_eq!(drafter.draft(&[1, 2, 3, 4, 5, 6, 7, 1, 2, 3], 8), [4, 5, 6, 7]);
        drafter.learn(4, 4);
        assert_eq!(drafter.draft(&[1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4, 5], 6), [6, 7, 1, 2, 3, 4]);
        assert_eq!(Drafter::new(8).draft(&[1, 2, 3, 4], 8), [0; 0]);
        assert_eq!(Drafter::new(8).draft(&[1, 1, 1, 1], 8), [1]);
    }

    #[test]
    fn drafts_that_never_hold_become_rare() {
        let mut drafter = Drafter::new(8);
        let tokens = [1, 2, 3, 9, 1, 2, 3];
        let mut drafted = 0;
        for _ in 0..1000 {
            let draft = drafter.draft(&tokens, 8).len();
            if draft > 0 {
                drafted += draft;
                drafter.learn(draft, 0);
            }
        }
        assert!(drafted < 30, "{drafted}");
    }
}
