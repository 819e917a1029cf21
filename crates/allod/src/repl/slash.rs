//! What a person can do in a conversation besides talking: lines that begin with a slash.

use super::Talk;
use crate::chat::{Message, Role};
use crate::failure::Failure;
use crate::printer::{note, note_beside};
use crate::sampling::{merged, written};
use allod_engine::SamplingParams;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// Commands, what they take, what they do.
pub(crate) const COMMANDS: [(&str, &str, &str); 10] = [
    ("/help", "", "show this"),
    ("/system", "[TEXT]", "set the instructions before the conversation; without TEXT, take them away"),
    ("/set", "[PARAM VALUE]", "set a sampling parameter, such as temperature 0.2; `default` restores it"),
    ("/show", "", "show model, context, instructions and parameters"),
    ("/retry", "", "answer the last message anew"),
    ("/undo", "", "take back the last message and its answer"),
    ("/reset", "", "begin a new conversation"),
    ("/save", "FILE", "write the conversation to a file"),
    ("/load", "FILE", "go on with the conversation in a file"),
    ("/exit", "", "leave (also Ctrl-D)"),
];

const KEYS: [(&str, &str); 5] = [
    ("\\ at the end", "go on in the next line"),
    ("\"\"\" … \"\"\"", "several lines"),
    ("Ctrl-C", "stop the answer"),
    ("Up, Down", "what you typed before"),
    ("Tab", "complete a command or a parameter"),
];

/// A saved conversation.
#[derive(Serialize, Deserialize)]
struct Saved {
    model: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    system: Option<String>,
    messages: Vec<Message>,
    #[serde(default)]
    sampling: SamplingParams,
}

/// Names of the parameters that `/set` knows.
pub(crate) fn parameters() -> Vec<String> {
    let all = serde_json::to_value(SamplingParams::default()).unwrap_or_default();
    all.as_object().map(|o| o.keys().cloned().collect()).unwrap_or_default()
}

pub(crate) fn command(talk: &mut Talk, line: &str) -> Result<()> {
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    match name {
        "/help" | "/?" => help(),
        "/system" => system(talk, rest),
        "/set" => set(talk, rest)?,
        "/show" => show(talk)?,
        "/retry" => retry(talk)?,
        "/undo" => undo(talk),
        "/reset" | "/clear" => {
            talk.messages.clear();
            talk.text.clear();
            note("a new conversation");
        }
        "/save" => save(talk, file(rest, "/save")?)?,
        "/load" => load(talk, file(rest, "/load")?)?,
        _ => return Err(Failure::new(format!("there is no {name}"), "/help lists the commands").into()),
    }
    Ok(())
}

fn help() {
    for (name, takes, does) in COMMANDS {
        note_beside(&format!("  {:<20} ", format!("{name} {takes}")), does);
    }
    for (key, does) in KEYS {
        note_beside(&format!("  {key:<20} "), does);
    }
}

fn system(talk: &mut Talk, text: &str) {
    talk.system = (!text.is_empty()).then(|| text.to_string());
    note(if text.is_empty() { "no instructions" } else { "instructions set" });
}

/// Sets a parameter, named as here or like the flag; the value is JSON or `default`.
fn set(talk: &mut Talk, rest: &str) -> Result<()> {
    let Some((name, value)) = rest.split_once(char::is_whitespace) else {
        return show(talk);
    };
    let name = &name.trim_start_matches('-').replace('-', "_");
    let names = parameters();
    if !names.contains(name) {
        return Err(Failure::new(format!("there is no parameter {name}"), names.join(" ")).into());
    }
    let value = match value.trim() {
        "default" => written(&SamplingParams::default())?[name].take(),
        text => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.into())),
    };
    let shown = value.to_string();
    let sampling = merged(&talk.chat.sampling, Map::from_iter([(name.clone(), value)])).context(name.clone())?;
    sampling.validate(talk.chat.session.vocabulary())?;
    talk.chat.sampling = sampling;
    note(&format!("{name} = {shown}"));
    Ok(())
}

fn show(talk: &Talk) -> Result<()> {
    let session = &talk.chat.session;
    note(&format!("model     {}", talk.chat.name));
    note(&format!("context   {} of {} tokens in the cache", session.cached_tokens(), session.context()));
    note(&format!("messages  {}", talk.messages.len()));
    if let Some(system) = &talk.system {
        note_beside("system    ", system);
    }
    let (now, default) = (written(&talk.chat.sampling)?, written(&SamplingParams::default())?);
    for (name, value) in now.as_object().into_iter().flatten() {
        let everyday = ["temperature", "top_k", "top_p", "min_p", "seed"].contains(&name.as_str());
        if everyday || (value != &default[name] && name != "dry_sequence_breakers") {
            note(&format!("{name:<24}{value}"));
        }
    }
    Ok(())
}

fn undo(talk: &mut Talk) {
    let last = talk.messages.iter().rposition(|m| m.role == Role::User);
    talk.messages.truncate(last.unwrap_or(0));
    match talk.messages.iter().rfind(|m| m.role == Role::User) {
        Some(m) => note(&format!("back to: {}", m.content.lines().next().unwrap_or_default())),
        None => note("back at the beginning"),
    }
}

fn retry(talk: &mut Talk) -> Result<()> {
    let last = talk.messages.iter().rposition(|m| m.role == Role::User);
    let Some(last) = last else {
        return Err(Failure::new("there is nothing to answer yet", "say something first").into());
    };
    if talk.chat.sampling.seed.is_some() || talk.chat.sampling.temperature == 0.0 {
        note("the same answer comes again: the seed is set or the temperature is 0");
    }
    talk.messages.truncate(last + 1);
    talk.reply()
}

fn file<'a>(rest: &'a str, command: &str) -> Result<&'a Path> {
    if rest.is_empty() {
        return Err(Failure::new(format!("{command} needs a file"), format!("{command} conversation.json")).into());
    }
    Ok(Path::new(rest))
}

fn save(talk: &Talk, path: &Path) -> Result<()> {
    let saved = Saved {
        model: talk.chat.name.clone(),
        system: talk.system.clone(),
        messages: talk.messages.clone(),
        sampling: talk.chat.sampling.clone(),
    };
    let text = serde_json::to_string_pretty(&saved)? + "\n";
    allod_formats::write_file(path, text.as_bytes())?;
    note(&format!("{} messages saved", talk.messages.len()));
    Ok(())
}

fn load(talk: &mut Talk, path: &Path) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let saved: Saved = serde_json::from_str(&text).with_context(|| format!("{}: no conversation", path.display()))?;
    saved.sampling.validate(talk.chat.session.vocabulary())?;
    if saved.model != talk.chat.name {
        note(&format!("this conversation was with {}", saved.model));
    }
    note(&format!("{} messages", saved.messages.len()));
    (talk.system, talk.messages, talk.chat.sampling) = (saved.system, saved.messages, saved.sampling);
    Ok(())
}
