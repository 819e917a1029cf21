use std::{
    fmt::Display,
    path::{Path, PathBuf},
};

/// What can go wrong with a model file. Every message names the file, the field or tensor, what was expected and what
/// was found; where something can be done about it, it ends with what.
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
    /// The file is not what it says it is.
    #[error("{path}: {field}: expected {expected}, found {found}; {hint}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The field, key or tensor.
        field: String,
        /// What should stand there.
        expected: String,
        /// What stands there.
        found: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// The file is sound, as far as it was read, but uses something that is not supported.
    #[error("{path}: {field}: expected {expected}, found {found}; {hint}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The field, key or tensor.
        field: String,
        /// What is supported.
        expected: String,
        /// What stands there.
        found: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// A caller asked to write something that the format cannot hold, or in another order than it announced.
    #[error("{path}: {field}: expected {expected}, got {found}; nothing was written")]
    Unwritable {
        /// The file that was to be written.
        path: PathBuf,
        /// The key or tensor.
        field: String,
        /// What the format, or the announcement, asks for.
        expected: String,
        /// What was given.
        found: String,
    },
    /// There is no such tensor.
    #[error("{origin}: there is no tensor {name}")]
    NoTensor {
        /// The source asked.
        origin: String,
        /// The tensor asked for.
        name: String,
    },
}

/// The hint for bytes that contradict each other.
pub(crate) const DAMAGED: &str = "the file is damaged or was made wrongly: fetch or convert it again";
/// The hint for bytes that stop too early.
pub(crate) const TRUNCATED: &str = "the file is incomplete: fetch it again";

impl Error {
    pub(crate) fn io(path: &Path) -> impl Fn(std::io::Error) -> Error {
        move |source| Error::Io { path: path.into(), source }
    }

    pub(crate) fn malformed(
        path: &Path,
        field: impl Display,
        expected: impl Display,
        found: impl Display,
        hint: &'static str,
    ) -> Error {
        Error::Malformed {
            path: path.into(),
            field: field.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
            hint,
        }
    }

    pub(crate) fn unsupported(
        path: &Path,
        field: impl Display,
        expected: impl Display,
        found: impl Display,
        hint: &'static str,
    ) -> Error {
        Error::Unsupported {
            path: path.into(),
            field: field.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
            hint,
        }
    }

    pub(crate) fn unwritable(path: &Path, field: impl Display, expected: impl Display, found: impl Display) -> Error {
        Error::Unwritable {
            path: path.into(),
            field: field.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }
}
