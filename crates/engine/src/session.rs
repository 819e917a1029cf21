//! One conversation over a backend: it keeps what is computed, so that a prompt that continues or edits the last one
//! costs only its new tokens.

use crate::{Error, Outputs, PagePool, Rows, Sampler, SamplingParams, Sequence, Token, forward};
use allod_plan::{Backend, Capacity, PAGE};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A prompt and how to continue it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The whole prompt, from position 0.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// The model's end-of-generation tokens.
    pub eos: Vec<u32>,
    /// Ends the answer between two steps.
    pub cancel: Cancel,
}

/// A flag that another thread, or a signal handler, may raise.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks for the end.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the end was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What happens on the way to an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// So many of the prompt's tokens are in the cache; more are to come.
    Prompt {
        /// Tokens done.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// The next token of the answer.
    Token(Token),
    /// The answer is complete. Always the last event.
    Finished {
        /// Why.
        reason: Finish,
        /// What it took.
        stats: Stats,
    },
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model chose this end-of-generation or stop token, which is not part of the answer.
    Stop(u32),
    /// `max_tokens` are generated.
    Length,
    /// Prompt and answer fill the context; the answer is cut off here.
    ContextFull,
    /// There is nothing more to come: a constraint is fulfilled, a text is scored or embedded.
    Complete,
    /// [`Cancel`] was raised.
    Cancelled,
}

/// What an answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that were computed already.
    pub cached_tokens: usize,
    /// Tokens of the answer.
    pub generated_tokens: usize,
    /// From the request to the first chosen token.
    pub first_token: Duration,
    /// From the request to the end.
    pub total: Duration,
}

impl Stats {
    /// Prompt tokens computed per second.
    pub fn prompt_per_second(&self) -> f64 {
        rate(self.prompt_tokens - self.cached_tokens, self.first_token)
    }

    /// Tokens generated per second after the first.
    pub fn generated_per_second(&self) -> f64 {
        rate(self.generated_tokens.saturating_sub(1), self.total.saturating_sub(self.first_token))
    }
}

fn rate(count: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

/// A backend and the one conversation that its memory holds.
pub struct Session {
    backend: Box<dyn Backend>,
    capacity: Capacity,
    pool: PagePool,
    sequence: Sequence,
    /// Slots for recurrent states; 0 for a model without any.
    states: usize,
    checkpoints: Checkpoints,
}

impl Session {
    /// An empty conversation. It takes the backend's pages for itself and, if the model is `recurrent` (its plan has
    /// states), slot 0 for the conversation and the other slots for checkpoints.
    pub fn new(mut backend: Box<dyn Backend>, recurrent: bool) -> Session {
        let capacity = backend.capacity();
        let states = if recurrent { capacity.states } else { 0 };
        if recurrent {
            backend.clear_state(0);
        }
        Session {
            backend,
            capacity,
            pool: PagePool::new(capacity.pages),
            sequence: Sequence::new(0),
            states,
            checkpoints: Checkpoints::new(states),
        }
    }

    /// Positions of the context.
    pub fn context(&self) -> usize {
        self.capacity.context.min(self.capacity.pages * PAGE)
    }

    /// Size of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.capacity.width
    }

    /// The tokens in the cache.
    pub fn tokens(&self) -> &[u32] {
        self.sequence.tokens()
    }

    /// Starts an answer. What the prompt shares with the tokens in the cache is not computed again.
    ///
    /// # Errors
    /// [`Error`] when the request makes no sense or does not fit the context; the cache is as before then.
    pub fn generate(&mut self, request: Request) -> Result<Generation<'_>, Error> {
        let started = Instant::now();
        let sampler = Sampler::new(&request.sampling, self.capacity.width)?;
        self.check(&request.prompt)?;
        let common = self.tokens().iter().zip(&request.prompt).take_while(|(a, b)| a == b).count();
        // The last token always runs: its logits are what the first choice needs.
        self.rewind(common.min(request.prompt.len() - 1));
        let stats =
            Stats { prompt_tokens: request.prompt.len(), cached_tokens: self.tokens().len(), ..Stats::default() };
        Ok(Generation { session: self, request, sampler, started, stats, chosen: None, finished: false })
    }

    fn check(&self, prompt: &[u32]) -> Result<(), Error> {
        let (vocabulary, context) = (self.capacity.width, self.context());
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if prompt.len() >= context {
            return Err(Error::PromptTooLong { tokens: prompt.len(), context });
        }
        match prompt.iter().position(|&id| id as usize >= vocabulary) {
            Some(position) => Err(Error::UnknownToken { id: prompt[position], position, vocabulary }),
            None => Ok(()),
        }
    }

    /// Goes back to position `length`; a recurrent model to the nearest checkpoint before it, or to the beginning.
    fn rewind(&mut self, mut length: usize) {
        if self.states > 0 && length < self.tokens().len() {
            length = match self.checkpoints.nearest(length) {
                Some((slot, position)) => {
                    self.backend.copy_state(slot, self.sequence.state());
                    position
                }
                None => {
                    self.backend.clear_state(self.sequence.state());
                    0
                }
            };
        }
        self.sequence.truncate(length, &mut self.pool);
    }

    fn feed(&mut self, tokens: &[u32], outputs: Outputs) -> Result<&[f32], Error> {
        let rows = Rows { sequence: &mut self.sequence, tokens, outputs };
        forward(self.backend.as_mut(), &mut self.pool, &mut [rows])
    }

    fn checkpoint(&mut self) {
        if let Some(slot) = self.checkpoints.take(self.sequence.tokens().len()) {
            self.backend.copy_state(self.sequence.state(), slot);
        }
    }
}

