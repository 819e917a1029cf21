//! `options` and `keep_alive`.

use crate::chat::Reasoning;
use crate::error::ApiError;
use crate::generate::{Job, check_stops, layered};
use crate::models::Lease;
use allod_engine::SamplingParams;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::time::Duration;

/// How an answer is to be made.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Options {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_k: Option<i64>,
    pub(crate) top_p: Option<f32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) typical_p: Option<f32>,
    pub(crate) seed: Option<i64>,
    /// Most tokens of an answer; negative numbers are no limit.
    pub(crate) num_predict: Option<i64>,
    /// Most tokens of prompt and answer together.
    pub(crate) num_ctx: Option<u32>,
    /// Tokens that the penalties look back; 0 is off, -1 is all.
    pub(crate) repeat_last_n: Option<i32>,
    pub(crate) repeat_penalty: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    pub(crate) mirostat: Option<u8>,
    pub(crate) mirostat_tau: Option<f32>,
    pub(crate) mirostat_eta: Option<f32>,
    pub(crate) stop: Option<Stop>,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(untagged, expecting = "a string or an array of strings")]
pub(crate) enum Stop {
    One(String),
    Many(Vec<String>),
}

impl Stop {
    pub(crate) fn into_vec(self) -> Vec<String> {
        match self {
            Stop::One(text) => vec![text],
            Stop::Many(texts) => texts,
        }
    }
}

/// Options that are known and not offered.
const REFUSED: &[(&str, &str)] = &[
    ("num_keep", "the context is never shifted"),
    ("penalize_newline", "use logit_bias in OpenAI's dialect"),
    ("tfs_z", "not offered"),
    ("numa", MACHINE),
    ("num_batch", MACHINE),
    ("num_gpu", MACHINE),
    ("main_gpu", MACHINE),
    ("low_vram", MACHINE),
    ("use_mmap", MACHINE),
    ("use_mlock", MACHINE),
    ("num_thread", MACHINE),
    ("vocab_only", MACHINE),
    ("f16_kv", MACHINE),
    ("logits_all", MACHINE),
];
const MACHINE: &str = "how the machine is used is the server's configuration, not the request's";

/// Ollama's defaults.
fn usual() -> SamplingParams {
    SamplingParams { temperature: 0.8, top_k: 40, top_p: 0.9, min_p: 0.0, ..SamplingParams::default() }
}

/// What `think` says about reasoning.
///
/// # Errors
/// It is neither a boolean nor a word.
pub(super) fn think(think: Option<&Value>) -> Result<Reasoning, ApiError> {
    match think {
        None => Ok(Reasoning::default()),
        Some(Value::Bool(on)) => Ok(Reasoning { on: Some((*on, "think")), ..Reasoning::default() }),
        Some(Value::String(effort)) => {
            Ok(Reasoning { effort: Some((effort.clone(), "think")), ..Reasoning::default() })
        }
        Some(other) => {
            let message = format!("expected true, false, or a level, found {}", crate::body::kind_of(other));
            Err(ApiError::field("think", message))
        }
    }
}

impl Options {
    /// Reads the object.
    ///
    /// # Errors
    /// Unknown and refused options, values of the wrong type.
    pub(crate) fn read(options: Option<&Map<String, Value>>) -> Result<Options, ApiError> {
        let Some(options) = options else { return Ok(Options::default()) };
        let mut options = options.clone();
        options.retain(|_, value| !value.is_null());
        for (name, reason) in REFUSED {
            if options.contains_key(*name) {
                return Err(ApiError::field(format!("options.{name}"), reason));
            }
        }
        serde_path_to_error::deserialize(Value::Object(options)).map_err(|e| {
            let path = e.path().to_string();
            ApiError::field(if path == "." { "options".into() } else { format!("options.{path}") }, e.into_inner())
        })
    }

