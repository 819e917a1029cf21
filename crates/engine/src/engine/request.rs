//! What enters the engine and what leaves it.

use crate::{Cancel, Error, Finish, SamplingParams, Stats, Token};
use std::time::Instant;

/// A prompt and how to continue it, beside others.
#[derive(Clone, Debug)]
pub struct Request {
    /// The whole prompt, from position 0.
    pub ids: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// The model's end-of-generation tokens.
    pub eos: Vec<u32>,
    /// Answers wanted. Answer `i` is, byte for byte, the one that seed `seed + i` alone gives.
    pub n: u32,
    /// Log-probabilities of the prompt's tokens from the second on, each with so many likeliest ones beside it.
    pub prompt_logprobs: Option<u32>,
    /// Requests of higher priority run first and may push out others.
    pub priority: i32,
    /// On whose account it goes: clients that wait get equal shares of the rows.
    pub client: u64,
    /// When it ends unanswered.
    pub deadline: Option<Instant>,
    /// Only requests with an equal salt share computed prefixes. An adapter's id belongs here too.
    pub salt: Vec<u8>,
    /// Ends it before the next step.
    pub cancel: Cancel,
}

impl Default for Request {
    fn default() -> Request {
        Request {
            ids: Vec::new(),
            sampling: SamplingParams::default(),
            eos: Vec::new(),
            n: 1,
            prompt_logprobs: None,
            priority: 0,
            client: 0,
            deadline: None,
            salt: Vec::new(),
            cancel: Cancel::default(),
        }
    }
}

/// Names a request for as long as the engine lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct RequestId(pub(super) u64);

/// Something that happened to an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The request.
    pub request: RequestId,
    /// Which of its answers, from 0.
    pub answer: u32,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum EventKind {
    /// The prompt's tokens from the second on; comes once, for answer 0, before its first token.
    PromptLogprobs(Vec<Token>),
    /// The next token of the answer.
    Token(Token),
    /// The answer is complete; its last event.
    Finished {
        /// Why.
        reason: Finish,
        /// What it took.
        stats: Stats,
    },
    /// The answer ends here; its last event.
    Failed(Failure),
}

impl EventKind {
    /// True for the last event of an answer.
    pub fn is_last(&self) -> bool {
        matches!(self, EventKind::Finished { .. } | EventKind::Failed(_))
    }
}

/// Why a request was refused or an answer ended early. Others are not touched by it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    /// The request itself, the model's logits or the backend.
    #[error(transparent)]
    Request(#[from] Error),
    /// So many answers are waiting already.
    #[error("the queue is full: {waiting} answers wait, {wanted} more would pass the limit of {limit}")]
    QueueFull {
        /// Answers that wait.
        waiting: usize,
        /// Answers of the request.
        wanted: usize,
        /// Most that may wait.
        limit: usize,
    },
    /// `n` is out of range.
    #[error("n: expected 1 to {limit} answers, found {found}")]
    Answers {
        /// The most that the queue takes.
        limit: usize,
        /// The request's `n`.
        found: u32,
    },
    /// `prompt_logprobs` is out of range.
    #[error("prompt_logprobs: expected at most the {vocabulary} tokens of the vocabulary, found {found}")]
    PromptLogprobs {
        /// Size of the vocabulary.
        vocabulary: usize,
        /// What was asked for.
        found: u32,
    },
    /// The deadline passed.
    #[error("the deadline passed after {generated} tokens")]
    Deadline {
        /// Tokens of the answer so far.
        generated: usize,
    },
    /// The engine's thread has ended.
    #[error("the engine has stopped")]
    Stopped,
}
