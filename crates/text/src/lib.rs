//! Tokenizers, chat templates, the streaming detokenizer and grammars.
//!
//! A conversation enters as JSON and leaves a [`Template`] as text; a [`Tokenizer`] turns text into the ids a model
//! reads; a [`Detokenizer`] turns the ids a model writes back into text while they come. A
//! [`Grammar`] says which ids may come next.

mod detokenizer;
pub mod grammar;
pub mod output;
pub mod template;
pub mod tokenizer;

pub use detokenizer::Detokenizer;
pub use grammar::Grammar;
pub use template::{Conversation, Guard, Rendered, Template, Templates};
pub use tokenizer::{Role, Special, Tokenizer};
