//! Grammars as the engine follows them: `text` knows what may be written, the engine asks in token ids.

use crate::error::ApiError;
use crate::models::Lease;
use allod_engine::engine::{Constraint, ConstraintError, Grammar, TokenMask};
use allod_text::grammar::{self, Matcher, Spec};
use serde_json::{Value, json};
use std::any::Any;
use std::sync::Arc;

/// What answers are held to.
#[derive(Debug)]
struct Guide {
    grammar: grammar::Grammar,
    spec: Spec,
    eos: Vec<u32>,
}

/// One answer on its way through a grammar.
#[derive(Clone, Debug)]
struct Way {
    matcher: Matcher,
    eos: Vec<u32>,
}

/// Compiles what a request holds its answers to. `field` is the request's name for it.
///
/// # Errors
/// A grammar that is wrong or cannot be enforced.
pub(crate) fn guide(lease: &Lease, spec: &Spec, field: &str) -> Result<Arc<dyn Grammar>, ApiError> {
    let vocabulary = lease.grammar_vocabulary().map_err(|e| ApiError::field(field, e))?;
    let grammar = grammar::Grammar::compile(spec, vocabulary).map_err(|e| ApiError::field(field, e))?;
    Ok(Arc::new(Guide { grammar, spec: spec.clone(), eos: lease.tokenizer.stop_tokens().to_vec() }))
}

/// What answers are held to, as a value from which it can be made again.
pub(crate) fn grammar_value(grammar: &dyn Grammar) -> Option<Value> {
    let guide = (grammar as &dyn Any).downcast_ref::<Guide>()?;
    Some(match &guide.spec {
        Spec::JsonSchema(schema) => json!({ "json_schema": schema }),
        Spec::JsonObject => json!({ "json_schema": { "type": "object" } }),
        Spec::Regex(regex) => json!({ "regex": regex }),
        Spec::Lark(grammar) => json!({ "lark": grammar }),
        Spec::Gbnf(grammar) => json!({ "gbnf": grammar }),
        Spec::Choice(texts) => json!({ "choice": texts }),
    })
}

/// The reverse of [`grammar_value`].
pub(crate) fn grammar_spec(value: &Value) -> Option<Spec> {
    let (kind, value) = value.as_object().filter(|map| map.len() == 1)?.iter().next()?;
    let text = || value.as_str().map(str::to_owned);
    match kind.as_str() {
        "json_schema" => Some(Spec::JsonSchema(value.clone())),
        "regex" => text().map(Spec::Regex),
        "lark" => text().map(Spec::Lark),
        "gbnf" => text().map(Spec::Gbnf),
        "choice" => serde_json::from_value(value.clone()).ok().map(Spec::Choice),
        _ => None,
    }
}

fn failed(error: grammar::Error) -> ConstraintError {
    ConstraintError(error.to_string())
}

impl Grammar for Guide {
    fn start(&self) -> Result<Box<dyn Constraint>, ConstraintError> {
        Ok(Box::new(Way { matcher: self.grammar.matcher(), eos: self.eos.clone() }))
    }
}

impl Constraint for Way {
    fn mask(&mut self, mask: &mut TokenMask) -> Result<(), ConstraintError> {
        self.matcher.mask(mask.words_mut()).map_err(failed)?;
        // Whether the answer may end is asked for by itself.
        self.eos.iter().for_each(|&id| mask.set(id, false));
        Ok(())
    }

    fn accept(&mut self, id: u32) -> Result<(), ConstraintError> {
        self.matcher.accept(id).map_err(failed)
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }

    fn may_end(&mut self) -> bool {
        self.matcher.is_accepting()
    }

    fn is_complete(&mut self) -> bool {
        self.matcher.is_finished()
    }

    fn likely(&mut self) -> Vec<u32> {
        self.matcher.forced()
    }
}
