//! Beam search over the engine: the likeliest whole answers instead of drawn ones. Each round asks for one token after
//! each hypothesis, as requests like any others: hypotheses share their pages, and other requests run beside them.

use super::{Engine, EventKind, Failure, Handle, Request, RequestId};
use crate::{Error, SamplingParams, Token};
use std::collections::BTreeMap;

/// How hypotheses are searched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BeamParams {
    /// Hypotheses kept, and answers.
    pub width: u32,
    /// Scores are divided by length to this power: above 0 it favours longer answers.
    pub length_penalty: f32,
    /// Ends as soon as `width` answers are complete; otherwise when no hypothesis could still become better.
    pub early_stopping: bool,
}

/// An answer and what the model thinks of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Hypothesis {
    /// Its tokens, without the one that ends it.
    pub tokens: Vec<u32>,
    /// Sum of the log-probabilities, that of the ending token included.
    pub logprob: f64,
    /// The sum over length to the power of the penalty.
    pub score: f64,
    /// The token that ended it; `None` where it was cut.
    pub end: Option<u32>,
}

/// A search on its way: [`round`](Self::round) says what to ask, [`advance`](Self::advance) takes the results.
#[derive(Clone, Debug)]
pub struct BeamSearch {
    request: Request,
    params: BeamParams,
    live: Vec<Hypothesis>,
    done: Vec<Hypothesis>,
}

impl BeamSearch {
    /// A search for the likeliest answers to `request`, of which prompt, ends, limits, client and adapter count.
    pub fn new(request: Request, params: BeamParams) -> BeamSearch {
        let start = Hypothesis { tokens: Vec::new(), logprob: 0.0, score: 0.0, end: None };
        BeamSearch { request, params, live: vec![start], done: Vec::new() }
    }

    /// The requests whose first tokens are needed next; none when the search is over.
    pub fn round(&self) -> Vec<Request> {
        let count = 2 * self.params.width;
        let ask = |hypothesis: &Hypothesis| {
            let sampling = SamplingParams {
                temperature: 0.0,
                logprobs: Some(count),
                max_tokens: Some(1),
                ..SamplingParams::default()
            };
            let ids = [&self.request.ids[..], &hypothesis.tokens].concat();
            // Ends are read off the likeliest tokens.
            Request { ids, sampling, eos: Vec::new(), n: 1, ..self.request.clone() }
        };
        if self.is_over() { Vec::new() } else { self.live.iter().map(ask).collect() }
    }

    /// Takes the token that each request of the round gave.
    pub fn advance(&mut self, tokens: &[Token], context: usize) {
        let width = self.params.width as usize;
        let mut next = Vec::new();
        for (hypothesis, token) in self.live.iter().zip(tokens) {
            for &(id, logprob) in &token.top {
                next.push((hypothesis, id, hypothesis.logprob + f64::from(logprob)));
            }
        }
        next.sort_by(|a, b| b.2.total_cmp(&a.2));
        let mut live = Vec::new();
        for (hypothesis, id, logprob) in next {
            if live.len() == width {
                break;
            }
            let length = hypothesis.tokens.len() + 1;
            let score = self.score(logprob, length);
            if self.request.end_ids().any(|end| end == id) {
                let tokens = hypothesis.tokens.clone();
                self.done.push(Hypothesis { tokens, logprob, score, end: Some(id) });
            } else {
                let tokens = [&hypothesis.tokens[..], &[id]].concat();
                live.push(Hypothesis { tokens, logprob, score, end: None });
            }
        }
        let most = self.request.sampling.max_tokens.map_or(usize::MAX, |max| max as usize);
        let is_cut = |h: &Hypothesis| h.tokens.len() >= most || self.request.ids.len() + h.tokens.len() + 1 >= context;
        self.done.extend(live.extract_if(.., |h| is_cut(h)));
        self.live = live;
        self.done.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.done.truncate(width);
    }

    /// The likeliest answers, likeliest first.
    pub fn answers(self) -> Vec<Hypothesis> {
        self.done
    }

