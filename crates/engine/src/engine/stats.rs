//! What the engine says about itself.

use super::book::Book;
use super::request::RequestId;
use super::spill::Spill;
use serde::Serialize;

/// Counts since the engine was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Steps run.
    pub steps: u64,
    /// Rows run, drafts included.
    pub rows: u64,
    /// Tokens of answers.
    pub generated: u64,
    /// Tokens that did not run because their pages were found.
    pub found_tokens: u64,
    /// Tokens drafted.
    pub drafted: u64,
    /// Drafted tokens that were right.
    pub kept: u64,
    /// Sequences that had to give way.
    pub preemptions: u64,
    /// Answers that failed.
    pub failed: u64,
}

/// How things stand between two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EngineStats {
    /// Answers that wait for memory or a slot.
    pub waiting: usize,
    /// Answers that hold memory.
    pub running: usize,
    /// Pages of the pool.
    pub pages: usize,
    /// Pages that some sequence holds.
    pub held_pages: usize,
    /// Free pages whose content may be found again.
    pub idle_pages: usize,
    /// Pages and states on disk.
    pub spilled: usize,
    /// Bytes that they take.
    pub spilled_bytes: u64,
    /// Rows of the last step.
    pub last_rows: usize,
    /// Counts since the beginning.
    pub counters: Counters,
}

/// One page of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PageView {
    /// Sequences that hold it.
    pub holders: u32,
    /// Whether it can be found by its content.
    pub published: bool,
}

/// One answer on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SequenceView {
    /// The request.
    pub request: RequestId,
    /// Which of its answers.
    pub answer: u32,
    /// On whose account.
    pub client: u64,
    /// The request's priority.
    pub priority: i32,
    /// Whether it holds memory; otherwise it waits.
    pub running: bool,
    /// Tokens of prompt and answer.
    pub tokens: usize,
    /// Those of them that are computed.
    pub computed: usize,
    /// Pages in the order of positions.
    pub pages: Vec<u32>,
}

/// Pages and queue, to be drawn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// All pages.
    pub pages: Vec<PageView>,
    /// All answers, by arrival.
    pub sequences: Vec<SequenceView>,
}

impl Book {
    pub(super) fn stats(&self, last_rows: usize) -> EngineStats {
        let (spilled, spilled_bytes) = self.spill.as_ref().map(Spill::size).unwrap_or_default();
        EngineStats {
            spilled,
            spilled_bytes,
            waiting: self.waiting.len(),
            running: self.running.len(),
            pages: self.pool.total(),
            held_pages: self.pool.total() - self.pool.free(),
            idle_pages: self.pool.idle(),
            last_rows,
            counters: self.counters,
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let page = |page| PageView { holders: self.pool.holders(page), published: self.pool.is_published(page) };
        let sequences = self.sequences.values().map(|s| SequenceView {
            request: s.id,
            answer: s.answer,
            client: s.request.client,
            priority: s.request.priority,
            running: s.slot.is_some(),
            tokens: s.tokens.len(),
            computed: s.computed,
            pages: s.table.clone(),
        });
        Snapshot { pages: (0..self.pool.total() as u32).map(page).collect(), sequences: sequences.collect() }
    }
}
