//! The merge loop of byte-pair encodings: neighbours become one symbol, best pair first, leftmost on a tie.
//!
//! A heap of candidates over a linked list of symbols: O(n log n), so that a vocabulary without word boundaries
//! encodes megabytes as fast as words.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The end of a list.
const NONE: u32 = u32::MAX;

/// A run of the text that is one symbol so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    /// Its token, or a number that no pair contains.
    pub(super) id: u32,
    /// Where it begins, in bytes.
    pub(super) start: u32,
    /// Length in bytes; 0 once it was merged into its left neighbour.
    pub(super) len: u32,
    prev: u32,
    next: u32,
}

/// A pair that may be merged, in the order of merging.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    right: u32,
    /// Length of both together: differs once either has grown.
    len: u32,
    id: u32,
}

/// Symbols and candidates, kept between words to spare allocations.
#[derive(Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.heap.clear();
    }

    /// Appends a symbol.
    pub(super) fn push(&mut self, id: u32, start: usize, len: usize) {
        let index = self.symbols.len() as u32;
        if let Some(last) = self.symbols.last_mut() {
            last.next = index;
        }
        let prev = index.wrapping_sub(1);
        self.symbols.push(Symbol { id, start: start as u32, len: len as u32, prev, next: NONE });
    }

    /// Merges until `find` knows no pair of neighbours. `find` gives the rank of a pair (lower merges first) and the
    /// id it becomes.
    pub(super) fn run(&mut self, find: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        for right in 1..self.symbols.len() as u32 {
            self.consider(right - 1, right, &find);
        }
        while let Some(Reverse(best)) = self.heap.pop() {
            let (left, right) = (self.symbols[best.left as usize], self.symbols[best.right as usize]);
            if left.len == 0 || right.len == 0 || left.len + right.len != best.len || left.next != best.right {
                continue;
            }
            self.symbols[best.right as usize].len = 0;
            let merged = &mut self.symbols[best.left as usize];
            merged.id = best.id;
            merged.len = best.len;
            merged.next = right.next;
            if right.next != NONE {
                self.symbols[right.next as usize].prev = best.left;
                self.consider(best.left, right.next, &find);
            }
            if left.prev != NONE {
                self.consider(left.prev, best.left, &find);
            }
        }
    }

    /// What is left, in order.
    pub(super) fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|s| s.len > 0)
    }

    fn consider(&mut self, left: u32, right: u32, find: &impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        let (l, r) = (&self.symbols[left as usize], &self.symbols[right as usize]);
        if let Some((rank, id)) = find(l, r) {
            self.heap.push(Reverse(Candidate { rank, left, right, len: l.len + r.len, id }));
        }
    }
}
