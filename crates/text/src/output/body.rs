//! Reading one tool call, piece by piece.

use super::Event;
use super::format::{Body, Calls};
use super::literal::{self, coerce};
use super::marker::{Found, Marker};
use super::scan::Scan;
use serde_json::{Map, Value};

/// Bytes of a name at most.
const LONGEST_NAME: usize = 256;

/// What became of a call.
#[derive(Debug)]
pub(super) enum Step {
    /// More text is needed.
    More,
    /// It went on.
    Again,
    /// The call is complete.
    Done,
    /// It was no call but this text.
    NoCall(String),
}

/// Reads a call.
#[derive(Clone, Debug)]
pub(super) struct BodyReader {
    body: Body,
    close: Marker,
    id: Option<String>,
    tools: Value,
    state: State,
    /// What was read and not given out: text, should it turn out to be no call.
    raw: String,
    name: Option<String>,
    /// Arguments that came before the name.
    waiting: Option<String>,
    begun: bool,
}

#[derive(Clone, Debug)]
enum State {
    /// Before the call's object, or its name.
    Begin,
    /// Before a key of the object, or its end.
    Key,
    /// In the value of a key.
    Value(String),
    /// In the arguments, which are given out as they come.
    Arguments { scan: Scan, in_object: bool },
    /// Between arguments that have markers of their own; how many there were.
    Pairs(usize),
    /// In the value of one.
    Pair { count: usize, key: String, string: Option<bool> },
}

impl Calls {
    pub(super) fn is_object(&self) -> bool {
        matches!(self.body, Body::Object { .. } | Body::Keyed { .. })
    }

    /// What tells that calls begin.
    pub(super) fn trigger(&self) -> &Marker {
        if self.section.0.is_empty() { &self.each.0 } else { &self.section.0 }
    }
}

impl BodyReader {
    pub(super) fn new(calls: &Calls, id: String, tools: &Value) -> BodyReader {
        let close = if calls.each.1.is_empty() { calls.section.1.clone() } else { calls.each.1.clone() };
        BodyReader {
            body: calls.body.clone(),
            close,
            id: Some(id).filter(|id| !id.is_empty()),
            tools: tools.clone(),
            state: State::Begin,
            raw: String::new(),
            name: None,
            waiting: None,
            begun: false,
        }
    }

    /// Whether a text without any marker begins with a call: an object that names a tool.
    pub(super) fn bare(calls: &Calls, text: &str, tools: &Value) -> Step {
        let Body::Object { name, arguments, .. } = &calls.body else { return Step::NoCall(String::new()) };
        if !text.starts_with('{') && !text.starts_with("[{") {
            return if text == "[" { Step::More } else { Step::NoCall(String::new()) };
        }
        let object = text.trim_start_matches('[');
        match Scan::default().feed(object) {
            None => Step::More,
            Some(end) => match serde_json::from_str::<Value>(&object[..end]) {
                Ok(call) if call[name].as_str().is_some_and(|n| parameters(tools, n).is_some()) => {
                    let given = call.get(arguments).or(call.get("arguments")).or(call.get("parameters"));
                    if given.is_some() { Step::Done } else { Step::NoCall(String::new()) }
                }
                _ => Step::NoCall(String::new()),
            },
        }
    }

    pub(super) fn step(&mut self, held: &mut String, events: &mut Vec<Event>) -> Step {
        match (&self.body, self.state.clone()) {
            (Body::Object { .. } | Body::Keyed { .. }, State::Begin) => self.object(held),
            (_, State::Key) => self.key(held, events),
            (_, State::Value(key)) => self.value(held, &key),
            (_, State::Arguments { scan, in_object }) => self.arguments(held, events, scan, in_object),
            (Body::Python | Body::Gemma, _) => self.literals(held, events),
            (_, State::Begin) => self.named(held, events),
            (_, State::Pairs(count)) => self.pairs(held, events, count),
            (_, State::Pair { count, key, string }) => self.pair(held, events, count, &key, string),
        }
    }

