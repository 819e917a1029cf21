//! What this room promises, against real vocabularies and against other implementations.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod conversion;
mod grammar;
mod guard;
mod malformed;
mod oracle;
mod output;
mod small_vocabularies;
mod streaming;
mod templates;
mod vocabularies;

use allod_formats::{Gguf, WeightSource};
use allod_text::Tokenizer;
use std::path::Path;

/// The tokenizer of a GGUF file.
fn gguf(path: &Path) -> Tokenizer {
    let gguf = Gguf::open(path).unwrap();
    Tokenizer::from_gguf(gguf.metadata()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
