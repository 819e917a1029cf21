//! What enters the engine and what leaves it.

use super::adapters::AdapterId;
use super::constraint::Grammar;
use crate::{Cancel, Error, Finish, SamplingParams, Stats, Token};
use std::sync::Arc;
use std::time::Instant;

/// What is wanted of a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Task {
    /// Answers that continue it.
    #[default]
    Generate,
    /// The log-probabilities of given continuations, each an answer of its own: labels of a classifier, candidates to
    /// be ranked, or the rest of a text for its perplexity. The prompt is computed once for all of them.
    Score(Vec<Vec<u32>>),
    /// The vector of a plan that pools.
    Embed,
}

/// Thinking at the beginning of an answer. A constraint applies only behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thinking {
    /// The token that begins it, if the answer does; `None` where the prompt has begun it.
    pub start: Option<u32>,
    /// The tokens that end it, at least one.
    pub end: Vec<u32>,
    /// Tokens after which the end is forced.
    pub budget: Option<u32>,
}

/// A prompt and how to continue it, beside others.
#[derive(Clone, Debug)]
pub struct Request {
    /// The whole prompt, from position 0.
    pub ids: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// The model's end-of-generation tokens.
    pub eos: Vec<u32>,
    /// What is wanted.
    pub task: Task,
    /// What every answer must keep to.
    pub constraint: Option<Arc<dyn Grammar>>,
    /// How thinking ends.
    pub thinking: Option<Thinking>,
    /// Answers wanted of [`Task::Generate`]. Answer `i` is, byte for byte, the one that seed `seed + i` alone gives.
    pub n: u32,
    /// Log-probabilities of the prompt's tokens from the second on, each with so many likeliest ones beside it.
    pub prompt_logprobs: Option<u32>,
    /// Requests of higher priority run first and may push out others.
    pub priority: i32,
    /// On whose account it goes: clients that wait get equal shares of the rows.
    pub client: u64,
    /// When it ends unanswered.
    pub deadline: Option<Instant>,
    /// Only requests with an equal salt share computed prefixes, and only those with the same adapter.
    pub salt: Vec<u8>,
    /// The adapter that it runs through.
    pub adapter: Option<AdapterId>,
    /// Ends it before the next step.
    pub cancel: Cancel,
}

impl Default for Request {
    fn default() -> Request {
        Request {
            ids: Vec::new(),
            sampling: SamplingParams::default(),
            eos: Vec::new(),
            task: Task::Generate,
            constraint: None,
            thinking: None,
            n: 1,
            prompt_logprobs: None,
            priority: 0,
            client: 0,
            deadline: None,
            salt: Vec::new(),
            adapter: None,
            cancel: Cancel::default(),
        }
    }
}

impl Request {
    /// How many answers it gets, each with a last event of its own.
    pub fn answers(&self) -> u32 {
        match &self.task {
            Task::Generate => self.n,
            Task::Score(continuations) => continuations.len() as u32,
            Task::Embed => 1,
        }
    }

    /// Tokens that end the answer without being part of it.
    pub(super) fn end_ids(&self) -> impl Iterator<Item = u32> + '_ {
        let eos: &[u32] = if self.sampling.ignore_eos { &[] } else { &self.eos };
        self.sampling.stop_token_ids.iter().chain(eos).copied()
    }

    /// The continuation that answer `answer` scores.
    pub(super) fn continuation(&self, answer: u32) -> Option<&[u32]> {
        match &self.task {
            Task::Score(continuations) => continuations.get(answer as usize).map(Vec::as_slice),
            Task::Generate | Task::Embed => None,
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
    /// So many of the prompt's tokens are computed; more are to come.
    Prompt {
        /// Tokens done.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// The prompt's tokens from the second on; comes once, for answer 0, before its first token.
    PromptLogprobs(Vec<Token>),
    /// The next token of the answer.
    Token(Token),
    /// The tokens of the continuation, with their log-probabilities.
    Scored(Vec<Token>),
    /// The vector of the prompt.
    Embedded(Vec<f32>),
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
    /// The task is not one for what was loaded.
    #[error("{task} needs a plan that {needs}, which this one does not")]
    Task {
        /// What was asked for.
        task: &'static str,
        /// What its plan does.
        needs: &'static str,
    },
    /// An adapter that does not fit.
    #[error(transparent)]
    Adapter(#[from] allod_plan::AdapterError),
    /// The request names an adapter that is not loaded.
    #[error("no adapter with this number is loaded")]
    NoAdapter,
    /// A text that is computed whole does not fit a step.
    #[error("the text has {tokens} tokens; at most {rows} can be computed at a time, and it cannot be cut")]
    TextTooLong {
        /// Tokens of the text.
        tokens: usize,
        /// Rows of a step.
        rows: usize,
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
