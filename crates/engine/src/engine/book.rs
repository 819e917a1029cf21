//! Who is here, who waits, and on whose account: sequences and the memory they hold.

use super::adapters::Adapters;
use super::draft::{Pace, Past};
use super::guide::{Guide, LentGuide};
use super::options::EngineOptions;
use super::request::{Event, EventKind, Failure, Request, RequestId, Task};
use super::schedule::Part;
use super::sequence::Sequence;
use super::slots::Slots;
use super::spill::{Kind, Spill};
use super::stats::Counters;
use crate::{Error, PageHash, PagePool, Sampler};
use allod_plan::{Backend, Capacity, PAGE};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Book {
    pub(super) options: EngineOptions,
    pub(super) capacity: Capacity,
    pub(super) pool: PagePool,
    pub(super) slots: Slots,
    /// By order of arrival.
    pub(super) sequences: BTreeMap<u64, Sequence>,
    pub(super) running: Vec<u64>,
    pub(super) waiting: Vec<u64>,
    pub(super) events: Vec<Event>,
    pub(super) counters: Counters,
    /// States to be copied as soon as the step's results are read.
    pub(super) copies: Vec<(u32, u32)>,
    /// Checkpoints that these copies make.
    pub(super) saved: Vec<(PageHash, u32)>,
    pub(super) adapters: Adapters,
    pub(super) past: Past,
    pub(super) pace: Pace,
    pub(super) spill: Option<Spill>,
    clients: HashMap<u64, Account>,
    next_request: u64,
    next_sequence: u64,
}

/// What a client has had, in rows, while it had something here.
#[derive(Debug, Default)]
struct Account {
    rows: u64,
    sequences: usize,
}

impl Book {
    pub(super) fn new(options: EngineOptions, capacity: Capacity) -> Book {
        let options = options.fit(&capacity);
        let running = options.sequences.unwrap_or(1);
        let states = if options.recurrent && options.prefix_cache { capacity.states } else { running };
        Book {
            pool: PagePool::new(capacity.pages),
            slots: Slots::new(running, states),
            sequences: BTreeMap::new(),
            running: Vec::new(),
            waiting: Vec::new(),
            events: Vec::new(),
            counters: Counters::default(),
            copies: Vec::new(),
            saved: Vec::new(),
            adapters: Adapters::default(),
            past: Past::new(options.past),
            pace: Pace::default(),
            spill: None,
            clients: HashMap::new(),
            next_request: 0,
            next_sequence: 0,
            options,
            capacity,
        }
    }

    /// Positions that a sequence may have.
    pub(super) fn context(&self) -> usize {
        self.capacity.context.min(self.capacity.pages * PAGE)
    }

    /// Tokens that the plan knows.
    pub(super) fn vocabulary(&self) -> usize {
        self.options.vocabulary.unwrap_or(self.capacity.width)
    }

    pub(super) fn submit(&mut self, request: Request) -> Result<RequestId, Failure> {
        self.check(&request)?;
        let sampler = Sampler::new(&request.sampling, self.capacity.width).map_err(Error::from)?;
        let guide = || Guide::new(&request, self.capacity.width).map_err(Error::from);
        let guides = (0..request.answers()).map(|_| guide()).collect::<Result<Vec<_>, _>>()?;
        let digest = |id| self.adapters.digest(id).ok_or(Failure::NoAdapter);
        let adapter = request.adapter.map(digest).transpose()?;
        let id = RequestId(self.next_request);
        self.next_request += 1;
        // A newcomer starts level with whoever has had least, so that neither the past nor its absence counts.
        let least = self.clients.values().map(|account| account.rows).min().unwrap_or(0);
        let account = self.clients.entry(request.client).or_insert(Account { rows: least, sequences: 0 });
        account.sequences += guides.len();
        let root = PageHash::root(&request.salt, adapter.as_ref());
        let request = Arc::new(request);
        for (answer, guide) in (0..).zip(guides) {
            let sampler = sampler.reseeded(sampler.seed().wrapping_add(u64::from(answer)));
            let sequence = Sequence::new((id, answer), request.clone(), root, sampler, guide, self.options.draft > 0);
            self.sequences.insert(self.next_sequence, sequence);
            self.waiting.push(self.next_sequence);
            self.next_sequence += 1;
        }
        Ok(id)
    }

