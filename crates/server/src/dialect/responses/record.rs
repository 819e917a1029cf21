//! A response as it is remembered and as it is told.

use super::KIND;
use super::form::{Format, ResponseForm};
use super::items::{Items, Step};
use crate::app::App;
use crate::error::ApiError;
use crate::generate::{Piece, Reason};
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
    /// The answer so far, and how many of its tokens were reasoning.
    #[serde(skip)]
    items: Items,
    #[serde(skip)]
    reasoning: usize,
    created: u64,
    model: String,
    instructions: Option<String>,
    store: bool,
    background: bool,
    max_output_tokens: Option<u32>,
    temperature: f32,
    top_p: f32,
    metadata: Map<String, Value>,
    #[serde(default)]
    tools: Value,
    #[serde(default)]
    tool_choice: Value,
    #[serde(default)]
    parallel_tool_calls: bool,
    #[serde(default)]
    effort: Option<String>,
    #[serde(default)]
    format: Value,
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
            items: Items::default(),
            reasoning: 0,
            created,
            model: model.into(),
            instructions: form.instructions.clone(),
            store: form.store.unwrap_or(true),
            background: form.background,
            max_output_tokens: form.max_output_tokens,
            temperature: form.temperature.unwrap_or(1.0),
            top_p: form.top_p.unwrap_or(1.0),
            metadata: form.metadata.clone().unwrap_or_default(),
            tools: json!(form.tools.clone().unwrap_or_default()),
            tool_choice: form.tool_choice.clone().unwrap_or_else(|| "auto".into()),
            parallel_tool_calls: form.parallel_tool_calls.unwrap_or(true),
            effort: form.reasoning.as_ref().and_then(|reasoning| reasoning.effort.clone()),
            format: json!(form.text.as_ref().and_then(|text| text.format.as_ref()).unwrap_or(&Format::Text)),
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

    /// Takes a piece of the answer; `tell` hears what became of which item.
    pub(super) fn take(&mut self, piece: Piece, tell: &mut impl FnMut(usize, Step<'_>)) {
        match piece {
            Piece::Delta(delta) => {
                self.reasoning += delta.reasoning;
                delta.parts.into_iter().for_each(|part| self.items.take(part, tell));
            }
            Piece::Finished(reason, stats) => {
                self.incomplete = matches!(reason, Reason::Length | Reason::ContextFull);
                self.status = if self.incomplete { "incomplete" } else { "completed" }.into();
                self.output = self.items.end(&self.status, tell);
                self.usage = json!({
                    "input_tokens": stats.prompt_tokens,
                    "input_tokens_details": { "cached_tokens": stats.cached_tokens },
                    "output_tokens": stats.generated_tokens,
                    "output_tokens_details": { "reasoning_tokens": self.reasoning },
                    "total_tokens": stats.prompt_tokens + stats.generated_tokens,
                });
            }
            Piece::Prompt(_) | Piece::Scored(_) | Piece::Embedded(_) => {}
        }
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
            "parallel_tool_calls": self.parallel_tool_calls,
            "previous_response_id": self.previous_response_id,
            "reasoning": { "effort": self.effort, "summary": null },
            "store": self.store,
            "temperature": self.temperature,
            "text": { "format": self.format },
            "tool_choice": self.tool_choice,
            "tools": self.tools,
            "top_p": self.top_p,
            "truncation": "disabled",
            "usage": self.usage,
            "metadata": self.metadata,
        })
    }
}