/// Saved recurrent states and the positions they belong to, oldest first.
struct Checkpoints {
    free: Vec<u32>,
    saved: Vec<(u32, usize)>,
}

impl Checkpoints {
    /// All slots but 0.
    fn new(states: usize) -> Checkpoints {
        Checkpoints { free: (1..states as u32).rev().collect(), saved: Vec::new() }
    }

    /// Slot and position of the latest state up to `position`; later ones are given up.
    fn nearest(&mut self, position: usize) -> Option<(u32, usize)> {
        self.free.extend(self.saved.extract_if(.., |s| s.1 > position).map(|s| s.0));
        self.saved.iter().copied().max_by_key(|s| s.1)
    }

    /// A slot for the state at `position`, if there is one and the position is not saved yet.
    fn take(&mut self, position: usize) -> Option<u32> {
        if self.saved.iter().any(|s| s.1 == position) {
            return None;
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.saved.is_empty() => return None,
            None => self.saved.remove(0).0,
        };
        self.saved.push((slot, position));
        Some(slot)
    }
}

/// An answer on its way: an iterator over its events. Dropping it ends the answer; what is computed stays in the cache.
pub struct Generation<'s> {
    session: &'s mut Session,
    request: Request,
    sampler: Sampler,
    started: Instant,
    stats: Stats,
    /// Chosen, not yet fed.
    chosen: Option<u32>,
    finished: bool,
}

impl Generation<'_> {
    /// The seed of the answer: the request's, or the one that was picked.
    pub fn seed(&self) -> u64 {
        self.sampler.seed()
    }

    fn advance(&mut self) -> Result<Event, Error> {
        if self.request.cancel.is_cancelled() {
            return Ok(self.finish(Finish::Cancelled));
        }
        let Some(chosen) = self.chosen else { return self.prompt() };
        if self.request.sampling.max_tokens.is_some_and(|max| self.stats.generated_tokens >= max as usize) {
            return Ok(self.finish(Finish::Length));
        }
        if self.stats.prompt_tokens + self.stats.generated_tokens >= self.session.context() {
            return Ok(self.finish(Finish::ContextFull));
        }
        self.step(&[chosen])
    }

    /// Feeds the next chunk of the prompt. A recurrent model saves its state before the last token, from where both
    /// another try and the next turn can go on.
    fn prompt(&mut self) -> Result<Event, Error> {
        let total = self.request.prompt.len();
        let done = self.session.tokens().len();
        let recurrent = self.session.states > 1;
        if recurrent && done + 1 == total {
            self.session.checkpoint();
        }
        let end = if recurrent && done + 1 < total { total - 1 } else { total };
        let end = end.min(done + self.session.capacity.rows.max(1));
        let chunk = self.request.prompt[done..end].to_vec();
        if end == total {
            return self.step(&chunk);
        }
        self.session.feed(&chunk, Outputs::None)?;
        Ok(Event::Prompt { done: end, total })
    }

    /// Feeds the tokens and chooses the one that follows.
    fn step(&mut self, tokens: &[u32]) -> Result<Event, Error> {
        let session = &mut *self.session;
        let rows = Rows { sequence: &mut session.sequence, tokens, outputs: Outputs::Last };
        let logits = forward(session.backend.as_mut(), &mut session.pool, &mut [rows])?;
        let token = self.sampler.choose(logits, session.sequence.tokens())?;
        if self.chosen.is_none() {
            self.stats.first_token = self.started.elapsed();
        }
        if self.ends(token.id) {
            return Ok(self.finish(Finish::Stop(token.id)));
        }
        self.chosen = Some(token.id);
        self.stats.generated_tokens += 1;
        Ok(Event::Token(token))
    }

    fn ends(&self, id: u32) -> bool {
        let Request { sampling, eos, .. } = &self.request;
        sampling.stop_token_ids.contains(&id) || (!sampling.ignore_eos && eos.contains(&id))
    }

    fn finish(&mut self, reason: Finish) -> Event {
        self.finished = true;
        self.stats.total = self.started.elapsed();
        Event::Finished { reason, stats: self.stats }
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Event, Error>;

    fn next(&mut self) -> Option<Result<Event, Error>> {
        if self.finished {
            return None;
        }
        let event = self.advance();
        self.finished |= event.is_err();
        Some(event)
    }
}
