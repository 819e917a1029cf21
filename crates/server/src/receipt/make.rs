//! The receipt of a job that has been served.

use super::digest::Digests;
use super::{AnswerPart, Finish, ModelPart, Receipt, RequestPart, Tokens, sampling_value};
use crate::generate::{Job, Reason};
use crate::models::Lease;

/// Follows a job's answers.
#[derive(Debug)]
pub(crate) struct Recorder {
    digests: Digests,
    answers: Vec<(Vec<u32>, Option<Finish>)>,
}

impl Recorder {
    pub(crate) fn new(digests: Digests, answers: usize) -> Recorder {
        Recorder { digests, answers: vec![(Vec::new(), None); answers] }
    }

    pub(crate) fn token(&mut self, answer: usize, id: u32) {
        self.answers[answer].0.push(id);
    }

    pub(crate) fn finished(&mut self, answer: usize, reason: &Reason) {
        self.answers[answer].1 = Some(match reason {
            Reason::End => Finish::End,
            Reason::StopToken(_) => Finish::StopToken,
            Reason::StopString(_) => Finish::StopString,
            Reason::Length => Finish::Length,
            Reason::ContextFull => Finish::ContextFull,
            Reason::Cancelled => Finish::Cancelled,
        });
    }

    /// The receipt of what has come so far.
    pub(crate) fn receipt(&self, lease: &Lease, job: &Job) -> Receipt {
        let model = ModelPart {
            name: lease.name.clone(),
            digest: self.digests.model.clone(),
            plan: format!("blake3:{}", lease.plan_digest),
            tokenizer: self.digests.tokenizer.clone(),
            template: job.template.clone(),
            adapters: Vec::new(),
            cache_type: lease.cache_type.name().into(),
            activations: lease.activations,
            context: lease.planned_context,
        };
        let request = RequestPart {
            prompts: job.prompts.iter().cloned().map(Tokens::new).collect(),
            n: job.n,
            // Parameters were read from JSON, so they can be written.
            sampling: sampling_value(&job.sampling).unwrap_or_default(),
            stop: job.stop.clone(),
            include_stop: job.include_stop,
            skip_special: job.skip_special,
            grammar: job.constraint.as_deref().and_then(crate::generate::grammar_value),
        };
        let seed = job.sampling.seed.unwrap_or_default();
        let answer = |(i, (tokens, finish)): (usize, &(Vec<u32>, Option<Finish>))| {
            let text = lease.tokenizer.decode(tokens, job.skip_special);
            let seed = seed.wrapping_add((i % job.each()) as u64);
            AnswerPart::new(seed, tokens.clone(), &text, finish.unwrap_or(Finish::Cancelled))
        };
        Receipt::new(model, request, self.answers.iter().enumerate().map(answer).collect())
    }
}

impl Lease {
    /// Digests of what the model is made of; its files are read when this is first asked for.
    ///
    /// # Errors
    /// They cannot be read any more.
    pub(crate) async fn digests(&self) -> Result<Digests, crate::error::ApiError> {
        let origin = self.spec.origin.clone();
        let read = || async {
            let done = tokio::task::spawn_blocking(move || super::digests(&origin)).await;
            done.map_err(std::io::Error::other)?
        };
        let made = self.digests.get_or_try_init(read).await;
        made.cloned().map_err(|e| crate::error::ApiError::internal(format!("no receipt: {e}")))
    }
}
