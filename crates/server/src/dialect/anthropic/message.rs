//! Messages of blocks, and what templates read of them.

use crate::error::ApiError;
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Message {
    pub(crate) role: Role,
    #[cfg_attr(test, schema(value_type = Object))]
    pub(crate) content: Content,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    User,
    Assistant,
    /// Instructions in the course of a conversation.
    System,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "a string or an array of blocks with a type")]
pub(crate) enum Content {
    Text(String),
    Blocks(Vec<Map<String, Value>>),
}

/// A block with its place, read field by field.
struct Block<'b> {
    fields: &'b Map<String, Value>,
    at: String,
}

impl<'b> Block<'b> {
    fn kind(&self) -> Result<&'b str, ApiError> {
        self.text("type")
    }

    fn text(&self, name: &str) -> Result<&'b str, ApiError> {
        let found = self.fields.get(name).and_then(Value::as_str);
        found.ok_or_else(|| ApiError::field(format!("{}.{name}", self.at), "expected a string"))
    }

    /// Refuses fields that are not among those known. Where to keep a prefix is a hint: prefixes are always kept.
    fn only(&self, known: &[&str]) -> Result<(), ApiError> {
        let unknown =
            |name: &&String| !known.contains(&name.as_str()) && !["type", "cache_control"].contains(&name.as_str());
        match self.fields.iter().filter(|(_, v)| !v.is_null()).map(|(name, _)| name).find(unknown) {
            Some(name) => Err(ApiError::field(format!("{}.{name}", self.at), "there is no such field here")),
            None => Ok(()),
        }
    }
}

/// The blocks of a content; one that is a plain text has none.
fn blocks<'c>(content: &'c Content, at: &str) -> Option<Vec<Block<'c>>> {
    let Content::Blocks(list) = content else { return None };
    Some((0..).zip(list).map(|(i, fields): (usize, _)| Block { fields, at: format!("{at}[{i}]") }).collect())
}

/// A content that is a plain text.
fn plain(content: &Content) -> &str {
    if let Content::Text(text) = content { text } else { "" }
}

/// The text of a content that holds nothing but text.
///
/// # Errors
/// A block that is no text.
pub(crate) fn text(content: &Content, at: &str) -> Result<String, ApiError> {
    let Some(blocks) = blocks(content, at) else { return Ok(plain(content).to_owned()) };
    let mut whole = String::new();
    for block in blocks {
        match block.kind()? {
            "text" => {
                block.only(&["text", "citations"])?;
                whole.push_str(block.text("text")?);
            }
            other => return Err(unread(&block, other)),
        }
    }
    Ok(whole)
}

fn unread(block: &Block<'_>, kind: &str) -> ApiError {
    ApiError::field(format!("{}.type", block.at), format!("the model reads text; there is no reading of {kind:?}"))
}

/// The messages in the form that templates read. Results of tools become messages of their own.
///
/// # Errors
/// Blocks that are not read.
pub(crate) fn for_template(messages: &[Message]) -> Result<Vec<Value>, ApiError> {
    let mut out = Vec::new();
    for (i, message) in messages.iter().enumerate() {
        let at = format!("messages[{i}].content");
        match message.role {
            Role::Assistant => out.push(assistant(&message.content, &at)?),
            Role::System => out.push(json!({ "role": "system", "content": text(&message.content, &at)? })),
            Role::User => user(&message.content, &at, &mut out)?,
        }
    }
    Ok(out)
}

fn user(content: &Content, at: &str, out: &mut Vec<Value>) -> Result<(), ApiError> {
    let Some(blocks) = blocks(content, at) else {
        out.push(json!({ "role": "user", "content": plain(content) }));
        return Ok(());
    };
    let mut whole = String::new();
    let mut spoken = false;
    for block in blocks {
        match block.kind()? {
            "text" => {
                block.only(&["text", "citations"])?;
                whole.push_str(block.text("text")?);
                spoken = true;
            }
            "tool_result" => {
                block.only(&["tool_use_id", "content", "is_error"])?;
                let result = result(&block)?;
                out.push(json!({ "role": "tool", "tool_call_id": block.text("tool_use_id")?, "content": result }));
            }
            "document" => {
                whole.push_str(&document(&block)?);
                spoken = true;
            }
            other => return Err(unread(&block, other)),
        }
    }
    if spoken {
        out.push(json!({ "role": "user", "content": whole }));
    }
    Ok(())
}

/// What a tool gave.
fn result(block: &Block<'_>) -> Result<String, ApiError> {
    let content = match block.fields.get("content") {
        None | Some(Value::Null) => Content::Text(String::new()),
        Some(value) => serde_json::from_value::<Content>(value.clone())
            .map_err(|e| ApiError::field(format!("{}.content", block.at), e))?,
    };
    let text = text(&content, &format!("{}.content", block.at))?;
    // Templates have no place for it beside the text.
    let failed = block.fields.get("is_error").and_then(Value::as_bool).unwrap_or(false);
    Ok(if failed { format!("Error: {text}") } else { text })
}

/// A document that is text.
fn document(block: &Block<'_>) -> Result<String, ApiError> {
    block.only(&["source", "title", "context"])?;
    let source = block.fields.get("source");
    let field = |name: &str| source.and_then(|s| s.get(name)).and_then(Value::as_str);
    match (field("type"), field("data")) {
        (Some("text"), Some(text)) => Ok(text.to_owned()),
        (kind, _) => {
            let message = format!("only documents of text are read, found {}", kind.unwrap_or("none"));
            Err(ApiError::field(format!("{}.source", block.at), message))
        }
    }
}

fn assistant(content: &Content, at: &str) -> Result<Value, ApiError> {
    let Some(blocks) = blocks(content, at) else {
        return Ok(json!({ "role": "assistant", "content": plain(content) }));
    };
    let (mut whole, mut reasoning, mut calls) = (String::new(), String::new(), Vec::new());
    for block in blocks {
        match block.kind()? {
            "text" => {
                block.only(&["text", "citations"])?;
                whole.push_str(block.text("text")?);
            }
            "thinking" => {
                block.only(&["thinking", "signature"])?;
                reasoning.push_str(block.text("thinking")?);
            }
            "tool_use" => {
                block.only(&["id", "name", "input", "caller"])?;
                calls.push(json!({
                    "id": block.text("id")?,
                    "type": "function",
                    "function": { "name": block.text("name")?, "arguments": block.fields.get("input") },
                }));
            }
            other => return Err(unread(&block, other)),
        }
    }
    let mut message = json!({ "role": "assistant", "content": whole });
    if !reasoning.is_empty() {
        message["reasoning_content"] = reasoning.into();
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    Ok(message)
}
