//! Formats learned from templates: a conversation whose parts are known is rendered, and what stands between the parts
//! is the format.

use super::format::{Body, Calls, Channels, Format, Reasoning};
use super::marker::{DIGITS, ID, KEY, Marker, WORD, common_end, common_start};
use crate::template::{Conversation, Template};
use serde_json::{Map, Value, json};

const CONTENT: &str = "Zqcontent one.";
const REASONING: &str = "Zqreasoning one.";
const NAMES: [&str; 3] = ["zq_alpha", "zq_beta", "zq_gamma"];
const KEYS: [&str; 3] = ["zqk_one", "zqk_two", "zqk_num"];
const VALUES: [&str; 2] = ["zqv one", "zqv two"];
const NUMBER: &str = "7319";
const IDS: [&str; 3] = ["zqid00001", "zqid00002", "zqid00003"];

/// MiniMax M3 writes this before every tag.
const NOISE: &str = "]<]minimax[>[";

/// Texts that begin and end reasoning where a template does not show it.
const THINKING: [(&str, &str); 4] = [
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<reasoning>", "</reasoning>"),
];

impl Format {
    /// The format of what `template` has models write. `variables` are those that the template is rendered with
    /// otherwise. A template that shows no calls gives a format without.
    pub fn learn(template: &Template, variables: &Map<String, Value>) -> Format {
        let source = template.source();
        let noise = if source.contains(NOISE) { NOISE } else { "" };
        let probe = Probe::new(template, variables, noise);
        let mut format = Format { noise: noise.to_owned(), ..Format::default() };
        if let Some((open, close)) = THINKING.iter().find(|(_, close)| source.contains(close)) {
            format.reasoning = Reasoning { open: Marker::new(open), close: Marker::new(close) };
        }
        if source.contains("<|channel|>analysis") {
            return Format { channels: Some(Channels::Harmony), ..format };
        }
        if source.contains(">>>all") {
            return Format { channels: Some(Channels::Arrows), ..format };
        }
        if source.contains("<|message|>") && source.contains("to=self") {
            format.channels = Some(Channels::Recipients);
        }
        if let Some(plain) = probe.turn(json!({"content": CONTENT})) {
            probe.enclosures(&mut format, &plain);
            format.calls = probe.calls(&format, &plain);
            format.part_end_and_calls();
        }
        format
    }
}

impl Format {
    /// Where calls begin with what else ends the answer, it ends the content.
    fn part_end_and_calls(&mut self) {
        let Some(calls) = &mut self.calls else { return };
        let first = if calls.section.0.is_empty() { &mut calls.each.0 } else { &mut calls.section.0 };
        for marker in [self.end.clone(), self.content.1.clone()] {
            if let Some(rest) = first.text.strip_prefix(&*marker.text).filter(|_| !marker.is_empty()) {
                *first = Marker { after: first.after.clone(), ..Marker::new(rest) };
                (self.content.1, self.end) = (marker, Marker::default());
                return;
            }
        }
    }
}

struct Probe<'a> {
    template: &'a Template,
    variables: &'a Map<String, Value>,
    /// The conversation before the answer.
    before: String,
    noise: &'static str,
}

