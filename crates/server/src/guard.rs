//! What every request passes before it is answered: it must be meant for this server, come from a page that may ask,
//! and bring a key that opens what it asks for.

use crate::app::{App, Caller};
use crate::auth::Scope;
use crate::error::{ApiError, Dialect, Kind};
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// Whom the server listens to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Doors {
    /// Names of this server that a request may be meant for, besides addresses and `localhost`; `*` allows any.
    pub hosts: Vec<String>,
    /// Pages whose scripts may ask, besides those of this machine; `*` allows any.
    pub origins: Vec<String>,
}

/// Names the request, lets it in or not, times it, and tells failures in the dialect of the path.
pub(crate) async fn outer(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let arrived = Instant::now();
    let (path, method) = (request.uri().path().to_owned(), request.method().clone());
    let route = request.extensions().get::<MatchedPath>().map_or("other".to_owned(), |p| p.as_str().to_owned());
    let request_id = request_id(request.headers());
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut response = match admit(&app, request, &route, arrived) {
        Ok(Entry::Preflight) => preflight(),
        Ok(Entry::Request(request, turn)) => {
            let mut response = next.run(*request).await;
            if let Some(turn) = turn {
                // A stream's turn lasts as long as its body.
                response = response.map(|body| held(body, turn));
            }
            response
        }
        Err(error) => error.into_response(),
    };
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        response = error.respond(Dialect::of(&path));
    }
    let headers = response.headers_mut();
    if let Some(origin) = origin.filter(|o| app.doors.allow_origin(o)) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        let exposed = HeaderValue::from_static("x-request-id, x-stream-id, retry-after");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        headers.insert("x-request-id", value.clone());
        headers.insert("request-id", value);
    }
    let (status, time) = (response.status().as_u16(), arrived.elapsed());
    app.metrics.http(&route, method.as_str(), status, time);
    tracing::info!(method = method.as_str(), path, status, request_id, ms = time.as_secs_f64() * 1e3, "request");
    response
}

/// The header that asks for a receipt, in any dialect.
const RECEIPT: &str = "x-allod-receipt";
/// The header that asks for a stream that can be gone on with.
const RESUME: &str = "x-allod-resume";

enum Entry {
    /// A browser asks whether it may ask.
    Preflight,
    Request(Box<Request>, Option<crate::auth::Turn>),
}

fn admit(app: &Arc<App>, mut request: Request, route: &str, arrived: Instant) -> Result<Entry, ApiError> {
    app.doors.check(request.headers(), request.uri().host())?;
    if request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        return Ok(Entry::Preflight);
    }
    let wants = |name: &str| request.headers().get(name).is_some_and(|value| value == "true");
    let mut caller = Caller { arrived, receipt: wants(RECEIPT), resume: wants(RESUME), ..Caller::owner() };
    #[cfg(feature = "otel")]
    {
        caller.parent = crate::otel::parent(request.headers());
    }
    let mut turn = None;
    if let Some(scope) = needed(route).filter(|_| !app.keys.is_empty()) {
        let key = app.keys.check(brought(request.headers()))?;
        if key.record.scope < scope {
            let message =
                format!("this needs a key of scope {scope:?}, the key's is {:?}", key.record.scope).to_lowercase();
            return Err(ApiError::new(Kind::Forbidden, message));
        }
        turn = Some(key.begin()?);
        caller.client = key.client();
        caller.key = Some(key);
    }
    request.extensions_mut().insert(caller);
    Ok(Entry::Request(Box::new(request), turn))
}

/// What a route needs; `None` is open to all.
pub(crate) fn needed(route: &str) -> Option<Scope> {
    match route {
        "/" | "/health" | "/ready" | "/live" | "/ping" | "/api/version" | "/version" => None,
        "/api/create" | "/api/copy" | "/api/delete" | "/api/pull" | "/api/push" | "/api/blobs/{digest}" => {
            Some(Scope::Manage)
        }
        "/v1/load_lora_adapter" | "/v1/unload_lora_adapter" => Some(Scope::Manage),
        route if route.starts_with("/models/") => Some(Scope::Manage),
        route if route.starts_with("/admin/") => Some(Scope::Admin),
        _ => Some(Scope::Infer),
    }
}

