//! What the results of a step mean to the sequences it ran for.

use super::book::Book;
use super::request::{Event, EventKind, Failure};
use super::schedule::Part;
use crate::{Error, Token};
use allod_plan::PAGE;

impl Book {
    /// Takes in the results of `parts`, `[outputs × width]` in their order.
    pub(super) fn absorb(&mut self, parts: &[Part], results: &[f32]) {
        let width = self.capacity.width;
        let mut rest = results;
        for part in parts {
            let (rows, others) = rest.split_at((part.outputs * width).min(rest.len()));
            rest = others;
            self.absorb_part(part, rows);
        }
    }

    fn absorb_part(&mut self, part: &Part, results: &[f32]) {
        let step = self.counters.steps;
        let Some(sequence) = self.sequences.get_mut(&part.key) else { return };
        sequence.served = step;
        sequence.computed += part.rows;
        let client = sequence.request.client;
        self.charge(client, part.rows);
        self.counters.rows += (part.rows + part.draft.len()) as u64;
        let end = self.read(part, results);
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
        for (position, row) in (first..).zip(results.chunks_exact(self.capacity.width)) {
            let sequence = self.sequences.get_mut(&part.key)?;
            if position + 1 < sequence.tokens.len() {
                if let Err(end) = self.score_prompt(part.key, position + 1, row) {
                    return Some(end);
                }
                continue;
            }
            if sequence.generated() == 0 {
                self.begin(part.key, row);
            }
            let end = self.choose(part.key, row);
            let sequence = self.sequences.get_mut(&part.key)?;
            if end.is_some() {
                return end;
            }
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
                drafter.learn(part.draft.len(), kept);
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
        for other in self.fork(key) {
            if let Some(end) = self.choose(other, row) {
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

    /// Chooses the token that follows and returns how the answer ends, if it does.
    fn choose(&mut self, key: u64, row: &[f32]) -> Option<EventKind> {
        let context = self.context();
        let sequence = self.sequences.get_mut(&key)?;
        let token: Token = match sequence.sampler.choose(row, &sequence.tokens) {
            Ok(token) => token,
            Err(error) => return Some(self.failed(error.into())),
        };
        sequence.first_token.get_or_insert_with(|| sequence.submitted.elapsed());
        if sequence.ends(token.id) {
            return Some(EventKind::Finished { reason: crate::Finish::Stop(token.id), stats: sequence.stats() });
        }
        sequence.tokens.push(token.id);
        self.counters.generated += 1;
        self.events.push(Event { request: sequence.id, answer: sequence.answer, kind: EventKind::Token(token) });
        let sequence = &self.sequences[&key];
        sequence.full(context).map(|reason| EventKind::Finished { reason, stats: sequence.stats() })
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
            if self.options.recurrent && at_boundary && sequence.computed <= sequence.request.ids.len() {
                let hash = sequence.hash(sequence.computed / PAGE - 1);
                if let (Some(from), Some(to)) = (sequence.slot, self.slots.save(hash)) {
                    self.copies.push((from, to));
                }
            }
        }
        if let Some(horizon) = self.options.horizon {
            sequence.drop_unseen(horizon, &mut self.pool);
        }
    }
}
