//! A chat's answers as a stream of chunks.

use super::chat::Kept;
use super::chat_answer::{finish, logprobs};
use super::form::StreamOptions;
use super::usage::Usage;
use crate::error::{ApiError, Dialect};
use crate::generate::{Delta, Output, Part, Piece};
use crate::stream::{Frames, Writer};
use allod_engine::{Stats, Token};
use serde_json::{Value, json};

pub(super) struct ChatStream {
    kept: Kept,
    options: StreamOptions,
    usage: Usage,
    /// Tokens whose text is still to come, by answer.
    held: Vec<Delta>,
    begun: Vec<bool>,
    /// Calls so far, by answer.
    calls: Vec<u32>,
    prompt_logprobs: Option<Value>,
}

impl ChatStream {
    pub(super) fn new(kept: Kept, options: Option<StreamOptions>, n: u32) -> ChatStream {
        let n = n as usize;
        ChatStream {
            kept,
            options: options.unwrap_or_default(),
            usage: Usage::default(),
            held: vec![Delta::default(); n],
            begun: vec![false; n],
            calls: vec![0; n],
            prompt_logprobs: None,
        }
    }

    fn chunk(&self, choices: Value) -> Value {
        let mut chunk = json!({
            "id": self.kept.id,
            "object": "chat.completion.chunk",
            "created": self.kept.created,
            "model": self.kept.model,
            "choices": choices,
        });
        if self.options.continuous_usage_stats {
            chunk["usage"] = json!(self.usage);
        } else if self.options.include_usage {
            chunk["usage"] = Value::Null;
        }
        if self.options.include_obfuscation {
            let mut byte = [0];
            crate::ids::fill(&mut byte);
            chunk["obfuscation"] = crate::ids::new("")[..usize::from(byte[0] % 24)].into();
        }
        chunk
    }

    /// The chunk that says who speaks, before an answer's first.
    fn begin_answer(&mut self, answer: u32, out: &mut Frames) {
        let index = answer as usize;
        if std::mem::replace(&mut self.begun[index], true) {
            return;
        }
        let delta = json!({ "role": "assistant", "content": self.kept.echo });
        let choice = json!([{ "index": answer, "delta": delta, "logprobs": null, "finish_reason": null }]);
        let mut chunk = self.chunk(choice);
        if let Some(prompt) = self.prompt_logprobs.take() {
            chunk["prompt_logprobs"] = prompt;
        }
        if self.kept.return_token_ids && answer == 0 {
            chunk["prompt_token_ids"] = json!(self.kept.prompt_ids);
        }
        out.data(&chunk);
    }

    fn delta(&mut self, answer: u32, delta: Delta, out: &mut Frames) {
        self.begin_answer(answer, out);
        self.usage.completion_tokens += delta.tokens.len();
        self.usage.total_tokens = self.usage.prompt_tokens + self.usage.completion_tokens;
        self.usage.completion_tokens_details.reasoning_tokens += delta.reasoning;
        let held = &mut self.held[answer as usize];
        held.append(delta);
        if !held.parts.is_empty() {
            self.send(answer, out);
        }
    }

    /// Sends what is held of an answer; its tokens go with the first part.
    fn send(&mut self, answer: u32, out: &mut Frames) {
        let Delta { parts, mut tokens, .. } = std::mem::take(&mut self.held[answer as usize]);
        let told: Vec<Value> = parts.into_iter().filter_map(|part| self.part(answer, part)).collect();
        for delta in told {
            self.chosen(answer, delta, &std::mem::take(&mut tokens), out);
        }
        // Tokens of parts that are not told wait for the next that is.
        self.held[answer as usize].tokens = tokens;
    }

    /// A part as a delta of the message.
    fn part(&mut self, answer: u32, part: Part) -> Option<Value> {
        let calls = &mut self.calls[answer as usize];
        match part {
            Part::Content(text) => Some(json!({ "content": text })),
            Part::Reasoning(text) => {
                let field = self.kept.reasoning_field?;
                Some(Value::Object([(field.to_owned(), text.into())].into_iter().collect()))
            }
            Part::Call { name, id } => {
                *calls += 1;
                let function = json!({ "name": name, "arguments": "" });
                let call = json!({ "index": *calls - 1, "id": id, "type": "function", "function": function });
                Some(json!({ "tool_calls": [call] }))
            }
            Part::Arguments(text) => {
                let call = json!({ "index": calls.saturating_sub(1), "function": { "arguments": text } });
                Some(json!({ "tool_calls": [call] }))
            }
            Part::CallEnd => None,
        }
    }

    fn chosen(&self, answer: u32, delta: Value, tokens: &[Token], out: &mut Frames) {
        let mut choice = json!({
            "index": answer,
            "delta": delta,
            "logprobs": logprobs(&self.kept, tokens),
            "finish_reason": null,
        });
        if self.kept.return_token_ids {
            choice["token_ids"] = tokens.iter().map(|t| t.id).collect();
        }
        out.data(&self.chunk(json!([choice])));
    }
}

impl Writer for ChatStream {
    const CONTENT_TYPE: &'static str = "text/event-stream; charset=utf-8";

    fn output(&mut self, output: Output, out: &mut Frames) {
        match output.piece {
            Piece::Prompt(tokens) => {
                let rest = tokens.iter().map(|t| self.kept.tokenizer_names.prompt(t));
                self.prompt_logprobs = Some([Value::Null].into_iter().chain(rest).collect());
            }
            Piece::Scored(_) | Piece::Embedded(_) => {}
            Piece::Delta(delta) => self.delta(output.answer, delta, out),
            Piece::Finished(reason, stats) => {
                self.begin_answer(output.answer, out);
                let rest = std::mem::take(&mut self.held[output.answer as usize]);
                if !rest.tokens.is_empty() && (self.kept.namer.is_some() || self.kept.return_token_ids) {
                    self.chosen(output.answer, json!({ "content": "" }), &rest.tokens, out);
                }
                // The tokens were counted while they came.
                self.usage.add(output.answer == 0, &Stats { generated_tokens: 0, ..stats });
                let (finish_reason, stop_reason) = finish(&reason, self.calls[output.answer as usize] > 0);
                let choice = json!([{
                    "index": output.answer,
                    "delta": {},
                    "logprobs": null,
                    "finish_reason": finish_reason,
                    "stop_reason": stop_reason,
                }]);
                out.data(&self.chunk(choice));
            }
        }
    }

    fn end(&mut self, out: &mut Frames) {
        if self.options.include_usage {
            let mut chunk = self.chunk(json!([]));
            chunk["usage"] = json!(self.usage);
            out.data(&chunk);
        }
        out.done();
    }

    fn failed(&mut self, error: &ApiError, out: &mut Frames) {
        out.data(&error.body(Dialect::OpenAi));
        out.done();
    }

    fn quiet(&mut self, out: &mut Frames) {
        out.comment();
    }
}
