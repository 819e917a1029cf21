//! What the results of a step mean to the sequences it ran for.

use super::book::Book;
use super::request::{Event, EventKind, Failure};
use super::schedule::Part;
use crate::{Error, Finish};
use allod_plan::PAGE;

impl Book {
    /// Takes in the results of `parts`, `[outputs × width]` in their order.
    pub(super) fn absorb(&mut self, parts: &[Part], results: &[f32]) {
        let width = self.capacity.width;
        let mut rest = results;
        for part in parts {
            let count = if self.options.pooled { 1 } else { part.outputs };
            let (rows, others) = rest.split_at((count * width).min(rest.len()));
            rest = others;
            self.absorb_part(part, rows);
        }
    }

    fn absorb_part(&mut self, part: &Part, results: &[f32]) {
        let step = self.counters.steps;
        let Some(sequence) = self.sequences.get_mut(&part.key) else { return };
        sequence.served = step;
        sequence.computed += part.rows;
        if sequence.computed < sequence.prompt() {
            let kind = EventKind::Prompt { done: sequence.computed, total: sequence.prompt() };
            self.events.push(Event { request: sequence.id, answer: sequence.answer, kind });
        }
        let client = sequence.request.client;
        self.charge(client, part.rows);
        self.counters.rows += (part.rows + part.draft.len()) as u64;
        let end = if self.options.pooled { self.embedded(part.key, results) } else { self.read(part, results) };
        if !matches!(end, Some(EventKind::Failed(_))) {
            self.keep(part.key);
        }
        if let Some(end) = end {
            self.end(part.key, end);
        }
    }

    /// Reads rows of logits one after the other, as long as each is the continuation that was assumed. Returns how the
    /// answer ends, if it does.
    fn read(&mut self, part: &Part, results: &[f32]) -> Option<EventKind> {
        let kept_before = self.sequences[&part.key].generated();
        let first = self.sequences[&part.key].computed + part.draft.len() - part.outputs;
        for (next, row) in (first + 1..).zip(results.chunks_exact(self.capacity.width)) {
            let sequence = self.sequences.get(&part.key)?;
            let prompt = sequence.prompt();
            if next < prompt {
                if let Err(end) = self.score_prompt(part.key, next, row) {
                    return Some(end);
                }
                continue;
            }
            if next == prompt && sequence.is_fresh() {
                self.begin(part.key, row);
            }
            let sequence = self.sequences.get(&part.key)?;
            if sequence.request.continuation(sequence.answer).is_some() {
                if let Some(end) = self.score(part.key, row) {
                    return Some(end);
                }
                continue;
            }
            let end = self.choose(part.key, row);
            if end.is_some() {
                return end;
            }
            let sequence = self.sequences.get_mut(&part.key)?;
            let drafted = sequence.generated() - kept_before - 1;
            if part.draft.get(drafted) != sequence.tokens.last() {
                break;
            }
            sequence.computed += 1;
        }
        let sequence = self.sequences.get_mut(&part.key)?;
        if !part.draft.is_empty() {
            let kept = (sequence.generated() - kept_before - 1).min(part.draft.len());
            self.counters.kept += kept as u64;
            if let Some(drafter) = &mut sequence.drafter {
                drafter.learn(part.source, part.draft.len(), kept);
            }
        }
        None
    }

    /// The prompt is computed: the other answers to it start here too, and its log-probabilities are complete.
    fn begin(&mut self, key: u64, row: &[f32]) {
        let sequence = &self.sequences[&key];
        if sequence.answer == 0 && sequence.request.prompt_logprobs.is_some() {
            let kind = EventKind::PromptLogprobs(sequence.prompt_logprobs.clone());
            self.events.push(Event { request: sequence.id, answer: 0, kind });
        }
        for other in self.followers(key) {
            let sequence = &self.sequences[&other];
            let continuation = sequence.request.continuation(sequence.answer).map(<[u32]>::len);
            // A single token is scored by the row that is here.
            if continuation != Some(1) && !self.fork(key, other) {
                continue;
            }
            let end = if continuation.is_some() { self.score(other, row) } else { self.choose(other, row) };
            if let Some(end) = end {
                self.end(other, end);
            }
        }
    }

