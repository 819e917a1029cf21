//! Grammars that allow nothing but valid tool calls.

use super::format::{Body, Calls, Channels, Format};
use super::marker::{DIGITS, ID, KEY, Marker, WORD};
use crate::grammar::{Error, Spec, bounded, literal};
use crate::{Special, Tokenizer};
use serde_json::{Value, json};
use std::fmt::Write;

/// Which calls an answer must consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice<'a> {
    /// One or more calls of any tools (`tool_choice: "required"`); only one if not `parallel`.
    Required {
        /// More than one call may come.
        parallel: bool,
    },
    /// One call of this tool.
    Named(&'a str),
}

/// What an answer may be where it is no call.
#[derive(Clone, Debug, PartialEq)]
pub enum Otherwise {
    /// Any text.
    Text,
    /// JSON that keeps to a schema.
    Json(Value),
}

impl Format {
    /// A grammar for the answer after its reasoning: calls of `tools` (OpenAI's shape) and nothing else, written the way
    /// the model writes them, with arguments that keep to the tools' schemas.
    ///
    /// # Errors
    /// [`Error::Grammar`] when the format has no calls, or no tool fits `choice`.
    pub fn forced(&self, tools: &Value, choice: Choice<'_>, tokenizer: &Tokenizer) -> Result<Spec, Error> {
        let mut lark = Lark { tokenizer, rules: String::new() };
        let (open, calls) = self.all_calls(tools, choice, &mut lark)?;
        Ok(Spec::Lark(format!("start: {} {calls}\n{}", lark.marker(&open), lark.rules)))
    }

    /// A grammar for the answer after its reasoning that may, but need not call `tools`: an answer in another form, or
    /// calls as [`Format::forced`] has them, behind text where that is the other form.
    ///
    /// # Errors
    /// [`Error::Grammar`] when calls cannot be told from the other form, or as [`Format::forced`].
    pub fn offered(
        &self,
        tools: &Value,
        parallel: bool,
        otherwise: &Otherwise,
        tokenizer: &Tokenizer,
    ) -> Result<Spec, Error> {
        let mut lark = Lark { tokenizer, rules: String::new() };
        let (open, calls) = self.all_calls(tools, Choice::Required { parallel }, &mut lark)?;
        let start = match otherwise {
            Otherwise::Json(schema) => format!("{} {calls} | %json {}", lark.marker(&open), bounded(schema)),
            Otherwise::Text if self.channels.is_some() => {
                return Err(refuse("calls cannot be held to their schemas unless they are required"));
            }
            Otherwise::Text if open.text.contains([ID, DIGITS, WORD]) => {
                return Err(refuse("calls of this model begin in too many ways to be told from text"));
            }
            // Whatever begins like a call is one.
            Otherwise::Text if open.is_empty() => {
                lark.rules.push_str("FREE: /([^{\\[][\\s\\S]*)?/\n");
                format!("{calls} | FREE")
            }
            Otherwise::Text => {
                let opening = lark.text(&format!("{}{}", open.text, open.after));
                if opening.starts_with("<[") {
                    lark.rules.push_str("FREE: /[\\s\\S]*/\n");
                    format!("FREE {opening} {calls} | FREE")
                } else {
                    // The first opening ends the text before it.
                    let after = lark.text(&open.after);
                    let text = pattern(&open.text);
                    let _ = writeln!(lark.rules, "lead[suffix={}]: /[\\s\\S]*/", literal(&open.text));
                    let _ = writeln!(lark.rules, "FREE: /[\\s\\S]*/ & ~/[\\s\\S]*{text}[\\s\\S]*/");
                    format!("lead {after} {calls} | FREE")
                }
            }
        };
        Ok(Spec::Lark(format!("start: {start}\n{}", lark.rules)))
    }

