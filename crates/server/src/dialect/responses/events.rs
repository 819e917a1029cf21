//! A response as a stream of events.

use super::items::{Kind, Step};
use super::record::Record;
use crate::app::App;
use crate::error::ApiError;
use crate::generate::Output;
use crate::stream::{Frames, Writer};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) struct Events {
    record: Record,
    app: Arc<App>,
    number: u64,
}

/// Gives events their number.
fn send(number: &mut u64, kind: &str, mut event: Value, out: &mut Frames) {
    event["type"] = kind.into();
    event["sequence_number"] = (*number).into();
    *number += 1;
    out.event(kind, &event);
}

/// What became of an item, in events.
fn tell(index: usize, step: Step<'_>, number: &mut u64, out: &mut Frames) {
    let (Step::Opened(item) | Step::Grew(item, _) | Step::Closed(item, _)) = &step;
    let at = |name: &str, value: Value| {
        let mut event = json!({ "item_id": item.id, "output_index": index });
        event[name] = value;
        if !matches!(item.kind, Kind::Call { .. }) {
            event["content_index"] = 0.into();
        }
        event
    };
    let (delta, done, name) = match item.kind {
        Kind::Message => ("response.output_text.delta", "response.output_text.done", "text"),
        Kind::Reasoning => ("response.reasoning_text.delta", "response.reasoning_text.done", "text"),
        Kind::Call { .. } => {
            ("response.function_call_arguments.delta", "response.function_call_arguments.done", "arguments")
        }
    };
    let has_parts = !matches!(item.kind, Kind::Call { .. });
    let is_message = item.kind == Kind::Message;
    let logprobs = |mut event: Value| {
        if is_message {
            event["logprobs"] = json!([]);
        }
        event
    };
    match step {
        Step::Opened(item) => {
            let added = json!({ "output_index": index, "item": item.beginning() });
            send(number, "response.output_item.added", added, out);
            if has_parts {
                send(number, "response.content_part.added", at("part", item.part()), out);
            }
        }
        Step::Grew(_, text) => send(number, delta, logprobs(at("delta", text.into())), out),
        Step::Closed(item, told) => {
            let mut whole = logprobs(at(name, item.text.as_str().into()));
            if let Kind::Call { name, .. } = &item.kind {
                whole["name"] = name.as_str().into();
            }
            send(number, done, whole, out);
            if has_parts {
                send(number, "response.content_part.done", at("part", item.part()), out);
            }
            send(number, "response.output_item.done", json!({ "output_index": index, "item": told }), out);
        }
    }
}

impl Events {
    pub(super) fn new(record: Record, app: &Arc<App>) -> Events {
        Events { record, app: Arc::clone(app), number: 0 }
    }

    fn send(&mut self, kind: &str, event: Value, out: &mut Frames) {
        send(&mut self.number, kind, event, out);
    }
}

impl Writer for Events {
    const CONTENT_TYPE: &'static str = "text/event-stream; charset=utf-8";

    fn begin(&mut self, out: &mut Frames) {
        let response = self.record.object();
        self.send("response.created", json!({ "response": response }), out);
        self.send("response.in_progress", json!({ "response": response }), out);
    }

    fn output(&mut self, output: Output, out: &mut Frames) {
        let number = &mut self.number;
        self.record.take(output.piece, &mut |index, step| tell(index, step, number, out));
    }

    fn end(&mut self, out: &mut Frames) {
        if let Err(error) = self.record.save(&self.app) {
            return self.failed(&error, out);
        }
        let kind = if self.record.status == "incomplete" { "response.incomplete" } else { "response.completed" };
        let response = self.record.object();
        self.send(kind, json!({ "response": response }), out);
    }

    fn failed(&mut self, error: &ApiError, out: &mut Frames) {
        self.record.fail(error);
        drop(self.record.save(&self.app));
        let response = self.record.object();
        self.send("response.failed", json!({ "response": response }), out);
    }

    fn quiet(&mut self, out: &mut Frames) {
        out.comment();
    }
}
