//! Which rows run now: the next token of everyone who answers, then pieces of prompts, then drafts.

use super::book::Book;
use super::draft::{DraftModel, Source, Want};
use crate::PageHash;
use allod_plan::{Backend, PAGE};
use std::cmp::Reverse;
use std::collections::HashSet;

/// The rows of one sequence in a step.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) key: u64,
    /// Tokens that it has and that are not computed.
    pub(super) rows: usize,
    /// Tokens that it may get.
    pub(super) draft: Vec<u32>,
    /// Where the draft came from.
    pub(super) source: Source,
    /// It continues an answer.
    pub(super) decodes: bool,
    /// Rows at the end of the part, drafts included, whose logits are wanted.
    pub(super) outputs: usize,
}

/// What is left of a step.
struct Room {
    rows: usize,
    outputs: usize,
}

impl Book {
    /// The parts of the next step; none when nobody can run.
    pub(super) fn schedule(&mut self, backend: &mut dyn Backend, model: Option<&mut DraftModel>) -> Vec<Part> {
        self.admit(backend);
        if self.options.pooled {
            return self.whole();
        }
        let mut room = Room { rows: self.options.rows, outputs: self.options.outputs };
        let mut parts = self.decode(&mut room, backend);
        let decoding = parts.len();
        let mut chunk = room.rows;
        if decoding > 0 {
            chunk = chunk.min(self.options.chunk).min(self.pace.extra(decoding, self.options.delay));
        }
        self.prefill(chunk, &mut room, &mut parts, backend);
        if self.options.draft > 0 {
            let rows = parts.iter().map(|part| part.rows).sum();
            self.draft(rows, &mut room, &mut parts[..decoding]);
            if let Some(model) = model {
                self.draft_by_model(model, rows, &mut room, &mut parts[..decoding]);
            }
        }
        parts
    }

    /// As many whole texts as there are rows for, the first to arrive first.
    fn whole(&self) -> Vec<Part> {
        let ready = |key: &u64| !self.sequences[key].held;
        let mut keys: Vec<u64> = self.running.iter().copied().filter(ready).collect();
        keys.sort_by_key(|key| (Reverse(self.priority(*key)), *key));
        let mut left = self.options.rows;
        let mut part = |key| {
            let rows = self.sequences[&key].pending();
            left = left.checked_sub(rows)?;
            Some(Part { key, rows, draft: Vec::new(), source: Source::Text, decodes: false, outputs: 0 })
        };
        keys.into_iter().map_while(&mut part).collect()
    }

    /// One row for each sequence that lacks only one, those first that ran longest ago.
    fn decode(&mut self, room: &mut Room, backend: &mut dyn Backend) -> Vec<Part> {
        let ready = |key: &u64| self.sequences[key].pending() == 1 && !self.sequences[key].held;
        let mut keys: Vec<u64> = self.running.iter().copied().filter(ready).collect();
        keys.sort_by_key(|key| (Reverse(self.priority(*key)), self.sequences[key].served, *key));
        keys.truncate(room.rows.min(room.outputs));
        for &key in &keys {
            let length = self.sequences[&key].tokens.len();
            self.provide(key, length, backend);
        }
        // Providing for one may have pushed out another.
        keys.retain(|key| self.sequences[key].slot.is_some());
        room.rows -= keys.len();
        room.outputs -= keys.len();
        keys.into_iter()
            .map(|key| Part { key, rows: 1, draft: Vec::new(), source: Source::Text, decodes: true, outputs: 1 })
            .collect()
    }

    /// Up to `left` rows of prompts. Half of them go to the first in line, so that every prompt gets on; the others to
    /// the shortest, so that a long prompt does not hold up short ones.
    fn prefill(&mut self, mut left: usize, room: &mut Room, parts: &mut Vec<Part>, backend: &mut dyn Backend) {
        let lacking = |key: &u64| self.sequences[key].pending() > 1 && !self.sequences[key].held;
        let mut keys: Vec<u64> = self.running.iter().copied().filter(lacking).collect();
        keys.sort_by_key(|key| (Reverse(self.priority(*key)), self.sequences[key].pending(), *key));
        let Some(first) = keys.iter().copied().min_by_key(|key| (Reverse(self.priority(*key)), *key)) else { return };
        let others: Vec<u64> = keys.into_iter().filter(|&key| key != first).collect();
        // What the others will not use is the first's as well.
        let lacked: usize = others.iter().map(|key| self.sequences[key].pending()).sum();
        let share = left.div_ceil(2).max(left.saturating_sub(lacked));
        let mut computing = HashSet::new();
        for (key, limit) in std::iter::once((first, share)).chain(others.into_iter().map(|key| (key, usize::MAX))) {
            self.adopt(key);
            // Others may be pushed out for it only while none of them is part of the step.
            let length = self.sequences[&key].tokens.len();
            if !(self.prepare(key, backend) || parts.is_empty() && self.provide(key, length, backend)) {
                continue;
            }
            if let Some(part) = self.piece(key, left.min(limit), room, &mut computing) {
                left -= part.rows;
                parts.push(part);
            }
        }
    }

    /// Skips pages that another sequence has computed since this one was started.
    fn adopt(&mut self, key: u64) {
        let Some(sequence) = self.sequences.get_mut(&key) else { return };
        if !self.options.prefix_cache || self.options.recurrent {
            return;
        }
        while sequence.computed.is_multiple_of(PAGE) && sequence.computed / PAGE < sequence.sharable() {
            let index = sequence.computed / PAGE;
            let Some(page) = self.pool.find(&sequence.hash(index)) else { return };
            self.pool.share(page);
            self.pool.release(std::mem::replace(&mut sequence.table[index], page));
            sequence.computed += PAGE;
            sequence.published = index + 1;
            self.counters.found_tokens += PAGE as u64;
            if sequence.generated() == 0 {
                sequence.cached = (sequence.cached + PAGE).min(sequence.computed);
            }
        }
    }

