//! Running token ids for the logits of some of their positions.

use crate::Error;
use allod_engine::{Outputs, PagePool, Rows, Sequence, forward};
use allod_kernels::pool::Pool;
use allod_plan::Backend;
use std::ops::Range;

/// Most bytes of logits that a step should give.
const LOGITS_BYTES: usize = 64 << 20;

/// How many rows' logits a step should give at once for this vocabulary: what [`Scorer`] uses, and what a backend must
/// be built for.
pub fn outputs(vocabulary: usize) -> usize {
    (LOGITS_BYTES / 4 / vocabulary.max(1)).clamp(16, 512)
}

/// A backend that scores texts, one sequence at a time.
pub struct Scorer<'a> {
    backend: &'a mut dyn Backend,
    /// For the work on logits.
    pub(crate) pool: &'a Pool,
    pages: PagePool,
}

impl<'a> Scorer<'a> {
    /// Takes the backend's pages and its state slot 0 for itself. The backend must give [`outputs`] rows a step.
    pub fn new(backend: &'a mut dyn Backend, pool: &'a Pool) -> Scorer<'a> {
        let pages = PagePool::new(backend.capacity().pages);
        Scorer { backend, pool, pages }
    }

    /// Size of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.backend.capacity().width
    }

    /// Runs `ids` as a sequence of their own. `each` gets the logits `[rows × vocabulary]` of the `wanted` positions,
    /// several at a time and in order, with the first of their positions. What comes after them is not run.
    ///
    /// # Errors
    /// [`Error::Engine`], or what `each` returns.
    pub fn run(
        &mut self,
        ids: &[u32],
        wanted: Range<usize>,
        mut each: impl FnMut(&Pool, usize, &[f32]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let capacity = self.backend.capacity();
        let (rows, outputs) = (capacity.rows, outputs(capacity.width).min(capacity.rows));
        let mut sequence = Sequence::new(0);
        self.backend.clear_state(0);
        let mut done = 0;
        let result = loop {
            if done >= wanted.end.min(ids.len()) {
                break Ok(());
            }
            let (end, kind) = if done < wanted.start {
                (wanted.start.min(done + rows), Outputs::None)
            } else {
                (wanted.end.min(done + outputs), Outputs::All)
            };
            let batch = Rows { sequence: &mut sequence, tokens: &ids[done..end.min(ids.len())], outputs: kind };
            let step = forward(self.backend, &mut self.pages, &mut [batch]).map_err(Error::from);
            let step =
                step.and_then(|logits| if kind == Outputs::All { each(self.pool, done, logits) } else { Ok(()) });
            if step.is_err() {
                break step;
            }
            done = end;
        };
        sequence.truncate(0, &mut self.pages);
        result
    }
}