    /// The answer ended inside the call.
    pub(super) fn finish(&mut self, rest: &str, events: &mut Vec<Event>) {
        match (&self.body, &self.state) {
            (Body::Python | Body::Gemma, _) => {
                let mut held = format!("{rest}{}", self.close.text);
                if let Step::NoCall(text) = self.literals(&mut held, events) {
                    events.push(Event::Content(text));
                }
            }
            (_, State::Pairs(count)) => {
                events.push(Event::Arguments(if *count == 0 { "{}".into() } else { "}".into() }));
                events.push(Event::CallEnd);
            }
            (_, State::Pair { count, key, string }) => {
                let text = self.pair_text(rest, *count, key, *string);
                events.extend([Event::Arguments(text + "}"), Event::CallEnd]);
            }
            _ if self.begun => events.extend([Event::Arguments(rest.to_owned()), Event::CallEnd]),
            _ => {
                let text = format!("{}{}", self.raw, rest);
                if !text.trim().is_empty() {
                    events.push(Event::Content(text));
                }
            }
        }
    }

    /// Moves bytes from the held text to what was read.
    fn take(&mut self, held: &mut String, length: usize) -> String {
        let text: String = held.drain(..length).collect();
        if !self.begun {
            self.raw.push_str(&text);
        }
        text
    }

    fn begin(&mut self, name: &str, events: &mut Vec<Event>) {
        events.push(Event::Call { name: name.to_owned(), id: self.id.clone() });
        self.begun = true;
        self.raw.clear();
    }

    fn no_call(&mut self, held: &mut String) -> Step {
        let rest: String = if self.begun { String::new() } else { std::mem::take(held) };
        Step::NoCall(std::mem::take(&mut self.raw) + &rest)
    }

    /// The beginning of an object; a list of them is none to speak of.
    fn object(&mut self, held: &mut String) -> Step {
        let skipped = held.len() - held.trim_start_matches(|c: char| c.is_whitespace() || c == '[').len();
        self.take(held, skipped);
        match held.chars().next() {
            None => Step::More,
            Some('{') => {
                self.take(held, 1);
                self.state = State::Key;
                Step::Again
            }
            Some(_) => self.no_call(held),
        }
    }

    fn key(&mut self, held: &mut String, events: &mut Vec<Event>) -> Step {
        let skipped = held.len() - held.trim_start_matches(|c: char| c.is_whitespace() || c == ',').len();
        self.take(held, skipped);
        match held.chars().next() {
            None => Step::More,
            Some('}') => {
                self.take(held, 1);
                if self.begun {
                    return Step::Done;
                }
                let Some(name) = self.name.clone() else { return self.no_call(held) };
                self.begin(&name, events);
                let arguments = self.waiting.take().unwrap_or_else(|| "{}".into());
                events.extend([Event::Arguments(arguments), Event::CallEnd]);
                Step::Done
            }
            Some('"') => {
                let mut scan = Scan::default();
                let Some(end) = scan.feed(held) else { return Step::More };
                let rest = held[end..].trim_start();
                let Some(value) = rest.strip_prefix(':') else {
                    return if rest.is_empty() { Step::More } else { self.no_call(held) };
                };
                if value.trim_start().is_empty() {
                    return Step::More;
                }
                let from = held.len() - value.trim_start().len();
                let Ok(key) = serde_json::from_str::<String>(&held[..end]) else { return self.no_call(held) };
                let object = held[from..].starts_with('{');
                self.take(held, from);
                let ready = match &self.body {
                    Body::Keyed { .. } => Some(key.clone()),
                    Body::Object { .. } if self.is_arguments(&key) => self.name.clone(),
                    _ => None,
                };
                self.state = match ready.filter(|_| object && !self.begun) {
                    Some(name) => {
                        self.begin(&name, events);
                        State::Arguments { scan: Scan::default(), in_object: true }
                    }
                    None => State::Value(key),
                };
                Step::Again
            }
            Some(_) => self.no_call(held),
        }
    }

    fn is_arguments(&self, key: &str) -> bool {
        matches!(&self.body, Body::Object { arguments, .. } if arguments == key)
            || matches!(key, "arguments" | "parameters")
    }

    /// The whole value of a key that is not the arguments, or comes before the name.
    fn value(&mut self, held: &mut String, key: &str) -> Step {
        let Some(end) = Scan::default().feed(held) else { return Step::More };
        let text = self.take(held, end);
        self.state = State::Key;
        let Body::Object { name, id, .. } = &self.body else { return Step::Again };
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        // Arguments may be written as text that is JSON.
        let written = value.as_str().map(str::to_owned);
        if key == name || key == "name" {
            self.name = written;
        } else if id.as_deref() == Some(key) {
            self.id = written;
        } else if self.is_arguments(key) {
            self.waiting = Some(written.unwrap_or(text));
        }
        Step::Again
    }

