//! Sequences in the memory of a backend, and one step over rows of several of them.

use crate::{Error, PagePool};
use allod_plan::{Backend, SeqRows, Step};

/// Tokens whose keys, values and state a backend holds.
#[derive(Debug, Default)]
pub struct Sequence {
    tokens: Vec<u32>,
    pages: Vec<u32>,
    state: u32,
    adapter: u32,
}

impl Sequence {
    /// An empty sequence with slot `state` of the recurrent states.
    pub fn new(state: u32) -> Sequence {
        Sequence { state, ..Sequence::default() }
    }

    /// The same sequence, whose rows go through the adapter with this number.
    #[must_use]
    pub fn through(self, adapter: u32) -> Sequence {
        Sequence { adapter, ..self }
    }

    /// The tokens, by position.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Its slot of the recurrent states.
    pub fn state(&self) -> u32 {
        self.state
    }

    /// Forgets the tokens from position `length` on and gives their pages back. (A recurrent state cannot forget: the
    /// caller brings the slot to the same position.)
    pub fn truncate(&mut self, length: usize, pool: &mut PagePool) {
        self.tokens.truncate(length);
        pool.shrink(&mut self.pages, self.tokens.len());
    }
}

/// Which results of some rows are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// None: the rows only fill the cache.
    None,
    /// That of the last row.
    Last,
    /// Those of all rows.
    All,
}

/// Tokens that continue a sequence.
#[derive(Debug)]
pub struct Rows<'a> {
    /// The sequence.
    pub sequence: &'a mut Sequence,
    /// The tokens, at least one.
    pub tokens: &'a [u32],
    /// What comes back for them.
    pub outputs: Outputs,
}

/// Runs one step over the rows, which become part of their sequences, and returns the wanted results,
/// `[outputs × width]` in the order of the rows.
///
/// # Errors
/// [`Error::NoPages`] or [`Error::Step`]; the sequences have the same tokens as before then.
pub fn forward<'b>(
    backend: &'b mut dyn Backend,
    pool: &mut PagePool,
    batch: &mut [Rows<'_>],
) -> Result<&'b [f32], Error> {
    for r in batch.iter_mut() {
        pool.cover(&mut r.sequence.pages, r.sequence.tokens.len() + r.tokens.len())?;
    }
    let mut tokens = Vec::new();
    let mut outputs = Vec::new();
    let mut sequences = Vec::with_capacity(batch.len());
    for r in batch.iter() {
        let first = tokens.len();
        tokens.extend_from_slice(r.tokens);
        let rows = first..tokens.len();
        match r.outputs {
            Outputs::None => {}
            Outputs::Last => outputs.push(rows.end as u32 - 1),
            Outputs::All => outputs.extend(rows.start as u32..rows.end as u32),
        }
        let start = r.sequence.tokens.len() as u32;
        sequences.push(SeqRows {
            rows,
            start,
            pages: &r.sequence.pages,
            state: r.sequence.state,
            adapter: r.sequence.adapter,
        });
    }
    let results = backend.run(&Step { tokens: &tokens, sequences: &sequences, outputs: &outputs })?;
    for r in batch {
        r.sequence.tokens.extend_from_slice(r.tokens);
    }
    Ok(results)
}
