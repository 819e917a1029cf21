//! What a request may ask of the sampler, under the field's names.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One link of the sampling chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Repetition, frequency and presence penalties.
    Penalties,
    /// "Don't repeat yourself": longer repeated runs cost exponentially more.
    Dry,
    /// Logits within n standard deviations of the largest.
    TopNSigma,
    /// The k likeliest tokens.
    TopK,
    /// Locally typical tokens.
    #[serde(alias = "typ_p")]
    TypicalP,
    /// The nucleus.
    TopP,
    /// Tokens not much less likely than the likeliest.
    MinP,
    /// Exclude top choices.
    Xtc,
    /// Temperature, plain or dynamic.
    Temperature,
}

impl Stage {
    /// llama.cpp's order: every filter sees the distribution of the model itself, before temperature.
    pub const DEFAULT: [Stage; 9] = [
        Stage::Penalties,
        Stage::Dry,
        Stage::TopNSigma,
        Stage::TopK,
        Stage::TypicalP,
        Stage::TopP,
        Stage::MinP,
        Stage::Xtc,
        Stage::Temperature,
    ];
}

/// How tokens are chosen and when the answer ends. The defaults are llama.cpp's.
///
/// Logit bias comes first, then the stages of [`samplers`](Self::samplers) in their order. At temperature 0 the
/// likeliest token after bias and penalties is taken and no filter applies; with mirostat the other filters do not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f32,
    /// Half the span of dynamic temperature: entropy moves it in `temperature ± range`. 0 is off.
    pub dynatemp_range: f32,
    /// How fast dynamic temperature rises with normalized entropy.
    pub dynatemp_exponent: f32,
    /// Keeps the k likeliest tokens. 0 is off.
    pub top_k: u32,
    /// Keeps the fewest likeliest tokens that reach this probability. 1 is off.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as likely as the likeliest. 0 is off.
    pub min_p: f32,
    /// Keeps locally typical tokens up to this probability. 1 is off.
    pub typical_p: f32,
    /// Keeps logits within so many standard deviations of the largest. 0 or less is off.
    pub top_n_sigma: f32,
    /// Chance per token that the top choices are excluded. 0 is off.
    pub xtc_probability: f32,
    /// From this probability on a token is a top choice. Above 0.5 XTC does nothing.
    pub xtc_threshold: f32,
    /// Scale of the DRY penalty. 0 is off.
    pub dry_multiplier: f32,
    /// Growth of the DRY penalty per repeated token.
    pub dry_base: f32,
    /// Repeated runs shorter than this are free.
    pub dry_allowed_length: u32,
    /// Tokens DRY looks back; -1 is all, 0 is off.
    pub dry_penalty_last_n: i32,
    /// Token sequences that a repeated run does not cross.
    pub dry_sequence_breakers: Vec<Vec<u32>>,
    /// Mirostat version: 0 (off) or 2.
    pub mirostat: u8,
    /// Surprise that mirostat steers to, in bits.
    pub mirostat_tau: f32,
    /// How fast mirostat steers.
    pub mirostat_eta: f32,
    /// Divides positive and multiplies negative logits of tokens seen in the window. 1 is off.
    pub repeat_penalty: f32,
    /// Tokens, of prompt and answer, that the three penalties look back; -1 is all, 0 is off.
    pub repeat_last_n: i32,
    /// Taken off a token's logit for each time it stands in the window.
    pub frequency_penalty: f32,
    /// Taken off a token's logit when it stands in the window.
    pub presence_penalty: f32,
    /// Added to the logits of tokens; minus infinity bans one.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Order of the stages; a stage left out does not happen.
    pub samplers: Vec<Stage>,
    /// Names the noise. Without one the sampler picks its own, see [`Sampler::seed`](crate::Sampler::seed).
    pub seed: Option<u64>,
    /// Reports the log-probability of each chosen token and of so many likeliest ones beside it.
    pub logprobs: Option<u32>,
    /// Most tokens to generate; without one the context is the limit.
    pub max_tokens: Option<u32>,
    /// Tokens that end the answer, besides the model's own.
    pub stop_token_ids: Vec<u32>,
    /// Goes on past the model's end-of-generation tokens.
    pub ignore_eos: bool,
    /// The answer has at least so many tokens: those that end it may not come before.
    pub min_tokens: u32,
    /// Only these tokens may come; empty allows all.
    pub allowed_token_ids: Vec<u32>,
}

impl Default for SamplingParams {
    fn default() -> SamplingParams {
        SamplingParams {
            temperature: 0.8,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            top_n_sigma: -1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: -1,
            dry_sequence_breakers: Vec::new(),
            mirostat: 0,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            samplers: Stage::DEFAULT.to_vec(),
            seed: None,
            logprobs: None,
            max_tokens: None,
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            min_tokens: 0,
            allowed_token_ids: Vec::new(),
        }
    }
}

