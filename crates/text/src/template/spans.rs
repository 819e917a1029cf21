//! `{% generation %}` blocks: what a model writes, marked in the template for training.
//!
//! The engine knows no such tag. The source is rewritten so that the block becomes a call to a function that puts two
//! marks around what it is given; the marks are taken out of the finished text, and their places are the spans.

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

/// Rewrites the tags; the number of lines stays.
pub(super) fn translate(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = match rest.as_bytes().get(1) {
            Some(b'#') => rest.find("#}").map_or(rest.len(), |end| end + 2),
            Some(b'{') => tag_length(rest, "}}"),
            Some(b'%') => tag_length(rest, "%}"),
            _ => 1,
        };
        let (tag, after) = rest.split_at(length);
        let inner = tag.strip_prefix("{%").and_then(|t| t.strip_suffix("%}"));
        match inner.map(|inner| (inner, inner.trim_matches(['-', '+']).trim())) {
            Some((inner, "generation")) => {
                out.push_str(&format!("{{%{}%}}", inner.replace("generation", &format!("call {FUNCTION}()"))));
                rest = after;
            }
            Some((inner, "endgeneration")) => {
                out.push_str(&format!("{{%{}%}}", inner.replace("endgeneration", "endcall")));
                rest = after;
            }
            Some((_, "raw")) => {
                let end = raw_length(after);
                out.push_str(tag);
                out.push_str(&after[..end]);
                rest = &after[end..];
            }
            _ => {
                out.push_str(tag);
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// Length of the tag that `text` begins with, strings inside it skipped; all of `text` where it does not end.
fn tag_length(text: &str, end: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if text[i..].starts_with(end) => return i + end.len(),
            None => {}
        }
    }
    text.len()
}

/// Bytes before the tag that ends a raw block.
fn raw_length(text: &str) -> usize {
    let ends = |at: &usize| text[at + 2..].trim_start_matches(['-', '+']).trim_start().starts_with("endraw");
    text.match_indices("{%").map(|(at, _)| at).find(ends).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tags_are_translated() {
        assert_eq!(
            translate("a{%- generation -%}b{% endgeneration %}"),
            "a{%- call __generation__() -%}b{% endcall %}"
        );
        for same in [
            "{# {% generation %} #}",
            "{{ '{% generation %}' }}",
            "{% raw %}{% generation %}{% endraw %}",
            "{% set x = \"%}{% generation %}\" %}",
            "{% set generation = 1 %}{ generation }",
            "{% generation",
            "{{ 'a\\'{% generation %}' }}",
        ] {
            assert_eq!(translate(same), same);
        }
    }
}
