//! What a model writes, told apart: reasoning, content, tool calls.
//!
//! Models are trained on what their chat template renders, so the template knows how they write. [`Format::learn`] renders
//! known conversations and reads the markers off the result; a [`Parser`] finds them in a stream again, and
//! [`Format::forced`] writes a grammar that allows nothing but valid calls.

mod body;
mod channels;
mod constrain;
mod format;
mod learn;
mod literal;
mod marker;
mod reader;
mod scan;

pub use constrain::{Choice, Otherwise};
pub use format::{Format, Thinking};
pub use reader::Reader;

use body::{BodyReader, Step};
use format::PYTHON_TAG;
use marker::{Found, Marker};
use serde_json::Value;

/// A part of an answer, in the order of writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// More of the content.
    Content(String),
    /// More of the reasoning.
    Reasoning(String),
    /// A call begins.
    Call {
        /// The tool.
        name: String,
        /// What the model calls this call, where it says so before the arguments.
        id: Option<String>,
    },
    /// More of the arguments of the last call: together a JSON object.
    Arguments(String),
    /// The last call is complete.
    CallEnd,
}

/// A whole answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// What is meant for the reader.
    pub content: String,
    /// What the model thought.
    pub reasoning: String,
    /// The calls, in order.
    pub calls: Vec<Call>,
}

/// A tool call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// The tool.
    pub name: String,
    /// The model's own name for the call, if any.
    pub id: Option<String>,
    /// A JSON object, as the model spelled it where it wrote JSON.
    pub arguments: String,
}

impl Answer {
    /// Adds what an event says.
    pub fn take(&mut self, event: Event) {
        match (event, self.calls.last_mut()) {
            (Event::Content(text), _) => self.content.push_str(&text),
            (Event::Reasoning(text), _) => self.reasoning.push_str(&text),
            (Event::Call { name, id }, _) => self.calls.push(Call { name, id, arguments: String::new() }),
            (Event::Arguments(text), Some(call)) => call.arguments.push_str(&text),
            (Event::Arguments(_) | Event::CallEnd, _) => {}
        }
    }
}

/// Tells the parts of an answer apart while it is written.
#[derive(Clone, Debug)]
pub struct Parser {
    format: Format,
    /// The tools that may be called: an array of OpenAI's shape.
    tools: Value,
    mode: Mode,
    /// What may be the beginning of noise.
    unseen: String,
    /// What cannot be told yet.
    held: String,
    events: Vec<Event>,
}

#[derive(Clone, Debug)]
enum Mode {
    /// Reasoning may begin here; nothing was written yet.
    Start,
    Reasoning,
    /// Content; true once some was given out.
    Content(bool),
    /// The content was closed: what comes before a call is no content.
    Closed,
    /// Between calls.
    Between,
    /// In a call.
    Call(Box<BodyReader>),
    /// In a row of messages.
    Channels(Box<channels::State>),
    /// The end was written.
    Done,
}

impl Parser {
    /// A parser of the answer that continues `prompt`, from which it is seen whether reasoning has begun already.
    /// `tools` are those that may be called: an array of OpenAI's shape, or null; without, calls are content.
    pub fn new(format: &Format, prompt: &str, tools: &Value) -> Parser {
        let (open, close) = (&format.reasoning.open, &format.reasoning.close);
        let prompt = prompt.trim_end();
        let mode = match format.channels {
            Some(kind) => Mode::Channels(Box::new(channels::State::new(kind, format))),
            None if open.is_empty() && !close.is_empty() && !prompt.ends_with(&*close.text) => Mode::Reasoning,
            None if !open.is_empty() && prompt.ends_with(&*open.text) => Mode::Reasoning,
            None => Mode::Start,
        };
        let mut format = format.clone();
        if tools.as_array().is_none_or(Vec::is_empty) {
            format.calls = None;
        }
        Parser { format, tools: tools.clone(), mode, unseen: String::new(), held: String::new(), events: Vec::new() }
    }

    /// Everything is content.
    pub fn off() -> Parser {
        let mut parser = Parser::new(&Format::default(), "", &Value::Null);
        parser.format.end = Marker::default();
        parser.mode = Mode::Content(true);
        parser
    }

    /// The parts of a whole answer.
    pub fn whole(mut self, text: &str) -> Answer {
        let mut answer = Answer::default();
        self.push(text).into_iter().chain(self.finish()).for_each(|event| answer.take(event));
        answer
    }

