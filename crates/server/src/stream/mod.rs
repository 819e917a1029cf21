//! Answers that leave while they are written: server-sent events and lines of JSON.

mod replay;
pub(crate) mod routes;

pub(crate) use replay::Streams;

use crate::error::ApiError;
use crate::generate::{Output, Running};
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde::Serialize;
use serde_json::Value;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// After so long without a token a sign of life is sent, so that no proxy takes the connection for dead.
const QUIET: Duration = Duration::from_secs(15);

/// Writes a job's outputs in a dialect.
pub(crate) trait Writer: Send + 'static {
    /// The content type.
    const CONTENT_TYPE: &'static str;

    /// What comes before anything else.
    fn begin(&mut self, _out: &mut Frames) {}

    /// One output.
    fn output(&mut self, output: Output, out: &mut Frames);

    /// All answers are complete.
    fn end(&mut self, out: &mut Frames);

    /// The job failed; nothing else comes.
    fn failed(&mut self, error: &ApiError, out: &mut Frames);

    /// Nothing has come for a while.
    fn quiet(&mut self, out: &mut Frames);
}

/// Text on its way to the client.
#[derive(Default)]
pub(crate) struct Frames {
    text: String,
    /// Where the last object ends.
    brace: Option<usize>,
}

impl Frames {
    /// A server-sent event without a name.
    pub(crate) fn data(&mut self, value: &impl Serialize) {
        self.text.push_str("data: ");
        self.json(value);
        self.text.push_str("\n\n");
    }

    /// A named server-sent event.
    pub(crate) fn event(&mut self, name: &str, value: &impl Serialize) {
        self.text.push_str("event: ");
        self.text.push_str(name);
        self.text.push('\n');
        self.data(value);
    }

    /// A line of JSON.
    pub(crate) fn line(&mut self, value: &impl Serialize) {
        self.json(value);
        self.text.push('\n');
    }

    /// OpenAI's end of a stream.
    pub(crate) fn done(&mut self) {
        self.text.push_str("data: [DONE]\n\n");
    }

    /// A server-sent comment, which clients pass over: a sign of life.
    pub(crate) fn comment(&mut self) {
        self.text.push_str(": waiting\n\n");
    }

    fn json(&mut self, value: &impl Serialize) {
        // Our own structures have string keys and finite numbers, so they can be written.
        self.text.push_str(&serde_json::to_string(value).unwrap_or_default());
        self.brace = self.text.ends_with('}').then(|| self.text.len() - 1);
    }

    /// Adds a field to the last object that is still here.
    fn attach(&mut self, name: &str, value: &Value) {
        if let Some(at) = self.brace {
            self.text.insert_str(at, &format!(",\"{name}\":{value}"));
        }
    }

    pub(crate) fn take(&mut self) -> Option<Bytes> {
        self.brace = None;
        (!self.text.is_empty()).then(|| Bytes::from(std::mem::take(&mut self.text)))
    }
}

/// Where a stream stands.
enum State {
    Beginning,
    Going,
    Over,
}

/// The content type of server-sent events.
const EVENTS: &str = "text/event-stream; charset=utf-8";

/// A response whose body follows `running`. When the client goes, the body is dropped and the job with it.
/// `held` lives as long as the stream.
pub(crate) fn respond<W: Writer>(running: Running, writer: W, held: impl Send + 'static) -> Response {
    if let Some(resume) = running.resume.clone().filter(|_| W::CONTENT_TYPE == EVENTS) {
        let id = crate::ids::new("stream_");
        let replay = resume.streams.begin(&id, resume.owner, false, running, writer, held);
        // Nothing has been dropped yet.
        let mut response = event_stream(replay.read(0).unwrap_or_default(), W::CONTENT_TYPE);
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert("x-stream-id", id);
        }
        return response;
    }
    let start = (running, writer, State::Beginning, held);
    let stream = futures_util::stream::unfold(start, |(mut running, mut writer, state, held)| async move {
        let mut out = Frames::default();
        let mut state = state;
        loop {
            match state {
                State::Over => return None,
                State::Beginning => {
                    writer.begin(&mut out);
                    state = State::Going;
                }
                State::Going => state = advance(&mut running, &mut writer, &mut out).await,
            }
            if let Some(bytes) = out.take() {
                return Some((Ok::<_, Infallible>(bytes), (running, writer, state, held)));
            }
        }
    });
    event_stream(Body::from_stream(stream), W::CONTENT_TYPE)
}

/// Who may go on with a stream.
#[derive(Clone, Debug)]
pub(crate) struct Resume {
    pub(crate) streams: Arc<Streams>,
    pub(crate) owner: Option<String>,
}

/// A response that is sent while it is written.
pub(crate) fn event_stream(body: Body, kind: &'static str) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx holds answers back otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

async fn advance<W: Writer>(running: &mut Running, writer: &mut W, out: &mut Frames) -> State {
    match tokio::time::timeout(QUIET, running.next()).await {
        Err(_) => writer.quiet(out),
        Ok(Some(Ok(output))) => {
            writer.output(output, out);
            if running.is_over() {
                writer.end(out);
                if let Some(receipt) = running.receipt() {
                    out.attach("receipt", &receipt.sealed());
                }
                return State::Over;
            }
        }
        Ok(Some(Err(error))) => {
            writer.failed(&error, out);
            return State::Over;
        }
        Ok(None) => {
            writer.end(out);
            return State::Over;
        }
    }
    State::Going
}
