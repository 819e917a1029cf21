//! Rows of sequences that carry recurrent state from step to step.

use std::ops::Range;

/// Consecutive rows that continue one sequence, and where its state lies.
#[derive(Clone, Debug)]
pub struct StateRows {
    /// Its rows in the step.
    pub rows: Range<usize>,
    /// Its state is number `slot` in a pool of states of equal size.
    pub slot: usize,
}

/// A block of columns of a row-major matrix.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    data: &'a [f32],
    stride: usize,
    first: usize,
    width: usize,
}

impl<'a> Columns<'a> {
    /// All columns of a matrix of `width`.
    pub fn all(data: &'a [f32], width: usize) -> Self {
        Columns { data, stride: width, first: 0, width }
    }

    /// Columns `range` of a matrix of `stride` columns.
    ///
    /// # Panics
    /// When the range ends beyond the row.
    pub fn of(data: &'a [f32], stride: usize, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= stride, "columns {range:?} of {stride}");
        Columns { data, stride, first: range.start, width: range.len() }
    }

    /// Row `t`.
    #[inline(always)]
    pub fn row(&self, t: usize) -> &'a [f32] {
        &self.data[t * self.stride + self.first..][..self.width]
    }

    /// Columns per row.
    pub fn width(&self) -> usize {
        self.width
    }
}

/// Checks that states and outputs are there and that no two sequences share a state or a row: the promise on which
/// tasks of different sequences write at the same time.
///
/// # Panics
/// When they are not.
pub(crate) fn check(seqs: &[StateRows], states: usize, state: usize, out: usize, width: usize) {
    let mut slots: Vec<usize> = seqs.iter().map(|s| s.slot).collect();
    slots.sort_unstable();
    assert!(slots.windows(2).all(|w| w[0] < w[1]), "two sequences share a state");
    assert!(slots.last().is_none_or(|&s| (s + 1) * state <= states), "a state beyond the pool");
    let mut rows: Vec<(usize, usize)> = seqs.iter().map(|s| (s.rows.start, s.rows.end)).collect();
    rows.sort_unstable();
    assert!(rows.windows(2).all(|w| w[0].1 <= w[1].0), "two sequences share rows");
    assert!(rows.iter().all(|r| r.1 * width <= out), "rows beyond the output");
}
