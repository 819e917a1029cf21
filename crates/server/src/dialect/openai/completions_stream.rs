//! Continuations, complete or as a stream of chunks.

use super::chat_answer::finish;
use super::completions::Kept;
use super::form::StreamOptions;
use super::logprobs::CompletionLogprobs;
use super::usage::Usage;
use crate::error::{ApiError, Dialect};
use crate::generate::{Delta, Output, Piece, Running};
use crate::stream::{Frames, Writer};
use allod_engine::Token;
use allod_engine::engine::best_of;
use serde_json::{Value, json};

/// One continuation on its way.
#[derive(Default)]
struct Text {
    /// What has not been sent yet.
    held: Delta,
    logprobs: CompletionLogprobs,
    /// Characters of the text so far.
    offset: usize,
    begun: bool,
}

pub(super) struct CompletionStream {
    kept: Kept,
    options: StreamOptions,
    usage: Usage,
    texts: Vec<Text>,
    /// Log-probabilities of the prompts, as they come.
    prompts: Vec<Option<Vec<Token>>>,
}

impl CompletionStream {
    pub(super) fn new(kept: Kept, options: Option<StreamOptions>) -> CompletionStream {
        let mut texts = Vec::new();
        texts.resize_with(kept.prompts.len() * kept.n as usize, Text::default);
        let prompts = vec![None; kept.prompts.len()];
        CompletionStream { kept, options: options.unwrap_or_default(), usage: Usage::default(), texts, prompts }
    }

    fn object(&self, choices: Value) -> Value {
        json!({
            "id": self.kept.id,
            "object": "text_completion",
            "created": self.kept.created,
            "model": self.kept.model,
            "choices": choices,
        })
    }

    fn chunk(&self, choices: Value) -> Value {
        let mut chunk = self.object(choices);
        if self.options.continuous_usage_stats {
            chunk["usage"] = json!(self.usage);
        } else if self.options.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    /// Puts the prompt before an answer's first token.
    fn begin(&mut self, answer: u32) {
        let text = &mut self.texts[answer as usize];
        if std::mem::replace(&mut text.begun, true) {
            return;
        }
        let p = (answer / self.kept.n) as usize;
        let Some(echo) = &self.kept.echo else { return };
        if !echo[p].is_empty() {
            text.held.parts.insert(0, crate::generate::Part::Content(echo[p].clone()));
        }
        if let (Some(count), Some(tokens)) = (self.kept.logprobs, &self.prompts[p]) {
            let first = Token { id: self.kept.prompts[p][0], logprob: None, top: Vec::new() };
            for token in std::iter::once(&first).chain(tokens) {
                text.offset = text.logprobs.push(&self.kept.namer, token, count, text.offset);
            }
        } else {
            text.offset = echo[p].chars().count();
        }
    }

    fn take(&mut self, answer: u32, delta: Delta) {
        self.begin(answer);
        self.usage.completion_tokens += delta.tokens.len();
        self.usage.total_tokens = self.usage.prompt_tokens + self.usage.completion_tokens;
        let text = &mut self.texts[answer as usize];
        if let Some(count) = self.kept.logprobs {
            for token in &delta.tokens {
                text.offset = text.logprobs.push(&self.kept.namer, token, count, text.offset);
            }
        }
        text.held.append(delta);
    }

    /// A choice with all that is held of an answer.
    fn choice(&mut self, answer: u32, end: Option<&crate::generate::Reason>) -> Value {
        let text = &mut self.texts[answer as usize];
        let delta = std::mem::take(&mut text.held);
        let logprobs = std::mem::take(&mut text.logprobs);
        let (finish_reason, stop_reason) = match end.map(|reason| finish(reason, false)) {
            Some((word, stop)) => (Value::from(word), stop),
            None => (Value::Null, Value::Null),
        };
        let p = (answer / self.kept.n) as usize;
        let mut choice = json!({
            "index": answer,
            "text": delta.text(),
            "logprobs": self.kept.logprobs.map(|_| logprobs),
            "finish_reason": finish_reason,
            "stop_reason": stop_reason,
        });
        if self.kept.return_token_ids {
            choice["token_ids"] = delta.tokens.iter().map(|t| t.id).collect();
            choice["prompt_token_ids"] = json!(self.kept.prompts[p]);
        }
        if self.kept.prompt_logprobs && end.is_some() {
            let tokens = self.prompts[p].iter().flatten();
            let rest = tokens.map(|t| self.kept.namer.prompt(t));
            choice["prompt_logprobs"] = [Value::Null].into_iter().chain(rest).collect();
        }
        choice
    }

    fn accept(&mut self, output: Output) -> Option<(u32, crate::generate::Reason)> {
        match output.piece {
            Piece::Prompt(tokens) => {
                self.prompts[(output.answer / self.kept.n) as usize] = Some(tokens);
                None
            }
            Piece::Scored(_) | Piece::Embedded(_) => None,
            Piece::Delta(delta) => {
                self.take(output.answer, delta);
                None
            }
            Piece::Finished(reason, stats) => {
                self.begin(output.answer);
                let leads = output.answer.is_multiple_of(self.kept.n);
                self.usage.add(leads, &allod_engine::Stats { generated_tokens: 0, ..stats });
                Some((output.answer, reason))
            }
        }
    }
}

/// Waits for all answers.
///
/// # Errors
/// One of them failed.
pub(super) async fn collect(mut running: Running, kept: Kept) -> Result<Value, ApiError> {
    let fingerprint = running.lease.fingerprint();
    let mut stream = CompletionStream::new(kept, None);
    let mut choices = vec![Value::Null; stream.texts.len()];
    let mut tokens = vec![Vec::new(); choices.len()];
    while let Some(output) = running.next().await {
        let output = output?;
        if let Piece::Delta(delta) = &output.piece {
            tokens[output.answer as usize].extend(delta.tokens.iter().cloned());
        }
        if let Some((answer, reason)) = stream.accept(output) {
            choices[answer as usize] = stream.choice(answer, Some(&reason));
        }
    }
    let (made, given) = (stream.kept.n as usize, stream.kept.given as usize);
    if given < made {
        let best = |(p, tokens): (usize, &[Vec<Token>])| best_of(tokens, given).into_iter().map(move |i| p * made + i);
        let best: Vec<usize> = tokens.chunks(made).enumerate().flat_map(best).collect();
        let chosen = |(index, best): (usize, usize)| {
            let mut choice = std::mem::take(&mut choices[best]);
            choice["index"] = index.into();
            choice
        };
        choices = best.into_iter().enumerate().map(chosen).collect();
    }
    let mut response = stream.object(choices.into());
    response["usage"] = json!(stream.usage);
    response["system_fingerprint"] = fingerprint.into();
    running.attach(&mut response);
    Ok(response)
}

impl Writer for CompletionStream {
    const CONTENT_TYPE: &'static str = "text/event-stream; charset=utf-8";

    fn output(&mut self, output: Output, out: &mut Frames) {
        let answer = output.answer;
        let end = self.accept(output);
        if end.is_none() && self.texts[answer as usize].held.parts.is_empty() {
            return;
        }
        let choice = self.choice(answer, end.as_ref().map(|(_, reason)| reason));
        out.data(&self.chunk(json!([choice])));
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
