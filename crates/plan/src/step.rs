//! One step of a backend: which rows run now, where their sequences' keys and values lie, and which rows' results are
//! wanted. The engine fills it; a backend never allocates pages or slots itself.

use crate::{AdapterError, Lora};
use std::ops::Range;

/// Positions in one page of the key-value cache.
pub const PAGE: usize = 16;

/// The rows of one step. Prefill chunks and decode rows of any number of sequences may be mixed.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Token id of each row.
    pub tokens: &'a [u32],
    /// Sequences in row order; together they cover every row exactly once.
    pub sequences: &'a [SeqRows<'a>],
    /// Rows whose results are wanted, increasing.
    pub outputs: &'a [u32],
}

/// Consecutive rows that continue one sequence.
#[derive(Clone, Debug)]
pub struct SeqRows<'a> {
    /// Its rows in the step.
    pub rows: Range<usize>,
    /// Position in the sequence of the first of them.
    pub start: u32,
    /// Page table: entry `i` names the page that holds positions `16 i .. 16 i + 16`, up to the last row's.
    pub pages: &'a [u32],
    /// Slot of the sequence's recurrent state (ignored by models that have none).
    pub state: u32,
    /// The adapter that its rows go through (see [`Backend::load_adapter`]); 0 is none.
    pub adapter: u32,
}

/// What a backend holds for a model, fixed at load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Width of a result row: the vocabulary of a decoder, the embedding of an encoder.
    pub width: usize,
    /// Most rows in one step.
    pub rows: usize,
    /// Pages of [`PAGE`] positions in the pool.
    pub pages: usize,
    /// Slots for recurrent state.
    pub states: usize,
    /// Positions that a sequence may have.
    pub context: usize,
}

/// Why a step was refused. The backend's memory is as before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// Rows, pages, slots or ids outside what the backend holds.
    #[error("{what}: {found} is outside 0..{limit}")]
    Outside {
        /// Which number.
        what: &'static str,
        /// Its value.
        found: usize,
        /// The first value that is too large.
        limit: usize,
    },
    /// The step contradicts itself.
    #[error("{0}")]
    Inconsistent(String),
}

/// Something that can run a plan: it owns the prepared weights, the pages and the recurrent states.
pub trait Backend: Send {
    /// What it was built for.
    fn capacity(&self) -> Capacity;

    /// Runs one step and returns the results of the wanted rows, `[outputs × width]`.
    ///
    /// # Errors
    /// [`StepError`] when the step does not fit; nothing has been written then.
    fn run(&mut self, step: &Step<'_>) -> Result<&[f32], StepError>;

    /// Copies a page of every layer (copy on write).
    fn copy_page(&mut self, from: u32, to: u32);

    /// Copies a recurrent state (checkpoint, fork, roll back).
    fn copy_state(&mut self, from: u32, to: u32);

    /// Makes a recurrent state that of an empty sequence.
    fn clear_state(&mut self, slot: u32);

    /// Appends all that a page holds to `out`, for [`Self::write_page`] of this or a later backend of the same plan,
    /// weights and cache type. False, and nothing appended, where that cannot be done.
    fn read_page(&self, page: u32, out: &mut Vec<u8>) -> bool {
        let _ = (page, out);
        false
    }

    /// Makes a page hold what [`Self::read_page`] gave. False, and nothing changed, if it is not of the right size.
    fn write_page(&mut self, page: u32, bytes: &[u8]) -> bool {
        let _ = (page, bytes);
        false
    }

    /// Appends a recurrent state to `out`, as [`Self::read_page`] does a page.
    fn read_state(&self, slot: u32, out: &mut Vec<u8>) -> bool {
        let _ = (slot, out);
        false
    }

    /// Makes a slot hold what [`Self::read_state`] gave, as [`Self::write_page`] does a page.
    fn write_state(&mut self, slot: u32, bytes: &[u8]) -> bool {
        let _ = (slot, bytes);
        false
    }

    /// Lets steps run rows through an adapter under a number above 0; what had the number before is dropped.
    ///
    /// # Errors
    /// [`AdapterError`] when it does not fit the plan.
    fn load_adapter(&mut self, id: u32, adapter: &Lora) -> Result<(), AdapterError> {
        let _ = (id, adapter);
        Err(AdapterError::Unsupported)
    }

    /// Forgets the adapter with this number.
    fn drop_adapter(&mut self, id: u32) {
        let _ = id;
    }
}
