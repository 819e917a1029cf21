//! Past answers as suffix trees of bounded depth: the longest end of a text that stood in an answer before says what
//! followed it most often (Oliaro et al., "SuffixDecoding", 2024).

use crate::PageHash;
use std::collections::HashMap;

/// Tokens of a path: context and continuation.
const DEPTH: usize = 16;
/// Fewest and most tokens of context.
const CONTEXT: std::ops::RangeInclusive<usize> = 3..=8;

/// Answers of the present and, while it fills up, of the generation before.
#[derive(Debug)]
pub(crate) struct Past {
    trees: [Tree; 2],
    /// Nodes of a tree.
    limit: usize,
}

#[derive(Debug, Default)]
struct Tree {
    /// Only texts with the same root (salt and adapter) know of each other.
    roots: HashMap<PageHash, u32>,
    edges: HashMap<(u32, u32), u32>,
    nodes: Vec<Node>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    count: u32,
    /// The child that came most often.
    best: u32,
    best_count: u32,
}

impl Past {
    /// Remembers about `tokens` tokens.
    pub(crate) fn new(tokens: usize) -> Past {
        Past { trees: [Tree::default(), Tree::default()], limit: tokens.saturating_mul(DEPTH / 2) }
    }

    /// Takes in an answer.
    pub(crate) fn insert(&mut self, root: PageHash, answer: &[u32]) {
        if self.limit == 0 {
            return;
        }
        for start in 0..answer.len() {
            if self.trees[0].nodes.len() >= self.limit {
                self.trees[1] = std::mem::take(&mut self.trees[0]);
            }
            self.trees[0].insert(root, &answer[start..answer.len().min(start + DEPTH)]);
        }
    }

    /// Up to `limit` tokens that may follow `text`.
    pub(crate) fn draft(&self, root: &PageHash, text: &[u32], limit: usize) -> Vec<u32> {
        let mut end = text[text.len() - text.len().min(*CONTEXT.end())..].to_vec();
        let before = end.len();
        while end.len() - before < limit {
            let from = end.len().saturating_sub(*CONTEXT.end());
            match self.trees.iter().find_map(|tree| tree.follow(root, &end[from..])) {
                Some(next) => end.push(next),
                None => break,
            }
        }
        end.split_off(before)
    }
}

impl Tree {
    fn node(&mut self) -> u32 {
        self.nodes.push(Node::default());
        self.nodes.len() as u32 - 1
    }

    fn insert(&mut self, root: PageHash, path: &[u32]) {
        let mut at = match self.roots.get(&root) {
            Some(&at) => at,
            None => {
                let at = self.node();
                self.roots.insert(root, at);
                at
            }
        };
        for &token in path {
            let child = match self.edges.get(&(at, token)) {
                Some(&child) => child,
                None => {
                    let child = self.node();
                    self.edges.insert((at, token), child);
                    child
                }
            };
            let node = &mut self.nodes[child as usize];
            node.count += 1;
            let count = node.count;
            let parent = &mut self.nodes[at as usize];
            if count > parent.best_count {
                (parent.best, parent.best_count) = (token, count);
            }
            at = child;
        }
    }

    /// What followed the longest known end of `text`, if it did in most cases.
    fn follow(&self, root: &PageHash, text: &[u32]) -> Option<u32> {
        let root = *self.roots.get(root)?;
        let walk = |end: &[u32]| end.iter().try_fold(root, |at, &token| self.edges.get(&(at, token)).copied());
        let longest = text.len().min(*CONTEXT.end());
        let known = (*CONTEXT.start()..=longest).rev().filter_map(|length| walk(&text[text.len() - length..]));
        let node = known.map(|at| self.nodes[at as usize]).find(|node| node.best_count > 0)?;
        (2 * node.best_count >= node.count).then_some(node.best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_most_often_is_drafted_and_only_to_its_own() {
        let (root, other) = (PageHash::root(b"", None), PageHash::root(b"x", None));
        let mut past = Past::new(1000);
        past.insert(root, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21]);
        past.insert(root, &[9, 1, 2, 3, 40]);
        past.insert(root, &[9, 1, 2, 3, 40]);
        assert_eq!(past.draft(&root, &[7, 5, 6, 7], 30), (8..=21).collect::<Vec<_>>());
        assert_eq!(past.draft(&root, &[7, 1, 2, 3], 4), [40]);
        assert_eq!(past.draft(&root, &[2, 3], 4), [0; 0]);
        assert_eq!(past.draft(&other, &[7, 5, 6, 7], 30), [0; 0]);
    }

    #[test]
    fn memory_is_bounded() {
        let root = PageHash::root(b"", None);
        let mut past = Past::new(100);
        for i in 0..1000 {
            past.insert(root, &(0..50).map(|j| i * 50 + j).collect::<Vec<_>>());
            assert!(past.trees.iter().all(|tree| tree.nodes.len() <= 100 * DEPTH / 2 + DEPTH));
        }
        let late: Vec<u32> = past.draft(&root, &[49_960, 49_961, 49_962], 3);
        assert_eq!(late, [49_963, 49_964, 49_965]);
    }
}
