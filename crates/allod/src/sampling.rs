//! Sampling parameters from three places: the model file recommends, the flags decide, `/set` changes them later.

use allod_engine::SamplingParams;
use allod_formats::Metadata;
use allod_text::Tokenizer;
use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};

/// Flags, under the field's names. Unset ones leave the model file's recommendation, else the default.
#[derive(Args, Serialize, Default)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// How far from the likeliest token to stray; 0 never does
    #[arg(long, alias = "temp", value_parser = number)]
    temperature: Option<f32>,
    /// Choose among the fewest likeliest tokens that reach this probability; 1 is off
    #[arg(long, value_parser = number)]
    top_p: Option<f32>,
    /// Choose among this many of the likeliest tokens; 0 is off
    #[arg(long)]
    top_k: Option<u32>,
    /// Choose among tokens at least this fraction as likely as the likeliest; 0 is off
    #[arg(long, value_parser = number)]
    min_p: Option<f32>,
    /// Most tokens to generate
    #[arg(long)]
    max_tokens: Option<u32>,
    /// Names the randomness: the same seed gives the same answer
    #[arg(long)]
    seed: Option<u64>,
    /// Divide the logits of tokens seen lately by this
    #[arg(long, value_parser = number, hide_short_help = true)]
    repeat_penalty: Option<f32>,
    /// How many tokens the penalties look back; -1 is all
    #[arg(long, allow_negative_numbers = true, hide_short_help = true)]
    repeat_last_n: Option<i32>,
    /// Take this off a token's logit for each time it was seen lately
    #[arg(long, value_parser = number, allow_negative_numbers = true, hide_short_help = true)]
    frequency_penalty: Option<f32>,
    /// Take this off the logits of tokens seen lately
    #[arg(long, value_parser = number, allow_negative_numbers = true, hide_short_help = true)]
    presence_penalty: Option<f32>,
    /// Choose among locally typical tokens up to this probability; 1 is off
    #[arg(long, value_parser = number, hide_short_help = true)]
    typical_p: Option<f32>,
    /// Choose among logits within so many standard deviations of the largest; -1 is off
    #[arg(long, value_parser = number, allow_negative_numbers = true, hide_short_help = true)]
    top_n_sigma: Option<f32>,
    /// Let entropy move the temperature by up to this
    #[arg(long, value_parser = number, hide_short_help = true)]
    dynatemp_range: Option<f32>,
    /// How fast the dynamic temperature rises with entropy
    #[arg(long, value_parser = number, hide_short_help = true)]
    dynatemp_exponent: Option<f32>,
    /// Chance per token that the top choices are excluded
    #[arg(long, value_parser = number, hide_short_help = true)]
    xtc_probability: Option<f32>,
    /// From this probability on a token is a top choice
    #[arg(long, value_parser = number, hide_short_help = true)]
    xtc_threshold: Option<f32>,
    /// Scale of the penalty on repeated runs (DRY); 0 is off
    #[arg(long, value_parser = number, hide_short_help = true)]
    dry_multiplier: Option<f32>,
    /// Growth of that penalty per repeated token
    #[arg(long, value_parser = number, hide_short_help = true)]
    dry_base: Option<f32>,
    /// Shorter repeated runs are free
    #[arg(long, hide_short_help = true)]
    dry_allowed_length: Option<u32>,
    /// How many tokens DRY looks back; -1 is all
    #[arg(long, allow_negative_numbers = true, hide_short_help = true)]
    dry_penalty_last_n: Option<i32>,
    /// Text that a repeated run does not cross; may be given several times
    #[arg(long = "dry-sequence-breaker", value_name = "TEXT", hide_short_help = true)]
    #[serde(skip)]
    dry_sequence_breakers: Option<Vec<String>>,
    /// Steer the surprise of the text: 0 is off, 2 is mirostat 2
    #[arg(long, hide_short_help = true)]
    mirostat: Option<u8>,
    /// Surprise that mirostat steers to, in bits
    #[arg(long, value_parser = number, hide_short_help = true)]
    mirostat_tau: Option<f32>,
    /// How fast mirostat steers
    #[arg(long, value_parser = number, hide_short_help = true)]
    mirostat_eta: Option<f32>,
    /// Add to the logit of a token; `ID=-inf` bans it. May be given several times
    #[arg(long, value_name = "ID=BIAS", value_parser = bias, hide_short_help = true)]
    #[serde(skip)]
    logit_bias: Vec<(u32, f32)>,
    /// Report the log-probability of each token and of this many likeliest ones (with --json)
    #[arg(long, value_name = "N", hide_short_help = true)]
    logprobs: Option<u32>,
    /// Go on past the model's end-of-generation tokens
    #[arg(long, hide_short_help = true)]
    #[serde(skip)]
    ignore_eos: bool,
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT", hide_short_help = true)]
    #[serde(skip)]
    pub(crate) stop: Vec<String>,
}

