//! A job at work.

use super::Job;
use super::decode::{Decoder, Delta};
use super::sink::{BUFFER, Channel, Message};
use crate::error::ApiError;
use crate::metrics::Observer;
use crate::models::Lease;
use crate::receipt::{Receipt, Recorder};
use crate::stream::Resume;
use allod_engine::engine::{Event, EventKind, Failure, Request};
use allod_engine::{Cancel, Finish, Stats, Token};
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc::{Receiver, channel};

/// Something that came of a job.
#[derive(Debug)]
pub(crate) struct Output {
    /// Which answer, from 0.
    pub(crate) answer: u32,
    pub(crate) piece: Piece,
}

#[derive(Debug)]
pub(crate) enum Piece {
    /// The prompt's tokens from the second on.
    Prompt(Vec<Token>),
    Delta(Delta),
    /// A continuation's tokens.
    Scored(Vec<Token>),
    /// A prompt's vector.
    Embedded(Vec<f32>),
    /// The answer is complete.
    Finished(Reason, Stats),
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The model ended it.
    End,
    /// A token that the request names.
    StopToken(u32),
    /// A string that the request names.
    StopString(String),
    /// As long as asked for.
    Length,
    /// The context is full.
    ContextFull,
    /// Somebody else ended it.
    Cancelled,
}

/// The stream of a job's outputs. Dropping it ends the job within one step of the engine.
pub(crate) struct Running {
    pub(crate) lease: Lease,
    /// The job as it was given to the engine.
    pub(crate) job: Arc<Job>,
    receiver: Receiver<Message>,
    cancels: Vec<Cancel>,
    decoders: Vec<Decoder>,
    /// Answers that still go on.
    open: Vec<bool>,
    observer: Observer,
    recorder: Option<Recorder>,
    /// Set where its stream may be gone on with.
    pub(crate) resume: Option<Resume>,
    queued: VecDeque<Output>,
}

impl Running {
    /// Gives a job to the engine and waits until that has taken it.
    ///
    /// # Errors
    /// What the engine refuses.
    pub(crate) async fn start(lease: Lease, job: Job, observer: Observer) -> Result<Running, ApiError> {
        let recorder = match job.receipt {
            true => Some(Recorder::new(lease.digests().await?, job.answers())),
            false => None,
        };
        let requests = requests(&lease, &job);
        let (sender, receiver) = channel(BUFFER.max(requests.len() * 2));
        let decoder = || {
            let decoder = Decoder::new(&lease.tokenizer, job.skip_special, job.reading.as_deref());
            decoder.stopping_at(&job.stop, job.include_stop)
        };
        let answers = job.answers();
        let cancels = requests.iter().flat_map(|(_, r)| (0..r.answers()).map(|_| r.cancel.clone()));
        let mut running = Running {
            receiver,
            cancels: cancels.collect(),
            decoders: (0..answers).map(|_| decoder()).collect(),
            open: vec![true; answers],
            observer,
            recorder,
            resume: None,
            queued: VecDeque::new(),
            job: Arc::new(job),
            lease,
        };
        let count = requests.len();
        for (first, request) in requests {
            running.lease.engine.submit_to(request, Box::new(Channel { sender: sender.clone(), first }))?;
        }
        drop(sender);
        running.admitted(count).await?;
        Ok(running)
    }

    /// Waits until the engine has taken all of `count` requests.
    async fn admitted(&mut self, count: usize) -> Result<(), ApiError> {
        let mut waiting = count;
        while waiting > 0 {
            match self.receiver.recv().await {
                Some(Message::Submitted(Ok(()))) => waiting -= 1,
                Some(Message::Submitted(Err(failure))) => {
                    self.observer.refused();
                    return Err(failure.into());
                }
                Some(Message::Event(event)) => {
                    let output = self.take(event)?;
                    self.queued.extend(output);
                }
                None => return Err(Failure::Stopped.into()),
            }
        }
        Ok(())
    }

    /// The next output; `None` when all answers are complete.
    ///
    /// # Errors
    /// The job failed; nothing else comes.
    pub(crate) async fn next(&mut self) -> Option<Result<Output, ApiError>> {
        while self.queued.is_empty() && self.open.contains(&true) {
            let event = match self.receiver.recv().await {
                Some(Message::Event(event)) => event,
                Some(Message::Submitted(_)) => continue,
                None => {
                    self.open.fill(false);
                    return Some(Err(Failure::Stopped.into()));
                }
            };
            match self.take(event) {
                Ok(output) => self.queued.extend(output),
                Err(error) => {
                    self.open.fill(false);
                    return Some(Err(error));
                }
            }
        }
        self.queued.pop_front().map(Ok)
    }

