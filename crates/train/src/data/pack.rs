//! Putting sequences together. Rows of a batch are tokens of any number of sequences laid flat, and no sequence sees
//! another, so packing only decides which of them share a micro-batch.

use std::collections::{BTreeMap, VecDeque};

/// Best-fit decreasing, as TRL's `bfd`: the longest first, each into the fullest bin that has room for it. Gives the
/// numbers of the `lengths` in each bin; those longer than `room` come alone.
///
/// Of equally long ones the first comes first; of equally full bins, the one that became so first.
pub fn best_fit(lengths: &[usize], room: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
    let mut bins: Vec<Vec<usize>> = Vec::new();
    let mut by_space: BTreeMap<usize, VecDeque<usize>> = BTreeMap::new();
    for i in order {
        let length = lengths[i].min(room);
        let fits = by_space.range(length.max(1)..).next().map(|(space, _)| *space);
        let (bin, space) = match fits {
            Some(space) => {
                let queue = by_space.entry(space).or_default();
                let bin = queue.pop_front().unwrap_or_default();
                if queue.is_empty() {
                    by_space.remove(&space);
                }
                (bin, space)
            }
            None => {
                bins.push(vec![]);
                (bins.len() - 1, room)
            }
        };
        bins[bin].push(i);
        if space > length {
            by_space.entry(space - length).or_default().push_back(bin);
        }
    }
    bins
}