    /// Takes the next piece of text, markers included, and gives what can be told by it.
    pub fn push(&mut self, piece: &str) -> Vec<Event> {
        self.unseen.push_str(piece);
        let noise = self.format.noise.as_str();
        if !noise.is_empty() && self.unseen.contains(noise) {
            self.unseen = self.unseen.replace(noise, "");
        }
        // The beginning of noise waits.
        let kept = (1..noise.len()).rev().find(|&n| noise.is_char_boundary(n) && self.unseen.ends_with(&noise[..n]));
        let certain = self.unseen.len() - kept.unwrap_or(0);
        self.held.extend(self.unseen.drain(..certain));
        while self.step() {}
        std::mem::take(&mut self.events)
    }

    /// Gives what was held back when the answer ends.
    pub fn finish(&mut self) -> Vec<Event> {
        let rest = std::mem::take(&mut self.held) + &std::mem::take(&mut self.unseen);
        match std::mem::replace(&mut self.mode, Mode::Done) {
            Mode::Start | Mode::Content(_) => self.content(&rest),
            Mode::Reasoning => self.reasoning(&rest),
            Mode::Call(mut reader) => reader.finish(&rest, &mut self.events),
            Mode::Channels(mut state) => state.finish(&rest, &self.tools, &mut self.events),
            Mode::Closed | Mode::Between | Mode::Done => {}
        }
        std::mem::take(&mut self.events)
    }

    fn content(&mut self, text: &str) {
        if !text.is_empty() {
            self.events.push(Event::Content(text.to_owned()));
        }
    }

    fn reasoning(&mut self, text: &str) {
        if !text.is_empty() {
            self.events.push(Event::Reasoning(text.to_owned()));
        }
    }

    /// Makes what progress the held text allows; false when more is needed.
    fn step(&mut self) -> bool {
        match &mut self.mode {
            Mode::Start => self.start(),
            Mode::Reasoning => self.in_reasoning(),
            Mode::Content(_) | Mode::Closed => self.in_content(),
            Mode::Between => self.between(),
            Mode::Call(reader) => {
                let step = reader.step(&mut self.held, &mut self.events);
                self.after_body(step)
            }
            Mode::Channels(state) => state.step(&mut self.held, &self.tools, &mut self.events),
            Mode::Done => {
                self.held.clear();
                false
            }
        }
    }

    fn start(&mut self) -> bool {
        let text = self.held.trim_start();
        let skipped = self.held.len() - text.len();
        // The end of reasoning that never began.
        if let Found::Whole(length, _) = self.format.reasoning.close.at_start(text, "") {
            self.held.drain(..skipped + length);
            self.mode = Mode::Content(false);
            return true;
        }
        let closing = self.format.reasoning.close.at_start(text, "") == Found::Partly;
        match self.format.reasoning.open.at_start(text, "") {
            Found::Whole(length, _) => {
                self.held.drain(..skipped + length);
                self.mode = Mode::Reasoning;
                true
            }
            Found::Partly => false,
            Found::No if text.is_empty() || closing => false,
            Found::No => {
                self.held.drain(..skipped);
                self.mode = Mode::Content(false);
                true
            }
        }
    }

    fn in_reasoning(&mut self) -> bool {
        let calls = self.format.calls.as_ref().map(|calls| calls.trigger()).filter(|m| !m.is_empty());
        let close = self.format.reasoning.close.find(&self.held, "");
        let call = calls.and_then(|marker| marker.find(&self.held, ""));
        let (at, found, closed) = match (close, call) {
            (Some((at, found)), Some((call_at, _))) if at <= call_at => (at, found, true),
            (Some((at, found)), None) => (at, found, true),
            // A call without an end of the reasoning.
            (_, Some((at, found))) => (at, found, false),
            (None, None) => (self.held.len(), Found::Partly, true),
        };
        match found {
            Found::Whole(length, _) => {
                let text = self.held[..at].to_owned();
                self.held.drain(..if closed { at + length } else { at });
                self.reasoning(&text);
                self.mode = Mode::Content(false);
                self.drop_space();
                true
            }
            _ => {
                let text: String = self.held.drain(..at).collect();
                self.reasoning(&text);
                false
            }
        }
    }

    fn drop_space(&mut self) {
        self.held = self.held.trim_start().to_owned();
    }