impl<'a> Probe<'a> {
    fn new(template: &'a Template, variables: &'a Map<String, Value>, noise: &'static str) -> Probe<'a> {
        let mut probe = Probe { template, variables, before: String::new(), noise };
        probe.before = probe.render(json!([{"role": "user", "content": "Zquser"}]), false).unwrap_or_default();
        // Some templates write the beginning of an answer without being asked.
        let answered = json!([{"role": "user", "content": "Zquser"}, {"role": "assistant", "content": CONTENT}]);
        if let Some(answered) = probe.render(answered, false) {
            probe.before = common_start(&probe.before, &answered).to_owned();
        }
        probe
    }

    fn render(&self, messages: Value, add_generation_prompt: bool) -> Option<String> {
        let conversation = Conversation {
            messages,
            tools: tools(),
            add_generation_prompt,
            variables: self.variables.clone(),
            now: Some(0),
            ..Conversation::default()
        };
        let text = self.template.render(&conversation).ok()?.text;
        Some(if self.noise.is_empty() { text } else { text.replace(self.noise, "") })
    }

    /// What the template writes for an answer of these fields, from its header on.
    fn turn(&self, mut fields: Value) -> Option<String> {
        fields["role"] = "assistant".into();
        let text = self.render(json!([{"role": "user", "content": "Zquser"}, fields]), false)?;
        let shared = common_start(&text, &self.before);
        Some(text[shared.len()..].to_owned())
    }

    /// What encloses reasoning and content, and what ends the turn. `plain`: a turn of content only.
    fn enclosures(&self, format: &mut Format, plain: &str) {
        let Some((header, tail)) = plain.split_once(CONTENT) else { return };
        let with_calls = self.with_calls(json!({"content": CONTENT}), 2).map(|(turn, _)| turn);
        let both = with_calls.as_deref().and_then(|turn| Some((after(turn, CONTENT)?, NAMES[0])));
        let shared = both.map(|(rest, _)| common_start(tail, rest)).unwrap_or_default().trim();
        let mut open = "";
        let thought = self.turn(json!({"content": CONTENT, "reasoning_content": REASONING}));
        let thought = thought.filter(|turn| turn.contains(REASONING) && turn.contains(CONTENT));
        let called = self.with_calls(json!({"content": "", "reasoning_content": REASONING}), 1).map(|(turn, _)| turn);
        let called = called.filter(|turn| turn.contains(REASONING));
        let parts = thought.as_deref().or(called.as_deref()).and_then(|turn| turn.split_once(REASONING));
        if let Some((before, rest)) = parts {
            let until = if thought.is_some() { CONTENT } else { NAMES[0] };
            let between = rest.split(until).next().unwrap_or_default();
            let rest = called.as_deref().and_then(|turn| after(turn, REASONING));
            let close = match (&thought, rest) {
                (Some(_), Some(rest)) => Some(common_start(between, rest)).filter(|close| !close.trim().is_empty()),
                (None, _) => Some(first_tag(between)),
                _ => None,
            };
            let close = close.unwrap_or(between);
            if format.channels.is_none() && !close.trim().is_empty() {
                let start = opening(before, header, close);
                format.reasoning = Reasoning { open: Marker::new(start), close: Marker::new(close) };
            }
            if thought.is_some() {
                open = between[close.len()..].trim();
            }
        }
        let bare = self.with_calls(json!({"content": ""}), 1).map(|(turn, _)| turn);
        if let Some(turn) = bare.as_deref()
            && open.is_empty()
        {
            // What a turn begins with where it has content, but not where it has calls.
            let own = header[common_start(header, turn).len()..].trim();
            let known = &format.reasoning;
            let thinking =
                own.contains(&*known.close.text) || (!known.open.is_empty() && own.contains(&*known.open.text));
            open = if own.contains('<') && !thinking { own } else { "" };
        }
        let close = if shared.is_empty() && !open.is_empty() { first_tag(tail.trim()) } else { shared };
        let end = tail.trim().strip_prefix(close).unwrap_or_default().trim();
        format.content = (Marker::new(open), Marker::new(close));
        format.end = Marker::new(first_tag(end));
    }

    /// A turn with the first `count` probe calls, and the arguments as the template wants them.
    fn with_calls(&self, fields: Value, count: usize) -> Option<(String, Vec<Value>)> {
        let arguments =
            [json!({KEYS[0]: VALUES[0], KEYS[1]: VALUES[1], KEYS[2]: 7319}), json!({KEYS[0]: VALUES[0]}), json!({})];
        self.with(fields, &arguments[..count], 0)
    }

    fn with(&self, fields: Value, arguments: &[Value], first: usize) -> Option<(String, Vec<Value>)> {
        // Some templates want arguments as text; some know a call by its id alone.
        for (as_text, telling_id) in [(false, false), (true, false), (false, true), (true, true)] {
            let call = |(i, value): (usize, &Value)| {
                let i = i + first;
                let id = if telling_id { format!("functions.{}:{i}", NAMES[i]) } else { IDS[i].to_owned() };
                let arguments = if as_text { value.to_string().into() } else { value.clone() };
                json!({"id": id, "type": "function", "function": {"name": NAMES[i], "arguments": arguments}})
            };
            let mut fields = fields.clone();
            fields["tool_calls"] = arguments.iter().enumerate().map(call).collect();
            if let Some(turn) = self.turn(fields)
                && turn.contains(NAMES[first])
                && (arguments[0].as_object().is_none_or(Map::is_empty) || turn.contains(KEYS[0]))
                && !turn.contains("\\\"zqk_one\\\"")
            {
                return Some((turn, arguments.to_vec()));
            }
        }
        None
    }

    fn calls(&self, format: &Format, plain: &str) -> Option<Calls> {
        let header = plain.split_once(CONTENT)?.0;
        let (turn, _) =
            self.with_calls(json!({"content": ""}), 2).or_else(|| self.with_calls(json!({"content": ""}), 1))?;
        let bare = &turn[common_start(&turn, header).len()..];
        let after_content = self.with_calls(json!({"content": CONTENT}), 2).map(|(turn, _)| turn);
        let after_content = after_content.as_deref().and_then(|turn| after(turn, CONTENT)).map(str::to_owned);
        let lead = |to: usize| {
            let mut lead = &bare[..to];
            if let Some(rest) = &after_content
                && let Some(end) = rest.find(&bare[to..])
            {
                lead = common_end(lead, &rest[..end]);
            }
            // What belongs to the message's header is none of the call's.
            let lead = lead.rsplit("<|message|>").next().unwrap_or(lead).trim_start();
            let lead = lead.strip_prefix("<|sep|>").unwrap_or(lead);
            // Reasoning that is empty belongs to no call.
            let (open, close) = (&format.reasoning.open, &format.reasoning.close);
            let thought = lead.strip_prefix(&*open.text).and_then(|rest| rest.trim_start().strip_prefix(&*close.text));
            thought.filter(|_| !open.is_empty()).map_or(lead, str::trim_start)
        };
        let tail = format.end.text.as_str();
        self.objects(bare, &lead, tail).or_else(|| self.named(bare, &lead, tail))
    }

    /// Calls that are JSON objects with their names inside.
    fn objects<'t>(&self, bare: &'t str, lead: &dyn Fn(usize) -> &'t str, tail: &str) -> Option<Calls> {
        let name_at = bare.find(NAMES[0])?;
        let (start, value, end) = json_around(bare, name_at)?;
        let list = value.is_array();
        let first = if list { value.get(0)? } else { &value };
        let body = object_body(first.as_object()?, list)?;
        let between = bare[end..].find(NAMES[1]).and_then(|at| json_around(&bare[end..], at)).map(|(at, _, _)| at);
        let last_end = match between {
            Some(at) if !list => end + at + json_around(&bare[end..], bare[end..].find(NAMES[1])?)?.2 - at,
            _ => end,
        };
        let between = between.filter(|_| !list).map(|at| &bare[end..end + at]);
        let after = strip_tail(&bare[last_end..], tail);
        let (section, each) = split(lead(start), between, after);
        Some(Calls { section, each, body })
    }