/// A parameter that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: expected {expected}, found {found}")]
pub struct ParamError {
    /// The parameter.
    pub name: &'static str,
    /// What it may be.
    pub expected: String,
    /// What it is.
    pub found: String,
}

impl SamplingParams {
    /// The likeliest token, always.
    pub fn greedy() -> SamplingParams {
        SamplingParams { temperature: 0.0, ..SamplingParams::default() }
    }

    /// Checks every parameter against its range and token ids against the vocabulary.
    ///
    /// # Errors
    /// [`ParamError`] names the first parameter that is out of range.
    pub fn validate(&self, vocabulary: usize) -> Result<(), ParamError> {
        let ranges: [(&'static str, f32, f32, f32); 16] = [
            ("temperature", self.temperature, 0.0, 1000.0),
            ("dynatemp_range", self.dynatemp_range, 0.0, 1000.0),
            ("dynatemp_exponent", self.dynatemp_exponent, 0.0, 100.0),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("typical_p", self.typical_p, 0.0, 1.0),
            ("top_n_sigma", self.top_n_sigma, -1.0, 1000.0),
            ("xtc_probability", self.xtc_probability, 0.0, 1.0),
            ("xtc_threshold", self.xtc_threshold, 0.0, 1.0),
            ("dry_multiplier", self.dry_multiplier, 0.0, 1000.0),
            ("dry_base", self.dry_base, 1.0, 1000.0),
            ("mirostat_tau", self.mirostat_tau, 0.0, 1000.0),
            ("mirostat_eta", self.mirostat_eta, 0.0, 1.0),
            ("repeat_penalty", self.repeat_penalty, 0.01, 100.0),
            ("frequency_penalty", self.frequency_penalty, -100.0, 100.0),
            ("presence_penalty", self.presence_penalty, -100.0, 100.0),
        ];
        for (name, value, low, high) in ranges {
            check(name, (low..=high).contains(&value), || format!("a number from {low} to {high}"), || value)?;
        }
        for (name, last_n) in [("repeat_last_n", self.repeat_last_n), ("dry_penalty_last_n", self.dry_penalty_last_n)] {
            check(name, last_n >= -1, || "-1 (everything) or a number of tokens".into(), || last_n)?;
        }
        let versions = "0 (off) or 2 (version 1 is superseded by 2)";
        check("mirostat", [0, 2].contains(&self.mirostat), || versions.into(), || self.mirostat)?;
        check("max_tokens", self.max_tokens != Some(0), || "at least 1".into(), || 0)?;
        check(
            "logprobs",
            self.logprobs.is_none_or(|n| n as usize <= vocabulary),
            || format!("at most the {vocabulary} tokens of the vocabulary"),
            || self.logprobs.unwrap_or_default(),
        )?;
        for (&id, &bias) in &self.logit_bias {
            check_id("logit_bias", id, vocabulary)?;
            let fits = bias == f32::NEG_INFINITY || bias.abs() <= 1e4;
            check("logit_bias", fits, || "a number from -10000 to 10000, or minus infinity".into(), || bias)?;
        }
        self.stop_token_ids.iter().try_for_each(|&id| check_id("stop_token_ids", id, vocabulary))?;
        self.allowed_token_ids.iter().try_for_each(|&id| check_id("allowed_token_ids", id, vocabulary))?;
        let most = self.max_tokens.unwrap_or(u32::MAX);
        check("min_tokens", self.min_tokens <= most, || format!("at most max_tokens, {most}"), || self.min_tokens)?;
        self.check_samplers()
    }

    fn check_samplers(&self) -> Result<(), ParamError> {
        for (i, stage) in self.samplers.iter().enumerate() {
            let twice = self.samplers[..i].contains(stage);
            check("samplers", !twice, || "each stage once".into(), || format!("{stage:?} twice"))?;
        }
        let breakers_have_ids = self.dry_sequence_breakers.iter().all(|b| !b.is_empty());
        check(
            "dry_sequence_breakers",
            breakers_have_ids,
            || "sequences of at least one token".into(),
            || "an empty one",
        )
    }
}

fn check<F: std::fmt::Display>(
    name: &'static str,
    holds: bool,
    expected: impl FnOnce() -> String,
    found: impl FnOnce() -> F,
) -> Result<(), ParamError> {
    if holds { Ok(()) } else { Err(ParamError { name, expected: expected(), found: found().to_string() }) }
}

fn check_id(name: &'static str, id: u32, vocabulary: usize) -> Result<(), ParamError> {
    check(name, (id as usize) < vocabulary, || format!("token ids below {vocabulary}"), || id)
}
