//! Log-probabilities as OpenAI writes them: one way for chats, another for completions.

use allod_engine::Token;
use allod_text::Tokenizer;
use serde::Serialize;
use serde_json::{Map, Value};

/// How tokens are named.
#[derive(Clone, Debug)]
pub(crate) struct Namer {
    pub(crate) tokenizer: Tokenizer,
    /// `token_id:N` in place of the text.
    pub(crate) as_ids: bool,
}

impl Namer {
    pub(crate) fn name(&self, id: u32) -> String {
        if self.as_ids {
            return format!("token_id:{id}");
        }
        String::from_utf8_lossy(&self.bytes(id)).into_owned()
    }

    fn bytes(&self, id: u32) -> Vec<u8> {
        self.tokenizer.token_bytes(id).map(|b| b.into_owned()).unwrap_or_default()
    }

    /// A token of a chat's answer.
    pub(crate) fn chat(&self, token: &Token, count: usize) -> ChatToken {
        let top = token.top.iter().take(count).map(|&(id, logprob)| self.top(id, logprob)).collect();
        let ChatTop { token: name, logprob, bytes } = self.top(token.id, token.logprob.unwrap_or(f32::NEG_INFINITY));
        ChatToken { token: name, logprob, bytes, top_logprobs: top }
    }

    fn top(&self, id: u32, logprob: f32) -> ChatTop {
        ChatTop { token: self.name(id), logprob: written(logprob), bytes: self.bytes(id) }
    }

    /// One of vLLM's `prompt_logprobs`: an object by token id.
    pub(crate) fn prompt(&self, token: &Token) -> Value {
        let mut map = Map::new();
        let own = (token.id, token.logprob.unwrap_or(f32::NEG_INFINITY));
        let ranked = (1u32..).zip(token.top.iter().copied());
        for (rank, (id, logprob)) in ranked.map(|(rank, top)| (Some(rank), top)).chain([(None, own)]) {
            let entry = serde_json::json!({
                "logprob": written(logprob),
                "rank": rank,
                "decoded_token": self.name(id),
            });
            map.entry(id.to_string()).or_insert(entry);
        }
        Value::Object(map)
    }
}

/// JSON knows no infinity; OpenAI writes -9999 for it.
pub(crate) fn written(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(crate) struct ChatToken {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
    top_logprobs: Vec<ChatTop>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(crate) struct ChatTop {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

/// Log-probabilities of a completion: parallel lists.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(crate) struct CompletionLogprobs {
    pub(crate) tokens: Vec<String>,
    pub(crate) token_logprobs: Vec<Option<f32>>,
    pub(crate) top_logprobs: Vec<Option<Map<String, Value>>>,
    /// Where each token begins in the text, in characters.
    pub(crate) text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// Adds a token that begins at character `offset`; returns where the next begins.
    pub(crate) fn push(&mut self, namer: &Namer, token: &Token, count: u32, offset: usize) -> usize {
        let name = namer.name(token.id);
        let mut top = Map::new();
        for &(id, logprob) in token.top.iter().take(count as usize) {
            top.entry(namer.name(id)).or_insert_with(|| written(logprob).into());
        }
        if let Some(logprob) = token.logprob {
            top.entry(name.clone()).or_insert_with(|| written(logprob).into());
        }
        let length = namer.tokenizer.token_bytes(token.id).map_or(0, |b| String::from_utf8_lossy(&b).chars().count());
        self.tokens.push(name);
        self.token_logprobs.push(token.logprob.map(written));
        self.top_logprobs.push(token.logprob.map(|_| top));
        self.text_offset.push(offset);
        offset + length
    }
}
