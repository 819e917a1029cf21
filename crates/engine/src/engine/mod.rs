//! Many answers from one backend, each the same as if it were alone.
//!
//! [`Engine::submit`] takes [`Request`]s, [`Engine::step`] runs one step for as many of them as fit and returns what
//! happened. Nothing here starts a thread but [`Engine::spawn`], which puts the engine on one and gives each request
//! its own stream of events.
//!
//! Who runs beside whom, in pieces of what size, from a found prefix or from the beginning, with drafts or without:
//! none of it reaches the bytes of an answer, because a row's results do not depend on the rows beside it and the
//! sampler's noise is a function of seed, position and token alone.

mod adapters;
mod beam;
mod book;
mod constraint;
mod draft;
mod guide;
mod options;
mod request;
mod results;
mod schedule;
mod sequence;
mod slots;
mod spill;
mod stats;
mod thread;
mod trace;

pub use adapters::AdapterId;
pub use beam::{BeamParams, BeamSearch, Hypothesis, best_of};
pub use constraint::{Constraint, ConstraintError, Grammar, TokenMask};
pub use options::{EngineOptions, pages_in};
pub use request::{Event, EventKind, Failure, Request, RequestId, Task, Thinking};
pub use spill::SpillOptions;
pub use stats::{Counters, EngineStats, PageView, SequenceView, Snapshot};
pub use thread::{Answers, Handle, Sink, Unsent};
pub use trace::StepTrace;

use crate::{Error, Finish};
use allod_plan::{AdapterError, Backend, Lora, SeqRows, Step, StepError};
use book::Book;
use draft::DraftModel;
use guide::LentGuide;
use schedule::Part;
use spill::Spill;
use std::time::Instant;
use trace::Trace;

/// A backend and the requests that it works on.
pub struct Engine {
    backend: Box<dyn Backend>,
    book: Book,
    draft: Option<DraftModel>,
    trace: Trace,
    last_rows: usize,
}

impl Engine {
    /// An engine that has all the backend's pages and slots. Limits that the backend cannot keep are brought within
    /// what it can.
    pub fn new(backend: Box<dyn Backend>, options: EngineOptions) -> Engine {
        let book = Book::new(options, backend.capacity());
        Engine { backend, book, draft: None, trace: Trace::new(), last_rows: 0 }
    }

    /// Drafts with a smaller model of the same vocabulary, on a backend built for `outputs` wanted rows a step. Answers
    /// do not change. Models with recurrent states cannot draft: their states cannot go back.
    #[must_use]
    pub fn with_draft(mut self, backend: Box<dyn Backend>, outputs: usize) -> Engine {
        self.draft = Some(DraftModel::new(backend, outputs));
        self
    }

