//! From the fields of a request to the sampler's parameters: the request over the model's entry over its file over
//! OpenAI's defaults, which leave the model's distribution as it is.

use crate::error::ApiError;
use crate::generate::{breakers, layered};
use crate::models::Lease;
use allod_engine::SamplingParams;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The fields of a request that say how tokens are chosen.
pub(crate) struct Given<'r> {
    /// Those that the sampler knows under the same names.
    pub(crate) numbers: Vec<(&'static str, Option<Value>)>,
    pub(crate) top_k: Option<i64>,
    pub(crate) seed: Option<i64>,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) stop_token_ids: Option<&'r [u32]>,
    pub(crate) ignore_eos: bool,
    pub(crate) logit_bias: Option<&'r BTreeMap<String, f32>>,
    pub(crate) breakers: Option<&'r [String]>,
}

/// Nothing filtered, nothing penalized.
pub(crate) fn neutral() -> SamplingParams {
    SamplingParams {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repeat_last_n: -1,
        ..SamplingParams::default()
    }
}

impl Given<'_> {
    /// The parameters, checked against the model.
    ///
    /// # Errors
    /// A field that is out of range.
    pub(crate) fn over(self, lease: &Lease) -> Result<SamplingParams, ApiError> {
        let mut values: Map<String, Value> =
            self.numbers.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        if let Some(k) = self.top_k {
            let k = if k == -1 { 0 } else { k };
            let k =
                u32::try_from(k).map_err(|_| ApiError::field("top_k", format!("expected -1 or more, found {k}")))?;
            values.insert("top_k".into(), k.into());
        }
        let mut params = layered(&neutral(), lease, values)?;
        // The bits name the noise; every integer is a seed.
        params.seed = self.seed.map(|seed| seed as u64).or(params.seed);
        params.max_tokens = self.max_tokens.or(params.max_tokens);
        params.ignore_eos |= self.ignore_eos;
        params.stop_token_ids.extend(self.stop_token_ids.unwrap_or_default());
        for (id, &bias) in self.logit_bias.into_iter().flatten() {
            let key: u32 = id.parse().map_err(|_| ApiError::field("logit_bias", format!("{id:?} is no token id")))?;
            // OpenAI's range ends where a token is banned.
            let bias = if bias <= -100.0 { f32::NEG_INFINITY } else { bias };
            params.logit_bias.insert(key, bias);
        }
        if let Some(texts) = self.breakers {
            params.dry_sequence_breakers = breakers(texts, lease);
        }
        params.validate(lease.vocabulary).map_err(|e| {
            let name = if e.name == "repeat_penalty" { "repetition_penalty" } else { e.name };
            ApiError::field(name, format!("expected {}, found {}", e.expected, e.found))
        })?;
        Ok(params)
    }
}

/// The prompt with only its last tokens, where the request asks for that.
///
/// # Errors
/// A number that is none of tokens.
pub(crate) fn truncated(
    mut prompt: Vec<u32>,
    keep: Option<i64>,
    lease: &Lease,
    max_tokens: Option<u32>,
) -> Result<Vec<u32>, ApiError> {
    let keep = match keep {
        None => return Ok(prompt),
        Some(-1) => lease.context.saturating_sub(max_tokens.unwrap_or(1).max(1) as usize).max(1),
        Some(n) => usize::try_from(n).ok().filter(|&n| n > 0).ok_or_else(|| {
            ApiError::field("truncate_prompt_tokens", format!("expected -1 or at least 1, found {n}"))
        })?,
    };
    if prompt.len() > keep {
        prompt.drain(..prompt.len() - keep);
    }
    Ok(prompt)
}
