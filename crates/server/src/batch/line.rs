//! A line that asks, and the line that answers it.

use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::{self, BufRead};

/// Paths that a line may ask.
pub(crate) const ENDPOINTS: &[&str] = &[
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/score",
    "/v1/classify",
];

/// A line that asks.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// From 1.
    pub(crate) number: usize,
    /// Names the line in answers; the same whenever it is read.
    pub(crate) id: String,
    pub(crate) custom_id: Option<String>,
    pub(crate) request: Result<Request, Refusal>,
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) body: Value,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) param: Option<&'static str>,
}

impl Refusal {
    fn new(code: &'static str, param: Option<&'static str>, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into(), param }
    }
}

/// The lines of a file that ask; empty ones are passed over.
pub(crate) struct Lines<R> {
    reader: R,
    endpoint: Option<String>,
    number: usize,
    seen: HashSet<String>,
}

impl<R: BufRead> Lines<R> {
    /// `endpoint` is the only path that may be asked, where there is one.
    pub(crate) fn new(reader: R, endpoint: Option<&str>) -> Lines<R> {
        Lines { reader, endpoint: endpoint.map(str::to_owned), number: 0, seen: HashSet::new() }
    }

    fn read(&mut self, line: &[u8]) -> Asked {
        let number = self.number;
        let value = serde_json::from_slice::<Value>(line);
        let custom_id = value.as_ref().ok().and_then(|v| v.get("custom_id")?.as_str()).filter(|id| !id.is_empty());
        let mut custom_id = custom_id.map(str::to_owned);
        let request = match (value, &custom_id) {
            (Err(error), _) => Err(Refusal::new("invalid_json_line", None, format!("the line is no JSON: {error}"))),
            (Ok(_), None) => {
                let message = "custom_id: expected a name of the line's own, found none";
                Err(Refusal::new("missing_required_parameter", Some("custom_id"), message))
            }
            (Ok(_), Some(id)) if !self.seen.insert(id.clone()) => {
                let message = format!("custom_id: {id:?} came before; it has to tell which answer is whose");
                custom_id = None;
                Err(Refusal::new("duplicate_custom_id", Some("custom_id"), message))
            }
            (Ok(mut value), Some(_)) => request(&mut value, self.endpoint.as_deref()),
        };
        let name = custom_id.as_ref().map_or_else(|| format!("line {number}"), |id| format!("id {id}"));
        let id = format!("batch_req_{}", &blake3::hash(name.as_bytes()).to_hex()[..24]);
        Asked { number, id, custom_id, request }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<Asked>;

    fn next(&mut self) -> Option<io::Result<Asked>> {
        let mut line = Vec::new();
        loop {
            line.clear();
            match self.reader.read_until(b'\n', &mut line) {
                Ok(0) => return None,
                Ok(_) => self.number += 1,
                Err(error) => return Some(Err(error)),
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Some(Ok(self.read(&line)));
            }
        }
    }
}

fn request(value: &mut Value, endpoint: Option<&str>) -> Result<Request, Refusal> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (method, path) = (text("method"), text("url"));
    if method != "POST" {
        return Err(Refusal::new("invalid_method", Some("method"), format!("method: expected POST, found {method:?}")));
    }
    let known = endpoint.map_or(ENDPOINTS.contains(&path.as_str()), |endpoint| endpoint == path);
    if !known {
        let expected = endpoint.map_or_else(|| format!("one of {}", ENDPOINTS.join(", ")), str::to_owned);
        return Err(Refusal::new("invalid_url", Some("url"), format!("url: expected {expected}, found {path:?}")));
    }
    let body = value.get_mut("body").filter(|body| body.is_object()).map(Value::take);
    let Some(body) = body else {
        return Err(Refusal::new("invalid_body", Some("body"), "body: expected an object"));
    };
    if ["stream", "background"].iter().any(|name| body.get(name).is_some_and(|flag| flag == true)) {
        return Err(Refusal::new("invalid_body", Some("body"), "body: a batch neither streams nor answers later"));
    }
    Ok(Request { path, body })
}

/// What came of a line.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Answered { status: u16, body: Value },
    Refused(Refusal),
}

impl Outcome {
    pub(crate) fn is_good(&self) -> bool {
        matches!(self, Outcome::Answered { status: 200..300, .. })
    }

    /// The line that answers.
    pub(crate) fn line(&self, asked: &Asked) -> Value {
        let (id, custom_id) = (&asked.id, &asked.custom_id);
        match self {
            Outcome::Answered { status, body } => {
                let response = json!({ "status_code": status, "request_id": id, "body": body });
                json!({ "id": id, "custom_id": custom_id, "response": response, "error": null })
            }
            Outcome::Refused(Refusal { code, message, .. }) => {
                let error = json!({ "code": code, "message": message, "line": asked.number });
                json!({ "id": id, "custom_id": custom_id, "response": null, "error": error })
            }
        }
    }
}
