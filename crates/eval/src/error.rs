//! What can go wrong.

use std::path::PathBuf;

/// Why there is no number.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model could not run the tokens.
    #[error(transparent)]
    Engine(#[from] allod_engine::Error),
    /// Too little text.
    #[error(
        "the text has {found} tokens and a context of {context} needs at least {needed}: take a longer text, or a smaller --ctx"
    )]
    TooShort {
        /// Tokens of the text.
        found: usize,
        /// Tokens of a window.
        context: usize,
        /// Tokens needed.
        needed: usize,
    },
    /// A stride that leaves no context, or none.
    #[error(
        "a stride of {stride} does not fit a context of {context}: it must be at least 1 and smaller than the context"
    )]
    Stride {
        /// The stride.
        stride: usize,
        /// Tokens of a window.
        context: usize,
    },
    /// The model gave something that is no number.
    #[error("the logits at token {position} hold {value}: the weights are damaged, or overflow in this type")]
    NotFinite {
        /// Position in the text.
        position: usize,
        /// What was found.
        value: f32,
    },
    /// The file of a reference cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path}: {field}: expected {expected}, found {found}")]
    File {
        /// The file.
        path: PathBuf,
        /// The part of it.
        field: &'static str,
        /// What should stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// Two models that do not speak the same tokens.
    #[error("the reference has a vocabulary of {expected}, the model of {found}: they cannot be compared")]
    Vocabulary {
        /// Ids of the reference.
        expected: usize,
        /// Ids of the model.
        found: usize,
    },
    /// The caller asked to stop.
    #[error("stopped")]
    Stopped,
}
