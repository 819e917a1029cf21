//! From texts and conversations to token ids.

use crate::error::ApiError;
use crate::models::{Learned, Lease};
use allod_text::output::Format;
use allod_text::template::Error;
use allod_text::{Conversation, Guard, Role, Special, Template, Tokenizer};
use serde_json::{Map, Value};
use std::ops::Deref;
use std::sync::Arc;

/// A conversation in the shapes of OpenAI's chat API, which templates read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Talk {
    pub(crate) messages: Vec<Value>,
    pub(crate) tools: Option<Vec<Value>>,
    pub(crate) documents: Option<Vec<Value>>,
    /// The text ends where the answer begins.
    pub(crate) add_generation_prompt: bool,
    /// The last message is unfinished: the answer goes on in it.
    pub(crate) continue_final: bool,
    /// Further variables of the template, all of which it reads.
    pub(crate) variables: Map<String, Value>,
    /// A template in place of the model's.
    pub(crate) template: Option<String>,
}

/// What a conversation became.
#[derive(Clone, Debug)]
pub(crate) struct Rendered {
    pub(crate) text: String,
    pub(crate) ids: Vec<u32>,
    /// The digest of the template it went through; of one that came with the request, behind `request:`.
    pub(crate) template: Option<String>,
}

/// Stands at the end of a message that is to be continued while it is rendered.
const UNFINISHED: &str = "\u{2403}allod-continues\u{2403}";

/// A text as it stands, with what the model wants around it.
///
/// # Errors
/// The tokenizer cannot encode it.
pub(crate) fn plain(lease: &Lease, text: &str, add_special: bool) -> Result<Vec<u32>, ApiError> {
    encode(lease, text, Special { parse: true, add: add_special })
}

/// The ids of a text, without an end.
///
/// # Errors
/// The tokenizer cannot encode it.
pub(crate) fn encode(lease: &Lease, text: &str, special: Special) -> Result<Vec<u32>, ApiError> {
    let mut ids = lease.tokenizer.encode(text, special).map_err(|e| ApiError::field("prompt", e))?;
    // What the vocabulary wants behind a text would end it.
    if special.add && lease.tokenizer.add_eos() && ids.last() == lease.tokenizer.special(Role::Eos).as_ref() {
        ids.pop();
    }
    Ok(ids)
}

/// What a model writes between two texts (fill in the middle): prefix, suffix, middle, with the vocabulary's marks.
/// Before them other files, each with its name.
///
/// # Errors
/// The vocabulary has no such marks.
pub(crate) fn fill_in(lease: &Lease, extra: &[(&str, &str)], prefix: &str, suffix: &str) -> Result<Vec<u32>, ApiError> {
    let mark = |role, what: &str| {
        lease.tokenizer.special(role).ok_or_else(|| {
            let message = format!("the model cannot fill in: its vocabulary has no mark for {what}");
            ApiError::field("suffix", message)
        })
    };
    let marks = [
        mark(Role::FimPre, "the text before a gap")?,
        mark(Role::FimSuf, "the text behind a gap")?,
        mark(Role::FimMid, "a gap")?,
    ];
    let mut ids = Vec::new();
    if lease.tokenizer.add_bos() {
        ids.extend(lease.tokenizer.special(Role::Bos));
    }
    if !extra.is_empty() {
        let separator = mark(Role::FimSep, "other files")?;
        for (name, text) in extra {
            ids.push(separator);
            ids.extend(encode(lease, &format!("{name}\n{text}"), Special::NONE)?);
        }
        ids.push(separator);
        ids.extend(encode(lease, "\n", Special::NONE)?);
    }
    ids.push(marks[0]);
    ids.extend(encode(lease, prefix, Special::NONE)?);
    ids.push(marks[1]);
    ids.extend(encode(lease, suffix, Special::NONE)?);
    ids.push(marks[2]);
    Ok(ids)
}

/// The template of a conversation.
pub(crate) enum Chosen<'l> {
    /// The request's or the entry's own, and the tokens it may name.
    Own(Box<Template>, Map<String, Value>),
    /// The model's.
    Model(&'l Learned),
}

impl Deref for Chosen<'_> {
    type Target = Template;

    fn deref(&self) -> &Template {
        match self {
            Chosen::Own(template, _) => template,
            Chosen::Model(learned) => &learned.template,
        }
    }
}

impl Chosen<'_> {
    /// How it has models write.
    pub(crate) fn format(&self) -> Arc<Format> {
        match self {
            Chosen::Own(template, tokens) => Arc::new(Format::learn(template, tokens)),
            Chosen::Model(learned) => learned.format(),
        }
    }
}

/// Special tokens that templates write.
pub(crate) fn tokens(tokenizer: &Tokenizer) -> Map<String, Value> {
    let token = |role| Some(Value::from(tokenizer.token_text(tokenizer.special(role)?)?));
    let names =
        [("bos_token", Role::Bos), ("eos_token", Role::Eos), ("unk_token", Role::Unk), ("pad_token", Role::Pad)];
    names.into_iter().filter_map(|(name, role)| Some((name.to_string(), token(role)?))).collect()
}

