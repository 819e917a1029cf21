//! Translators between what clients speak and the one form of request inside.

pub(crate) mod adapters;
pub(crate) mod anthropic;
pub(crate) mod decisions;
pub(crate) mod infill;
pub(crate) mod jobs;
pub(crate) mod judge;
pub(crate) mod ollama;
pub(crate) mod openai;
pub(crate) mod responses;
pub(crate) mod structure;
pub(crate) mod tokens;
pub(crate) mod vectors;