    fn check(&self, request: &Request) -> Result<(), Failure> {
        self.check_task(request)?;
        let vocabulary = self.vocabulary();
        let Request { ids, .. } = request;
        if ids.is_empty() {
            return Err(Error::EmptyPrompt.into());
        }
        self.check_ids(0, ids, vocabulary)?;
        if let Task::Score(continuations) = &request.task {
            for (index, continuation) in continuations.iter().enumerate() {
                // The last token is only spoken about.
                let Some((_, run)) = continuation.split_last() else {
                    return Err(Error::EmptyContinuation { index }.into());
                };
                self.check_ids(ids.len(), run, vocabulary)?;
                self.check_ids(0, &continuation[run.len()..], vocabulary)?;
            }
        }
        if let Some(found) = request.prompt_logprobs.filter(|&count| count as usize > vocabulary) {
            return Err(Failure::PromptLogprobs { vocabulary, found });
        }
        if request.thinking.as_ref().is_some_and(|thinking| thinking.end.is_empty()) {
            return Err(Error::EndlessThinking.into());
        }
        let (limit, found) = (self.options.queue, request.answers());
        if found == 0 || found as usize > limit {
            return Err(Failure::Answers { limit, found });
        }
        let (waiting, wanted) = (self.waiting.len(), found as usize);
        if waiting + wanted > limit {
            return Err(Failure::QueueFull { waiting, wanted, limit });
        }
        Ok(())
    }

    /// Whether what is asked for is what the plan does.
    fn check_task(&self, request: &Request) -> Result<(), Failure> {
        match (&request.task, self.options.pooled) {
            (Task::Embed, false) => Err(Failure::Task { task: "an embedding", needs: "pools" }),
            (Task::Generate, true) => Err(Failure::Task { task: "an answer", needs: "gives logits" }),
            (Task::Score(_), true) => Err(Failure::Task { task: "a score", needs: "gives logits" }),
            (Task::Embed, true) if request.ids.len() > self.options.rows => {
                Err(Failure::TextTooLong { tokens: request.ids.len(), rows: self.options.rows })
            }
            _ => Ok(()),
        }
    }

    /// Holds tokens that stand behind `before` others against context and vocabulary.
    fn check_ids(&self, before: usize, ids: &[u32], vocabulary: usize) -> Result<(), Error> {
        let (context, tokens) = (self.context(), before + ids.len());
        // Of an answer at least one token must fit, a vector needs no room.
        if tokens >= context + usize::from(self.options.pooled) {
            return Err(Error::PromptTooLong { tokens, context });
        }
        match ids.iter().position(|&id| id as usize >= vocabulary) {
            Some(place) => Err(Error::UnknownToken { id: ids[place], position: before + place, vocabulary }),
            None => Ok(()),
        }
    }

    /// Ends an answer. All it held is free at once.
    pub(super) fn end(&mut self, key: u64, kind: EventKind) {
        self.detach(key);
        self.waiting.retain(|&other| other != key);
        let Some(sequence) = self.sequences.remove(&key) else { return };
        if sequence.drafter.is_some() && matches!(kind, EventKind::Finished { .. }) {
            self.past.insert(sequence.root, &sequence.tokens[sequence.given..]);
        }
        self.events.push(Event { request: sequence.id, answer: sequence.answer, kind });
        let client = sequence.request.client;
        if let Some(account) = self.clients.get_mut(&client) {
            account.sequences -= 1;
            if account.sequences == 0 {
                self.clients.remove(&client);
            }
        }
    }

    /// Charges rows to the client of a sequence.
    pub(super) fn charge(&mut self, client: u64, rows: usize) {
        if let Some(account) = self.clients.get_mut(&client) {
            account.rows += rows as u64;
        }
    }