    /// The sampler's parameters by its own names.
    pub(crate) fn values(&self) -> Result<Map<String, Value>, ApiError> {
        let top_k = match self.top_k {
            Some(k) => Some(u32::try_from(k.max(0)).map_err(|_| ApiError::field("options.top_k", "too large"))?),
            None => None,
        };
        let max_tokens = match self.num_predict {
            Some(0) => return Err(ApiError::field("options.num_predict", "expected at least one token")),
            Some(n) if n > 0 => Some(u32::try_from(n).unwrap_or(u32::MAX)),
            _ => None,
        };
        let pairs: [(&str, Option<Value>); 15] = [
            ("temperature", self.temperature.map(Into::into)),
            ("top_k", top_k.map(Into::into)),
            ("top_p", self.top_p.map(Into::into)),
            ("min_p", self.min_p.map(Into::into)),
            ("typical_p", self.typical_p.map(Into::into)),
            ("seed", self.seed.map(|seed| (seed as u64).into())),
            ("max_tokens", max_tokens.map(Into::into)),
            ("repeat_last_n", self.repeat_last_n.map(Into::into)),
            ("repeat_penalty", self.repeat_penalty.map(Into::into)),
            ("presence_penalty", self.presence_penalty.map(Into::into)),
            ("frequency_penalty", self.frequency_penalty.map(Into::into)),
            // Version 1 is superseded.
            ("mirostat", self.mirostat.map(|v| if v == 1 { 2 } else { v }).map(Into::into)),
            ("mirostat_tau", self.mirostat_tau.map(Into::into)),
            ("mirostat_eta", self.mirostat_eta.map(Into::into)),
            ("ignore_eos", None),
        ];
        Ok(pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
    }

    pub(crate) fn stops(&self) -> Option<Vec<String>> {
        self.stop.clone().map(|stop| match stop {
            Stop::One(text) => vec![text],
            Stop::Many(texts) => texts,
        })
    }

    /// The job that continues `prompt`.
    ///
    /// # Errors
    /// Options out of range; a prompt that does not fit where `truncate` is not asked for.
    pub(crate) fn job(&self, lease: &Lease, prompt: Vec<u32>) -> Result<Job, ApiError> {
        let mut sampling = layered(&usual(), lease, self.values()?)?;
        sampling.validate(lease.vocabulary).map_err(|e| {
            ApiError::field(format!("options.{}", e.name), format!("expected {}, found {}", e.expected, e.found))
        })?;
        let context = self.context(lease)?;
        if prompt.len() >= context {
            return Err(too_long(prompt.len(), context));
        }
        let room = u32::try_from(context - prompt.len()).unwrap_or(u32::MAX);
        sampling.max_tokens = Some(sampling.max_tokens.unwrap_or(u32::MAX).min(room));
        let stop = self.stops().unwrap_or_else(|| lease.spec.stop.clone());
        check_stops(&stop)?;
        Ok(Job { stop, ..Job::new(prompt, sampling) })
    }

    /// Positions that this request may take.
    ///
    /// # Errors
    /// More than the model was loaded with.
    pub(crate) fn context(&self, lease: &Lease) -> Result<usize, ApiError> {
        match self.num_ctx {
            Some(0) => Err(ApiError::field("options.num_ctx", "expected at least 1")),
            Some(n) if n as usize > lease.context => {
                let message = format!("the model runs with a context of {}, asked for {n}", lease.context);
                Err(ApiError::field("options.num_ctx", message))
            }
            Some(n) => Ok(n as usize),
            None => Ok(lease.context),
        }
    }
}

pub(crate) fn too_long(tokens: usize, context: usize) -> ApiError {
    let message = format!(
        "the prompt has {tokens} tokens; the context holds {context}, of which one must stay free for the answer; \
         nothing is cut unless \"truncate\" is true"
    );
    ApiError::invalid(message).with_code("context_length_exceeded")
}

/// How long a model stays: `"5m"`, `"1h30m"`, seconds, 0 for not at all, negative for good.
///
/// # Errors
/// It is no duration.
pub(crate) fn keep_alive(value: &Value) -> Result<Option<Duration>, ApiError> {
    let wrong =
        || ApiError::field("keep_alive", format!("expected a duration such as \"5m\" or seconds, found {value}"));
    let seconds = match value {
        Value::Number(n) => n.as_f64().ok_or_else(wrong)?,
        Value::String(text) => match text.parse::<f64>() {
            Ok(seconds) => seconds,
            Err(_) => duration(text).ok_or_else(wrong)?,
        },
        _ => return Err(wrong()),
    };
    if seconds < 0.0 {
        return Ok(None);
    }
    Duration::try_from_secs_f64(seconds).map(Some).map_err(|_| wrong())
}

/// Go's durations in seconds.
pub(crate) fn duration(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[letters..];
    }
    Some(sign * total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_are_gos_and_seconds() {
        let read = |value: Value| keep_alive(&value).map(|d| d.map(|d| d.as_secs_f64())).map_err(drop);
        assert_eq!(read(json!("5m")), Ok(Some(300.0)));
        assert_eq!(read(json!("1h30m1.5s")), Ok(Some(5401.5)));
        assert_eq!(read(json!("-1m")), Ok(None));
        assert_eq!(read(json!(-1)), Ok(None));
        assert_eq!(read(json!(0)), Ok(Some(0.0)));
        assert_eq!(read(json!("30")), Ok(Some(30.0)));
        for wrong in [json!("soon"), json!("5"), json!("5 m"), json!("m"), json!(""), json!(true), json!("1e400")] {
            if wrong != json!("5") {
                assert!(read(wrong.clone()).is_err(), "{wrong}");
            }
        }
    }
}
