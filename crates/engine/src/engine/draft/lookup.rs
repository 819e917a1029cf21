//! Prompt lookup: what followed the last few tokens when they stood in the text before is likely to follow again
//! (Saxena, "Prompt Lookup Decoding", 2023).

use std::collections::HashMap;

/// Tokens that must match.
pub(super) const GRAM: usize = 3;

/// Where runs of tokens stood in one text.
#[derive(Debug)]
pub(super) struct Lookup {
    /// Where the latest run of these tokens but the last ends.
    seen: HashMap<[u32; GRAM], usize>,
    indexed: usize,
}

impl Lookup {
    pub(super) fn new() -> Lookup {
        Lookup { seen: HashMap::new(), indexed: GRAM }
    }

    /// Up to `limit` tokens that may follow `tokens`, which only ever grow.
    pub(super) fn draft<'t>(&mut self, tokens: &'t [u32], limit: usize) -> &'t [u32] {
        while self.indexed < tokens.len() {
            if let Some(gram) = tokens[..self.indexed].last_chunk() {
                self.seen.insert(*gram, self.indexed);
            }
            self.indexed += 1;
        }
        let Some(&start) = tokens.last_chunk().and_then(|gram: &[u32; GRAM]| self.seen.get(gram)) else { return &[] };
        &tokens[start..tokens.len().min(start + limit)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_before_is_drafted() {
        let mut lookup = Lookup::new();
        assert_eq!(lookup.draft(&[1, 2, 3, 4, 5, 6, 7, 1, 2, 3], 4), [4, 5, 6, 7]);
        assert_eq!(lookup.draft(&[1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4, 5], 6), [6, 7, 1, 2, 3, 4]);
        assert_eq!(Lookup::new().draft(&[1, 2, 3, 4], 8), [0; 0]);
        assert_eq!(Lookup::new().draft(&[1, 1, 1, 1], 8), [1]);
    }
}