    fn arguments(&mut self, held: &mut String, events: &mut Vec<Event>, mut scan: Scan, in_object: bool) -> Step {
        let end = scan.feed(held);
        let text: String = held.drain(..end.unwrap_or(held.len())).collect();
        if !text.is_empty() {
            events.push(Event::Arguments(text));
        }
        self.state = State::Arguments { scan, in_object };
        if end.is_none() {
            return Step::More;
        }
        events.push(Event::CallEnd);
        if !in_object {
            return Step::Done;
        }
        self.state = State::Key;
        Step::Again
    }

    fn named(&mut self, held: &mut String, events: &mut Vec<Event>) -> Step {
        let (Body::Named { after_name } | Body::Pairs { after_name, .. }) = &self.body else {
            return self.no_call(held);
        };
        let after_name = after_name.clone();
        let text = held.trim_start();
        let skipped = held.len() - text.len();
        let end = match after_name.find(text, "") {
            _ if after_name.is_empty() => {
                let end = text.find(|c: char| c.is_whitespace() || "<[{(".contains(c));
                let Some(end) = end else { return self.too_long(held) };
                Some((end, 0))
            }
            Some((at, Found::Whole(length, id))) => {
                if !id.is_empty() {
                    self.id = Some(id);
                }
                Some((at, length))
            }
            Some((at, _)) if text.len() - at < LONGEST_NAME && at < LONGEST_NAME => return Step::More,
            _ => None,
        };
        let Some((at, length)) = end else { return self.too_long(held) };
        let name = text[..at].trim().to_owned();
        if name.is_empty() || name.len() > LONGEST_NAME || name.contains(['\n', '<']) {
            return self.no_call(held);
        }
        self.take(held, skipped + at + length);
        self.begin(&name, events);
        self.name = Some(name);
        self.state = match self.body {
            Body::Named { .. } => State::Arguments { scan: Scan::default(), in_object: false },
            _ => State::Pairs(0),
        };
        Step::Again
    }

    fn too_long(&mut self, held: &mut String) -> Step {
        if held.len() > LONGEST_NAME { self.no_call(held) } else { Step::More }
    }

    fn pairs(&mut self, held: &mut String, events: &mut Vec<Event>, count: usize) -> Step {
        let Body::Pairs { key, value, string_word, .. } = self.body.clone() else { return Step::Done };
        let text = held.trim_start().to_owned();
        let skipped = held.len() - text.len();
        let closed = self.close.at_start(&text, "");
        if let Found::Whole(length, _) = key.at_start(&text, "")
            && closed == Found::No
        {
            let rest = &text[length..];
            return match value.find(rest, "") {
                Some((at, Found::Whole(inner, word))) => {
                    let name = rest[..at].trim().to_owned();
                    let string = string_word.filter(|_| !word.is_empty()).map(|expected| expected == word);
                    held.drain(..skipped + length + at + inner);
                    self.state = State::Pair { count, key: name, string };
                    Step::Again
                }
                _ => Step::More,
            };
        }
        if closed == Found::Partly || key.at_start(&text, "") == Found::Partly || text.is_empty() {
            return Step::More;
        }
        events.extend([Event::Arguments(if count == 0 { "{}".into() } else { "}".into() }), Event::CallEnd]);
        Step::Done
    }

    fn pair(
        &mut self,
        held: &mut String,
        events: &mut Vec<Event>,
        count: usize,
        key: &str,
        string: Option<bool>,
    ) -> Step {
        let Body::Pairs { close, .. } = &self.body else { return Step::Done };
        let Some((at, Found::Whole(length, _))) = close.find(held, key) else { return Step::More };
        let text = held[..at].to_owned();
        held.drain(..at + length);
        events.push(Event::Arguments(self.pair_text(&text, count, key, string)));
        self.state = State::Pairs(count + 1);
        Step::Again
    }

