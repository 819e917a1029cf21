//! Reading what a client sent: bounded, in time, and every field either understood or refused.

use crate::app::Limits;
use crate::error::{ApiError, Kind};
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Fields that are known and not offered, each with the reason.
pub(crate) type Refused = &'static [(&'static str, &'static str)];

/// A request's form in JSON.
pub(crate) trait Form: DeserializeOwned {
    /// What it knows and does not offer.
    const REFUSED: Refused;
}

/// Reads a whole body.
///
/// # Errors
/// Larger or slower than the limits allow, or broken off.
pub(crate) async fn read(body: Body, limits: &Limits) -> Result<Bytes, ApiError> {
    let whole = async {
        let mut stream = body.into_data_stream();
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|e| ApiError::invalid(format!("the body broke off: {e}")))?;
            if bytes.len() + chunk.len() > limits.body {
                return Err(too_large(limits.body));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Bytes::from(bytes))
    };
    match tokio::time::timeout(limits.body_time, whole).await {
        Ok(done) => done,
        Err(_) => {
            Err(ApiError::new(Kind::Timeout, format!("the body took longer than {} s", limits.body_time.as_secs())))
        }
    }
}

pub(crate) fn too_large(limit: usize) -> ApiError {
    ApiError::new(Kind::TooLarge, format!("the body is larger than {limit} bytes"))
}

/// Reads a JSON object as `T`. An empty body counts as `{}`.
///
/// # Errors
/// No JSON, a field of another type than expected, unknown and refused fields.
pub(crate) async fn json<T: Form>(headers: &HeaderMap, body: Body, limits: &Limits) -> Result<T, ApiError> {
    check_kind(headers)?;
    let bytes = read(body, limits).await?;
    parse(&bytes)
}

/// Browsers send other kinds without asking first, so only JSON is read; clients that name none mean it.
fn check_kind(headers: &HeaderMap) -> Result<(), ApiError> {
    let wrong = |found: &str| {
        let message = format!("content-type: expected application/json, found {found}");
        Err(ApiError::new(Kind::MediaType, message))
    };
    if let Some(encoding) =
        headers.get(header::CONTENT_ENCODING).filter(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        let found = String::from_utf8_lossy(encoding.as_bytes());
        return Err(ApiError::new(Kind::MediaType, format!("content-encoding: expected none, found {found}")));
    }
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let Ok(kind) = kind.to_str() else { return wrong("bytes that are no text") };
    let mut parts = kind.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    if essence != "application/json" && !(essence.starts_with("application/") && essence.ends_with("+json")) {
        return wrong(kind);
    }
    let charset = parts.find_map(|p| p.strip_prefix("charset=")).unwrap_or("utf-8").trim_matches('"');
    if charset.eq_ignore_ascii_case("utf-8") { Ok(()) } else { wrong(kind) }
}

/// Reads JSON bytes as `T`.
///
/// # Errors
/// As [`json`].
pub(crate) fn parse<T: Form>(bytes: &[u8]) -> Result<T, ApiError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return object(Map::new());
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|e| ApiError::invalid(format!("the body is no UTF-8 at byte {}", e.valid_up_to())))?;
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => object(map),
        Ok(other) => Err(ApiError::invalid(format!("the body: expected a JSON object, found {}", kind_of(&other)))),
        Err(e) => Err(ApiError::invalid(format!("the body is no JSON: {e}"))),
    }
}

/// Reads an object as `T`. A field that is null counts as left out.
///
/// # Errors
/// As [`json`].
pub(crate) fn object<T: Form>(mut map: Map<String, Value>) -> Result<T, ApiError> {
    map.retain(|_, value| !value.is_null());
    for (name, reason) in T::REFUSED {
        if map.contains_key(*name) {
            return Err(ApiError { code: Some("unsupported_parameter"), ..ApiError::field(*name, reason) });
        }
    }
    serde_path_to_error::deserialize(Value::Object(map)).map_err(|e| {
        let path = e.path().to_string();
        let message = e.into_inner().to_string();
        if let Some(name) = message.strip_prefix("unknown field `").and_then(|m| m.split('`').next()) {
            let code = Some("unknown_parameter");
            let path = if path == "." || path == name { name.to_owned() } else { path };
            return ApiError { code, ..ApiError::field(path, "there is no such field here") };
        }
        if path == "." { ApiError::invalid(message) } else { ApiError::field(path, message) }
    })
}

pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
