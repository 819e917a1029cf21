//! `{% generation %}` blocks: what a model writes, marked in the template for training.
//!
//! The engine knows no such tag. The block becomes a call to a function that puts two marks around what it is given
//! ([`super::translate`]); the marks are taken out of the finished text, and their places are the spans.

use super::{Conversation, Rendered};
use minijinja::value::{Kwargs, Value};
use minijinja::{Error, State};
use std::collections::HashSet;

/// The function that marks. No template can name it by accident.
pub(super) const FUNCTION: &str = "__generation__";
/// The variable that holds the marks.
pub(super) const VARIABLE: &str = "generation()";

/// The characters put before and after a span.
#[derive(Clone, Copy)]
pub(super) struct Markers {
    open: char,
    close: char,
}

impl Markers {
    /// Two characters for private use that occur neither in the template nor in what it is given.
    pub(super) fn absent_from(source: &str, conversation: &Conversation) -> Markers {
        let mut used: HashSet<char> = source.chars().filter(|c| is_private(*c)).collect();
        let Conversation { messages, tools, documents, variables, .. } = conversation;
        let mut rest: Vec<&serde_json::Value> = vec![messages, tools, documents];
        rest.extend(variables.values());
        while let Some(value) = rest.pop() {
            match value {
                serde_json::Value::String(text) => used.extend(text.chars().filter(|c| is_private(*c))),
                serde_json::Value::Array(list) => rest.extend(list),
                serde_json::Value::Object(map) => {
                    used.extend(map.keys().flat_map(|k| k.chars()).filter(|c| is_private(*c)));
                    rest.extend(map.values());
                }
                _ => {}
            }
        }
        let mut free = ('\u{F0000}'..='\u{FFFFD}').filter(|c| !used.contains(c));
        // A text with all 65,534 of them does not get spans.
        let (open, close) = (free.next().unwrap_or('\u{F0000}'), free.next().unwrap_or('\u{F0001}'));
        Markers { open, close }
    }

    pub(super) fn as_string(self) -> String {
        String::from_iter([self.open, self.close])
    }

    /// Takes the marks out of `text`. A block inside a block belongs to the outer one.
    pub(super) fn collect(self, text: &str) -> Rendered {
        let mut out = String::with_capacity(text.len());
        let mut generated = Vec::new();
        let (mut depth, mut start) = (0usize, 0);
        for c in text.chars() {
            if c == self.open {
                if depth == 0 {
                    start = out.len();
                }
                depth += 1;
            } else if c == self.close {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    generated.push(start..out.len());
                }
            } else {
                out.push(c);
            }
        }
        Rendered { text: out, generated }
    }
}

fn is_private(c: char) -> bool {
    ('\u{F0000}'..='\u{FFFFD}').contains(&c)
}

/// Renders the block it is called with, and marks it.
pub(super) fn mark(state: &mut State, kwargs: Kwargs) -> Result<String, Error> {
    let body: Value = kwargs.get("caller")?;
    let body = body.call(state, &[])?.to_string();
    let markers = state.lookup(VARIABLE).map_or_else(String::new, |v| v.to_string());
    let mut markers = markers.chars();
    let (open, close) = (markers.next(), markers.next());
    Ok(open.into_iter().chain(body.chars()).chain(close).collect())
}
