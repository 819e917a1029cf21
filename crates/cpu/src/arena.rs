//! The memory that a step's values lie in, and borrowing several of them.

use crate::PrepareError;
use allod_plan::StepError;
use allod_tensor::Memory;
use std::ops::{Deref, DerefMut, Range};

/// Zeroed numbers.
#[derive(Default)]
pub(crate) struct Numbers(Memory);

impl Numbers {
    pub(crate) fn zeroed(len: usize) -> Result<Numbers, PrepareError> {
        let bytes = len * size_of::<f32>();
        Memory::zeroed(bytes).map(Numbers).map_err(|source| PrepareError::Memory { bytes, source })
    }
}

impl Deref for Numbers {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0)
    }
}

impl DerefMut for Numbers {
    fn deref_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// The parts of `arena` at `ranges`, which liveness keeps apart.
pub(crate) fn views<const N: usize>(
    arena: &mut [f32],
    ranges: [Range<usize>; N],
) -> Result<[&mut [f32]; N], StepError> {
    arena.get_disjoint_mut(ranges).map_err(|e| StepError::Inconsistent(format!("values overlap: {e}")))
}