    /// What opens the calls of an answer, and the rest of them.
    fn all_calls(&self, tools: &Value, choice: Choice<'_>, lark: &mut Lark<'_>) -> Result<(Marker, String), Error> {
        let functions = tools.as_array().into_iter().flatten().map(|tool| tool.get("function").unwrap_or(tool));
        let wanted = |function: &&Value| match choice {
            Choice::Named(name) => function["name"] == name,
            Choice::Required { .. } => true,
        };
        let functions: Vec<&Value> = functions.filter(wanted).collect();
        if functions.is_empty() {
            return Err(refuse("none of the tools may be called"));
        }
        let many = matches!(choice, Choice::Required { parallel: true });
        if let Some(kind @ (Channels::Harmony | Channels::Arrows)) = self.channels {
            let calls: Vec<String> = functions.iter().map(|function| lark.message(kind, function)).collect();
            return Ok((Marker::default(), format!("({})", calls.join(" | "))));
        }
        let Some(format) = self.calls.as_ref().filter(|_| self.channels.is_none()) else {
            return Err(refuse("the model's chat template shows no tool calls"));
        };
        let calls: Option<Vec<String>> = functions.iter().enumerate().map(|(n, f)| lark.call(format, n, f)).collect();
        let calls = calls.ok_or_else(|| refuse("the model's way of writing calls cannot be enforced"))?;
        let list = matches!(format.body, Body::Object { list: true, .. } | Body::Keyed { list: true } | Body::Python);
        // Calls that nothing encloses together each begin with their own opening.
        let alone = format.section.0.is_empty() && !list;
        let (open, close) = match alone {
            true => (format.each.0.clone(), String::new()),
            false => (format.section.0.clone(), lark.marker(&format.section.1)),
        };
        let each_open = lark.marker(&format.each.0);
        let first = if alone { String::new() } else { each_open.clone() };
        let between = if list { literal(", ") } else { literal(&format.each.0.before) };
        let _ = writeln!(lark.rules, "call: {}", calls.join(" | "));
        let more = if many { format!("({between} {each_open} call)*") } else { String::new() };
        let (left, right) = if list { (literal("["), literal("]")) } else { (String::new(), String::new()) };
        Ok((open, format!("{left} {first} call {more} {right} {close}")))
    }
}

fn refuse(message: &str) -> Error {
    Error::Grammar { at: "tool_choice".into(), message: message.into() }
}

/// A text as a regular expression between slashes.
fn pattern(text: &str) -> String {
    let escaped = |c: char| match c {
        '\n' => "\\n".into(),
        c if r"\.+*?()|[]{}^$/".contains(c) => format!("\\{c}"),
        c => c.to_string(),
    };
    text.chars().map(escaped).collect()
}

struct Lark<'a> {
    tokenizer: &'a Tokenizer,
    rules: String,
}

