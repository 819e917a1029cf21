//! Values that models write in other ways than JSON: Python's literals, Gemma's calls.

use serde_json::{Map, Number, Value};

/// How deep values nest at most.
const DEEPEST: usize = 64;
/// Gemma's quotation mark.
const QUOTE: &str = "<|\"|>";

/// Reads values from the front of a text.
pub(super) struct Reader<'a> {
    pub(super) rest: &'a str,
}

/// A whole text that is one value.
pub(super) fn value(text: &str) -> Option<Value> {
    let mut reader = Reader { rest: text };
    let value = reader.value(0)?;
    reader.rest.trim().is_empty().then_some(value)
}

impl Reader<'_> {
    pub(super) fn eat(&mut self, text: &str) -> bool {
        self.rest = self.rest.trim_start();
        let found = self.rest.starts_with(text);
        if found {
            self.rest = &self.rest[text.len()..];
        }
        found
    }

    /// A bare name.
    pub(super) fn name(&mut self) -> Option<String> {
        self.rest = self.rest.trim_start();
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '$');
        let end = self.rest.find(|c| !is_name(c)).unwrap_or(self.rest.len());
        let name = self.rest[..end].to_owned();
        self.rest = &self.rest[end..];
        (!name.is_empty()).then_some(name)
    }

    pub(super) fn value(&mut self, depth: usize) -> Option<Value> {
        self.rest = self.rest.trim_start();
        if depth > DEEPEST {
            return None;
        }
        if self.rest.starts_with(QUOTE) {
            return self.gemma_string().map(Value::String);
        }
        match self.rest.chars().next()? {
            '{' => self.object(depth),
            open @ ('[' | '(') => self.list(depth, if open == '[' { "]" } else { ")" }),
            quote @ ('"' | '\'') => self.string(quote).map(Value::String),
            _ => self.word(),
        }
    }

    fn gemma_string(&mut self) -> Option<String> {
        let inside = self.rest.strip_prefix(QUOTE)?;
        let end = inside.find(QUOTE)?;
        self.rest = &inside[end + QUOTE.len()..];
        Some(inside[..end].to_owned())
    }

    fn object(&mut self, depth: usize) -> Option<Value> {
        self.eat("{");
        let mut map = Map::new();
        while !self.eat("}") {
            let key = match self.rest.chars().next()? {
                _ if self.rest.starts_with(QUOTE) => self.gemma_string()?,
                quote @ ('"' | '\'') => self.string(quote)?,
                _ => self.name()?,
            };
            if !self.eat(":") {
                return None;
            }
            map.insert(key, self.value(depth + 1)?);
            if !self.eat(",") && !self.rest.trim_start().starts_with('}') {
                return None;
            }
        }
        Some(Value::Object(map))
    }

    fn list(&mut self, depth: usize, close: &str) -> Option<Value> {
        self.rest = &self.rest[1..];
        let mut list = Vec::new();
        while !self.eat(close) {
            list.push(self.value(depth + 1)?);
            if !self.eat(",") && !self.rest.trim_start().starts_with(close) {
                return None;
            }
        }
        Some(Value::Array(list))
    }

    fn string(&mut self, quote: char) -> Option<String> {
        let mut chars = self.rest.char_indices().skip(1);
        let mut text = String::new();
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.rest = &self.rest[at + 1..];
                    return Some(text);
                }
                '\\' => {
                    let (at, escape) = chars.next()?;
                    let digits = match escape {
                        'n' => 0x0A,
                        't' => 0x09,
                        'r' => 0x0D,
                        'b' => 0x08,
                        'f' => 0x0C,
                        'u' | 'x' => {
                            let count = if escape == 'u' { 4 } else { 2 };
                            let code = u32::from_str_radix(self.rest.get(at + 1..at + 1 + count)?, 16).ok()?;
                            chars.nth(count - 1)?;
                            code
                        }
                        other => u32::from(other),
                    };
                    text.push(char::from_u32(digits).unwrap_or('\u{FFFD}'));
                }
                c => text.push(c),
            }
        }
        None
    }

    fn word(&mut self) -> Option<Value> {
        let end = self.rest.find(|c: char| c.is_whitespace() || ",]}):".contains(c)).unwrap_or(self.rest.len());
        let word = &self.rest[..end];
        let value = match word {
            "True" | "true" => Value::Bool(true),
            "False" | "false" => Value::Bool(false),
            "None" | "null" => Value::Null,
            number => number.parse::<Number>().ok().map(Value::Number)?,
        };
        self.rest = &self.rest[end..];
        Some(value)
    }
}

/// The JSON of what a model wrote for a parameter that `schema` describes.
pub(super) fn coerce(text: &str, schema: Option<&Value>) -> Value {
    let types = schema.and_then(|s| s.get("type"));
    let is = |name: &str| match types {
        Some(Value::String(t)) => t == name,
        Some(Value::Array(list)) => list.iter().any(|t| t == name),
        _ => false,
    };
    let parsed = || serde_json::from_str(text.trim()).ok().or_else(|| value(text));
    let string = || Value::String(text.to_owned());
    if is("string") {
        let null = is("null") && matches!(text.trim(), "null" | "None");
        return if null { Value::Null } else { string() };
    }
    match parsed() {
        // Without a type, what reads as a quoted text was meant as it stands.
        Some(Value::String(_)) if types.is_none() => string(),
        Some(value) => value,
        None => string(),
    }
}
