//! From a row of logits to the next token: [`SamplingParams`] say how, a [`Sampler`] does it for one sequence.
//!
//! The choice is a function of the logits, the history (the tokens before), the parameters with their seed, and under
//! mirostat the earlier choices. Everything is computed with one fixed set of functions in one fixed order, so it is
//! the same on every machine.

mod candidates;
mod noise;
mod params;
mod repetition;

pub use params::{ParamError, SamplingParams, Stage};

use crate::engine::TokenMask;
use candidates::{Candidates, entropy};
use noise::Noise;
use std::hash::{BuildHasher, RandomState};

/// A chosen token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its log-probability, where [`SamplingParams::logprobs`] asks for it: log-softmax of the model's own logits,
    /// before bias, penalties, filters and temperature (what OpenAI's API and vLLM report).
    pub logprob: Option<f32>,
    /// The likeliest tokens and their log-probabilities, likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// Why no token could be chosen.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// The model computed something that is no number.
    #[error("the model gave token {id} the logit {value}; its weights or its configuration are broken")]
    NotFinite {
        /// The first such token.
        id: u32,
        /// Its logit.
        value: f32,
    },
    /// Logit bias, allowed tokens and constraint leave none.
    #[error("no token is left: logit_bias, allowed_token_ids or the constraint bans every one")]
    NothingLeft,
    /// The row of logits is not as long as the vocabulary.
    #[error("expected {expected} logits, found {found}")]
    Width {
        /// Size of the vocabulary.
        expected: usize,
        /// Logits in the row.
        found: usize,
    },
}

/// Chooses the tokens of one sequence. Cloning it, or going back to an earlier clone, rewinds it.
#[derive(Clone, Debug)]
pub struct Sampler {
    params: SamplingParams,
    vocabulary: usize,
    seed: u64,
    noise: Noise,
    /// Mirostat's running bound on surprise, in bits.
    mu: f64,
    candidates: Candidates,
}

impl Sampler {
    /// A sampler for rows of `vocabulary` logits.
    ///
    /// # Errors
    /// [`ParamError`] when a parameter is out of range.
    pub fn new(params: &SamplingParams, vocabulary: usize) -> Result<Sampler, ParamError> {
        params.validate(vocabulary)?;
        let seed = params.seed.unwrap_or_else(|| RandomState::new().hash_one(()));
        Ok(Sampler {
            params: params.clone(),
            vocabulary,
            seed,
            noise: Noise::new(seed),
            mu: 2.0 * f64::from(params.mirostat_tau),
            candidates: Candidates::default(),
        })
    }

    /// The seed in use: the one asked for, or the one picked.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The same sampler with another seed.
    #[must_use]
    pub fn reseeded(&self, seed: u64) -> Sampler {
        Sampler { seed, noise: Noise::new(seed), ..self.clone() }
    }

    /// A token that is given, not chosen, with the log-probabilities that the parameters ask for.
    ///
    /// # Errors
    /// [`SampleError`] when a logit is not finite or the row has another width.
    pub fn given(&self, logits: &[f32], id: u32) -> Result<Token, SampleError> {
        self.check(logits)?;
        Ok(self.report(id, logits))
    }

    /// The same sampler with buffers of its own, to draw ahead of it.
    #[must_use]
    pub(crate) fn fork(&self) -> Sampler {
        let params = SamplingParams { logprobs: None, ..self.params.clone() };
        Sampler { params, candidates: Candidates::default(), ..*self }
    }

    /// The log-probability of a given token, and of so many likeliest ones, whatever the parameters say.
    ///
    /// # Errors
    /// [`SampleError`] when a logit is not finite or the row has another width.
    pub fn score(&self, logits: &[f32], id: u32, count: u32) -> Result<Token, SampleError> {
        self.check(logits)?;
        Ok(logprobs(id, logits, count))
    }

    /// Chooses the token that follows `history`. The noise belongs to the position `history.len()`.
    ///
    /// # Errors
    /// [`SampleError`] when a logit is not finite, all tokens are banned or the row has another width.
    pub fn choose(&mut self, logits: &[f32], history: &[u32]) -> Result<Token, SampleError> {
        self.choose_among(logits, history, None)
    }

    /// Likewise, of the tokens in `allowed`.
    ///
    /// # Errors
    /// As [`Self::choose`].
    pub fn choose_among(
        &mut self,
        logits: &[f32],
        history: &[u32],
        allowed: Option<&TokenMask>,
    ) -> Result<Token, SampleError> {
        self.check(logits)?;
        self.thin(logits, history, allowed)?;
        let position = history.len() as u32;
        let mut best = (f64::NEG_INFINITY, u32::MAX);
        for c in self.candidates.items() {
            let value = f64::from(c.logit);
            let noisy = if self.greedy() { Some(value) } else { self.noise.perturb(position, c.id, value, best.0) };
            if let Some(noisy) = noisy.filter(|&n| n > best.0 || n == best.0 && c.id < best.1) {
                best = (noisy, c.id);
            }
        }
        if self.params.mirostat == 2 && !self.greedy() {
            self.steer(best.1);
        }
        Ok(self.report(best.1, logits))
    }

    /// The tokens that could follow `history` and their probabilities, likeliest first: what [`Self::choose`] draws
    /// from.
    ///
    /// # Errors
    /// As [`Self::choose`].
    pub fn distribution(&mut self, logits: &[f32], history: &[u32]) -> Result<Vec<(u32, f64)>, SampleError> {
        self.check(logits)?;
        self.thin(logits, history, None)?;
        let ids = self.candidates.items().iter().map(|c| c.id);
        let mut all: Vec<_> = ids.zip(self.candidates.probabilities()).collect();
        all.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if self.greedy() {
            all.truncate(1);
            all[0].1 = 1.0;
        }
        Ok(all)
    }

