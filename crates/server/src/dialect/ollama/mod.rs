//! Ollama's own API. Streams are lines of JSON, and answers stream unless a request says otherwise.

mod answer;
pub(crate) mod blobs;
pub(crate) mod chat;
pub(crate) mod create;
pub(crate) mod generate;
mod modelfile;
pub(crate) mod models;
mod options;

pub(crate) use options::{Stop, keep_alive};
