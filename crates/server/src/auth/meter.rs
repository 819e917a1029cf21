//! How much may be done with a key in a minute, and at once.

use super::Key;
use crate::error::{ApiError, Kind};
use crate::models::lock;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What may be done with a key; what is left out is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyLimits {
    /// Requests in a minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens of prompts and answers in a minute.
    pub tokens_per_minute: Option<u64>,
    /// Requests at a time.
    pub concurrent: Option<u32>,
}

const MINUTE: Duration = Duration::from_secs(60);

/// Two buckets that fill evenly, each a minute deep, and a count.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// What is missing in each bucket, in requests and tokens, and when that was so.
    missing: Mutex<Option<Missing>>,
    active: AtomicU32,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    at: Instant,
    requests: f64,
    tokens: f64,
}

impl Missing {
    /// How much is missing now.
    fn now(last: Option<Missing>, limits: &KeyLimits) -> Missing {
        let at = Instant::now();
        let Some(last) = last else { return Missing { at, requests: 0.0, tokens: 0.0 } };
        let share = (at - last.at).as_secs_f64() / MINUTE.as_secs_f64();
        let filled = |missing: f64, limit: f64| (missing - share * limit).max(0.0);
        Missing {
            at,
            requests: filled(last.requests, f64::from(limits.requests_per_minute.unwrap_or(0))),
            tokens: filled(last.tokens, limits.tokens_per_minute.unwrap_or(0) as f64),
        }
    }
}

impl Meter {
    /// Takes tokens out that were used; the bucket may be overdrawn, since an answer's length is not known before.
    pub(super) fn spend(&self, tokens: u64) {
        if let Some(missing) = &mut *lock(&self.missing) {
            missing.tokens += tokens as f64;
        }
    }
}

/// A request that is being answered for a key.
#[derive(Debug)]
pub(crate) struct Turn(Arc<Key>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.meter.active.fetch_sub(1, Relaxed);
    }
}

/// Takes a request out of the key's buckets.
pub(super) fn begin(key: &Arc<Key>) -> Result<Turn, ApiError> {
    let (meter, limits) = (&key.meter, &key.record.limits);
    let mut last = lock(&meter.missing);
    let mut missing = Missing::now(*last, limits);
    if let Some(limit) = limits.requests_per_minute {
        check("requests a minute", missing.requests + 1.0, f64::from(limit))?;
    }
    if let Some(limit) = limits.tokens_per_minute {
        check("tokens a minute", missing.tokens + 1.0, limit as f64)?;
    }
    let active = meter.active.fetch_add(1, Relaxed);
    let turn = Turn(Arc::clone(key));
    if let Some(limit) = limits.concurrent.filter(|&limit| active >= limit) {
        let message = format!("the key may have {limit} requests at a time");
        return Err(ApiError { retry_after: Some(1), ..ApiError::new(Kind::RateLimit, message) });
    }
    missing.requests += 1.0;
    *last = Some(missing);
    Ok(turn)
}

/// Refuses what would take a bucket below empty, and says when it is full enough again.
fn check(what: &str, wanted: f64, limit: f64) -> Result<(), ApiError> {
    if wanted <= limit {
        return Ok(());
    }
    let seconds = ((wanted - limit) / limit.max(1e-9) * MINUTE.as_secs_f64()).ceil().clamp(1.0, 86400.0);
    let message = format!("the key may use {limit} {what}");
    Err(ApiError { retry_after: Some(seconds as u64), ..ApiError::new(Kind::RateLimit, message) }
        .with_code("rate_limit_exceeded"))
}
