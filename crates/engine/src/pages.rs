//! Which pages of the key-value cache are free.

use crate::Error;
use allod_plan::PAGE;

/// The pages of a backend, handed out and taken back by number.
#[derive(Debug)]
pub struct PagePool {
    free: Vec<u32>,
    total: usize,
}

impl PagePool {
    /// A pool of `total` pages, all free.
    pub fn new(total: usize) -> PagePool {
        PagePool { free: (0..total as u32).rev().collect(), total }
    }

    /// Number of free pages.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Lengthens a page table until it covers `positions` positions.
    ///
    /// # Errors
    /// [`Error::NoPages`] when too few are free; the table is as before then.
    pub fn cover(&mut self, table: &mut Vec<u32>, positions: usize) -> Result<(), Error> {
        let wanted = positions.div_ceil(PAGE).saturating_sub(table.len());
        let Some(rest) = self.free.len().checked_sub(wanted) else {
            return Err(Error::NoPages { wanted, free: self.free.len(), total: self.total });
        };
        table.extend(self.free.drain(rest..).rev());
        Ok(())
    }

    /// Shortens a page table to what `positions` positions need; the rest becomes free.
    pub fn shrink(&mut self, table: &mut Vec<u32>, positions: usize) {
        let kept = positions.div_ceil(PAGE).min(table.len());
        self.free.extend(table.drain(kept..).rev());
    }
}
