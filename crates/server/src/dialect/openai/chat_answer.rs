//! A chat's answers, complete.

use super::chat::Kept;
use super::logprobs::ChatToken;
use super::usage::Usage;
use crate::error::ApiError;
use crate::generate::{Delta, Piece, Reason, Running};
use allod_engine::{Stats, Token};
use allod_text::output;
use serde_json::{Map, Value, json};

/// One answer.
#[derive(Default)]
struct Answer {
    said: output::Answer,
    tokens: Vec<Token>,
    reasoning: usize,
    end: Option<(Reason, Stats)>,
}

impl Answer {
    fn take(&mut self, delta: Delta) {
        delta.parts.into_iter().for_each(|part| self.said.take(part));
        self.tokens.extend(delta.tokens);
        self.reasoning += delta.reasoning;
    }
}

/// OpenAI's word for why an answer ended, and vLLM's `stop_reason`.
pub(super) fn finish(reason: &Reason, calls: bool) -> (&'static str, Value) {
    match reason {
        Reason::End | Reason::StopToken(_) if calls => ("tool_calls", Value::Null),
        Reason::End | Reason::Cancelled => ("stop", Value::Null),
        Reason::StopToken(id) => ("stop", (*id).into()),
        Reason::StopString(text) => ("stop", text.as_str().into()),
        Reason::Length | Reason::ContextFull => ("length", Value::Null),
    }
}

/// Waits for all answers.
///
/// # Errors
/// One of them failed.
pub(super) async fn collect(mut running: Running, kept: &Kept) -> Result<Value, ApiError> {
    let mut answers: Vec<Answer> = Vec::new();
    answers.resize_with(running.job.answers(), Answer::default);
    let mut prompt_logprobs = None;
    while let Some(output) = running.next().await {
        let output = output?;
        let answer = &mut answers[output.answer as usize];
        match output.piece {
            Piece::Prompt(tokens) => prompt_logprobs = Some(tokens),
            Piece::Delta(delta) => answer.take(delta),
            Piece::Scored(_) | Piece::Embedded(_) => {}
            Piece::Finished(reason, stats) => answer.end = Some((reason, stats)),
        }
    }
    let mut usage = Usage::default();
    let choices = (0..).zip(answers).map(|(i, answer)| choice(i, answer, kept, &mut usage)).collect::<Vec<_>>();
    let mut response = json!({
        "id": kept.id,
        "object": "chat.completion",
        "created": kept.created,
        "model": kept.model,
        "choices": choices,
        "usage": usage,
        "system_fingerprint": running.lease.fingerprint(),
    });
    if let Some(tokens) = prompt_logprobs {
        let first = [Value::Null];
        let rest = tokens.iter().map(|t| kept.tokenizer_names.prompt(t));
        response["prompt_logprobs"] = first.into_iter().chain(rest).collect();
    }
    if kept.return_token_ids {
        response["prompt_token_ids"] = json!(kept.prompt_ids);
    }
    running.attach(&mut response);
    Ok(response)
}

fn choice(index: u32, answer: Answer, kept: &Kept, usage: &mut Usage) -> Value {
    let Answer { said, tokens, reasoning, end } = answer;
    let (reason, stats) = end.unwrap_or((Reason::Cancelled, Stats::default()));
    usage.add(index == 0, &stats);
    usage.completion_tokens_details.reasoning_tokens += reasoning;
    let (finish_reason, stop_reason) = finish(&reason, !said.calls.is_empty());
    let mut message = Map::new();
    message.insert("role".into(), "assistant".into());
    let content = format!("{}{}", kept.echo, said.content);
    let silent = content.is_empty() && !said.calls.is_empty();
    message.insert("content".into(), if silent { Value::Null } else { content.into() });
    message.insert("refusal".into(), Value::Null);
    if let Some(field) = kept.reasoning_field.filter(|_| !said.reasoning.is_empty()) {
        message.insert(field.into(), said.reasoning.into());
    }
    if !said.calls.is_empty() {
        let call = |call: output::Call| {
            json!({
                "id": call.id,
                "type": "function",
                "function": { "name": call.name, "arguments": call.arguments },
            })
        };
        message.insert("tool_calls".into(), said.calls.into_iter().map(call).collect());
    }
    let mut choice = json!({
        "index": index,
        "message": message,
        "logprobs": logprobs(kept, &tokens),
        "finish_reason": finish_reason,
        "stop_reason": stop_reason,
    });
    if kept.return_token_ids {
        choice["token_ids"] = tokens.iter().map(|t| t.id).collect();
    }
    choice
}

pub(super) fn logprobs(kept: &Kept, tokens: &[Token]) -> Value {
    let Some(namer) = &kept.namer else { return Value::Null };
    let content: Vec<ChatToken> = tokens.iter().map(|t| namer.chat(t, kept.top)).collect();
    json!({ "content": content, "refusal": null })
}
