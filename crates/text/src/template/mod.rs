//! Chat templates: a conversation becomes the text a model was trained on.
//!
//! Models publish their format as a Jinja template, written for Transformers' sandboxed Jinja2. A [`Template`] renders
//! what that renderer renders, byte for byte, and refuses what it refuses. Templates come with the model, from anywhere:
//! they can read nothing but the conversation, and their work and output are limited.

mod clock;
mod environment;
mod guard;
mod json;
mod methods;
mod python;
mod select;
mod spans;
mod translate;

pub use guard::Guard;
pub use select::Templates;

use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value};
use std::io::Write;
use std::ops::Range;

/// Instructions a rendering may execute; 64 bytes of text made count as one.
const FUEL: u64 = 5_000_000;
/// More of them for every byte of the conversation.
const FUEL_PER_BYTE: u64 = 16;
/// Bytes a rendering may give.
const OUTPUT: usize = 16 << 20;
/// More of them for every byte of the conversation.
const OUTPUT_PER_BYTE: usize = 32;
/// Depth of calls; each level costs the engine under 2 KiB of stack.
const RECURSION: usize = 100;
/// Bytes of a template; the largest known one has 30 KiB.
const SOURCE: usize = 4 << 20;
/// The name a template is compiled under.
const NAME: &str = "chat_template";

/// What can go wrong with a template.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not a template.
    #[error("chat template, line {line}: {message}")]
    Syntax {
        /// Where, from 1.
        line: usize,
        /// What the parser said.
        message: String,
    },
    /// The template refuses this conversation, in its own words (`raise_exception`).
    #[error("the chat template refuses: {0}")]
    Refused(String),
    /// It does something that cannot be done with this conversation.
    #[error("chat template, line {line}: {message}")]
    Render {
        /// Where, from 1; 0 when not known.
        line: usize,
        /// What the engine said.
        message: String,
    },
    /// It works too long, nests too deep or writes too much.
    #[error("chat template: {0}")]
    Limit(&'static str),
    /// The conversation is not one.
    #[error("{0}")]
    Input(String),
    /// A file could not be read.
    #[error("{path}: {message}")]
    File {
        /// The file or key.
        path: String,
        /// What is wrong with it.
        message: String,
    },
}

/// What a template is given. All values are JSON of the shapes of OpenAI's chat API.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// Array of messages: objects with `role`, `content`, `tool_calls`, `reasoning_content`, …
    pub messages: Value,
    /// Array of tools, or null.
    pub tools: Value,
    /// Array of documents to answer from, or null.
    pub documents: Value,
    /// The text ends where the model's answer begins.
    pub add_generation_prompt: bool,
    /// Further variables: `enable_thinking`, `reasoning_effort`, `bos_token`, `eos_token`, ….
    pub variables: Map<String, Value>,
    /// Seconds since 1970 for templates that write the date, in UTC; the present if not given.
    pub now: Option<u64>,
}

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Bytes of `text` inside `{% generation %}` blocks: what the model is to learn. In order, not overlapping.
    pub generated: Vec<Range<usize>>,
}

/// A compiled chat template.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    source: String,
    marks_generation: bool,
    /// It names methods of dictionaries without calling them.
    names_methods: bool,
}

impl Template {
    /// Compiles `source`.
    ///
    /// # Errors
    /// [`Error::Syntax`]; [`Error::Limit`] for a source beyond all measure.
    pub fn new(source: &str) -> Result<Template, Error> {
        if source.len() > SOURCE {
            return Err(Error::Limit("the source is larger than 4 MiB"));
        }
        let mut environment = environment::new();
        environment.set_recursion_limit(RECURSION);
        let translated = translate::translate(source);
        let marks_generation = translated.contains(spans::FUNCTION);
        let names_methods = translated.contains(translate::METHOD);
        environment.add_template_owned(NAME, translated).map_err(error)?;
        Ok(Template { environment, source: source.to_owned(), marks_generation, names_methods })
    }

    /// The source as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// True when the template marks what the model writes (`{% generation %}`).
    pub fn marks_generation(&self) -> bool {
        self.marks_generation
    }

    /// True when the template reads a variable of this name.
    pub fn reads(&self, variable: &str) -> bool {
        let template = self.environment.get_template(NAME);
        template.is_ok_and(|template| template.undeclared_variables(false).contains(variable))
    }