    /// Takes pages and slot away from a sequence, running or not.
    fn detach(&mut self, key: u64) {
        self.running.retain(|&other| other != key);
        if let Some(sequence) = self.sequences.get_mut(&key) {
            sequence.let_go(&mut self.pool);
            if let Some(slot) = sequence.slot.take() {
                self.slots.give(slot);
            }
        }
    }

    /// Pushes a running sequence back to the queue. What it had computed is found or computed again later; its tokens
    /// and its sampler stay, so the answer does not change.
    pub(super) fn preempt(&mut self, key: u64) {
        self.detach(key);
        self.waiting.push(key);
        self.counters.preemptions += 1;
    }

    pub(super) fn priority(&self, key: u64) -> i32 {
        self.sequences[&key].request.priority
    }

    /// The running sequence whose turn it is to give way: least priority, then one whose receiver is behind, then the
    /// latest to arrive. So the first to arrive always gets on.
    pub(super) fn victim(&self) -> Option<u64> {
        let rank = |key: &u64| (self.priority(*key), !self.sequences[key].held, Reverse(*key));
        self.running.iter().copied().min_by_key(rank)
    }

    /// The waiting sequence whose turn it is: highest priority, then the client that has had least (Sheng et al.,
    /// "Fairness in Serving Large Language Models", 2024), then the first to arrive.
    fn next(&self) -> Option<u64> {
        let had = |key: &u64| self.clients.get(&self.sequences[key].request.client).map_or(0, |account| account.rows);
        let ready = self.waiting.iter().copied().filter(|&key| !self.sequences[&key].held && !self.follows(key));
        ready.min_by_key(|key| (Reverse(self.priority(*key)), had(key), *key))
    }

    /// Whether another answer to the same prompt is about to compute all that this one needs to start.
    fn follows(&self, key: u64) -> bool {
        let sequence = &self.sequences[&key];
        let leads = |other: &Sequence| other.id == sequence.id && other.is_fresh();
        let fresh = sequence.request.answers() > 1 && sequence.is_fresh();
        fresh && self.running.iter().any(|other| leads(&self.sequences[other]))
    }

    /// Starts what fits, and makes room for what is more important than something that runs. A sequence that is held
    /// gives way to any that is not less important.
    pub(super) fn admit(&mut self, backend: &mut dyn Backend) {
        while let Some(key) = self.next() {
            if self.slots.free() > 0 && self.start(key, backend) {
                continue;
            }
            match self.victim() {
                Some(victim) if self.yields(victim, key) => self.preempt(victim),
                _ => break,
            }
        }
    }

    fn yields(&self, victim: u64, key: u64) -> bool {
        let (has, wants) = (self.priority(victim), self.priority(key));
        has < wants || has == wants && self.sequences[&victim].held
    }

    /// Gives a waiting sequence a slot and pages for all its tokens, the computed ones among them, if there are enough
    /// and one more is left for each that runs.
    fn start(&mut self, key: u64, backend: &mut dyn Backend) -> bool {
        let headroom = self.running.len();
        let checkpoint = self.find_prefix(key, backend);
        let Some(sequence) = self.sequences.get_mut(&key) else { return false };
        let length = sequence.tokens.len();
        let wanted = length.div_ceil(PAGE) - sequence.table.len() + headroom;
        let fits = wanted <= self.pool.free() && self.pool.cover(&mut sequence.table, length).is_ok();
        let Some(slot) = fits.then(|| self.slots.take()).flatten() else {
            sequence.let_go(&mut self.pool);
            return false;
        };
        sequence.slot = Some(slot);
        if sequence.served == 0 {
            sequence.cached = sequence.computed;
        }
        self.counters.found_tokens += sequence.computed as u64;
        if self.options.recurrent {
            match checkpoint {
                Some(Checkpoint::Slot(saved)) => backend.copy_state(saved, slot),
                Some(Checkpoint::Spilled(state)) if backend.write_state(slot, &state) => {}
                _ => {
                    backend.clear_state(slot);
                    sequence.forget(&mut self.pool);
                }
            }
        }
        self.waiting.retain(|&other| other != key);
        self.running.push(key);
        true
    }