/// The template of a conversation: the request's, the entry's, or the model's.
///
/// # Errors
/// It cannot be read.
pub(crate) fn template<'l>(lease: &'l Lease, talk: &Talk) -> Result<Option<Chosen<'l>>, ApiError> {
    match talk.template.as_deref().or(lease.spec.template.as_deref()) {
        Some(source) => {
            let template = Template::new(source).map_err(refused)?;
            Ok(Some(Chosen::Own(Box::new(template), tokens(&lease.tokenizer))))
        }
        None => Ok(lease.templates.choose(talk.tools.is_some()).map(Chosen::Model)),
    }
}

/// The prompt of a conversation that calls no tools.
///
/// # Errors
/// What the template refuses, or cannot do.
pub(crate) fn chat(lease: &Lease, talk: &Talk) -> Result<Rendered, ApiError> {
    match template(lease, talk)? {
        Some(template) => rendered(lease, talk, &template),
        None => without_template(lease, talk),
    }
}

/// Fills a template with a conversation.
///
/// # Errors
/// What the template refuses, or cannot do.
pub(crate) fn rendered(lease: &Lease, talk: &Talk, template: &Template) -> Result<Rendered, ApiError> {
    let mut messages = opening(lease, talk);
    if talk.continue_final {
        mark_unfinished(&mut messages)?;
    }
    let mut variables = tokens(&lease.tokenizer);
    variables.extend(talk.variables.clone());
    let mut conversation = Conversation {
        messages: messages.into(),
        tools: talk.tools.clone().map_or(Value::Null, Value::from),
        documents: talk.documents.clone().map_or(Value::Null, Value::from),
        add_generation_prompt: talk.add_generation_prompt && !talk.continue_final,
        variables,
        now: None,
    };
    lease.guard.shield(&mut conversation);
    let mut text = template.render(&conversation).map_err(refused)?.text;
    if talk.continue_final {
        let at = text.rfind(UNFINISHED).ok_or_else(|| {
            ApiError::field("continue_final_message", "the model's template does not show the last message's text")
        })?;
        text.truncate(at);
    }
    let ids = lease.guard.encode(&lease.tokenizer, &text).map_err(|e| ApiError::field("messages", e))?;
    let digest = crate::receipt::text_digest(template.source());
    let digest = if talk.template.is_some() { format!("request:{digest}") } else { digest };
    Ok(Rendered { text: Guard::plain(&text), ids, template: Some(digest) })
}

/// The messages with what the model's entry puts before them.
fn opening(lease: &Lease, talk: &Talk) -> Vec<Value> {
    let role = |m: &Value| m.get("role").and_then(Value::as_str).map(str::to_owned);
    let instructed = talk.messages.first().and_then(role).is_some_and(|r| r == "system" || r == "developer");
    let system = lease.spec.system.as_ref().filter(|_| !instructed);
    let system = system.map(|text| serde_json::json!({ "role": "system", "content": text }));
    let (first, rest) = talk.messages.split_at(usize::from(instructed));
    system
        .into_iter()
        .chain(first.iter().cloned())
        .chain(lease.spec.messages.clone())
        .chain(rest.iter().cloned())
        .collect()
}

fn mark_unfinished(messages: &mut [Value]) -> Result<(), ApiError> {
    let last = messages.last_mut().filter(|m| m.get("role").and_then(Value::as_str) == Some("assistant"));
    let content = last.and_then(|m| m.get_mut("content"));
    match content {
        Some(Value::String(text)) => {
            text.push_str(UNFINISHED);
            Ok(())
        }
        _ => Err(ApiError::field("continue_final_message", "the last message must be the assistant's, with a text")),
    }
}

/// A model without a template continues texts: those of the messages, one a line.
///
/// # Errors
/// Tools, which such a model does not know; what the tokenizer cannot encode.
pub(crate) fn without_template(lease: &Lease, talk: &Talk) -> Result<Rendered, ApiError> {
    if talk.tools.as_ref().is_some_and(|t| !t.is_empty()) {
        return Err(ApiError::field("tools", "this model has no chat template, so it knows no tools"));
    }
    let content = |m: &Value| m.get("content").and_then(Value::as_str).map(str::to_owned);
    let texts: Vec<String> = opening(lease, talk).iter().filter_map(content).collect();
    let text = texts.join("\n");
    // Nobody marks who speaks here, so nothing in the text is structure.
    let ids = encode(lease, &text, Special::ADD)?;
    Ok(Rendered { text, ids, template: None })
}

fn refused(error: Error) -> ApiError {
    match error {
        Error::Syntax { .. } => ApiError::field("chat_template", error),
        Error::Refused(_) | Error::Input(_) | Error::Limit(_) | Error::Render { .. } => {
            ApiError::field("messages", error)
        }
        Error::File { .. } => ApiError::internal(error),
    }
}
