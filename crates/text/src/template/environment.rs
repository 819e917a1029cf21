//! The engine set up as Transformers sets up Jinja2.

use super::{clock, json, methods, python, spans, translate};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State};

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
    environment.add_function(translate::ITERABLE, iterable);
    environment.add_filter(translate::ESCAPE, escape);
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_filter("indent", indent);
    environment.add_filter("string", |value: &Value| match value.as_str() {
        Some(_) => value.clone(),
        None => Value::from(python::text(value)),
    });
    environment.set_formatter(|out, state, value| match python::prints_differently(value, 0) {
        true => out.write_str(&python::text(value)).map_err(Error::from),
        false => minijinja::escape_formatter(out, state, value),
    });
    for (lazy, eager) in translate::LAZY {
        let filter = move |state: &mut State, positional: Rest<Value>, kwargs: Kwargs| {
            let mut arguments = positional.0;
            if kwargs.args().next().is_some() {
                arguments.push(kwargs.into());
            }
            generator(state, eager, &arguments)
        };
        environment.add_filter(lazy, filter);
    }
    environment
}

/// What a loop iterates over: anything but `None`, of which the engine would make no turns at all.
fn iterable(value: Value) -> Result<Value, Error> {
    match value.is_none() {
        true => Err(Error::new(ErrorKind::InvalidOperation, "`none` is not iterable")),
        false => Ok(value),
    }
}

/// HTML escapes in text that is not safe.
fn escape(value: &Value) -> String {
    let text = python::text(value);
    if value.is_safe() {
        return text;
    }
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;").replace('"', "&#34;")
}

/// What a filter gives, as a sequence that can only be gone through, as Jinja2's generators: no length, no index, no
/// JSON.
fn generator(state: &mut State, filter: &str, arguments: &[Value]) -> Result<Value, Error> {
    let items: Vec<Value> = state.apply_filter(filter, arguments)?.try_iter()?.collect();
    // A filtered iterator does not know how long it is.
    Ok(Value::make_iterable(move || items.clone().into_iter().filter(|_| true)))
}

fn raise(message: Option<Value>, _: Rest<Value>, _: Kwargs) -> Result<Value, Error> {
    let message = message.map_or_else(String::new, |m| python::text(&m));
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
}

/// Jinja2's `indent(width=4, first=False, blank=False)`; the engine's loses a newline at the end.
fn indent(text: &str, positional: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let argument = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        Ok(positional.get(index).cloned().or(kwargs.get(name)?))
    };
    let width = argument(0, "width")?.unwrap_or_else(|| 4.into());
    let indentation = match (width.as_str(), width.as_usize()) {
        (Some(text), _) => text.to_owned(),
        (None, Some(width @ ..=1000)) => " ".repeat(width),
        _ => return Err(Error::new(ErrorKind::InvalidOperation, "indent: expected a width from 0 to 1000")),
    };
    let first = argument(1, "first")?.is_some_and(|v| v.is_true());
    let blank = argument(2, "blank")?.is_some_and(|v| v.is_true());
    kwargs.assert_all_used()?;
    let mut out = String::with_capacity(text.len() + text.len() / 4);
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if if i == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&indentation);
        }
        out.push_str(line);
    }
    Ok(out)
}
