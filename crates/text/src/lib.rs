//! Tokenizers, chat templates and the streaming detokenizer.
//!
//! Text enters as a conversation or a string; a [`Tokenizer`] turns it into the ids a model reads, a [`Detokenizer`]
//! turns the ids a model writes back into text while they come.

mod detokenizer;
pub mod tokenizer;

pub use detokenizer::Detokenizer;
pub use tokenizer::{Role, Special, Tokenizer};