    /// Up to `limit` rows of one prompt. It ends at the end of a page if it does not end the prompt, and leaves out
    /// what another part of this step computes already.
    fn piece(&mut self, key: u64, limit: usize, room: &mut Room, computing: &mut HashSet<PageHash>) -> Option<Part> {
        let sequence = self.sequences.get_mut(&key)?;
        let (start, length) = (sequence.computed, sequence.tokens.len());
        let share = self.options.prefix_cache && !self.options.recurrent;
        if share && start.is_multiple_of(PAGE) && start / PAGE < sequence.sharable() {
            let ahead = sequence.hash(start / PAGE);
            if computing.contains(&ahead) {
                return None;
            }
        }
        let needed = sequence.needed();
        let mut end = (start + limit.min(room.rows)).min(length).min(needed.max(start) + room.outputs);
        if sequence.request.answers() > 1 && start < sequence.prompt() {
            // The other answers go on from the end of the prompt.
            end = end.min(sequence.prompt());
        }
        let boundary = if end < length { end / PAGE * PAGE } else { (length - 1) / PAGE * PAGE };
        let saves = self.options.recurrent && self.options.prefix_cache && self.slots.keeps_checkpoints();
        if boundary > start && (end < length || saves) {
            end = boundary;
        }
        if end <= start {
            return None;
        }
        let outputs = end - needed.clamp(start, end);
        if share {
            computing.extend((start / PAGE..end.div_ceil(PAGE).min(length / PAGE)).map(|index| sequence.hash(index)));
        }
        room.rows -= end - start;
        room.outputs -= outputs;
        Some(Part { key, rows: end - start, draft: Vec::new(), source: Source::Text, decodes: false, outputs })
    }

    /// Drafts for those who answer from what is at hand, in a step of `rows` rows, as far as rows and pages are left.
    fn draft(&mut self, rows: usize, room: &mut Room, parts: &mut [Part]) {
        for part in parts {
            let limit = self.draft_limit(part, Source::Text, rows, 0.0, room);
            let Some(sequence) = self.sequences.get_mut(&part.key).filter(|_| limit > 0) else { continue };
            let Some(drafter) = &mut sequence.drafter else { continue };
            let mut draft = sequence.guide.likely();
            if draft.is_empty() {
                draft = drafter.look_up(&sequence.tokens, limit).to_vec();
            }
            if draft.is_empty() {
                draft = self.past.draft(&sequence.root, &sequence.tokens, limit);
            }
            draft.truncate(limit);
            sequence.guide.trim(&mut draft);
            self.take_draft(part, draft, Source::Text, room);
        }
    }

    /// Drafts for the others by a model.
    fn draft_by_model(&mut self, model: &mut DraftModel, rows: usize, room: &mut Room, parts: &mut [Part]) {
        model.retain(|key| self.sequences.get(&key).is_some_and(|s| s.slot.is_some()));
        let mut wants = Vec::new();
        let mut drafted = Vec::new();
        for (place, part) in parts.iter().enumerate().filter(|(_, part)| part.draft.is_empty()) {
            let limit = self.draft_limit(part, Source::Model, rows, model.each(), room);
            let Some(s) = self.sequences.get(&part.key).filter(|s| limit > 0 && s.drafter.is_some()) else { continue };
            let (request, sampler, guide) = (s.request.clone(), s.sampler.fork(), s.guide.fork());
            let (tokens, given) = (s.tokens.clone(), s.given);
            wants.push(Want { key: part.key, tokens, limit, request, sampler, guide, given, draft: Vec::new() });
            drafted.push(place);
        }
        if !wants.is_empty() {
            model.draft(&mut wants, self.options.chunk, self.capacity.width);
        }
        for (place, want) in drafted.into_iter().zip(wants) {
            self.take_draft(&mut parts[place], want.draft, Source::Model, room);
        }
    }

    /// The longest draft that a part may and should get.
    fn draft_limit(&mut self, part: &Part, source: Source, rows: usize, each: f64, room: &Room) -> usize {
        let (context, most) = (self.context(), self.options.draft);
        let Some(sequence) = self.sequences.get_mut(&part.key).filter(|s| s.generated() > 0) else { return 0 };
        let room = room.rows.min(room.outputs).min(sequence.room(context).saturating_sub(1)).min(most);
        match &mut sequence.drafter {
            Some(drafter) if self.options.adaptive && room > 0 => {
                drafter.length(source, |right| self.pace.length(rows, right, each, most)).min(room)
            }
            Some(_) => room,
            None => 0,
        }
    }

    /// Gives a part its draft, if there are pages for it.
    fn take_draft(&mut self, part: &mut Part, mut draft: Vec<u32>, source: Source, room: &mut Room) {
        draft.truncate(room.rows.min(room.outputs));
        let Some(sequence) = self.sequences.get_mut(&part.key).filter(|_| !draft.is_empty()) else { return };
        if self.pool.cover(&mut sequence.table, sequence.tokens.len() + draft.len()).is_ok() {
            room.rows -= draft.len();
            room.outputs -= draft.len();
            part.outputs += draft.len();
            self.counters.drafted += draft.len() as u64;
            (part.draft, part.source) = (draft, source);
        }
    }
}
