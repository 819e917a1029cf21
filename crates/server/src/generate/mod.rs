//! One form of request for every dialect: a prompt in token ids and how to continue it. It leaves as a stream of text.

mod decode;
mod guide;
mod params;
mod running;
mod sink;
mod vectors;

pub(crate) use decode::{Delta, Part, Reading};
pub(crate) use guide::{grammar_spec, grammar_value, guide};
pub(crate) use params::{breakers, layered};
pub(crate) use running::{Output, Piece, Reason, Running};
pub(crate) use vectors::{Vectors, embed, fitted, score, text_ids};

use crate::error::ApiError;
use allod_engine::SamplingParams;
use allod_engine::engine::{Grammar, Task, Thinking};
use std::sync::Arc;
use std::time::Instant;

/// What a dialect asks of a model.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) task: Task,
    /// One or more; each is answered for itself.
    pub(crate) prompts: Vec<Vec<u32>>,
    pub(crate) sampling: SamplingParams,
    /// Answers to each prompt; answer `i` has seed `seed + i`. They are numbered through: prompt `p` has answers
    /// `p·n .. (p + 1)·n`.
    pub(crate) n: u32,
    /// Nothing is to follow the prompts; they are only looked at.
    pub(crate) silent: bool,
    pub(crate) stop: Vec<String>,
    /// The stop string stays at the end of the text.
    pub(crate) include_stop: bool,
    /// Special tokens do not show in the text.
    pub(crate) skip_special: bool,
    /// Log-probabilities of the prompt's tokens, each with so many likeliest.
    pub(crate) prompt_logprobs: Option<u32>,
    pub(crate) priority: i32,
    /// On whose account.
    pub(crate) client: u64,
    /// Only requests with the same salt share what is computed of their prompts.
    pub(crate) salt: Vec<u8>,
    pub(crate) deadline: Option<Instant>,
    /// What every answer must keep to.
    pub(crate) constraint: Option<Arc<dyn Grammar>>,
    /// The digest of the chat template that the prompt went through.
    pub(crate) template: Option<String>,
    /// The answers get a receipt.
    pub(crate) receipt: bool,
    /// How reasoning ends, where something is to follow it.
    pub(crate) thinking: Option<Thinking>,
    /// How answers are told apart; without, they are text.
    pub(crate) reading: Option<Arc<Reading>>,
}

impl Job {
    pub(crate) fn new(prompt: Vec<u32>, sampling: SamplingParams) -> Job {
        Job {
            task: Task::Generate,
            prompts: vec![prompt],
            sampling,
            n: 1,
            silent: false,
            stop: Vec::new(),
            include_stop: false,
            skip_special: true,
            prompt_logprobs: None,
            priority: 0,
            client: 0,
            salt: Vec::new(),
            deadline: None,
            constraint: None,
            template: None,
            receipt: false,
            thinking: None,
            reading: None,
        }
    }

    /// Answers to all prompts together.
    pub(crate) fn answers(&self) -> usize {
        self.prompts.len() * self.each()
    }

    /// Answers to one prompt.
    pub(crate) fn each(&self) -> usize {
        match &self.task {
            Task::Generate => self.n as usize,
            Task::Score(continuations) => continuations.len(),
            Task::Embed => 1,
        }
    }
}

/// Most answers of a request to all its prompts.
const ANSWERS: usize = 2048;

/// Checks how many answers a request wants.
///
/// # Errors
/// None, or too many.
pub(crate) fn check_answers(prompts: usize, n: u32) -> Result<(), ApiError> {
    if n == 0 || prompts.saturating_mul(n as usize) > ANSWERS {
        let message = format!("expected 1 to {ANSWERS} answers in all, found {n} for each of {prompts} prompts");
        return Err(ApiError::field("n", message));
    }
    Ok(())
}

/// Most stop strings of a request, and most bytes of one.
const STOPS: usize = 64;
const STOP_BYTES: usize = 4096;

/// Checks the stop strings of a request.
///
/// # Errors
/// Too many, too long, or empty ones.
pub(crate) fn check_stops(stops: &[String]) -> Result<(), ApiError> {
    if stops.len() > STOPS {
        return Err(ApiError::field("stop", format!("at most {STOPS} strings, found {}", stops.len())));
    }
    match stops.iter().position(|s| s.is_empty() || s.len() > STOP_BYTES) {
        Some(i) => Err(ApiError::field(format!("stop[{i}]"), format!("expected 1 to {STOP_BYTES} bytes"))),
        None => Ok(()),
    }
}
