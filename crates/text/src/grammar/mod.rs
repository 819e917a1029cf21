//! Grammars: which tokens may come next.
//!
//! A [`Spec`] (JSON Schema, regular expression, Lark, GBNF, list of choices) is compiled against a [`Vocabulary`] into a
//! [`Grammar`]; every answer that it binds walks with a [`Matcher`] of its own. The parsing is llguidance's. Schemas come
//! from anywhere: size, depth, work and memory are limited, and what cannot be kept to exactly is refused, never loosened.

mod gbnf;
mod lark;
mod schema;
mod vocabulary;

pub(crate) use lark::literal;
pub(crate) use schema::bounded;
pub use vocabulary::Vocabulary;

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::Value;

/// Stack of the compiling thread, in bytes; only what is used is taken.
const STACK: usize = 256 << 20;

/// What an answer is held to.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// JSON that a schema describes (2020-12 and older drafts).
    JsonSchema(Value),
    /// Any JSON object.
    JsonObject,
    /// Text that a regular expression (syntax of the `regex` crate) matches from beginning to end.
    Regex(String),
    /// A grammar in llguidance's dialect of Lark; its first rule is `start`.
    Lark(String),
    /// A grammar in llama.cpp's GBNF; its first rule is `root`.
    Gbnf(String),
    /// One of these texts.
    Choice(Vec<String>),
}

/// What can be wrong with a grammar, and what can go wrong while one is followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The schema or grammar is wrong, too large, or asks for what cannot be enforced.
    #[error("{at}: {message}")]
    Grammar {
        /// A JSON pointer (`#/properties/age`), or the kind of grammar.
        at: String,
        /// What is wrong there.
        message: String,
    },
    /// The vocabulary cannot be matched against grammars.
    #[error("the vocabulary cannot follow a grammar: {0}")]
    Vocabulary(String),
    /// A token that the grammar forbids was given, or the work for one token passed its limit.
    #[error("the grammar cannot go on: {0}")]
    Match(String),
}

impl Error {
    fn grammar(at: impl Into<String>, message: impl Into<String>) -> Error {
        Error::Grammar { at: at.into(), message: message.into() }
    }
}

/// A compiled [`Spec`]; cheap to make matchers from.
#[derive(Clone)]
pub struct Grammar {
    start: llguidance::Matcher,
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}

impl Grammar {
    /// Compiles `spec` for the tokens of `vocabulary`.
    ///
    /// # Errors
    /// [`Error::Grammar`], which names the place.
    pub fn compile(spec: &Spec, vocabulary: &Vocabulary) -> Result<Grammar, Error> {
        // The compiler follows references by recursion, one level of the stack each.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("grammar".into()).stack_size(STACK);
            let compiling = thread.spawn_scoped(scope, || compile(spec, vocabulary));
            let compiling =
                compiling.map_err(|e| Error::grammar("grammar", format!("no thread to compile it: {e}")))?;
            compiling.join().unwrap_or_else(|_| Err(Error::grammar("grammar", "the compiler failed on it")))
        })
    }

    /// A matcher at the beginning of an answer.
    pub fn matcher(&self) -> Matcher {
        Matcher { inner: self.start.deep_clone() }
    }
}

/// Follows one answer through a grammar.
///
/// A matcher that has failed stays failed: it allows nothing more.
pub struct Matcher {
    inner: llguidance::Matcher,
}

impl Clone for Matcher {
    fn clone(&self) -> Matcher {
        Matcher { inner: self.inner.deep_clone() }
    }
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matcher").field("stopped", &self.inner.is_stopped()).finish_non_exhaustive()
    }
}

impl Matcher {
    /// Writes the tokens that may come next: bit `id % 32` of `bits[id / 32]` is set for each. Where the text is
    /// complete, the tokens that end an answer are among them. `bits` holds a bit for every logit; those beyond the
    /// vocabulary are cleared.
    ///
    /// # Errors
    /// [`Error::Match`], with all bits cleared.
    pub fn mask(&mut self, bits: &mut [u32]) -> Result<(), Error> {
        bits.fill(0);
        let mask = self.inner.compute_mask_or_eos().map_err(failed)?;
        for (to, from) in bits.iter_mut().zip(mask.as_slice()) {
            *to = *from;
        }
        Ok(())
    }

    /// Takes the token that was chosen.
    ///
    /// # Errors
    /// [`Error::Match`] when the grammar forbids it.
    pub fn accept(&mut self, id: u32) -> Result<(), Error> {
        self.inner.consume_token(id).map_err(failed)
    }

    /// How many of `ids`, in order, could come next. Changes nothing: for checking drafts.
    ///
    /// # Errors
    /// [`Error::Match`].
    pub fn allowed(&mut self, ids: &[u32]) -> Result<usize, Error> {
        self.inner.validate_tokens(ids).map_err(failed)
    }

    /// Takes back the last `count` tokens.
    ///
    /// # Errors
    /// [`Error::Match`] when there are fewer.
    pub fn rollback(&mut self, count: usize) -> Result<(), Error> {
        self.inner.rollback(count).map_err(failed)
    }

    /// The tokens that must come next, as far as the grammar leaves no choice; often none.
    pub fn forced(&mut self) -> Vec<u32> {
        self.inner.compute_ff_tokens()
    }

    /// The text may end here.
    pub fn is_accepting(&mut self) -> bool {
        self.inner.is_accepting().unwrap_or(false)
    }

    /// Nothing but an end can follow, or it has failed.
    pub fn is_finished(&self) -> bool {
        self.inner.is_stopped()
    }
}

fn compile(spec: &Spec, vocabulary: &Vocabulary) -> Result<Grammar, Error> {
    let (kind, source) = match spec {
        Spec::JsonSchema(value) => ("#", json(schema::prepare(value)?)),
        Spec::JsonObject => ("#", json(schema::prepare(&serde_json::json!({"type": "object"}))?)),
        Spec::Regex(pattern) => ("regex", lark::regex(pattern)?),
        Spec::Lark(text) => ("lark", lark::checked(text)?),
        Spec::Gbnf(text) => ("gbnf", lark::checked(&gbnf::to_lark(text)?)?),
        Spec::Choice(texts) => ("choice", lark::choice(texts)?),
    };
    let parser = vocabulary.parser(source).map_err(|message| match spec {
        Spec::JsonSchema(value) => schema::locate(value, &message),
        _ => Error::grammar(kind, message),
    })?;
    let start = llguidance::Matcher::new(Ok(parser));
    match start.get_error() {
        Some(message) => Err(Error::grammar(kind, first_lines(&message))),
        None => Ok(Grammar { start }),
    }
}

fn json(schema: Value) -> TopLevelGrammar {
    TopLevelGrammar::from_grammar(GrammarWithLexer::from_json_schema(schema))
}

fn failed(error: anyhow::Error) -> Error {
    Error::Match(first_lines(&error.to_string()))
}

/// A message without the dumps that follow it.
fn first_lines(message: &str) -> String {
    let end = message.find("\n<").unwrap_or(message.len());
    let mut text: String = message[..end].trim().chars().take(400).collect();
    if text.is_empty() || text.starts_with("panic") {
        text = "the compiler failed on it".into();
    }
    text
}
