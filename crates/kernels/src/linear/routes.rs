//! Which rows go to which expert.

/// Rows bucketed by expert, made from the experts each token chose.
///
/// The products of a mixture run expert by expert over its bucket, so that an expert's weights are read (and unpacked)
/// once for all of its rows.
#[derive(Default, Debug, Clone)]
pub struct Routes {
    /// Where each expert's bucket starts in `slots`; one more than there are experts.
    starts: Vec<u32>,
    /// Slots, bucket after bucket; within a bucket in rising order.
    slots: Vec<u32>,
    per_token: usize,
}

impl Routes {
    /// No routes; [`Routes::fill`] sets them.
    pub fn new() -> Routes {
        Routes::default()
    }

    /// Buckets `chosen`, `[tokens × per_token]` experts: slot `t * per_token + j` is token `t`'s `j`-th choice.
    /// Allocates nothing once the buffers have grown.
    ///
    /// # Panics
    /// When an expert is not below `experts`, or `chosen` is no whole number of tokens.
    pub fn fill(&mut self, chosen: &[u32], per_token: usize, experts: usize) {
        assert!(per_token > 0 && chosen.len().is_multiple_of(per_token), "choices that are no whole number of tokens");
        assert!(u32::try_from(chosen.len()).is_ok(), "more slots than fit their numbers");
        self.per_token = per_token;
        self.starts.clear();
        self.starts.resize(experts + 1, 0);
        for &e in chosen {
            self.starts[e as usize + 1] += 1;
        }
        for e in 0..experts {
            self.starts[e + 1] += self.starts[e];
        }
        self.slots.resize(chosen.len(), 0);
        for (slot, &e) in chosen.iter().enumerate() {
            self.slots[self.starts[e as usize] as usize] = slot as u32;
            self.starts[e as usize] += 1;
        }
        // Each start has moved to its bucket's end: move them back by one bucket.
        self.starts.copy_within(0..experts, 1);
        self.starts[0] = 0;
    }

    /// Number of experts.
    pub fn experts(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Choices of one token.
    pub fn per_token(&self) -> usize {
        self.per_token
    }

    /// Number of slots: tokens × choices.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The slots of one expert, in rising order.
    pub fn bucket(&self, expert: usize) -> &[u32] {
        &self.slots[self.starts[expert] as usize..self.starts[expert + 1] as usize]
    }
}