    /// An argument as a member of a JSON object.
    fn pair_text(&self, text: &str, count: usize, key: &str, string: Option<bool>) -> String {
        let Body::Pairs { value, close, key: key_open, .. } = &self.body else { return String::new() };
        let text = text.strip_prefix(&*value.after).unwrap_or(text);
        let text = text.strip_suffix(&*close.before).unwrap_or(text);
        let quoted = text.strip_prefix("<![CDATA[").and_then(|text| text.strip_suffix("]]>"));
        let text = quoted.unwrap_or(text);
        let schema = self.name.as_deref().and_then(|name| parameters(&self.tools, name)?.get("properties")?.get(key));
        let json = match string {
            Some(true) => Value::String(text.to_owned()),
            _ if text.starts_with(&*key_open.text) && close.text.contains(super::marker::KEY) => {
                elements(text, &key_open.text).unwrap_or_else(|| coerce(text, schema))
            }
            _ => coerce(text, schema),
        };
        let start = if count == 0 { "{" } else { ", " };
        format!("{start}{}: {json}", Value::from(key))
    }

    /// Calls that are read whole.
    fn literals(&mut self, held: &mut String, events: &mut Vec<Event>) -> Step {
        let Some((at, Found::Whole(_, _))) = self.close.find(held, "") else {
            return if self.close.is_empty() { self.no_call(held) } else { Step::More };
        };
        let text: String = held.drain(..at).collect();
        let calls = match self.body {
            Body::Python => python_calls(&text),
            _ => gemma_call(&text).map(|call| vec![call]),
        };
        let Some(calls) = calls else { return Step::NoCall(text) };
        for (name, arguments) in calls {
            self.begin(&name, events);
            events.extend([Event::Arguments(Value::Object(arguments).to_string()), Event::CallEnd]);
        }
        Step::Done
    }
}

/// The schema of a tool's parameters; null when it has none; nothing when there is no such tool.
pub(super) fn parameters<'a>(tools: &'a Value, name: &str) -> Option<&'a Value> {
    let functions = tools.as_array()?.iter().map(|tool| tool.get("function").unwrap_or(tool));
    let function = functions.into_iter().find(|function| function["name"] == name)?;
    Some(function.get("parameters").unwrap_or(&Value::Null))
}

/// `[name(key=value, …), …]`, brackets optional.
fn python_calls(text: &str) -> Option<Vec<(String, Map<String, Value>)>> {
    let mut reader = literal::Reader { rest: text };
    reader.eat("[");
    let mut calls = Vec::new();
    loop {
        let name = reader.name()?;
        let mut arguments = Map::new();
        if !reader.eat("(") {
            return None;
        }
        while !reader.eat(")") {
            let key = reader.name()?;
            if !reader.eat("=") {
                return None;
            }
            arguments.insert(key, reader.value(0)?);
            reader.eat(",");
        }
        calls.push((name, arguments));
        if !reader.eat(",") {
            break;
        }
    }
    reader.eat("]");
    reader.rest.trim().is_empty().then_some(calls)
}

/// `name{key:value,…}`.
fn gemma_call(text: &str) -> Option<(String, Map<String, Value>)> {
    let mut reader = literal::Reader { rest: text };
    let name = reader.name()?;
    let Value::Object(arguments) = reader.value(0)? else { return None };
    reader.rest.trim().is_empty().then_some((name, arguments))
}

/// Nested elements, `<key>…</key>` with `open` for `<`: an object, or a list where all are called `item`.
fn elements(text: &str, open: &str) -> Option<Value> {
    let mut rest = text.trim();
    let mut members: Vec<(String, Value)> = Vec::new();
    while !rest.is_empty() {
        let inside = rest.strip_prefix(open)?;
        let name = &inside[..inside.find('>')?];
        let inside = &inside[name.len() + 1..];
        let close = format!("{open}/{name}>");
        let same = format!("{open}{name}>");
        let mut end = inside.find(&close)?;
        // An element inside one of its own name.
        while inside[..end].matches(&same).count() > inside[..end].matches(&close).count() {
            end += close.len() + inside[end + close.len()..].find(&close)?;
        }
        let value = match inside[..end].trim().starts_with(open) {
            true => elements(&inside[..end], open)?,
            false => coerce(&inside[..end], None),
        };
        members.push((name.to_owned(), value));
        rest = inside[end + close.len()..].trim_start();
    }
    match members.iter().all(|(name, _)| name == "item") {
        true => Some(members.into_iter().map(|(_, value)| value).collect()),
        false => Some(Value::Object(members.into_iter().collect())),
    }
}
