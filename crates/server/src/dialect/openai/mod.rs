//! OpenAI's API, with the fields that vLLM and llama.cpp add to it.

pub(crate) mod chat;
mod chat_answer;
mod chat_stream;
pub(crate) mod completions;
mod completions_stream;
mod form;
mod logprobs;
mod message;
pub(crate) mod models;
mod sampling;
mod tools;
mod usage;

pub(crate) use completions::Prompt;
pub(crate) use logprobs::Namer;
pub(crate) use message::{Message, for_template};
pub(crate) use sampling::neutral;
pub(crate) use tools::{Tool, allowed, read as read_tools, word};
