//! Texts as vectors, and how likely continuations are.

use super::{Job, Piece, Running};
use crate::app::{App, Caller};
use crate::error::ApiError;
use crate::models::Lease;
use allod_engine::engine::Task;
use allod_engine::{SamplingParams, Token};
use allod_text::Special;

/// The vectors of texts and the number of tokens read for them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vectors {
    pub(crate) vectors: Vec<Vec<f32>>,
    pub(crate) tokens: usize,
}

/// Cuts a text for a model of vectors; what the model wants around a text is added.
///
/// # Errors
/// Too long, where it is not to be truncated.
pub(crate) fn text_ids(lease: &Lease, text: &str, truncate: bool, at: &str) -> Result<Vec<u32>, ApiError> {
    let ids = lease.tokenizer.encode(text, Special::ADD).map_err(|e| ApiError::field(at, e))?;
    fitted(lease, ids, truncate, at)
}

/// Token ids that fit the model.
///
/// # Errors
/// None, or too many where they are not to be cut.
pub(crate) fn fitted(lease: &Lease, mut ids: Vec<u32>, truncate: bool, at: &str) -> Result<Vec<u32>, ApiError> {
    if ids.is_empty() {
        return Err(ApiError::field(at, "expected a text, found nothing"));
    }
    if ids.len() > lease.context {
        if !truncate {
            let message = format!("{} tokens; the model takes {} at a time", ids.len(), lease.context);
            return Err(ApiError::field(at, message).with_code("context_length_exceeded"));
        }
        ids.truncate(lease.context);
    }
    Ok(ids)
}

/// The vectors of texts.
///
/// # Errors
/// What the engine refuses.
pub(crate) async fn embed(app: &App, lease: Lease, texts: Vec<Vec<u32>>, caller: &Caller) -> Result<Vectors, ApiError> {
    let tokens = texts.iter().map(Vec::len).sum();
    let mut vectors = vec![Vec::new(); texts.len()];
    let job = Job { task: Task::Embed, prompts: texts, ..Job::new(Vec::new(), SamplingParams::greedy()) };
    let mut running = app.run(lease, job, caller).await?;
    while let Some(output) = running.next().await {
        let output = output?;
        if let Piece::Embedded(vector) = output.piece {
            vectors[output.answer as usize] = vector;
        }
    }
    Ok(Vectors { vectors, tokens })
}

/// The log-probability of each continuation of each prompt, `[prompts][continuations]`.
///
/// # Errors
/// What the engine refuses.
pub(crate) async fn score(
    app: &App,
    lease: Lease,
    prompts: Vec<Vec<u32>>,
    continuations: Vec<Vec<u32>>,
    caller: &Caller,
) -> Result<Vec<Vec<f64>>, ApiError> {
    let each = continuations.len();
    let mut scores = vec![vec![0.0; each]; prompts.len()];
    let job = Job { task: Task::Score(continuations), prompts, ..Job::new(Vec::new(), SamplingParams::greedy()) };
    let mut running: Running = app.run(lease, job, caller).await?;
    while let Some(output) = running.next().await {
        let output = output?;
        if let Piece::Scored(tokens) = output.piece {
            let sum = tokens.iter().filter_map(|t: &Token| t.logprob).map(f64::from).sum();
            scores[output.answer as usize / each][output.answer as usize % each] = sum;
        }
    }
    Ok(scores)
}