    fn greedy(&self) -> bool {
        self.params.temperature == 0.0
    }

    fn check(&self, logits: &[f32]) -> Result<(), SampleError> {
        if logits.len() != self.vocabulary {
            return Err(SampleError::Width { expected: self.vocabulary, found: logits.len() });
        }
        match (0..).zip(logits).find(|(_, l)| !l.is_finite()) {
            Some((id, &value)) => Err(SampleError::NotFinite { id, value }),
            None => Ok(()),
        }
    }

    /// Fills the candidates and runs the chain over them.
    fn thin(&mut self, logits: &[f32], history: &[u32], allowed: Option<&TokenMask>) -> Result<(), SampleError> {
        match allowed {
            None => self.candidates.fill(logits),
            Some(allowed) => self.candidates.fill_some(logits, allowed.ids()),
        }
        if !self.params.logit_bias.is_empty() {
            self.candidates.bias(&self.params.logit_bias);
        }
        if self.candidates.items().is_empty() {
            return Err(SampleError::NothingLeft);
        }
        for i in 0..self.params.samplers.len() {
            self.stage(self.params.samplers[i], history);
        }
        if self.params.mirostat == 2 && !self.greedy() {
            let mu = self.mu;
            self.candidates.keep_while(|p| -libm::log2(p) <= mu);
        }
        Ok(())
    }

    fn stage(&mut self, stage: Stage, history: &[u32]) {
        let SamplingParams { top_k, top_p, min_p, typical_p, top_n_sigma, xtc_threshold, .. } = self.params;
        let filters = !self.greedy() && self.params.mirostat == 0;
        let candidates = &mut self.candidates;
        match stage {
            Stage::Penalties => self.penalties(history),
            Stage::Dry => self.dry(history),
            Stage::TopNSigma if filters && top_n_sigma > 0.0 => candidates.top_n_sigma(top_n_sigma.into()),
            Stage::TopK if filters && top_k > 0 => candidates.top_k(top_k as usize),
            Stage::TypicalP if filters && typical_p < 1.0 => candidates.typical(typical_p.into()),
            Stage::TopP if filters && top_p < 1.0 => candidates.top_p(top_p.into()),
            Stage::MinP if filters && min_p > 0.0 => candidates.min_p(min_p.into()),
            Stage::Xtc if filters && self.xtc_strikes(history) => {
                self.candidates.exclude_top_choices(xtc_threshold.into());
            }
            Stage::Temperature if !self.greedy() => self.temperature(),
            _ => {}
        }
    }

    fn penalties(&mut self, history: &[u32]) {
        if let Some(counts) = repetition::counts(&self.params, history) {
            let params = &self.params;
            self.candidates.change_some(&counts, |logit, &count| repetition::penalized(params, logit, count));
        }
    }

    fn dry(&mut self, history: &[u32]) {
        if let Some(penalties) = repetition::dry(&self.params, history) {
            self.candidates.change_some(&penalties, |logit, penalty| logit - penalty);
        }
    }

    fn xtc_strikes(&self, history: &[u32]) -> bool {
        let p = self.params.xtc_probability;
        p > 0.0 && self.params.xtc_threshold <= 0.5 && self.noise.coin(history.len() as u32) < f64::from(p)
    }

    /// Plain, or between `temperature ± range` by how uncertain the model is (its entropy against the largest possible).
    fn temperature(&mut self) {
        let SamplingParams { temperature, dynatemp_range, dynatemp_exponent, .. } = self.params;
        let count = self.candidates.items().len();
        let mut t = f64::from(temperature);
        if dynatemp_range > 0.0 && count > 1 {
            let (low, high) = ((t - f64::from(dynatemp_range)).max(0.0), t + f64::from(dynatemp_range));
            let uncertainty = entropy(&self.candidates.probabilities()) / libm::log(count as f64);
            t = low + (high - low) * libm::pow(uncertainty, dynatemp_exponent.into());
        }
        if t > 0.0 {
            self.candidates.scale(t);
        } else {
            self.candidates.top_k(1);
        }
    }

    /// Moves mirostat's bound against the error of the surprise just observed (Basu et al. 2020).
    fn steer(&mut self, chosen: u32) {
        let place = self.candidates.items().iter().position(|c| c.id == chosen);
        let p = place.map_or(1.0, |i| self.candidates.probabilities()[i]);
        let error = -libm::log2(p) - f64::from(self.params.mirostat_tau);
        self.mu -= f64::from(self.params.mirostat_eta) * error;
    }

    fn report(&self, id: u32, logits: &[f32]) -> Token {
        match self.params.logprobs {
            Some(count) => logprobs(id, logits, count),
            None => Token { id, logprob: None, top: Vec::new() },
        }
    }
}

/// Log-softmax of `logits` at `id` and at the `count` likeliest tokens.
fn logprobs(id: u32, logits: &[f32], count: u32) -> Token {
    let mut all = Candidates::default();
    all.fill(logits);
    let log_mass = all.log_mass();
    let logprob = |logit: f32| (f64::from(logit) - log_mass) as f32;
    if count > 0 {
        all.top_k(count as usize);
    }
    let top = all.items().iter().take(count as usize).map(|c| (c.id, logprob(c.logit))).collect();
    Token { id, logprob: Some(logprob(logits[id as usize])), top }
}
