//! Slots of recurrent states: one for each running sequence, the others for checkpoints.

use crate::PageHash;
use std::collections::HashMap;

#[derive(Debug)]
pub(super) struct Slots {
    free: Vec<u32>,
    spare: Vec<u32>,
    saved: HashMap<PageHash, Saved>,
    clock: u64,
}

#[derive(Debug)]
struct Saved {
    slot: u32,
    used: u64,
}

impl Slots {
    /// Slots `0 .. running` for sequences, `running .. total` for checkpoints.
    pub(super) fn new(running: usize, total: usize) -> Slots {
        Slots {
            free: (0..running as u32).rev().collect(),
            spare: (running as u32..total.max(running) as u32).collect(),
            saved: HashMap::new(),
            clock: 0,
        }
    }

    pub(super) fn take(&mut self) -> Option<u32> {
        self.free.pop()
    }

    pub(super) fn give(&mut self, slot: u32) {
        self.free.push(slot);
    }

    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// Slot of the state after the page so named.
    pub(super) fn find(&mut self, hash: &PageHash) -> Option<u32> {
        self.clock += 1;
        let saved = self.saved.get_mut(hash)?;
        saved.used = self.clock;
        Some(saved.slot)
    }

    /// Where to save the state after the page so named, unless it is saved or there is no room for checkpoints.
    pub(super) fn save(&mut self, hash: PageHash) -> Option<u32> {
        if self.find(&hash).is_some() {
            return None;
        }
        let slot = match self.spare.pop() {
            Some(slot) => slot,
            None => {
                let oldest = *self.saved.iter().min_by_key(|(_, saved)| saved.used)?.0;
                self.saved.remove(&oldest)?.slot
            }
        };
        self.saved.insert(hash, Saved { slot, used: self.clock });
        Some(slot)
    }

    /// Whether checkpoints can be kept at all.
    pub(super) fn keeps_checkpoints(&self) -> bool {
        !self.spare.is_empty() || !self.saved.is_empty()
    }
}
