//! What went wrong, on stderr: the chain of causes, and what to do about it.

use allod_engine::{Error as Engine, ParamError};
use anyhow::Error;
use std::fmt;
use std::io::{ErrorKind, Write, stderr};
use std::process::ExitCode;

/// An error that says what to do next.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: String,
}

impl Failure {
    /// `message` says what happened, `hint` what to do.
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure { message: message.into(), hint: hint.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Prints the error and gives the exit code of the program.
pub(crate) fn report(error: &Error) -> ExitCode {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    if io.is_some_and(|e| e.kind() == ErrorKind::BrokenPipe) {
        // Whoever read the answer has read enough.
        return ExitCode::SUCCESS;
    }
    let _ = stderr().write_all(told(error).as_bytes());
    ExitCode::FAILURE
}

/// The lines for a person.
pub(crate) fn told(error: &Error) -> String {
    let mut text = String::new();
    let mut last = String::new();
    for (i, cause) in error.chain().map(ToString::to_string).enumerate() {
        // Errors that show their source themselves would say it twice.
        if !last.ends_with(&cause) {
            text.push_str(&format!("{}: {cause}\n", if i == 0 { "error" } else { "  because" }));
        }
        last = cause;
    }
    if let Some(hint) = hint(error) {
        text.push_str(&format!("hint: {hint}\n"));
    }
    text
}

fn hint(error: &Error) -> Option<String> {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return Some(failure.hint.clone());
    }
    if let Some(param) = error.downcast_ref::<ParamError>() {
        return Some(another(param));
    }
    match error.downcast_ref::<Engine>()? {
        Engine::PromptTooLong { tokens, .. } => {
            Some(format!("give it more room with --ctx {}, or shorten the prompt", (tokens + 1).next_power_of_two()))
        }
        Engine::EmptyPrompt => Some("give a prompt: allod run MODEL 'PROMPT'".into()),
        Engine::Params(param) => Some(another(param)),
        Engine::Sample(_) => Some("check the file with `allod inspect`, or get it again".into()),
        _ => None,
    }
}

fn another(param: &ParamError) -> String {
    format!("choose another --{}; `allod run --help` lists them", param.name.replace('_', "-"))
}