/// The key of a request, where clients of the three dialects put it.
fn brought(headers: &HeaderMap) -> Option<&str> {
    let text = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let bearer = text(header::AUTHORIZATION).and_then(|v| {
        let (scheme, key) = v.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.or_else(|| text(HeaderName::from_static("x-api-key")))
}

impl Doors {
    /// A page elsewhere can make a browser ask this server, and can give this server a name of its own (DNS
    /// rebinding). So names and pages have to be known.
    fn check(&self, headers: &HeaderMap, uri_host: Option<&str>) -> Result<(), ApiError> {
        let host = match headers.get(header::HOST) {
            Some(value) => value.to_str().ok(),
            None => uri_host,
        };
        let known = host.is_some_and(|host| self.knows(host_name(host)));
        if !known {
            let message = format!("the host {:?} is not one of this server's names", host.unwrap_or_default());
            return Err(ApiError::new(Kind::Forbidden, message));
        }
        match headers.get(header::ORIGIN) {
            Some(origin) if !self.allow_origin(origin) => {
                let origin = String::from_utf8_lossy(origin.as_bytes());
                let message = format!("pages of {origin} may not ask; the configuration's list of origins allows more");
                Err(ApiError::new(Kind::Forbidden, message))
            }
            _ => Ok(()),
        }
    }

    fn knows(&self, name: &str) -> bool {
        is_local(name) || is_address(name) || self.hosts.iter().any(|h| h == "*" || h.eq_ignore_ascii_case(name))
    }

    fn allow_origin(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        if self.origins.iter().any(|o| o == "*" || o.trim_end_matches('/').eq_ignore_ascii_case(origin)) {
            return true;
        }
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        host.map(host_name).is_some_and(|name| is_local(name) || name.parse::<IpAddr>().is_ok_and(|a| a.is_loopback()))
    }
}

/// `[::1]:80` → `::1`, `name:80` → `name`
fn host_name(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => {
            host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |p| p.0)
        }
    }
}

fn is_local(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost")
}

fn is_address(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok()
}

fn preflight() -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    let fixed = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, DELETE, OPTIONS"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type, x-api-key, x-request-id, anthropic-version, anthropic-beta, \
             anthropic-dangerous-direct-browser-access, openai-beta, openai-organization, openai-project, user-agent, \
             x-stainless-arch, x-stainless-lang, x-stainless-os, x-stainless-package-version, \
             x-allod-receipt, x-allod-resume, last-event-id, x-stainless-retry-count, x-stainless-runtime, x-stainless-runtime-version, x-stainless-timeout",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A body that keeps something until it ends.
fn held(body: Body, keep: impl Send + 'static) -> Body {
    use futures_util::StreamExt;
    let mut keep = Some(keep);
    let stream = body.into_data_stream().map(move |chunk| {
        let _ = &mut keep;
        chunk
    });
    Body::from_stream(stream)
}

/// The client's name for the request, where it gives a plain one, else ours.
fn request_id(headers: &HeaderMap) -> String {
    let plain = |id: &&str| {
        (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
    };
    let given = headers.get("x-request-id").and_then(|v| v.to_str().ok()).filter(plain);
    given.map_or_else(|| crate::ids::new("req_"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn only_this_servers_names_are_answered() {
        let doors = Doors { hosts: vec!["models.example".into()], ..Doors::default() };
        for host in ["localhost", "localhost:11434", "127.0.0.1:80", "[::1]:80", "192.168.1.5", "models.example:443"] {
            assert!(doors.check(&headers(&[("host", host)]), None).is_ok(), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "", "models.example.evil"] {
            assert!(doors.check(&headers(&[("host", host)]), None).is_err(), "{host}");
        }
        assert!(doors.check(&HeaderMap::new(), None).is_err());
    }

    #[test]
    fn only_pages_of_this_machine_and_listed_ones_may_ask() {
        let doors = Doors { origins: vec!["https://app.example".into()], ..Doors::default() };
        let asks = |origin: &str| doors.check(&headers(&[("host", "localhost"), ("origin", origin)]), None).is_ok();
        for origin in ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:8080", "https://app.example"] {
            assert!(asks(origin), "{origin}");
        }
        for origin in ["https://evil.example", "null", "http://localhost.evil.example", "http://10.0.0.1", "file://"] {
            assert!(!asks(origin), "{origin}");
        }
    }
}
