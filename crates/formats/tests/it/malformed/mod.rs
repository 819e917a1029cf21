//! Malformed files. Every kind is a valid file with one thing changed; the error must name the file, the field, what was
//! expected and what was found, and say what to do.

mod gguf;
mod json;
mod llama2c;
mod safetensors;
mod split;

use allod_formats::Error;
use std::path::Path;

/// What the error for one kind of malformed file must say.
pub(crate) struct Says {
    pub(crate) unsupported: bool,
    pub(crate) field: &'static str,
    pub(crate) expected: &'static str,
    pub(crate) found: &'static str,
}

/// The file contradicts itself or the format.
pub(crate) const fn malformed(field: &'static str, expected: &'static str, found: &'static str) -> Says {
    Says { unsupported: false, field, expected, found }
}

/// The file may be sound, but nobody here can read it.
pub(crate) const fn unsupported(field: &'static str, expected: &'static str, found: &'static str) -> Says {
    Says { unsupported: true, field, expected, found }
}

/// Holds an error against what it must say. `kind` names the mutation.
pub(crate) fn check<T>(kind: &str, path: &Path, result: Result<T, Error>, says: &Says) {
    let Err(error) = result else { panic!("{kind}: was accepted") };
    let message = error.to_string();
    let (is_unsupported, at, field, expected, found, hint) = match error {
        Error::Malformed { path, field, expected, found, hint } => (false, path, field, expected, found, hint),
        Error::Unsupported { path, field, expected, found, hint } => (true, path, field, expected, found, hint),
        other => panic!("{kind}: {other:?}"),
    };
    assert_eq!(is_unsupported, says.unsupported, "{kind}: {message}");
    for (part, must) in [(&field, says.field), (&expected, says.expected), (&found, says.found)] {
        assert!(part.contains(must), "{kind}: {part:?} does not say {must:?} in: {message}");
        assert!(message.contains(part.as_str()), "{kind}: {message}");
    }
    assert_eq!(at, path, "{kind}: {message}");
    assert!(
        message.contains(&path.display().to_string()) && hint.len() > 10 && message.ends_with(hint),
        "{kind}: {message}"
    );
    assert!(message.len() < 400, "{kind}: too long: {message}");
}
