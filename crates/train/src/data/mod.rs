//! Data sets: files to [`Example`]s to token ids with a mask of what is learned.
//!
//! [`read`] gives records, one at a time, whatever the file's format. [`shape`] recognizes what a record is (a chat, a
//! question with two answers, plain text, …). [`encode`] turns it into ids through the model's template and tokenizer.
//! [`store`] keeps the ids in a file that is mapped, so that a data set may be larger than memory; [`pack`] puts
//! sequences together.

pub mod encode;
pub mod pack;
#[cfg(feature = "parquet")]
mod parquet;
pub mod read;
pub mod report;
mod roles;
pub mod shape;
pub mod source;
pub mod store;

pub use encode::{Encoder, Mask, Truncation};
pub use shape::{Example, Form};
pub use source::Source;
pub use store::{Item, Sequence, Store};

use crate::error::Problem;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Marks a record of plain text that the next record continues.
pub(crate) const CONTINUES: &str = "\u{0}continues";

/// One record of a data set, and where it stands.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its fields.
    pub fields: Map<String, Value>,
    /// The file, as it was named.
    pub file: Arc<str>,
    /// The line it begins on, from 1 (in Parquet its row).
    pub line: usize,
}

impl Record {
    /// Something wrong with this record.
    pub(crate) fn problem(&self, message: impl Into<String>, hint: impl Into<String>) -> Problem {
        Problem { file: self.file.to_string(), line: self.line, message: message.into(), hint: hint.into() }
    }
}

/// A JSON value's kind, for messages.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
