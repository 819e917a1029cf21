use std::{
    fmt::{self, Display, Write},
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

/// The start of a text: what files hold may be of any length, and a message is for reading.
fn short(text: impl Display) -> String {
    struct Short(String);
    impl Write for Short {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            let room = 200 - self.0.len();
            let end = s.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|&end| end <= room).last();
            self.0.push_str(&s[..end.unwrap_or(0)]);
            if s.len() <= room { Ok(()) } else { Err(fmt::Error) }
        }
    }
    let mut out = Short(String::new());
    if write!(out, "{text}").is_err() {
        out.0.push('…');
    }
    out.0
}

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
            field: short(field),
            expected: short(expected),
            found: short(found),
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
            field: short(field),
            expected: short(expected),
            found: short(found),
            hint,
        }
    }

    pub(crate) fn unwritable(path: &Path, field: impl Display, expected: impl Display, found: impl Display) -> Error {
        Error::Unwritable { path: path.into(), field: short(field), expected: short(expected), found: short(found) }
    }
}
