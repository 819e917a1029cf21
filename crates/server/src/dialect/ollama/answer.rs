//! An answer of generate and chat: one object, or lines of which the last has the figures.

use crate::dialect::openai::Namer;
use crate::error::{ApiError, Dialect};
use crate::generate::{Delta, Output, Piece, Reason, Running};
use crate::models::Lease;
use crate::stream::{Frames, Writer};
use allod_engine::{Stats, Token};
use serde_json::{Value, json};
use std::time::{Instant, SystemTime};

/// Which of the two it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Generate,
    Chat,
}

pub(super) struct Answer {
    model: String,
    shape: Shape,
    namer: Option<Namer>,
    top: usize,
    /// Tokens of prompt and answer, which a next request may continue.
    context: Option<Vec<u32>>,
    /// Messages were left out so that the prompt fits.
    truncated: bool,
    started: Instant,
    loaded: Instant,
    held: Delta,
}

impl Answer {
    pub(super) fn new(lease: &Lease, model: &str, shape: Shape, started: Instant) -> Answer {
        Answer {
            model: if model.is_empty() { lease.name.clone() } else { model.to_owned() },
            shape,
            namer: None,
            top: 0,
            context: None,
            truncated: false,
            started,
            loaded: Instant::now(),
            held: Delta::default(),
        }
    }

    pub(super) fn with_logprobs(mut self, lease: &Lease, top: Option<u32>) -> Answer {
        self.namer = Some(Namer { tokenizer: lease.tokenizer.clone(), as_ids: false });
        self.top = top.unwrap_or(0) as usize;
        self
    }

    pub(super) fn with_context(self, prompt: Vec<u32>) -> Answer {
        Answer { context: Some(prompt), ..self }
    }

    pub(super) fn truncated(self, truncated: bool) -> Answer {
        Answer { truncated, ..self }
    }

    fn object(&self, delta: &Delta) -> Value {
        let mut object = json!({ "model": self.model, "created_at": crate::time::rfc3339(SystemTime::now()) });
        match self.shape {
            Shape::Generate => object["response"] = delta.text.as_str().into(),
            Shape::Chat => object["message"] = json!({ "role": "assistant", "content": delta.text }),
        }
        object["done"] = false.into();
        if let Some(namer) = &self.namer {
            object["logprobs"] = delta.tokens.iter().map(|t| json!(namer.chat(t, self.top))).collect();
        }
        object
    }

    /// The last object: what is held, and the figures.
    fn last(&mut self, reason: &Reason, stats: &Stats) -> Value {
        let held = std::mem::take(&mut self.held);
        let mut object = self.object(&held);
        let done_reason = match reason {
            Reason::Length | Reason::ContextFull => "length",
            _ => "stop",
        };
        object["done"] = true.into();
        object["done_reason"] = done_reason.into();
        object["total_duration"] = nanoseconds(self.started.elapsed());
        object["load_duration"] = nanoseconds(self.loaded - self.started);
        object["prompt_eval_count"] = stats.prompt_tokens.into();
        object["prompt_eval_duration"] = nanoseconds(stats.first_token);
        object["eval_count"] = stats.generated_tokens.into();
        object["eval_duration"] = nanoseconds(stats.total.saturating_sub(stats.first_token));
        if let Some(context) = &self.context {
            object["context"] = json!(context);
        }
        if self.truncated {
            object["truncated"] = true.into();
        }
        object
    }

    fn take(&mut self, delta: Delta) {
        if let Some(context) = &mut self.context {
            context.extend(delta.tokens.iter().map(|t: &Token| t.id));
        }
        self.held.append(delta);
    }
}

fn nanoseconds(time: std::time::Duration) -> Value {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).into()
}

/// The answer of a request that only loads or unloads a model.
pub(super) fn empty(model: &str, shape: Shape, reason: &str) -> Value {
    let mut object = json!({ "model": model, "created_at": crate::time::rfc3339(SystemTime::now()) });
    match shape {
        Shape::Generate => object["response"] = "".into(),
        Shape::Chat => object["message"] = json!({ "role": "assistant", "content": "" }),
    }
    object["done"] = true.into();
    object["done_reason"] = reason.into();
    object
}

/// Waits for the whole answer.
///
/// # Errors
/// It failed.
pub(super) async fn collect(mut running: Running, mut answer: Answer) -> Result<Value, ApiError> {
    let mut last = Value::Null;
    while let Some(output) = running.next().await {
        match output?.piece {
            Piece::Prompt(_) | Piece::Scored(_) | Piece::Embedded(_) => {}
            Piece::Delta(delta) => answer.take(delta),
            Piece::Finished(reason, stats) => last = answer.last(&reason, &stats),
        }
    }
    running.attach(&mut last);
    Ok(last)
}

impl Writer for Answer {
    const CONTENT_TYPE: &'static str = "application/x-ndjson";

    fn output(&mut self, output: Output, out: &mut Frames) {
        match output.piece {
            Piece::Prompt(_) | Piece::Scored(_) | Piece::Embedded(_) => {}
            Piece::Delta(delta) => {
                self.take(delta);
                if !self.held.text.is_empty() {
                    let held = std::mem::take(&mut self.held);
                    out.line(&self.object(&held));
                }
            }
            Piece::Finished(reason, stats) => out.line(&self.last(&reason, &stats)),
        }
    }

    fn end(&mut self, _out: &mut Frames) {}

    fn failed(&mut self, error: &ApiError, out: &mut Frames) {
        out.line(&error.body(Dialect::Ollama));
    }

    fn quiet(&mut self, _out: &mut Frames) {}
}