    /// Writes pages that memory has no room for to disk and finds them there again, also after a restart: what is in
    /// memory when the engine is dropped is written too.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn with_spill(mut self, options: &SpillOptions) -> std::io::Result<Engine> {
        self.book.spill = Some(Spill::open(options)?);
        self.book.pool.note_evictions();
        Ok(self)
    }

    /// Puts a request in the queue.
    ///
    /// # Errors
    /// [`Failure`] when it makes no sense, can never fit, or the queue is full. Nothing is cut silently.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, Failure> {
        self.book.submit(request)
    }

    /// Makes an adapter ready for requests that name it. Others go on beside it, with other adapters or none.
    ///
    /// # Errors
    /// [`AdapterError`] when it was made for another base model.
    pub fn load_adapter(&mut self, adapter: &Lora) -> Result<AdapterId, AdapterError> {
        let id = self.book.adapters.next();
        self.backend.load_adapter(id.number(), adapter)?;
        self.book.adapters.insert(id, adapter.digest());
        Ok(id)
    }

    /// Takes no more requests for an adapter, and forgets it when those that are here have ended. False when there is
    /// no such adapter.
    pub fn drop_adapter(&mut self, id: AdapterId) -> bool {
        let known = self.book.adapters.retire(id);
        self.forget_adapters();
        known
    }

    /// Forgets adapters that nobody uses or can use any more.
    fn forget_adapters(&mut self) {
        for id in self.book.adapters.retired() {
            if !self.book.sequences.values().any(|s| s.request.adapter == Some(id)) {
                self.backend.drop_adapter(id.number());
                self.book.adapters.remove(id);
            }
        }
    }

    /// Ends all answers of a request; what they held is free when this returns. Their last events come with the next
    /// step.
    pub fn cancel(&mut self, id: RequestId) {
        for key in self.keys(id) {
            self.cancel_sequence(key);
        }
    }

    /// Holds a request back, or lets it go on: while its receiver is behind, nothing is generated for it.
    pub fn hold(&mut self, id: RequestId, held: bool) {
        for key in self.keys(id) {
            if let Some(sequence) = self.book.sequences.get_mut(&key) {
                sequence.held = held;
            }
        }
    }

    /// True when no request is here and all events are fetched.
    pub fn is_idle(&self) -> bool {
        self.book.sequences.is_empty() && self.book.events.is_empty()
    }

    /// Runs one step, if anybody can run, and returns what happened since the last.
    pub fn step(&mut self) -> Vec<Event> {
        self.expire();
        self.forget_adapters();
        let (started, before) = (Instant::now(), self.stats());
        let parts = self.book.schedule(self.backend.as_mut(), self.draft.as_mut());
        self.book.save_evicted(self.backend.as_ref());
        self.last_rows = parts.iter().map(|part| part.rows + part.draft.len()).sum();
        if !parts.is_empty() {
            let scheduled = started.elapsed();
            self.book.counters.steps += 1;
            self.execute(&parts);
            let answers = parts.iter().filter(|part| part.decodes).map(|part| part.rows + part.draft.len()).sum();
            let seconds = (started.elapsed() - scheduled).as_secs_f64();
            self.book.pace.observe(answers, self.last_rows - answers, seconds);
            for (from, to) in self.book.copies.drain(..) {
                self.backend.copy_state(from, to);
            }
            self.book.save_states(self.backend.as_ref());
            let after = self.stats();
            self.trace.note(started, scheduled, &parts, &before, &after);
        }
        std::mem::take(&mut self.book.events)
    }

    /// The last steps, the earliest first.
    pub fn trace(&self) -> Vec<StepTrace> {
        self.trace.steps().copied().collect()
    }

    /// Positions that prompt and answer may have together.
    pub fn context(&self) -> usize {
        self.book.context()
    }

    /// Tokens of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.book.vocabulary()
    }

    /// How things stand.
    pub fn stats(&self) -> EngineStats {
        self.book.stats(self.last_rows)
    }

    /// Pages and queue.
    pub fn snapshot(&self) -> Snapshot {
        self.book.snapshot()
    }

    /// Puts the engine on a thread of its own. Each request's channel takes `buffer` events before the request is held.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn spawn(self, buffer: usize) -> std::io::Result<Handle> {
        thread::spawn(self, buffer)
    }

    fn keys(&self, id: RequestId) -> Vec<u64> {
        self.book.sequences.iter().filter(|(_, s)| s.id == id).map(|(&key, _)| key).collect()
    }

    fn cancel_sequence(&mut self, key: u64) {
        if let Some(sequence) = self.book.sequences.get(&key) {
            let stats = sequence.stats();
            self.book.end(key, EventKind::Finished { reason: Finish::Cancelled, stats });
        }
    }

    /// Ends what was cancelled and what is too late.
    fn expire(&mut self) {
        let now = Instant::now();
        let mut late = Vec::new();
        let mut cancelled = Vec::new();
        for (&key, sequence) in &self.book.sequences {
            if sequence.request.cancel.is_cancelled() {
                cancelled.push(key);
            } else if sequence.request.deadline.is_some_and(|deadline| deadline <= now) {
                late.push((key, sequence.generated()));
            }
        }
        cancelled.into_iter().for_each(|key| self.cancel_sequence(key));
        for (key, generated) in late {
            self.book.counters.failed += 1;
            self.book.end(key, EventKind::Failed(Failure::Deadline { generated }));
        }
    }

    /// Runs the parts in one step, while constraints work out what may follow; where the backend refuses, each by itself,
    /// so that only the one it cannot run fails.
    fn execute(&mut self, parts: &[Part]) {
        let mut guides = self.book.lend_guides(parts);
        let (backend, book) = (self.backend.as_mut(), &self.book);
        let results = std::thread::scope(|scope| {
            if !guides.is_empty() {
                scope.spawn(|| guides.iter_mut().for_each(LentGuide::prepare));
            }
            run(backend, book, parts)
        });
        self.book.return_guides(guides);
        match results {
            Ok(results) => self.book.absorb(parts, results),
            Err(error) => match parts {
                [part] => {
                    let failed = self.book.failed(Error::Step(error));
                    self.book.end(part.key, failed);
                }
                _ => parts.iter().for_each(|part| self.execute(std::slice::from_ref(part))),
            },
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.book.save_published(self.backend.as_ref());
    }
}

/// Runs one step over the parts.
fn run<'b>(backend: &'b mut dyn Backend, book: &Book, parts: &[Part]) -> Result<&'b [f32], StepError> {
    let mut tokens = Vec::new();
    let mut outputs = Vec::new();
    let mut sequences = Vec::with_capacity(parts.len());
    for part in parts {
        let Some(s) = book.sequences.get(&part.key) else { continue };
        let first = tokens.len();
        tokens.extend_from_slice(&s.tokens[s.computed..s.computed + part.rows]);
        tokens.extend_from_slice(&part.draft);
        let rows = first..tokens.len();
        let adapter = s.request.adapter.map_or(0, AdapterId::number);
        outputs.extend((rows.end - part.outputs) as u32..rows.end as u32);
        sequences.push(SeqRows {
            rows,
            start: s.computed as u32,
            pages: &s.table,
            state: s.slot.unwrap_or(0),
            adapter,
        });
    }
    backend.run(&Step { tokens: &tokens, sequences: &sequences, outputs: &outputs })
}
