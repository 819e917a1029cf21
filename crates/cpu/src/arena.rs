//! Borrowing the values of a step out of one arena.

use allod_plan::StepError;
use std::ops::Range;

/// The parts of `arena` at `ranges`, which liveness keeps apart.
pub(crate) fn views<const N: usize>(
    arena: &mut [f32],
    ranges: [Range<usize>; N],
) -> Result<[&mut [f32]; N], StepError> {
    arena.get_disjoint_mut(ranges).map_err(|e| StepError::Inconsistent(format!("values overlap: {e}")))
}
