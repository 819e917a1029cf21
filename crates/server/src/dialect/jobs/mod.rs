//! OpenAI's files, and the batches that are answered from them.

pub(crate) mod batches;
mod drive;
pub(crate) mod files;

pub(crate) use drive::{AtWork, BATCHES, resume};

use crate::body::Form;
use crate::error::ApiError;
use axum::http::Uri;
use serde_json::{Map, Value, json};

/// The parameters behind a path as a form; numbers are told by their looks.
fn query<T: Form>(uri: &Uri) -> Result<T, ApiError> {
    let pairs: Vec<(String, String)> = axum::extract::Query::try_from_uri(uri)
        .map(|axum::extract::Query(pairs)| pairs)
        .map_err(|e| ApiError::invalid(format!("the query: {e}")))?;
    let value = |text: String| text.parse::<u64>().map_or(Value::String(text), Value::from);
    let map: Map<String, Value> = pairs.into_iter().map(|(name, text)| (name, value(text))).collect();
    crate::body::object(map)
}

/// A page of a list as OpenAI's clients read it. `data` holds what comes after `after`, or nothing is skipped.
fn page(mut data: Vec<Value>, after: Option<&str>, limit: usize) -> Result<Value, ApiError> {
    if let Some(after) = after {
        let at = data.iter().position(|entry| entry["id"] == after);
        let at = at.ok_or_else(|| ApiError::field("after", format!("there is no {after:?} in the list")))?;
        data.drain(..=at);
    }
    let more = data.len() > limit;
    data.truncate(limit);
    let id = |entry: Option<&Value>| entry.map(|e| e["id"].clone());
    let (first, last) = (id(data.first()), id(data.last()));
    Ok(json!({ "object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more }))
}