impl Lark<'_> {
    /// One call behind its opening.
    fn call(&mut self, calls: &Calls, n: usize, function: &Value) -> Option<String> {
        let name = function["name"].as_str()?;
        let schema = schema(function);
        let body = match &calls.body {
            Body::Object { name: name_key, arguments, id, .. } => {
                let start = format!("{{{}: {}, {}: ", json!(name_key), json!(name), json!(arguments));
                let id = id.as_ref().map(|id| {
                    format!("{} /[a-zA-Z0-9]{{9}}/ {}", literal(&format!(", {}: \"", json!(id))), literal("\""))
                });
                format!("{} %json {schema} {} {}", literal(&start), id.unwrap_or_default(), literal("}"))
            }
            Body::Keyed { .. } => {
                format!("{} %json {schema} {}", literal(&format!("{{{}: ", json!(name))), literal("}"))
            }
            Body::Named { after_name } => format!("{} {} %json {schema}", literal(name), self.marker(after_name)),
            Body::Pairs { after_name, .. } => {
                let start = format!("{} {}", literal(name), self.marker(after_name));
                format!("{start} {}", self.pairs(&calls.body, n, function)?)
            }
            Body::Python | Body::Gemma => return None,
        };
        // Templates differ in whether the closing begins a line, and so do models.
        let closing = &calls.each.1;
        let line = if closing.is_empty() || !closing.before.is_empty() { "" } else { "\"\\n\"?" };
        Some(format!("({body} {line} {})", self.marker(closing)))
    }

    /// Arguments with markers of their own, in the order of the schema.
    fn pairs(&mut self, body: &Body, n: usize, function: &Value) -> Option<String> {
        let Body::Pairs { key, value, close, string_word, .. } = body else { return None };
        if close.text.contains(KEY) {
            return None;
        }
        let schema = function.get("parameters").unwrap_or(&Value::Null);
        let required = |name: &str| schema["required"].as_array().is_some_and(|list| list.iter().any(|r| r == name));
        let mut parts = Vec::new();
        for (i, (property, schema)) in schema["properties"].as_object().into_iter().flatten().enumerate() {
            let free = schema["type"] == "string"
                && ["enum", "pattern", "format", "const"].iter().all(|k| schema.get(k).is_none());
            let fixed = schema["enum"].as_array().filter(|_| schema["type"] == "string");
            let word = match (string_word, schema["type"] == "string") {
                (Some(word), true) => word.as_str(),
                (Some(word), false) if word == "true" => "false",
                (Some(_), false) => schema["type"].as_str().unwrap_or("object"),
                (None, _) => "",
            };
            let value = self.marker(&Marker { text: value.text.replace(WORD, word), ..value.clone() });
            let opening = format!("{} {} {value}", self.marker(key), literal(property));
            let ending = self.marker(close);
            // Free text goes on to its closing, where that is text itself.
            if free && !ending.contains("<[") {
                let _ = writeln!(self.rules, "text_{n}_{i}[suffix={}]: /(?s:.*)/", ending.trim());
                let part = format!("({opening} text_{n}_{i})");
                parts.push(if required(property) { part } else { format!("{part}?") });
                continue;
            }
            let content = match fixed {
                Some(texts) => {
                    format!("({})", texts.iter().filter_map(Value::as_str).map(literal).collect::<Vec<_>>().join(" | "))
                }
                None if free => {
                    // Anything that does not look like the end of it.
                    let _ = writeln!(self.rules, "TEXT_{n}_{i}: /[^<\\[]*/");
                    format!("TEXT_{n}_{i}")
                }
                None if schema["type"] == "string" => return None,
                None => format!("%json {}", with_definitions(schema, function)),
            };
            let part = format!("({opening} {content} {ending})");
            parts.push(if required(property) { part } else { format!("{part}?") });
        }
        Some(parts.join(" "))
    }

    /// A call that is a message of its own.
    fn message(&mut self, kind: Channels, function: &Value) -> String {
        let name = function["name"].as_str().unwrap_or_default();
        let header = match kind {
            Channels::Harmony => format!("<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"),
            _ => format!("{name}\n"),
        };
        format!("({} %json {})", self.text(&header), schema(function))
    }

    /// A marker with its white space.
    fn marker(&self, marker: &Marker) -> String {
        if marker.text.is_empty() && marker.before.is_empty() && marker.after.is_empty() {
            return String::new();
        }
        self.text(&format!("{}{}{}", marker.before, marker.text, marker.after))
    }

    /// A text whose special tokens are tokens, and whose gaps are filled.
    fn text(&self, text: &str) -> String {
        let mut out = String::new();
        let gap = |c: char| matches!(c, ID | DIGITS | WORD);
        for part in text.split_inclusive(gap) {
            self.fixed(part.trim_end_matches(gap), &mut out);
            match part.chars().next_back() {
                Some(ID) => out.push_str("/[a-zA-Z0-9]{9}/ "),
                Some(DIGITS) => out.push_str("/[0-9]/ "),
                Some(WORD) => out.push_str("/[a-z]+/ "),
                _ => {}
            }
        }
        out
    }

    /// Literals between special tokens.
    fn fixed(&self, text: &str, out: &mut String) {
        let mut plain = text;
        while !plain.is_empty() {
            // The special token that comes first, by its text.
            let ids = self.tokenizer.encode(plain, Special::PARSE).unwrap_or_default();
            let mut specials = ids.into_iter().filter(|&id| self.tokenizer.is_special(id));
            let found = specials.find_map(|id| {
                let written = self.tokenizer.token_text(id)?;
                Some((id, plain.find(written)?, written.len()))
            });
            let Some((id, at, length)) = found else {
                let _ = write!(out, "{} ", literal(plain));
                return;
            };
            if at > 0 {
                let _ = write!(out, "{} ", literal(&plain[..at]));
            }
            let _ = write!(out, "<[{id}]> ");
            plain = &plain[at + length..];
        }
    }
}

/// The schema of a tool's arguments.
fn schema(function: &Value) -> Value {
    match function.get("parameters") {
        Some(schema @ Value::Object(_)) => bounded(schema),
        _ => bounded(&json!({"type": "object", "properties": {}, "additionalProperties": false})),
    }
}

/// A part of a schema with the definitions of the whole.
fn with_definitions(part: &Value, function: &Value) -> Value {
    let mut part = part.clone();
    for key in ["$defs", "definitions"] {
        if let (Some(fields), Some(definitions)) = (part.as_object_mut(), function["parameters"].get(key)) {
            fields.insert(key.into(), definitions.clone());
        }
    }
    bounded(&part)
}
