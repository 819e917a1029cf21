//! A small model that drafts for a large one, with its noise: it samples as the large one will, from the same seed at
//! the same position, so that where the two agree about what is likely they agree about the token.

use super::super::guide::{Guide, Next};
use super::super::request::Request;
use crate::{PagePool, Sampler};
use allod_plan::{Backend, Capacity, SeqRows, Step};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// A backend of its own, and what it has computed of whose text.
pub(crate) struct DraftModel {
    backend: Box<dyn Backend>,
    capacity: Capacity,
    outputs: usize,
    pool: PagePool,
    texts: HashMap<u64, Text>,
    /// Seconds for one token of one sequence, lately.
    each: f64,
}

/// A text as far as it is computed.
#[derive(Debug, Default)]
struct Text {
    tokens: Vec<u32>,
    table: Vec<u32>,
}

/// Whose text is to be continued.
pub(crate) struct Want {
    pub(crate) key: u64,
    pub(crate) tokens: Vec<u32>,
    /// Tokens wanted, at least one.
    pub(crate) limit: usize,
    pub(crate) request: Arc<Request>,
    pub(crate) sampler: Sampler,
    pub(crate) guide: Guide,
    /// Where the answer begins.
    pub(crate) given: usize,
    pub(crate) draft: Vec<u32>,
}

impl DraftModel {
    /// `outputs` is the most wanted rows of a step that the backend was built for.
    pub(crate) fn new(backend: Box<dyn Backend>, outputs: usize) -> DraftModel {
        let capacity = backend.capacity();
        let pool = PagePool::new(capacity.pages);
        DraftModel { backend, capacity, outputs: outputs.max(1), pool, texts: HashMap::new(), each: 0.0 }
    }

    /// Seconds that a drafted token takes.
    pub(crate) fn each(&self) -> f64 {
        self.each
    }

    /// Forgets the texts of all but some.
    pub(crate) fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        let pool = &mut self.pool;
        self.texts.retain(|&key, text| {
            let kept = keep(key);
            if !kept {
                pool.shrink(&mut text.table, 0);
            }
            kept
        });
    }

    /// Drafts for all at once, reading at most `rows` rows of what it has not read yet. Who needs more than that gets
    /// its draft another time.
    pub(crate) fn draft(&mut self, wants: &mut [Want], rows: usize, vocabulary: usize) {
        let mut left = rows.min(self.capacity.rows);
        let most = self.outputs.min(self.capacity.states);
        let mut active: Vec<usize> =
            (0..wants.len()).filter(|&i| self.catch_up(&wants[i], &mut left)).take(most).collect();
        while !active.is_empty() {
            let started = Instant::now();
            let count = active.len();
            if !self.step(wants, &mut active, vocabulary) {
                return;
            }
            let each = started.elapsed().as_secs_f64() / count as f64;
            self.each = if self.each == 0.0 { each } else { 0.9 * self.each + 0.1 * each };
        }
    }

    /// Brings the text to what the two have in common; computes a part of the rest if it is more than one draft step
    /// should. True when little enough is left.
    fn catch_up(&mut self, want: &Want, left: &mut usize) -> bool {
        let text = self.texts.entry(want.key).or_default();
        let common = text.tokens.iter().zip(&want.tokens).take_while(|(a, b)| a == b).count();
        text.tokens.truncate(common.min(want.tokens.len() - 1));
        self.pool.shrink(&mut text.table, text.tokens.len());
        let end = want.tokens.len() + want.limit;
        if end > self.capacity.context || self.pool.cover(&mut text.table, end).is_err() {
            return false;
        }
        let known = |id: &u32| (*id as usize) < self.capacity.width;
        let start = text.tokens.len();
        let rows = (want.tokens.len() - start).min(*left);
        let tokens = &want.tokens[start..start + rows];
        *left -= rows;
        if rows == 0 || !tokens.iter().all(known) {
            return false;
        }
        if start + rows == want.tokens.len() {
            return true;
        }
        let sequences = [SeqRows { rows: 0..rows, start: start as u32, pages: &text.table, state: 0, adapter: 0 }];
        if self.backend.run(&Step { tokens, sequences: &sequences, outputs: &[] }).is_ok() {
            text.tokens.extend_from_slice(tokens);
        }
        false
    }

    /// One more token for each that wants one. False when the backend refuses.
    fn step(&mut self, wants: &mut [Want], active: &mut Vec<usize>, vocabulary: usize) -> bool {
        let (mut tokens, mut outputs, mut sequences) = (Vec::new(), Vec::new(), Vec::new());
        for (&i, slot) in active.iter().zip(0..) {
            let (want, text) = (&wants[i], &self.texts[&wants[i].key]);
            let first = tokens.len();
            let start = text.tokens.len();
            tokens.extend(want.tokens.iter().chain(&want.draft).skip(start));
            outputs.push(tokens.len() as u32 - 1);
            let rows = first..tokens.len();
            sequences.push(SeqRows { rows, start: start as u32, pages: &text.table, state: slot, adapter: 0 });
        }
        let Ok(logits) = self.backend.run(&Step { tokens: &tokens, sequences: &sequences, outputs: &outputs }) else {
            return false;
        };
        let ranges: Vec<_> = sequences.into_iter().map(|s| s.rows).collect();
        let mut row = vec![f32::MIN; vocabulary];
        let mut drafting = active.iter().zip(ranges).zip(logits.chunks_exact(self.capacity.width));
        let mut going = Vec::new();
        for ((&i, rows), logits) in &mut drafting {
            let want = &mut wants[i];
            if let Some(text) = self.texts.get_mut(&want.key) {
                text.tokens.extend_from_slice(&tokens[rows]);
            }
            let shared = vocabulary.min(logits.len());
            row[..shared].copy_from_slice(&logits[..shared]);
            let goes_on = want.take(&row) && want.draft.len() < want.limit;
            if goes_on && want.draft.last().is_some_and(|&id| (id as usize) < self.capacity.width) {
                going.push(i);
            }
        }
        *active = going;
        true
    }
}

impl Want {
    /// Samples the next token of the draft as the target would. False when it ends.
    fn take(&mut self, row: &[f32]) -> bool {
        let text = [&self.tokens[..], &self.draft].concat();
        let answer = &text[self.given..];
        let chosen = match self.guide.next(&self.request, answer) {
            Ok(Next::Free) => self.sampler.choose(row, &text),
            Ok(Next::Among(allowed)) => self.sampler.choose_among(row, &text, Some(allowed)),
            Ok(Next::Forced(id)) => self.sampler.given(row, id),
            Err(_) => return false,
        };
        let Ok(token) = chosen else { return false };
        if self.request.end_ids().any(|end| end == token.id) {
            return false;
        }
        self.draft.push(token.id);
        let text = [answer, &[token.id]].concat();
        self.guide.accept(&self.request, &text) == Ok(false)
    }
}