    /// Calls with the name outside of the arguments.
    fn named<'t>(&self, bare: &'t str, lead: &dyn Fn(usize) -> &'t str, tail: &str) -> Option<Calls> {
        let key_at = bare.find(KEYS[0])?;
        let name_at = bare[..key_at].rfind(NAMES[0])?;
        let open = lead(name_at).replace(IDS[0], &ID.to_string());
        let after_name = &bare[name_at + NAMES[0].len()..];
        let second = after_name.rfind(NAMES[1]);
        if after_name.starts_with('(') {
            let end = after_name.rfind(']').map_or(after_name.len(), |at| at + 1);
            let (section, each) = split(open.trim_end_matches('['), None, strip_tail(&after_name[end..], tail));
            return Some(Calls { section, each, body: Body::Python });
        }
        let json_at = after_name.find('{').filter(|&at| {
            let mut stream = serde_json::Deserializer::from_str(&after_name[at..]).into_iter::<Value>();
            matches!(stream.next(), Some(Ok(value)) if value.get(KEYS[0]).is_some())
        });
        let (arguments_end, body) = if let Some(at) = json_at {
            let marker = blank(&after_name[..at]);
            (value_end(after_name, at)?, Body::Named { after_name: Marker::new(&marker) })
        } else if after_name.contains("<|\"|>") {
            (after_name.find('}')? + 1, Body::Gemma)
        } else {
            self.pairs(after_name)?
        };
        let second_at = second.filter(|&at| at > arguments_end);
        let between = second_at.map(|at| after_name[arguments_end..at].replace(IDS[1], &ID.to_string()));
        // The last call's end: behind its arguments, which are one pair.
        let last = match (&body, second_at) {
            (_, None) => &after_name[arguments_end..],
            (Body::Pairs { .. }, Some(at)) => {
                let value = at + after_name[at..].find(VALUES[0])? + VALUES[0].len();
                after_name.get(value + closing_length(&body)..)?
            }
            (_, Some(at)) => &after_name[at + after_name[at..].find('}').unwrap_or(0) + 1..],
        };
        let after = strip_tail(last, tail);
        let (section, each) = split(&open, between.as_deref(), after);
        Some(Calls { section, each, body })
    }

    /// Arguments between markers of their own: where the first call's end, and how they are written.
    fn pairs(&self, after_name: &str) -> Option<(usize, Body)> {
        let at = |text: &str, from: usize| after_name[from..].find(text).map(|at| from + at);
        let key1 = at(KEYS[0], 0)?;
        let value1 = at(VALUES[0], key1)?;
        let key2 = at(KEYS[1], value1)?;
        let value2 = at(VALUES[1], key2)?;
        let number_key = at(KEYS[2], value2)?;
        let number = at(NUMBER, number_key)?;
        let before_first = blank(&after_name[..key1]);
        let middle = &after_name[key1 + KEYS[0].len()..value1];
        let number_middle = &after_name[number_key + KEYS[2].len()..number];
        // The closing may repeat the key: look for the end of the last value by what follows every value.
        let mut follows = after_name[value1 + VALUES[0].len()..key2].to_owned();
        let (empty, _) = self.with(json!({"content": ""}), &[json!({})], 2)?;
        let empty = blank(&empty[empty.rfind(NAMES[2])? + NAMES[2].len()..]);
        let name_end = common_start(&before_first, &empty);
        let name_end = name_end.trim_end_matches(['<', '[', ']', '/']);
        let key_open = before_first[name_end.len()..].to_owned();
        let closing = follows.strip_suffix(key_open.as_str()).or(follows.strip_suffix(key_open.trim()))?.to_owned();
        follows = closing;
        // All keys are as long as each other, so all closings are.
        let end = number + NUMBER.len() + follows.trim_end().len();
        let follows = follows.replace(KEYS[0], &KEY.to_string());
        let (value, string_word) = worded(middle, number_middle);
        let body = Body::Pairs {
            after_name: Marker::new(name_end),
            key: Marker::new(&key_open),
            value,
            close: Marker::new(&follows),
            string_word,
        };
        Some((end, body))
    }
}

