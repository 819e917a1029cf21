//! An answer in blocks, complete or as a stream of events.

use crate::error::{ApiError, Dialect};
use crate::generate::{Output, Part, Piece, Reason, Running};
use crate::models::Lease;
use crate::stream::{Frames, Writer};
use allod_engine::Stats;
use base64::Engine;
use serde_json::{Value, json};

pub(super) struct Answer {
    id: String,
    model: String,
    prompt_tokens: usize,
    /// Whether thinking is told, or only that there was some.
    shows_thinking: bool,
    /// Blocks that are complete.
    blocks: Vec<Value>,
    open: Option<Block>,
    calls: bool,
}

/// The block that is being written.
enum Block {
    Text(String),
    Thinking(String),
    Call { id: String, name: String, input: String },
}

impl Block {
    /// The block as it begins.
    fn beginning(&self) -> Value {
        match self {
            Block::Text(_) => json!({ "type": "text", "text": "" }),
            Block::Thinking(_) => json!({ "type": "thinking", "thinking": "", "signature": "" }),
            Block::Call { id, name, .. } => json!({ "type": "tool_use", "id": id, "name": name, "input": {} }),
        }
    }

    fn whole(self, shows_thinking: bool) -> Value {
        match self {
            Block::Text(text) => json!({ "type": "text", "text": text }),
            Block::Thinking(text) => {
                let signature = signature(&text);
                let text = if shows_thinking { text } else { String::new() };
                json!({ "type": "thinking", "thinking": text, "signature": signature })
            }
            Block::Call { id, name, input } => {
                json!({ "type": "tool_use", "id": id, "name": name, "input": crate::chat::arguments(&input) })
            }
        }
    }
}

/// Names the text of a thinking block. Clients send it back with the block; nothing depends on it.
fn signature(thinking: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(blake3::hash(thinking.as_bytes()).as_bytes())
}

/// What a part did to the blocks, in the order in which events tell it.
enum Step {
    Opened(Value),
    Grew(Value),
    Closed,
}

impl Answer {
    pub(super) fn new(lease: &Lease, prompt_tokens: usize, shows_thinking: bool) -> Answer {
        Answer {
            id: crate::ids::new("msg_"),
            model: lease.name.clone(),
            prompt_tokens,
            shows_thinking,
            blocks: Vec::new(),
            open: None,
            calls: false,
        }
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

    /// Takes a part; `tell` hears with the number of the block what became of the blocks.
    fn take(&mut self, part: Part, tell: &mut impl FnMut(usize, Step)) {
        match part {
            Part::Content(text) if text.is_empty() => {}
            Part::Content(text) => {
                if !matches!(self.open, Some(Block::Text(_))) {
                    self.begin(Block::Text(String::new()), tell);
                }
                tell(self.blocks.len(), Step::Grew(json!({ "type": "text_delta", "text": text })));
                if let Some(Block::Text(whole)) = &mut self.open {
                    whole.push_str(&text);
                }
            }
            Part::Reasoning(text) => {
                if !matches!(self.open, Some(Block::Thinking(_))) {
                    self.begin(Block::Thinking(String::new()), tell);
                }
                if self.shows_thinking {
                    tell(self.blocks.len(), Step::Grew(json!({ "type": "thinking_delta", "thinking": text })));
                }
                if let Some(Block::Thinking(whole)) = &mut self.open {
                    whole.push_str(&text);
                }
            }
            Part::Call { name, id } => {
                self.calls = true;
                self.begin(Block::Call { id: id.unwrap_or_default(), name, input: String::new() }, tell);
            }
            Part::Arguments(text) => {
                tell(self.blocks.len(), Step::Grew(json!({ "type": "input_json_delta", "partial_json": text })));
                if let Some(Block::Call { input, .. }) = &mut self.open {
                    input.push_str(&text);
                }
            }
            Part::CallEnd => self.close(tell),
        }
    }

    fn begin(&mut self, block: Block, tell: &mut impl FnMut(usize, Step)) {
        self.close(tell);
        tell(self.blocks.len(), Step::Opened(block.beginning()));
        self.open = Some(block);
    }

    fn close(&mut self, tell: &mut impl FnMut(usize, Step)) {
        let Some(block) = self.open.take() else { return };
        let index = self.blocks.len();
        if let Block::Thinking(text) = &block {
            tell(index, Step::Grew(json!({ "type": "signature_delta", "signature": signature(text) })));
        }
        tell(index, Step::Closed);
        self.blocks.push(block.whole(self.shows_thinking));
    }

    /// Anthropic's words for why an answer ended.
    fn stop(&self, reason: &Reason) -> (Value, Value) {
        match reason {
            Reason::End | Reason::StopToken(_) if self.calls => ("tool_use".into(), Value::Null),
            Reason::End | Reason::StopToken(_) | Reason::Cancelled => ("end_turn".into(), Value::Null),
            Reason::StopString(text) => ("stop_sequence".into(), text.as_str().into()),
            Reason::Length => ("max_tokens".into(), Value::Null),
            Reason::ContextFull => ("model_context_window_exceeded".into(), Value::Null),
        }
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
            Piece::Delta(delta) => delta.parts.into_iter().for_each(|part| answer.take(part, &mut |_, _| ())),
            Piece::Finished(reason, stats) => end = (reason, stats),
        }
    }
    answer.close(&mut |_, _| ());
    let blocks = std::mem::take(&mut answer.blocks);
    let mut message = answer.message(blocks.into(), answer.stop(&end.0), usage(&end.1));
    running.attach(&mut message);
    Ok(message)
}

/// Writes what became of a block.
fn tell(out: &mut Frames) -> impl FnMut(usize, Step) {
    move |index, step| match step {
        Step::Opened(block) => {
            let start = json!({ "type": "content_block_start", "index": index, "content_block": block });
            out.event("content_block_start", &start);
        }
        Step::Grew(delta) => {
            let delta = json!({ "type": "content_block_delta", "index": index, "delta": delta });
            out.event("content_block_delta", &delta);
        }
        Step::Closed => out.event("content_block_stop", &json!({ "type": "content_block_stop", "index": index })),
    }
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
            Piece::Delta(delta) => delta.parts.into_iter().for_each(|part| self.take(part, &mut tell(out))),
            Piece::Finished(reason, stats) => {
                self.close(&mut tell(out));
                let (stop_reason, stop_sequence) = self.stop(&reason);
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
