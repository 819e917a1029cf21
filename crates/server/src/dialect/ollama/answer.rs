//! An answer of generate and chat: one object, or lines of which the last has the figures.

use crate::chat::arguments;
use crate::dialect::openai::Namer;
use crate::error::{ApiError, Dialect};
use crate::generate::{Delta, Output, Part, Piece, Reason, Running};
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
    /// The call that is being written: name, id, arguments.
    call: Option<(String, Option<String>, String)>,
    /// Calls so far.
    calls: u32,
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
            call: None,
            calls: 0,
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

    /// An object with what a delta says. Calls are told whole.
    fn object(&mut self, delta: Delta) -> Value {
        let mut object = json!({ "model": self.model, "created_at": crate::time::rfc3339(SystemTime::now()) });
        let (mut text, mut thinking, mut calls) = (String::new(), String::new(), Vec::new());
        for part in delta.parts {
            match (part, &mut self.call) {
                (Part::Content(more), _) => text.push_str(&more),
                (Part::Reasoning(more), _) => thinking.push_str(&more),
                (Part::Call { name, id }, call) => *call = Some((name, id, String::new())),
                (Part::Arguments(more), Some((_, _, arguments))) => arguments.push_str(&more),
                (Part::Arguments(_), None) => {}
                (Part::CallEnd, call) => {
                    let Some((name, id, text)) = call.take() else { continue };
                    let function = json!({ "index": self.calls, "name": name, "arguments": arguments(&text) });
                    calls.push(json!({ "id": id, "function": function }));
                    self.calls += 1;
                }
            }
        }
        let said = match self.shape {
            Shape::Generate => {
                object["response"] = text.into();
                &mut object
            }
            Shape::Chat => {
                object["message"] = json!({ "role": "assistant", "content": text });
                &mut object["message"]
            }
        };
        if !thinking.is_empty() {
            said["thinking"] = thinking.into();
        }
        if !calls.is_empty() {
            said["tool_calls"] = calls.into();
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
        let mut object = self.object(held);
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

/// Whether a part is told by itself.
fn shows(part: &Part) -> bool {
    !matches!(part, Part::Call { .. } | Part::Arguments(_))
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
                if self.held.parts.iter().any(shows) {
                    let held = std::mem::take(&mut self.held);
                    out.line(&self.object(held));
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