    /// Renders `conversation`.
    ///
    /// # Errors
    /// [`Error::Refused`] when the template says so, [`Error::Render`] when it fails, [`Error::Limit`] when it goes on
    /// too long.
    pub fn render(&self, conversation: &Conversation) -> Result<Rendered, Error> {
        let messages = with_reasoning(&conversation.messages)?;
        let size = size(&messages) + size(&conversation.tools) + size(&conversation.documents);
        let markers = spans::Markers::absent_from(&self.source, conversation);
        let mut variables: Map<String, Value> = conversation.variables.clone();
        variables.insert("messages".into(), messages);
        variables.insert("tools".into(), conversation.tools.clone());
        variables.insert("documents".into(), conversation.documents.clone());
        variables.insert("add_generation_prompt".into(), conversation.add_generation_prompt.into());
        variables.insert(clock::VARIABLE.into(), conversation.now.unwrap_or_else(clock::now).into());
        variables.insert(spans::VARIABLE.into(), markers.as_string().into());

        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL + FUEL_PER_BYTE * size as u64));
        let template = environment.get_template(NAME).map_err(error)?;
        let mut out = Limited { bytes: Vec::new(), limit: OUTPUT + OUTPUT_PER_BYTE * size };
        let context = match self.names_methods {
            true => {
                let pairs = variables.iter().map(|(name, value)| (name.clone(), methods::with_methods(value)));
                minijinja::Value::from_pairs(pairs)
            }
            false => minijinja::Value::from(minijinja::value::Serde(&variables)),
        };
        template.render_captured_to(context, &mut out).map_err(error)?;
        let text = String::from_utf8(out.bytes).map_err(|e| Error::Render { line: 0, message: e.to_string() })?;
        Ok(markers.collect(&text))
    }
}

/// The fields a message's reasoning has been called by; templates read the first, gpt-oss's the second.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// The messages with reasoning under the names that templates read.
fn with_reasoning(messages: &Value) -> Result<Value, Error> {
    let list = messages.as_array().ok_or_else(|| Error::Input("messages: expected an array".into()))?;
    let message = |(i, message): (usize, &Value)| {
        let fields = message.as_object();
        let mut fields = fields.ok_or_else(|| Error::Input(format!("messages[{i}]: expected an object")))?.clone();
        let reasoning = REASONING.iter().find_map(|key| fields.get(*key).filter(|v| !v.is_null())).cloned();
        if let Some(reasoning) = reasoning {
            // The order of fields shows where a template prints a whole message.
            if !fields.contains_key("thinking") {
                fields.shift_insert(0, "thinking".into(), reasoning.clone());
            } else if let Some(thinking) = fields.shift_remove("thinking") {
                fields.shift_insert(0, "thinking".into(), thinking);
            }
            fields.insert("reasoning_content".into(), reasoning);
        }
        Ok(Value::Object(fields))
    };
    list.iter().enumerate().map(message).collect()
}

/// Bytes of text in a value, roughly.
fn size(value: &Value) -> usize {
    match value {
        Value::String(s) => s.len() + 2,
        Value::Array(list) => list.iter().map(size).sum::<usize>() + 2,
        Value::Object(map) => map.iter().map(|(k, v)| k.len() + size(v) + 4).sum::<usize>() + 2,
        _ => 8,
    }
}

/// Takes bytes up to a limit.
struct Limited {
    bytes: Vec<u8>,
    limit: usize,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The engine's error in our words.
fn error(error: minijinja::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        if let Some(environment::Raised(message)) = inner.downcast_ref() {
            return Error::Refused(message.clone());
        }
        cause = inner.source();
    }
    let innermost = innermost(&error);
    let line = innermost.line().or(error.line()).unwrap_or(0);
    let message = innermost.detail().map_or_else(|| innermost.kind().to_string(), str::to_owned);
    match innermost.kind() {
        ErrorKind::OutOfFuel => Error::Limit("it works too long"),
        ErrorKind::WriteFailure => Error::Limit("it writes too much"),
        ErrorKind::InvalidOperation if message.contains("recursion limit") => Error::Limit("it nests too deep"),
        ErrorKind::SyntaxError => Error::Syntax { line, message },
        _ => Error::Render { line, message },
    }
}

fn innermost(error: &minijinja::Error) -> &minijinja::Error {
    let mut innermost = error;
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(inner) = inner.downcast_ref() {
            innermost = inner;
        }
        cause = inner.source();
    }
    innermost
}
