//! Tokenizers, chat templates and the streaming detokenizer.
//!
//! A conversation enters as JSON and leaves a [`Template`] as text; a [`Tokenizer`] turns text into the ids a model
//! reads; a [`Detokenizer`] turns the ids a model writes back into text while they come.

mod detokenizer;
pub mod template;
pub mod tokenizer;

pub use detokenizer::Detokenizer;
pub use template::{Conversation, Rendered, Template, Templates};
pub use tokenizer::{Role, Special, Tokenizer};