    fn score_prompt(&mut self, key: u64, position: usize, row: &[f32]) -> Result<(), EventKind> {
        let Some(sequence) = self.sequences.get_mut(&key) else { return Ok(()) };
        let count = sequence.request.prompt_logprobs.unwrap_or(0);
        match sequence.sampler.score(row, sequence.tokens[position], count) {
            Ok(token) => sequence.prompt_logprobs.push(token),
            Err(error) => return Err(self.failed(error.into())),
        }
        Ok(())
    }

    /// Scores the next token of the continuation and returns how that ends, if it does.
    fn score(&mut self, key: u64, row: &[f32]) -> Option<EventKind> {
        let sequence = self.sequences.get_mut(&key)?;
        let continuation = sequence.request.continuation(sequence.answer)?;
        let count = sequence.request.sampling.logprobs.unwrap_or(0);
        match sequence.sampler.score(row, *continuation.get(sequence.scored.len())?, count) {
            Ok(token) => sequence.scored.push(token),
            Err(error) => return Some(self.failed(error.into())),
        }
        if sequence.scored.len() < continuation.len() {
            return None;
        }
        sequence.first_token.get_or_insert_with(|| sequence.submitted.elapsed());
        let kind = EventKind::Scored(std::mem::take(&mut sequence.scored));
        self.events.push(Event { request: sequence.id, answer: sequence.answer, kind });
        Some(EventKind::Finished { reason: Finish::Complete, stats: self.sequences[&key].stats() })
    }

    /// Hands out the vector of a sequence.
    fn embedded(&mut self, key: u64, vector: &[f32]) -> Option<EventKind> {
        if let Some(index) = vector.iter().position(|value| !value.is_finite()) {
            return Some(self.failed(Error::NotFinite { index, value: vector[index] }));
        }
        let sequence = self.sequences.get_mut(&key)?;
        sequence.first_token.get_or_insert_with(|| sequence.submitted.elapsed());
        let kind = EventKind::Embedded(vector.to_vec());
        self.events.push(Event { request: sequence.id, answer: sequence.answer, kind });
        Some(EventKind::Finished { reason: Finish::Complete, stats: self.sequences[&key].stats() })
    }

    /// Chooses the token that follows and returns how the answer ends, if it does.
    fn choose(&mut self, key: u64, row: &[f32]) -> Option<EventKind> {
        let context = self.context();
        let sequence = self.sequences.get_mut(&key)?;
        let token = match sequence.next_token(row) {
            Ok(token) => token,
            Err(error) => return Some(self.failed(error)),
        };
        sequence.first_token.get_or_insert_with(|| sequence.submitted.elapsed());
        if sequence.ends(token.id) {
            return Some(EventKind::Finished { reason: Finish::Stop(token.id), stats: sequence.stats() });
        }
        sequence.tokens.push(token.id);
        let complete = match sequence.guided() {
            Ok(complete) => complete,
            Err(error) => return Some(self.failed(error.into())),
        };
        self.counters.generated += 1;
        self.events.push(Event { request: sequence.id, answer: sequence.answer, kind: EventKind::Token(token) });
        let sequence = &self.sequences[&key];
        let reason = if complete { Some(Finish::Complete) } else { sequence.full(context) };
        reason.map(|reason| EventKind::Finished { reason, stats: sequence.stats() })
    }

    pub(super) fn failed(&mut self, error: Error) -> EventKind {
        self.counters.failed += 1;
        EventKind::Failed(Failure::Request(error))
    }

    /// Makes what is computed known, and forgets what nobody sees.
    fn keep(&mut self, key: u64) {
        let Some(sequence) = self.sequences.get_mut(&key) else { return };
        if self.options.prefix_cache {
            for index in sequence.published..sequence.computed / PAGE {
                let hash = sequence.hash(index);
                self.pool.publish(&mut sequence.table[index], hash);
                sequence.published = index + 1;
            }
            let at_boundary = sequence.computed > 0 && sequence.computed.is_multiple_of(PAGE);
            if self.options.recurrent && at_boundary && sequence.computed <= sequence.prompt() {
                let hash = sequence.hash(sequence.computed / PAGE - 1);
                if let (Some(from), Some(to)) = (sequence.slot, self.slots.save(hash)) {
                    self.copies.push((from, to));
                    self.saved.push((hash, to));
                }
            }
        }
        if let Some(horizon) = self.options.horizon {
            sequence.drop_unseen(horizon, &mut self.pool);
        }
    }
}
