//! A response as a stream of events.

use super::record::Record;
use crate::app::App;
use crate::error::ApiError;
use crate::generate::{Output, Piece};
use crate::stream::{Frames, Writer};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) struct Events {
    record: Record,
    app: Arc<App>,
    number: u64,
}

impl Events {
    pub(super) fn new(record: Record, app: &Arc<App>) -> Events {
        Events { record, app: Arc::clone(app), number: 0 }
    }

    fn send(&mut self, kind: &str, mut event: Value, out: &mut Frames) {
        event["type"] = kind.into();
        event["sequence_number"] = self.number.into();
        self.number += 1;
        out.event(kind, &event);
    }

    /// An event about the part that is being written.
    fn part(&mut self, kind: &str, name: &str, value: Value, out: &mut Frames) {
        let event = json!({ "item_id": self.record.message_id, "output_index": 0, "content_index": 0, name: value });
        self.send(kind, event, out);
    }
}

impl Writer for Events {
    const CONTENT_TYPE: &'static str = "text/event-stream; charset=utf-8";

    fn begin(&mut self, out: &mut Frames) {
        let response = self.record.object();
        self.send("response.created", json!({ "response": response }), out);
        self.send("response.in_progress", json!({ "response": response }), out);
        let mut item = self.record.message("in_progress");
        item["content"] = json!([]);
        self.send("response.output_item.added", json!({ "output_index": 0, "item": item }), out);
        let part = self.record.part();
        self.part("response.content_part.added", "part", part, out);
    }

    fn output(&mut self, output: Output, out: &mut Frames) {
        let text = match &output.piece {
            Piece::Delta(delta) => delta.text.clone(),
            _ => String::new(),
        };
        let over = matches!(output.piece, Piece::Finished(..));
        self.record.take(output.piece);
        if !text.is_empty() {
            let event = json!({
                "item_id": self.record.message_id, "output_index": 0, "content_index": 0, "delta": text, "logprobs": [],
            });
            self.send("response.output_text.delta", event, out);
        }
        if over {
            let event = json!({
                "item_id": self.record.message_id, "output_index": 0, "content_index": 0, "text": self.record.text,
                "logprobs": [],
            });
            self.send("response.output_text.done", event, out);
            let part = self.record.part();
            self.part("response.content_part.done", "part", part, out);
            let item = self.record.output.first().cloned();
            self.send("response.output_item.done", json!({ "output_index": 0, "item": item }), out);
        }
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