/// Bytes of the closing of a probe's value.
fn closing_length(body: &Body) -> usize {
    let Body::Pairs { close, .. } = body else { return 0 };
    let text = close.text.replace(KEY, KEYS[0]);
    close.before.len() + text.len()
}

/// The marker between key and value; where it names the value's type, a gap and what it says for a string.
fn worded(string: &str, number: &str) -> (Marker, Option<String>) {
    if string == number {
        return (Marker::new(string), None);
    }
    let start: String = string.chars().zip(number.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect();
    let end = common_end(&string[start.len()..], number);
    let start = start.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let end = end.trim_start_matches(|c: char| c.is_ascii_lowercase());
    let word = &string[start.len()..string.len() - end.len()];
    (Marker::new(&format!("{start}{WORD}{end}")), Some(word.to_owned()))
}

/// `text` with a gap for every number and id.
fn blank(text: &str) -> String {
    let mut out = String::new();
    for c in IDS.iter().fold(text.to_owned(), |text, id| text.replace(id, &ID.to_string())).chars() {
        match c.is_ascii_digit() {
            true if out.ends_with(DIGITS) => {}
            true => out.push(DIGITS),
            false => out.push(c),
        }
    }
    out
}

/// What opens reasoning, from what stands before it; `header` stands before content without any.
fn opening<'t>(before: &'t str, header: &str, close: &str) -> &'t str {
    let shared = common_start(before, header);
    let empty = header[shared.len()..].trim_start().starts_with(close.trim());
    match (before[shared.len()..].trim().is_empty() && empty, shared.trim_end().rfind('<')) {
        // The header has an empty reasoning.
        (true, Some(at)) => &before[at..],
        _ => &before[shared.len()..],
    }
}

