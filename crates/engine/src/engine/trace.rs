//! What the last steps did.

use super::schedule::Part;
use super::stats::EngineStats;
use serde::Serialize;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Steps that are remembered.
const STEPS: usize = 1024;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepTrace {
    /// Its number, from 1.
    pub step: u64,
    /// Microseconds from the making of the engine to its beginning.
    pub start_us: u64,
    /// Microseconds of choosing who runs.
    pub schedule_us: u64,
    /// Microseconds of the backend, and of choosing tokens from its results.
    pub run_us: u64,
    /// Sequences that took part.
    pub sequences: usize,
    /// Rows of prompts.
    pub prompt_rows: usize,
    /// Rows that continue answers.
    pub decode_rows: usize,
    /// Rows that were drafted, and those of them that were right.
    pub drafted: u64,
    /// Likewise.
    pub kept: u64,
    /// Tokens that it gave.
    pub generated: u64,
    /// Answers that waited and ran when it was over.
    pub waiting: usize,
    /// Likewise.
    pub running: usize,
    /// Pages that were held then.
    pub held_pages: usize,
}

/// The last steps, the earliest first.
#[derive(Debug)]
pub(super) struct Trace {
    begin: Instant,
    steps: VecDeque<StepTrace>,
}

impl Trace {
    pub(super) fn new() -> Trace {
        Trace { begin: Instant::now(), steps: VecDeque::new() }
    }

    /// Notes a step that began at `started` and was scheduled in `schedule`, between two states of the engine.
    pub(super) fn note(
        &mut self,
        started: Instant,
        schedule: Duration,
        parts: &[Part],
        before: &EngineStats,
        after: &EngineStats,
    ) {
        if self.steps.len() == STEPS {
            self.steps.pop_front();
        }
        let decode_rows = parts.iter().filter(|part| part.decodes).map(|part| part.rows).sum();
        let rows: usize = parts.iter().map(|part| part.rows).sum();
        let (old, new) = (before.counters, after.counters);
        self.steps.push_back(StepTrace {
            step: new.steps,
            start_us: (started - self.begin).as_micros() as u64,
            schedule_us: schedule.as_micros() as u64,
            run_us: started.elapsed().saturating_sub(schedule).as_micros() as u64,
            sequences: parts.len(),
            prompt_rows: rows - decode_rows,
            decode_rows,
            drafted: new.drafted - old.drafted,
            kept: new.kept - old.kept,
            generated: new.generated - old.generated,
            waiting: after.waiting,
            running: after.running,
            held_pages: after.held_pages,
        });
    }

    pub(super) fn steps(&self) -> impl Iterator<Item = &StepTrace> {
        self.steps.iter()
    }
}
