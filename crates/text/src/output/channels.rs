//! Answers that are a row of messages with headers.

use super::format::{Calls, Channels, Format};
use super::scan::Scan;
use super::{Event, Mode, Parser};
use serde_json::Value;

/// Where a stream of messages stands.
#[derive(Clone, Debug)]
pub(super) struct State {
    kind: Channels,
    calls: Option<Calls>,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Header,
    Reasoning,
    Content,
    /// Arguments in JSON; whether they ended.
    Arguments(Scan, bool),
    /// Content that calls may stand in.
    Mixed(Box<Parser>),
}

impl State {
    pub(super) fn new(kind: Channels, format: &Format) -> State {
        State { kind, calls: format.calls.clone(), place: Place::Header }
    }

    pub(super) fn step(&mut self, held: &mut String, tools: &Value, events: &mut Vec<Event>) -> bool {
        if matches!(self.place, Place::Header) {
            return self.header(held, tools, events);
        }
        let ends = self.kind.ends();
        let first = ends.iter().filter_map(|end| Some((held.find(end)?, *end))).min_by_key(|(at, _)| *at);
        if let Some((at, end)) = first {
            let text: String = held.drain(..at).collect();
            self.give(text.trim_end(), events);
            self.close(events);
            // The next message's start is a part of its header.
            if end != "<|start|>" {
                held.drain(..end.len());
            }
            self.place = Place::Header;
            return true;
        }
        // The beginning of an end, and white space before one, wait.
        let kept = (0..held.len())
            .find(|&at| held.is_char_boundary(at) && ends.iter().any(|end| end.starts_with(&held[at..])));
        let certain = held[..kept.unwrap_or(held.len())].trim_end().len();
        let text: String = held.drain(..certain).collect();
        self.give(&text, events);
        false
    }

    pub(super) fn finish(&mut self, rest: &str, tools: &Value, events: &mut Vec<Event>) {
        let is_text = !rest.contains("<|") && self.kind == Channels::Arrows && parameters_of(tools, rest).is_none();
        match self.place {
            Place::Header if is_text && !rest.trim().is_empty() => events.push(Event::Content(rest.to_owned())),
            Place::Header => {}
            _ => {
                self.give(rest, events);
                self.close(events);
            }
        }
    }

    fn header(&mut self, held: &mut String, tools: &Value, events: &mut Vec<Event>) -> bool {
        let end = self.kind.header_end();
        let Some(at) = held.find(end) else { return false };
        let header: String = held.drain(..at + end.len()).collect();
        let header = &header[..at];
        let word = |mark: &str| {
            let rest = &header[header.find(mark)? + mark.len()..];
            let end = rest.find(|c: char| c.is_whitespace() || c == '<').unwrap_or(rest.len());
            Some(rest[..end].to_owned())
        };
        self.place = match self.kind {
            Channels::Harmony => match (word("to="), word("<|channel|>").as_deref()) {
                (Some(recipient), _) => {
                    let name = recipient.strip_prefix("functions.").unwrap_or(&recipient).to_owned();
                    events.push(Event::Call { name, id: None });
                    Place::Arguments(Scan::default(), false)
                }
                (None, Some("analysis")) => Place::Reasoning,
                _ => Place::Content,
            },
            Channels::Recipients if word("to=").as_deref() == Some("self") => Place::Reasoning,
            Channels::Recipients => {
                let format = Format { calls: self.calls.clone(), ..Format::default() };
                let mut parser = Parser::new(&format, "", tools);
                parser.mode = Mode::Content(false);
                Place::Mixed(Box::new(parser))
            }
            Channels::Arrows if matches!(header.trim(), "all" | "") => Place::Content,
            Channels::Arrows => {
                events.push(Event::Call { name: header.trim().to_owned(), id: None });
                Place::Arguments(Scan::default(), false)
            }
        };
        true
    }

    fn give(&mut self, text: &str, events: &mut Vec<Event>) {
        if text.is_empty() {
            return;
        }
        match &mut self.place {
            Place::Header => {}
            Place::Reasoning => events.push(Event::Reasoning(text.to_owned())),
            Place::Content => events.push(Event::Content(text.to_owned())),
            Place::Arguments(_, true) => {}
            Place::Arguments(scan, ended) => {
                let end = scan.feed(text);
                *ended = end.is_some();
                events.push(Event::Arguments(text[..end.unwrap_or(text.len())].to_owned()));
            }
            Place::Mixed(parser) => events.extend(parser.push(text)),
        }
    }

    fn close(&mut self, events: &mut Vec<Event>) {
        match &mut self.place {
            Place::Arguments(..) => events.push(Event::CallEnd),
            Place::Mixed(parser) => events.extend(parser.finish()),
            _ => {}
        }
    }
}

fn parameters_of<'a>(tools: &'a Value, text: &str) -> Option<&'a Value> {
    super::body::parameters(tools, text.trim())
}
