//! One conversation over a backend: it keeps what is computed, so that a prompt that continues or edits the last one
//! costs only its new tokens.

use crate::engine::{self, Engine, EngineOptions, EventKind, Failure, RequestId};
use crate::{Error, Sampler, SamplingParams, Token};
use allod_plan::{Backend, PAGE};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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

/// An engine with one conversation.
pub struct Session {
    engine: Engine,
}

impl Session {
    /// An empty conversation with all the backend's memory. If the model is `recurrent` (its plan has states), one slot
    /// is for the conversation and the others are for checkpoints.
    pub fn new(backend: Box<dyn Backend>, recurrent: bool) -> Session {
        let options = EngineOptions { recurrent, ..EngineOptions::default() };
        Session::over(Engine::new(backend, EngineOptions { sequences: Some(1), ..options }))
    }

    /// A conversation over an engine that nobody else uses.
    pub fn over(engine: Engine) -> Session {
        Session { engine }
    }

    /// Positions of the context.
    pub fn context(&self) -> usize {
        self.engine.context()
    }

    /// Size of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.engine.vocabulary()
    }

    /// Tokens in the cache that a prompt may begin with: whole pages of what was asked and answered.
    pub fn cached_tokens(&self) -> usize {
        self.engine.stats().idle_pages * PAGE
    }

    /// Starts an answer. Whole pages that the prompt shares with what is in the cache are not computed again.
    ///
    /// # Errors
    /// [`Error`] when the request makes no sense or does not fit the context; the cache is as before then.
    pub fn generate(&mut self, request: Request) -> Result<Generation<'_>, Error> {
        let Request { prompt, mut sampling, eos, cancel } = request;
        let seed = Sampler::new(&sampling, self.vocabulary())?.seed();
        sampling.seed = Some(seed);
        let request = engine::Request { ids: prompt, sampling, eos, ..engine::Request::default() };
        let id = self.engine.submit(request).map_err(cause)?;
        Ok(Generation { session: self, id, cancel, seed, events: VecDeque::new(), given: 0, finished: false })
    }
}

/// What concerns a request that is alone.
fn cause(failure: Failure) -> Error {
    match failure {
        Failure::Request(error) => error,
        other => Error::Refused(other.to_string()),
    }
}

/// An answer on its way: an iterator over its events. Dropping it ends the answer; what is computed stays in the cache.
pub struct Generation<'s> {
    session: &'s mut Session,
    id: RequestId,
    cancel: Cancel,
    seed: u64,
    /// Events that have happened and are not handed out.
    events: VecDeque<EventKind>,
    /// Tokens handed out.
    given: usize,
    finished: bool,
}

impl Generation<'_> {
    /// The seed of the answer: the request's, or the one that was picked.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    fn advance(&mut self) -> Result<Event, Error> {
        if self.cancel.is_cancelled() {
            self.events.clear();
            self.session.engine.cancel(self.id);
        }
        loop {
            match self.events.pop_front() {
                None => self.events.extend(self.session.engine.step().into_iter().map(|event| event.kind)),
                Some(EventKind::Prompt { done, total }) => return Ok(Event::Prompt { done, total }),
                Some(EventKind::Token(token)) => {
                    self.given += 1;
                    return Ok(Event::Token(token));
                }
                Some(EventKind::Finished { reason, stats }) => {
                    self.finished = true;
                    return Ok(Event::Finished { reason, stats: Stats { generated_tokens: self.given, ..stats } });
                }
                Some(EventKind::Failed(failure)) => return Err(cause(failure)),
                // Nobody asked for these.
                Some(EventKind::PromptLogprobs(_) | EventKind::Scored(_) | EventKind::Embedded(_)) => {}
            }
        }
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

impl Drop for Generation<'_> {
    fn drop(&mut self) {
        self.session.engine.cancel(self.id);
        // Nobody reads what is left; the engine is free for the next answer.
        drop(self.session.engine.step());
    }
}