    /// Pages for `positions` positions of a running sequence, the one at `computed` its own. Others give way if they
    /// must; false when it had to give way itself.
    pub(super) fn provide(&mut self, key: u64, positions: usize, backend: &mut dyn Backend) -> bool {
        loop {
            let Some(sequence) = self.sequences.get_mut(&key).filter(|s| s.slot.is_some()) else { return false };
            if write_at(sequence, positions, &mut self.pool, &mut self.spill, backend).is_ok() {
                return true;
            }
            match self.victim() {
                Some(victim) => self.preempt(victim),
                None => return false,
            }
        }
    }

    /// The other answers to the same prompt that have not begun.
    pub(super) fn followers(&self, key: u64) -> Vec<u64> {
        let leader = &self.sequences[&key];
        if leader.request.answers() == 1 {
            return Vec::new();
        }
        let follows =
            |other: &Sequence| other.id == leader.id && other.is_fresh() && other.needed() >= leader.prompt() - 1;
        self.waiting.iter().copied().filter(|other| follows(&self.sequences[other])).collect()
    }

    /// Starts `other` from what `key` has computed of the prompt that both share: its pages, its state. False when
    /// there is no slot.
    pub(super) fn fork(&mut self, key: u64, other: u64) -> bool {
        let leader = &self.sequences[&key];
        let Some(from) = leader.slot else { return false };
        let (computed, dropped) = (leader.prompt(), leader.dropped);
        let published = leader.published.min(computed / PAGE);
        let table = leader.table[..computed.div_ceil(PAGE)].to_vec();
        let Some(slot) = self.slots.take() else { return false };
        let Some(sequence) = self.sequences.get_mut(&other) else { return false };
        table[dropped..].iter().for_each(|&page| self.pool.share(page));
        sequence.table = table;
        (sequence.dropped, sequence.published, sequence.computed) = (dropped, published, computed);
        sequence.slot = Some(slot);
        sequence.cached = computed;
        if self.options.recurrent {
            self.copies.push((from, slot));
        }
        self.waiting.retain(|&waiting| waiting != other);
        self.running.push(other);
        true
    }

    /// Fills the table of a sequence with computed pages, from memory or from disk, and returns the state after them, for
    /// a recurrent model.
    fn find_prefix(&mut self, key: u64, backend: &mut dyn Backend) -> Option<Checkpoint> {
        let sequence = self.sequences.get_mut(&key).filter(|_| self.options.prefix_cache)?;
        let (pool, spill) = (&mut self.pool, &mut self.spill);
        let mut found = Vec::new();
        for index in 0..sequence.sharable() {
            let hash = sequence.hash(index);
            match pool.find(&hash) {
                Some(page) => {
                    pool.share(page);
                    found.push(page);
                }
                None => match restore(hash, pool, spill, backend) {
                    Some(page) => found.push(page),
                    None => break,
                },
            }
        }
        let mut checkpoint = None;
        while self.options.recurrent && !found.is_empty() && checkpoint.is_none() {
            let hash = sequence.hash(found.len() - 1);
            let spilled = |spill: &mut Spill| spill.get((hash, Kind::State)).map(Checkpoint::Spilled);
            checkpoint = self.slots.find(&hash).map(Checkpoint::Slot).or_else(|| spill.as_mut().and_then(spilled));
            if checkpoint.is_none()
                && let Some(page) = found.pop()
            {
                pool.release(page);
            }
        }
        sequence.computed = found.len() * PAGE;
        sequence.published = found.len();
        sequence.table = found;
        checkpoint
    }

    /// Writes to disk what was given up, before the backend writes over it.
    pub(super) fn save_evicted(&mut self, backend: &dyn Backend) {
        save_evicted(&mut self.pool, &mut self.spill, backend);
    }

