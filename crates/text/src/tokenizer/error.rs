//! What can be wrong with a vocabulary, and what can go wrong while using one.

use std::path::PathBuf;

/// What can go wrong with a tokenizer.
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
    /// A folder holds none of the files that describe a tokenizer.
    #[error("{path}: no tokenizer here (looked for {looked_for})")]
    NotFound {
        /// The folder.
        path: PathBuf,
        /// The names tried.
        looked_for: &'static str,
    },
    /// The description is not what it says it is.
    #[error("{field}: expected {expected}, found {found}")]
    Malformed {
        /// The key, path or token.
        field: String,
        /// What should stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A kind of tokenizer, or one of its parts, that is not built yet.
    #[error("{field}: `{name}` is not supported{}", hint(nearest))]
    Unsupported {
        /// The key or path.
        field: String,
        /// The value there.
        name: String,
        /// The closest known value, where one is close.
        nearest: Option<String>,
    },
    /// A regular expression that cannot be compiled.
    #[error("pattern `{pattern}`: {message}")]
    Regex {
        /// The pattern, shortened.
        pattern: String,
        /// What the engine said.
        message: String,
    },
    /// A text that the vocabulary cannot encode.
    #[error("the text cannot be encoded: {0}")]
    Text(String),
    /// A text too large for one call.
    #[error("the text has {bytes} bytes; at most {limit} are encoded in one call")]
    TooLong {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |name| format!("; the nearest known one is `{name}`"))
}

impl Error {
    pub(super) fn malformed(field: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Error {
        let mut found: String = found.into();
        if found.chars().count() > 80 {
            found = found.chars().take(79).chain(['…']).collect();
        }
        Error::Malformed { field: field.into(), expected: expected.into(), found }
    }

    pub(super) fn unsupported(field: impl Into<String>, name: impl Into<String>) -> Error {
        Error::Unsupported { field: field.into(), name: name.into(), nearest: None }
    }

    pub(super) fn regex(pattern: &str, message: impl ToString) -> Error {
        Error::Regex { pattern: pattern.chars().take(120).collect(), message: message.to_string() }
    }
}
