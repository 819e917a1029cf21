//! Anthropic's messages.

mod answer;
mod message;
pub(crate) mod messages;
mod tools;
