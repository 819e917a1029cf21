//! The sampler's parameters from several places: what the dialect starts from, what the model's file recommends, what
//! its entry says, and the request over all of them.

use crate::error::ApiError;
use crate::models::Lease;
use allod_engine::SamplingParams;
use allod_text::Special;
use serde_json::{Map, Value};

/// `base` with what the model's file and its entry say, and then `values`.
///
/// # Errors
/// A value of the wrong type.
pub(crate) fn layered(
    base: &SamplingParams,
    lease: &Lease,
    values: Map<String, Value>,
) -> Result<SamplingParams, ApiError> {
    let all = serde_json::to_value(base).map_err(ApiError::internal)?;
    let Value::Object(mut all) = all else { return Err(ApiError::internal("the parameters are no object")) };
    all.extend(lease.recommended.clone());
    all.extend(lease.spec.sampling.clone());
    all.extend(values);
    let mut params: SamplingParams = serde_path_to_error::deserialize(Value::Object(all)).map_err(|e| {
        let path = e.path().to_string();
        ApiError::field(path, e.into_inner())
    })?;
    if params.dry_multiplier > 0.0 && params.dry_sequence_breakers.is_empty() {
        params.dry_sequence_breakers = breakers(&["\n", ":", "\"", "*"].map(String::from), lease);
    }
    Ok(params)
}

/// The token sequences that show a breaker of repetition: every token that contains it, else its own tokens.
pub(crate) fn breakers(texts: &[String], lease: &Lease) -> Vec<Vec<u32>> {
    texts.iter().flat_map(|text| breaker(text, lease)).collect()
}

fn breaker(text: &str, lease: &Lease) -> Vec<Vec<u32>> {
    let holds = |id: &u32| {
        let bytes = lease.tokenizer.token_bytes(*id);
        !text.is_empty() && bytes.is_some_and(|b| b.windows(text.len()).any(|w| w == text.as_bytes()))
    };
    let tokens: Vec<Vec<u32>> = (0..lease.tokenizer.vocab_size() as u32).filter(holds).map(|id| vec![id]).collect();
    if !tokens.is_empty() {
        return tokens;
    }
    let own = lease.tokenizer.encode(text, Special::NONE).unwrap_or_default();
    if own.is_empty() { Vec::new() } else { vec![own] }
}
