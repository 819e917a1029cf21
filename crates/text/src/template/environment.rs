//! The engine set up as Transformers sets up Jinja2.

use super::{clock, json, methods, spans};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind};

/// A template's own refusal, carried through the engine.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Raised(pub(super) String);

/// An environment with everything chat templates use.
pub(super) fn new() -> Environment<'static> {
    let mut environment = Environment::new();
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(methods::call);
    environment.add_filter("tojson", json::filter);
    environment.add_function("raise_exception", raise);
    environment.add_function("strftime_now", clock::strftime_now);
    environment.add_function(spans::FUNCTION, spans::mark);
    environment
}

fn raise(message: Option<Value>, _: Rest<Value>, _: Kwargs) -> Result<Value, Error> {
    let message = message.map_or_else(String::new, |m| m.to_string());
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
}