    fn in_content(&mut self) -> bool {
        let (written, closed) = match self.mode {
            Mode::Content(written) => (written, false),
            _ => (true, true),
        };
        if !written {
            self.drop_space();
            if self.held.is_empty() {
                return false;
            }
        }
        let bare = self.format.calls.as_ref().is_some_and(|calls| calls.trigger().is_empty());
        if bare && !written {
            match self.format.calls.as_ref().map(|calls| BodyReader::bare(calls, &self.held, &self.tools)) {
                Some(Step::More) => return false,
                Some(Step::Done) => {
                    self.mode = Mode::Between;
                    return true;
                }
                _ => {}
            }
        }
        enum What {
            Calls,
            Open,
            Close,
            End,
            Tag,
        }
        let tag = Marker::new(if bare { PYTHON_TAG } else { "" });
        let none = Marker::default();
        let trigger = self.format.calls.as_ref().map_or(&none, |calls| calls.trigger());
        let section = self.format.calls.as_ref().map_or(&none, |calls| &calls.each.0);
        let (open, close) = &self.format.content;
        let markers = [
            (trigger, What::Calls),
            (section, What::Calls),
            (open, What::Open),
            (close, What::Close),
            (&self.format.end, What::End),
            (&tag, What::Tag),
        ];
        let found = markers.into_iter().filter_map(|(marker, what)| Some((marker.find(&self.held, "")?, what)));
        let first = found.min_by_key(|((at, found), _)| (*at, *found == Found::Partly));
        let Some(((at, found), what)) = first else {
            return self.give(self.held.len(), closed);
        };
        let Found::Whole(length, _) = found else { return self.give(at, closed) };
        match what {
            What::Calls | What::Tag => {
                let kept = self.held[..at].trim_end().len();
                self.give(kept, closed);
                let dropped = at - kept + if matches!(what, What::Tag) { length } else { 0 };
                self.held.drain(..dropped);
                self.mode = if matches!(what, What::Tag) { Mode::Content(false) } else { Mode::Between };
            }
            What::Open => {
                self.give(at, true);
                self.held.drain(..length);
                self.mode = Mode::Content(false);
            }
            What::Close => {
                self.give(self.held[..at].trim_end().len(), closed);
                self.held.drain(..self.held.len() - self.held.trim_start().len());
                self.held.drain(..length);
                self.mode = Mode::Closed;
            }
            What::End => {
                self.give(self.held[..at].trim_end().len(), closed);
                self.mode = Mode::Done;
            }
        }
        true
    }

    /// Gives out the first `length` held bytes as content, or drops them. White space at the end waits for what follows.
    fn give(&mut self, length: usize, closed: bool) -> bool {
        let length = self.held[..length].trim_end().len();
        if length == 0 {
            return false;
        }
        let text: String = self.held.drain(..length).collect();
        if !closed {
            self.content(&text);
            self.mode = Mode::Content(true);
        }
        false
    }

    fn between(&mut self) -> bool {
        let Some(calls) = self.format.calls.clone() else {
            self.mode = Mode::Content(true);
            return true;
        };
        let text = self.held.trim_start();
        let skipped = self.held.len() - text.len();
        if text.is_empty() {
            return false;
        }
        let each_open = &calls.each.0;
        if let Found::Whole(length, id) = each_open.at_start(text, "") {
            return self.enter(BodyReader::new(&calls, id, &self.tools), skipped + length);
        }
        let section_open = calls.section.0.at_start(text, "");
        if let Found::Whole(length, id) = section_open {
            return match each_open.is_empty() && !calls.is_object() {
                true => self.enter(BodyReader::new(&calls, id, &self.tools), skipped + length),
                false => self.skip(skipped + length),
            };
        }
        if calls.is_object() && text.starts_with(['{', '[']) {
            if text.starts_with('[') {
                return self.skip(skipped + 1);
            }
            return self.enter(BodyReader::new(&calls, String::new(), &self.tools), skipped);
        }
        if each_open.at_start(text, "") == Found::Partly || section_open == Found::Partly {
            return false;
        }
        let closings = [&calls.each.1, &calls.section.1];
        for closing in closings {
            if let Found::Whole(length, _) = closing.at_start(text, "") {
                return self.skip(skipped + length);
            }
        }
        let all = [closings[0], closings[1], &self.format.end];
        if all.iter().any(|marker| marker.at_start(text, "") == Found::Partly) {
            return false;
        }
        if text.starts_with([',', ';', ']']) {
            return self.skip(skipped + 1);
        }
        self.mode = if self.format.content.1.is_empty() { Mode::Content(false) } else { Mode::Closed };
        true
    }

    fn skip(&mut self, length: usize) -> bool {
        self.held.drain(..length);
        true
    }

    fn enter(&mut self, reader: BodyReader, skip: usize) -> bool {
        self.held.drain(..skip);
        self.mode = Mode::Call(Box::new(reader));
        true
    }

    fn after_body(&mut self, step: Step) -> bool {
        match step {
            Step::More => false,
            Step::Again => true,
            Step::Done => {
                self.mode = Mode::Between;
                true
            }
            Step::NoCall(text) => {
                self.content(&text);
                self.mode = Mode::Content(true);
                true
            }
        }
    }
}
