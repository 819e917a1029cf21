//! A response as it is remembered and as it is told.

use super::KIND;
use super::form::ResponseForm;
use crate::app::App;
use crate::error::ApiError;
use allod_engine::Stats;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) status: String,
    pub(super) previous_response_id: Option<String>,
    pub(super) input: Vec<Value>,
    /// Items of the answer, once it is complete.
    pub(super) output: Vec<Value>,
    /// The answer so far.
    #[serde(skip)]
    pub(super) text: String,
    pub(super) message_id: String,
    created: u64,
    model: String,
    instructions: Option<String>,
    store: bool,
    background: bool,
    max_output_tokens: Option<u32>,
    temperature: f32,
    top_p: f32,
    metadata: Map<String, Value>,
    error: Value,
    incomplete: bool,
    usage: Value,
}

impl Record {
    pub(super) fn new(form: &ResponseForm, model: &str, input: Vec<Value>, created: u64) -> Record {
        Record {
            id: crate::ids::new("resp_"),
            status: "in_progress".into(),
            previous_response_id: form.previous_response_id.clone(),
            input,
            output: Vec::new(),
            text: String::new(),
            message_id: crate::ids::new("msg_"),
            created,
            model: model.into(),
            instructions: form.instructions.clone(),
            store: form.store.unwrap_or(true),
            background: form.background,
            max_output_tokens: form.max_output_tokens,
            temperature: form.temperature.unwrap_or(1.0),
            top_p: form.top_p.unwrap_or(1.0),
            metadata: form.metadata.clone().unwrap_or_default(),
            error: Value::Null,
            incomplete: false,
            usage: Value::Null,
        }
    }

    pub(super) fn load(app: &App, id: &str) -> Result<Record, ApiError> {
        let found = app.store.get(KIND, id).map_err(ApiError::internal)?;
        found.ok_or_else(|| ApiError::not_found(format!("there is no response {id:?}")))
    }

    /// Writes it down, unless the client wants it forgotten.
    pub(super) fn save(&self, app: &App) -> Result<(), ApiError> {
        if !self.store {
            return Ok(());
        }
        app.store.put(KIND, &self.id, self).map_err(ApiError::internal)
    }

    /// It was ended before its time.
    pub(super) fn cancelled(self) -> Record {
        Record { status: "cancelled".into(), ..self }
    }

    pub(super) fn fail(&mut self, error: &ApiError) {
        self.status = "failed".into();
        self.error = json!({ "code": "server_error", "message": error.message });
    }

    /// The answer is complete, or as long as it may be.
    pub(super) fn end(&mut self, complete: bool, stats: &Stats) {
        self.status = if complete { "completed" } else { "incomplete" }.into();
        self.incomplete = !complete;
        self.output = vec![self.message(&self.status)];
        self.usage = json!({
            "input_tokens": stats.prompt_tokens,
            "input_tokens_details": { "cached_tokens": stats.cached_tokens },
            "output_tokens": stats.generated_tokens,
            "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": stats.prompt_tokens + stats.generated_tokens,
        });
    }

    /// The answer's message.
    pub(super) fn message(&self, status: &str) -> Value {
        json!({
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [self.part()],
        })
    }

    pub(super) fn part(&self) -> Value {
        json!({ "type": "output_text", "text": self.text, "annotations": [], "logprobs": [] })
    }

    pub(super) fn object(&self) -> Value {
        json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": self.status,
            "background": self.background,
            "error": self.error,
            "incomplete_details": self.incomplete.then(|| json!({ "reason": "max_output_tokens" })),
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "model": self.model,
            "output": self.output,
            "parallel_tool_calls": true,
            "previous_response_id": self.previous_response_id,
            "reasoning": { "effort": null, "summary": null },
            "store": self.store,
            "temperature": self.temperature,
            "text": { "format": { "type": "text" } },
            "tool_choice": "auto",
            "tools": [],
            "top_p": self.top_p,
            "truncation": "disabled",
            "usage": self.usage,
            "metadata": self.metadata,
        })
    }
}