fn number(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("expected a number".into()),
    }
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once('=').and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    parsed.ok_or_else(|| "expected ID=BIAS, such as 42=-5 or 42=-inf".into())
}

/// What the model file recommends, over the defaults.
pub(crate) fn recommended(meta: &Metadata) -> Result<SamplingParams> {
    let values = allod_models::recommended_sampling(meta)?;
    merged(&SamplingParams::default(), values).context("the model file's sampling recommendations")
}

impl SamplingArgs {
    /// These flags over what the file recommends.
    pub(crate) fn over(&self, base: &SamplingParams, tokenizer: Option<&Tokenizer>) -> Result<SamplingParams> {
        let Value::Object(mut values) = serde_json::to_value(self)? else { bail!("the flags are no object") };
        values.retain(|_, value| !value.is_null());
        let mut params = merged(base, values)?;
        params.ignore_eos = self.ignore_eos;
        params.logit_bias.extend(self.logit_bias.iter().copied());
        if let Some(tokenizer) = tokenizer {
            let default = || ["\n", ":", "\"", "*"].map(String::from).to_vec();
            let breakers = self.dry_sequence_breakers.clone().unwrap_or_else(default);
            params.dry_sequence_breakers = breakers.iter().flat_map(|text| breaker(text, tokenizer)).collect();
        }
        Ok(params)
    }
}

/// The parameters with some of them, by name, replaced.
pub(crate) fn merged(base: &SamplingParams, values: Map<String, Value>) -> Result<SamplingParams> {
    let mut base = base.clone();
    // JSON knows no infinity, which is how a token is banned.
    let logit_bias = std::mem::take(&mut base.logit_bias);
    let mut all = written(&base)?;
    if let Some(all) = all.as_object_mut() {
        all.extend(values);
    }
    let mut params: SamplingParams = serde_json::from_value(all)?;
    params.logit_bias.extend(logit_bias);
    Ok(params)
}

/// The parameters as JSON, numbers as short as they were given (a value made directly would hold `f64` neighbours).
pub(crate) fn written(params: &SamplingParams) -> Result<Value> {
    Ok(serde_json::from_str(&serde_json::to_string(params)?)?)
}

/// The token sequences that show a breaker: every token that contains it, else its own tokens.
fn breaker(text: &str, tokenizer: &Tokenizer) -> Vec<Vec<u32>> {
    let holds = |id: &u32| {
        let bytes = tokenizer.token_bytes(*id);
        !text.is_empty() && bytes.is_some_and(|b| b.windows(text.len()).any(|w| w == text.as_bytes()))
    };
    let tokens: Vec<Vec<u32>> = (0..tokenizer.vocab_size() as u32).filter(holds).map(|id| vec![id]).collect();
    if !tokens.is_empty() {
        return tokens;
    }
    let own = tokenizer.encode(text, allod_text::Special::NONE).unwrap_or_default();
    if own.is_empty() { Vec::new() } else { vec![own] }
}
