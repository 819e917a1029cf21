//! An answer in blocks, complete or as a stream of events.

use crate::error::{ApiError, Dialect};
use crate::generate::{Output, Piece, Reason, Running};
use crate::models::Lease;
use crate::stream::{Frames, Writer};
use allod_engine::Stats;
use serde_json::{Value, json};

pub(super) struct Answer {
    id: String,
    model: String,
    prompt_tokens: usize,
    /// Blocks that are complete.
    blocks: Vec<Value>,
    /// The text of the block that is being written.
    open: Option<String>,
}

impl Answer {
    pub(super) fn new(lease: &Lease, prompt_tokens: usize) -> Answer {
        Answer { id: crate::ids::new("msg_"), model: lease.name.clone(), prompt_tokens, blocks: Vec::new(), open: None }
    }

    fn message(&self, content: Value, stop: (Value, Value), usage: Value) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": stop.0,
            "stop_sequence": stop.1,
            "usage": usage,
        })
    }

    fn close(&mut self) -> bool {
        match self.open.take() {
            Some(text) => {
                self.blocks.push(json!({ "type": "text", "text": text }));
                true
            }
            None => false,
        }
    }
}

/// Anthropic's words for why an answer ended.
fn stop(reason: &Reason) -> (Value, Value) {
    match reason {
        Reason::End | Reason::StopToken(_) | Reason::Cancelled => ("end_turn".into(), Value::Null),
        Reason::StopString(text) => ("stop_sequence".into(), text.as_str().into()),
        Reason::Length => ("max_tokens".into(), Value::Null),
        Reason::ContextFull => ("model_context_window_exceeded".into(), Value::Null),
    }
}

/// What was read from the prefix cache does not count as input.
fn usage(stats: &Stats) -> Value {
    json!({
        "input_tokens": stats.prompt_tokens - stats.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": stats.cached_tokens,
        "output_tokens": stats.generated_tokens,
    })
}

/// Waits for the whole answer.
///
/// # Errors
/// It failed.
pub(super) async fn collect(mut running: Running, mut answer: Answer) -> Result<Value, ApiError> {
    let mut end = (Reason::Cancelled, Stats::default());
    while let Some(output) = running.next().await {
        match output?.piece {
            Piece::Prompt(_) | Piece::Scored(_) | Piece::Embedded(_) => {}
            Piece::Delta(delta) => answer.open.get_or_insert_default().push_str(&delta.text),
            Piece::Finished(reason, stats) => end = (reason, stats),
        }
    }
    answer.close();
    let blocks = std::mem::take(&mut answer.blocks);
    let mut message = answer.message(blocks.into(), stop(&end.0), usage(&end.1));
    running.attach(&mut message);
    Ok(message)
}

impl Writer for Answer {
    const CONTENT_TYPE: &'static str = "text/event-stream; charset=utf-8";

    fn begin(&mut self, out: &mut Frames) {
        let stats = Stats { prompt_tokens: self.prompt_tokens, ..Stats::default() };
        let message = self.message(json!([]), (Value::Null, Value::Null), usage(&stats));
        out.event("message_start", &json!({ "type": "message_start", "message": message }));
        out.event("ping", &json!({ "type": "ping" }));
    }

    fn output(&mut self, output: Output, out: &mut Frames) {
        match output.piece {
            Piece::Prompt(_) | Piece::Scored(_) | Piece::Embedded(_) => {}
            Piece::Delta(delta) if delta.text.is_empty() => {}
            Piece::Delta(delta) => {
                let index = self.blocks.len();
                if self.open.is_none() {
                    let block = json!({ "type": "text", "text": "" });
                    let start = json!({ "type": "content_block_start", "index": index, "content_block": block });
                    out.event("content_block_start", &start);
                }
                self.open.get_or_insert_default();
                let delta = json!({ "type": "text_delta", "text": delta.text });
                let delta = json!({ "type": "content_block_delta", "index": index, "delta": delta });
                out.event("content_block_delta", &delta);
            }
            Piece::Finished(reason, stats) => {
                let index = self.blocks.len();
                if self.close() {
                    out.event("content_block_stop", &json!({ "type": "content_block_stop", "index": index }));
                }
                let (stop_reason, stop_sequence) = stop(&reason);
                let delta = json!({ "stop_reason": stop_reason, "stop_sequence": stop_sequence });
                let delta = json!({ "type": "message_delta", "delta": delta, "usage": usage(&stats) });
                out.event("message_delta", &delta);
            }
        }
    }

    fn end(&mut self, out: &mut Frames) {
        out.event("message_stop", &json!({ "type": "message_stop" }));
    }

    fn failed(&mut self, error: &ApiError, out: &mut Frames) {
        out.event("error", &error.body(Dialect::Anthropic));
    }

    fn quiet(&mut self, out: &mut Frames) {
        out.event("ping", &json!({ "type": "ping" }));
    }
}