    /// Writes the checkpoints of the step to disk.
    pub(super) fn save_states(&mut self, backend: &dyn Backend) {
        let mut bytes = Vec::new();
        for (hash, slot) in self.saved.drain(..) {
            bytes.clear();
            let Some(spill) = &mut self.spill else { continue };
            if !spill.contains((hash, Kind::State)) && backend.read_state(slot, &mut bytes) {
                spill.put((hash, Kind::State), &bytes);
            }
        }
    }

    /// Writes all published pages to disk, so that a later engine finds them.
    pub(super) fn save_published(&mut self, backend: &dyn Backend) {
        let Some(spill) = &mut self.spill else { return };
        let mut bytes = Vec::new();
        for (hash, page) in self.pool.published() {
            bytes.clear();
            if !spill.contains((hash, Kind::Page)) && backend.read_page(page, &mut bytes) {
                spill.put((hash, Kind::Page), &bytes);
            }
        }
    }

    /// Hands out the guides of those parts that choose a token under a constraint, to be used beside the backend.
    pub(super) fn lend_guides(&mut self, parts: &[Part]) -> Vec<LentGuide> {
        let mut lent = Vec::new();
        for part in parts.iter().filter(|part| part.outputs > 0) {
            let Some(s) = self.sequences.get_mut(&part.key).filter(|s| s.guide.is_constrained()) else { continue };
            let (request, answer) = (s.request.clone(), s.tokens[s.given..].to_vec());
            let guide = std::mem::replace(&mut s.guide, Guide::idle());
            lent.push(LentGuide { key: part.key, guide, request, answer });
        }
        lent
    }

    pub(super) fn return_guides(&mut self, lent: Vec<LentGuide>) {
        for LentGuide { key, guide, .. } in lent {
            if let Some(sequence) = self.sequences.get_mut(&key) {
                sequence.guide = guide;
            }
        }
    }

    /// Makes the next rows of a running sequence safe to write, if the pages for that are there.
    pub(super) fn prepare(&mut self, key: u64, backend: &mut dyn Backend) -> bool {
        let Some(sequence) = self.sequences.get_mut(&key) else { return false };
        let length = sequence.tokens.len();
        write_at(sequence, length, &mut self.pool, &mut self.spill, backend).is_ok()
    }
}

/// Covers `positions` and makes the page that is written next the sequence's own.
fn write_at(
    sequence: &mut Sequence,
    positions: usize,
    pool: &mut PagePool,
    spill: &mut Option<Spill>,
    backend: &mut dyn Backend,
) -> Result<(), Error> {
    pool.cover(&mut sequence.table, positions)?;
    if !sequence.computed.is_multiple_of(PAGE)
        && let Some((from, to)) = pool.own(&mut sequence.table[sequence.computed / PAGE])?
    {
        save_evicted(pool, spill, backend);
        backend.copy_page(from, to);
    }
    Ok(())
}

/// The recurrent state after a prefix.
enum Checkpoint {
    Slot(u32),
    Spilled(Vec<u8>),
}

fn save_evicted(pool: &mut PagePool, spill: &mut Option<Spill>, backend: &dyn Backend) {
    let Some(spill) = spill else { return };
    let mut bytes = Vec::new();
    for (hash, page) in pool.take_evicted() {
        bytes.clear();
        if !spill.contains((hash, Kind::Page)) && backend.read_page(page, &mut bytes) {
            spill.put((hash, Kind::Page), &bytes);
        }
    }
}

/// Brings a page back from disk into a free one, which the caller then holds.
fn restore(hash: PageHash, pool: &mut PagePool, spill: &mut Option<Spill>, backend: &mut dyn Backend) -> Option<u32> {
    let bytes = spill.as_mut()?.get((hash, Kind::Page))?;
    let mut table = Vec::new();
    pool.cover(&mut table, PAGE).ok()?;
    save_evicted(pool, spill, backend);
    let page = table.first_mut()?;
    if backend.write_page(*page, &bytes) {
        pool.publish(page, hash);
        return Some(*page);
    }
    pool.release(*page);
    None
}