    fn take(&mut self, event: Event) -> Result<Option<Output>, ApiError> {
        let answer = event.answer;
        let index = answer as usize;
        if !self.open.get(index).copied().unwrap_or(false) {
            return Ok(None);
        }
        let piece = match event.kind {
            EventKind::Prompt { .. } => return Ok(None),
            EventKind::PromptLogprobs(tokens) => Piece::Prompt(tokens),
            EventKind::Scored(tokens) => Piece::Scored(tokens),
            EventKind::Embedded(vector) => Piece::Embedded(vector),
            EventKind::Token(token) => {
                let decoder = &mut self.decoders[index];
                if self.job.silent || decoder.is_over() {
                    return Ok(None);
                }
                self.observer.token(index);
                if let Some(recorder) = &mut self.recorder {
                    recorder.token(index, token.id);
                }
                let delta = decoder.push(token);
                if decoder.is_over() {
                    self.cancels[index].cancel();
                }
                Piece::Delta(delta)
            }
            EventKind::Finished { reason, stats } => {
                self.finish(index, reason, stats);
                return Ok(None);
            }
            EventKind::Failed(failure) => {
                self.observer.failed();
                return Err(failure.into());
            }
        };
        Ok(Some(Output { answer, piece }))
    }

    /// The last outputs of an answer: the text that was held back, and why it ended.
    fn finish(&mut self, index: usize, finish: Finish, stats: Stats) {
        self.open[index] = false;
        let delta = self.decoders[index].finish();
        let generated_tokens = if self.job.silent { 0 } else { stats.generated_tokens };
        let stats = Stats { generated_tokens, ..stats };
        let reason = match (self.decoders[index].stopped_by(), finish) {
            _ if self.decoders[index].has_called() => Reason::End,
            (Some(text), _) => Reason::StopString(text.to_owned()),
            (None, Finish::Stop(id)) if self.job.sampling.stop_token_ids.contains(&id) => Reason::StopToken(id),
            (None, Finish::Stop(_) | Finish::Complete) => Reason::End,
            (None, Finish::Length) => Reason::Length,
            (None, Finish::ContextFull) => Reason::ContextFull,
            (None, Finish::Cancelled) => Reason::Cancelled,
        };
        self.observer.finished(index, &reason, &stats);
        if let Some(recorder) = &mut self.recorder {
            recorder.finished(index, &reason);
        }
        let answer = index as u32;
        if delta != Delta::default() {
            self.queued.push_back(Output { answer, piece: Piece::Delta(delta) });
        }
        self.queued.push_back(Output { answer, piece: Piece::Finished(reason, stats) });
    }

    /// True when nothing more comes.
    pub(crate) fn is_over(&self) -> bool {
        self.queued.is_empty() && !self.open.contains(&true)
    }

    /// Adds the receipt to an answer, where there is one.
    pub(crate) fn attach(&self, answer: &mut Value) {
        if let Some(receipt) = self.receipt() {
            answer["receipt"] = receipt.sealed();
        }
    }

    /// What was asked and what has come, where that is recorded.
    pub(crate) fn receipt(&self) -> Option<Receipt> {
        self.recorder.as_ref().map(|recorder| recorder.receipt(&self.lease, &self.job))
    }

    /// Ends all answers; their last events still come.
    pub(crate) fn cancel(&self) {
        self.cancels.iter().for_each(Cancel::cancel);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// The engine's requests for a job, with the number of each one's first answer: one for each prompt, or one for each
/// answer where a stop string or a call must be able to end one alone.
fn requests(lease: &Lease, job: &Job) -> Vec<(u32, Request)> {
    let single = job.reading.as_ref().is_some_and(|reading| reading.single);
    let alone = job.n == 1 || (job.stop.is_empty() && !single);
    let (each, n) = if alone { (1, job.n) } else { (job.n, 1) };
    let seed = job.sampling.seed;
    let request = |prompt: &Vec<u32>, i: u32| {
        let mut sampling = job.sampling.clone();
        sampling.seed = seed.map(|seed| seed.wrapping_add(u64::from(i)));
        Request {
            ids: prompt.clone(),
            sampling,
            eos: lease.tokenizer.stop_tokens().to_vec(),
            n,
            prompt_logprobs: job.prompt_logprobs,
            priority: job.priority,
            client: job.client,
            deadline: job.deadline,
            salt: job.salt.clone(),
            task: job.task.clone(),
            adapter: lease.adapter,
            constraint: job.constraint.clone(),
            thinking: job.thinking.clone(),
            cancel: Cancel::default(),
        }
    };
    let of = |(p, prompt)| (0..each).map(move |i| (p * job.each() as u32 + i, request(prompt, i)));
    (0..).zip(&job.prompts).flat_map(|numbered| of(numbered).collect::<Vec<_>>()).collect()
}