    fn score(&self, logprob: f64, length: usize) -> f64 {
        logprob / (length as f64).powf(self.params.length_penalty.into())
    }

    fn is_over(&self) -> bool {
        let full = self.done.len() >= self.params.width as usize;
        let worst = self.done.last().map_or(f64::NEG_INFINITY, |h| h.score);
        let hopeless = || self.live.iter().all(|h| h.score <= worst);
        self.live.is_empty() || full && (self.params.early_stopping || hopeless())
    }

    fn check(&self, vocabulary: usize) -> Result<(), Failure> {
        let limit = vocabulary / 2;
        if self.params.width == 0 || self.params.width as usize > limit || !self.params.length_penalty.is_finite() {
            return Err(Failure::Answers { limit, found: self.params.width });
        }
        if self.request.constraint.is_some() || self.request.thinking.is_some() {
            return Err(Error::Refused("a beam search keeps to no constraint and no thinking budget".into()).into());
        }
        Ok(())
    }
}

/// Of several answers with log-probabilities the `n` whose tokens are the likeliest on average (OpenAI's `best_of`), the
/// best first, as indices. An answer without tokens comes last.
pub fn best_of(answers: &[Vec<Token>], n: usize) -> Vec<usize> {
    let mean = |index: &usize| {
        let tokens = &answers[*index];
        let sum: f64 = tokens.iter().filter_map(|token| token.logprob).map(f64::from).sum();
        if tokens.is_empty() { f64::NEG_INFINITY } else { sum / tokens.len() as f64 }
    };
    let mut order: Vec<usize> = (0..answers.len()).collect();
    order.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
    order.truncate(n);
    order
}

impl Engine {
    /// Searches with nothing else going on: events of other requests are lost.
    ///
    /// # Errors
    /// Those of [`Engine::submit`] and of any answer.
    pub fn beam_search(&mut self, request: Request, params: BeamParams) -> Result<Vec<Hypothesis>, Failure> {
        let mut search = BeamSearch::new(request, params);
        search.check(self.vocabulary())?;
        loop {
            let asked =
                search.round().into_iter().map(|request| self.submit(request)).collect::<Result<Vec<_>, _>>()?;
            if asked.is_empty() {
                return Ok(search.answers());
            }
            let mut tokens: BTreeMap<RequestId, Token> = BTreeMap::new();
            while !self.is_idle() {
                for event in self.step() {
                    match event.kind {
                        EventKind::Token(token) => drop(tokens.insert(event.request, token)),
                        EventKind::Failed(failure) => return Err(failure),
                        _ => {}
                    }
                }
            }
            let tokens: Vec<Token> = asked.iter().filter_map(|id| tokens.remove(id)).collect();
            if tokens.len() < asked.len() {
                return Err(Error::Refused("the search was cancelled".into()).into());
            }
            search.advance(&tokens, self.context());
        }
    }
}

impl Handle {
    /// Searches beside other requests; waits for the end.
    ///
    /// # Errors
    /// Those of [`Handle::submit`] and of any answer.
    pub fn beam_search(&self, request: Request, params: BeamParams) -> Result<Vec<Hypothesis>, Failure> {
        let (context, vocabulary) = self.limits()?;
        let mut search = BeamSearch::new(request, params);
        search.check(vocabulary)?;
        loop {
            let asked =
                search.round().into_iter().map(|request| self.submit(request)).collect::<Result<Vec<_>, _>>()?;
            if asked.is_empty() {
                return Ok(search.answers());
            }
            let mut tokens = Vec::new();
            for event in asked.into_iter().flatten() {
                match event.kind {
                    EventKind::Token(token) => tokens.push(token),
                    EventKind::Failed(failure) => return Err(failure),
                    EventKind::Finished { reason: crate::Finish::Cancelled, .. } => {
                        return Err(Error::Refused("the search was cancelled".into()).into());
                    }
                    _ => {}
                }
            }
            search.advance(&tokens, context);
        }
    }
}