/// `text` up to the end of its first tag; a short one without tags whole.
fn first_tag(text: &str) -> &str {
    if text.trim_start().starts_with("<|close|>") {
        return text.find("<|sep|>").map_or(text, |at| &text[..at + "<|sep|>".len()]);
    }
    match text.find('>') {
        Some(at) => &text[..=at],
        None if text.len() < 40 => text,
        None => "",
    }
}

/// Section and call markers, from what stands before, between and after two calls.
fn split(before: &str, between: Option<&str>, after: &str) -> ((Marker, Marker), (Marker, Marker)) {
    let Some(between) = between else {
        return ((Marker::new(before), Marker::new(first_tag(after.trim()))), (Marker::default(), Marker::default()));
    };
    // White space around markers is free.
    let open = common_end(before, between);
    let torn = open.chars().next().is_some_and(|c| !c.is_whitespace() && !matches!(c, '<' | '[' | ']'));
    let open = if torn { open.find(['<', '[']).map_or("", |at| &open[at..]) } else { open };
    let open = open.strip_prefix("<|sep|>").unwrap_or(open);
    let section_open = &before[..before.len() - open.len()];
    let between = &between[..between.len() - open.len()];
    let (close_trimmed, after) = (between.trim(), after.trim());
    let close = common_start(close_trimmed, after);
    let section_close = if section_open.trim().is_empty() { "" } else { first_tag(after[close.len()..].trim()) };
    let marker = Marker::new;
    ((marker(section_open), marker(section_close)), (marker(open), marker(close)))
}

/// `text` without the end of the turn.
fn strip_tail<'t>(text: &'t str, tail: &str) -> &'t str {
    if tail.is_empty() {
        return text;
    }
    text.find(tail).map_or(text, |at| &text[..at])
}

fn after<'t>(text: &'t str, part: &str) -> Option<&'t str> {
    text.split_once(part).map(|(_, rest)| rest)
}

/// The outermost JSON value around a place: where, what, and where it ends.
fn json_around(text: &str, at: usize) -> Option<(usize, Value, usize)> {
    text[..at].match_indices(['{', '[']).find_map(|(start, _)| {
        let mut stream = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
        let value = stream.next()?.ok()?;
        let end = start + stream.byte_offset();
        (end > at).then_some((start, value, end))
    })
}

fn value_end(text: &str, at: usize) -> Option<usize> {
    let mut stream = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
    stream.next()?.ok()?;
    Some(at + stream.byte_offset())
}

/// Which fields of a call hold what.
fn object_body(fields: &Map<String, Value>, list: bool) -> Option<Body> {
    let key = |test: &dyn Fn(&Value) -> bool| fields.iter().find(|(_, v)| test(v)).map(|(k, _)| k.clone());
    if fields.contains_key(NAMES[0]) {
        return Some(Body::Keyed { list });
    }
    let name = key(&|v| v == NAMES[0])?;
    let arguments = key(&|v| v.get(KEYS[0]).is_some())?;
    Some(Body::Object { name, arguments, id: key(&|v| v == IDS[0]), list })
}

/// The tools that the probes call.
fn tools() -> Value {
    let tool = |name: &&str| {
        let string = json!({"type": "string", "description": "text"});
        let properties =
            json!({KEYS[0]: string, KEYS[1]: string, KEYS[2]: {"type": "integer", "description": "number"}});
        let parameters = json!({"type": "object", "properties": properties, "required": []});
        json!({"type": "function", "function": {"name": name, "description": "A tool", "parameters": parameters}})
    };
    NAMES.iter().map(tool).collect()
}
