//! What can go wrong with a training run. Every message says where, what, and what to do about it.

use std::path::{Path, PathBuf};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A record of a data set is not usable.
    #[error("{0}")]
    Data(Problem),
    /// A setting, or how settings fit together.
    #[error("{what}: {message}; {hint}")]
    Setting {
        /// The setting, by its name in the file.
        what: String,
        /// What is wrong with it.
        message: String,
        /// What to do.
        hint: String,
    },
    /// A file of a run is not what it should be.
    #[error("{path}: {message}; {hint}")]
    Run {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
        /// What to do.
        hint: String,
    },
    /// The numbers are no numbers any more.
    #[error("step {step}: {what}; the last good checkpoint is {kept}; {hint}")]
    Diverged {
        /// The optimizer step, from 1.
        step: usize,
        /// Which number, and of what.
        what: String,
        /// What remains.
        kept: String,
        /// What to do.
        hint: String,
    },
    /// A model file.
    #[error(transparent)]
    Formats(#[from] allod_formats::Error),
    /// A model.
    #[error(transparent)]
    Model(#[from] allod_models::Error),
    /// A vocabulary.
    #[error(transparent)]
    Tokenizer(#[from] allod_text::tokenizer::Error),
    /// A chat template.
    #[error(transparent)]
    Template(#[from] allod_text::template::Error),
    /// The model refuses a step.
    #[error("{0}")]
    Compute(String),
    /// Ctrl-C.
    #[error("stopped; `--resume` goes on from the last checkpoint")]
    Stopped,
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl Fn(std::io::Error) -> Error {
        move |source| Error::Io { path: path.into(), source }
    }

    pub(crate) fn setting(what: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::Setting { what: what.into(), message: message.into(), hint: hint.into() }
    }

    pub(crate) fn run(path: &Path, message: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::Run { path: path.into(), message: message.into(), hint: hint.into() }
    }
}

/// What is wrong with one record of a data set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}; {hint}")]
pub struct Problem {
    /// The file, as it was named.
    pub file: String,
    /// The line its record begins on, or that the parser stopped at; from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}
