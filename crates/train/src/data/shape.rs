//! What a record is. The form of a file is recognized by the fields of its first record; every other must have it too.

use super::{CONTINUES, Record, kind_of, roles};
use crate::error::Problem;
use serde_json::{Value, json};
use std::fmt;

/// A form of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// `text`
    Text,
    /// `messages` or `conversations`, perhaps `tools`
    Chat,
    /// `instruction`, `input`, `output`, `system`, `history`
    Alpaca,
    /// `prompt` and `completion`
    Completion,
    /// `prompt`, `chosen`, `rejected`
    Preference,
    /// a prompt, a completion and a `label`
    Unpaired,
    /// `input_ids`
    Tokens,
    /// `prompt_ids`, `chosen_ids`, `rejected_ids`
    TokenPairs,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Form::Text => "text",
            Form::Chat => "chat messages",
            Form::Alpaca => "alpaca",
            Form::Completion => "prompt and completion",
            Form::Preference => "preference",
            Form::Unpaired => "unpaired preference",
            Form::Tokens => "tokenized",
            Form::TokenPairs => "tokenized preference",
        })
    }
}

/// What comes before an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Plain text.
    Text(String),
    /// Messages in OpenAI's form.
    Chat(Vec<Value>),
}

/// One example, in the terms of training.
#[derive(Clone, Debug, PartialEq)]
pub enum Example {
    /// All of it is learned. `ends`: the document ends here.
    Text {
        /// The text.
        text: String,
        /// False where the next record continues it.
        ends: bool,
    },
    /// Messages in OpenAI's form; which are learned is a matter of the mask.
    Chat {
        /// The messages.
        messages: Vec<Value>,
        /// A list of tools, or null.
        tools: Value,
    },
    /// A text and how it goes on.
    Completion {
        /// What is given.
        prompt: String,
        /// What is learned.
        completion: String,
    },
    /// Two answers, the first better.
    Preference {
        /// What both answer.
        prompt: Prompt,
        /// The better one: text, or messages.
        chosen: Prompt,
        /// The worse one.
        rejected: Prompt,
        /// A list of tools, or null.
        tools: Value,
        /// By how much the first is better, for reward models.
        margin: Option<f32>,
    },
    /// An answer that is good or not.
    Unpaired {
        /// What it answers.
        prompt: Prompt,
        /// The answer.
        completion: Prompt,
        /// A list of tools, or null.
        tools: Value,
        /// Whether it is wanted.
        desirable: bool,
    },
    /// Ids, and which of them are learned.
    Tokens {
        /// Ids.
        ids: Vec<u32>,
        /// One flag for each.
        learned: Vec<bool>,
    },
    /// Two tokenized answers.
    TokenPair {
        /// What both answer.
        prompt: Vec<u32>,
        /// The better one.
        chosen: Vec<u32>,
        /// The worse one.
        rejected: Vec<u32>,
        /// By how much, for reward models.
        margin: Option<f32>,
    },
}

/// The names that a completion goes by.
const COMPLETION: [&str; 5] = ["completion", "response", "answer", "output", "target"];
/// The names that a prompt goes by.
const PROMPT: [&str; 4] = ["prompt", "question", "query", "source"];
/// The names that messages go by.
const MESSAGES: [&str; 3] = ["messages", "conversations", "conversation"];
const LABELS: [&str; 2] = ["label", "kto_tag"];

impl Form {
    /// The form of a record.
    ///
    /// # Errors
    /// A [`Problem`] that lists the fields there are and the forms that are known.
    pub fn of(record: &Record) -> Result<Form, Problem> {
        let has = |key: &str| record.fields.get(key).is_some_and(|v| !v.is_null());
        let any = |keys: &[&str]| keys.iter().any(|k| has(k));
        let answered = any(&PROMPT) || any(&MESSAGES) || has("instruction");
        Ok(if has("chosen_ids") && has("rejected_ids") {
            Form::TokenPairs
        } else if has("input_ids") {
            Form::Tokens
        } else if has("chosen") && has("rejected") {
            Form::Preference
        } else if any(&LABELS) && answered {
            Form::Unpaired
        } else if any(&MESSAGES) {
            Form::Chat
        } else if has("instruction") {
            Form::Alpaca
        } else if any(&PROMPT) && any(&COMPLETION) {
            Form::Completion
        } else if has("text") {
            Form::Text
        } else {
            let keys: Vec<&str> = record.fields.keys().map(String::as_str).take(12).collect();
            let hint = "known forms: text; messages or conversations; instruction and output; prompt and completion; \
                        prompt, chosen and rejected; prompt, completion and label; input_ids";
            return Err(record.problem(format!("the fields [{}] are of no known form", keys.join(", ")), hint));
        })
    }

    /// Reads a record of this form.
    ///
    /// # Errors
    /// A [`Problem`] that names the field.
    pub fn read(self, record: &Record) -> Result<Example, Problem> {
        match self {
            Form::Text => {
                let ends = !record.fields.contains_key(CONTINUES);
                Ok(Example::Text { text: text(record, &["text"])?, ends })
            }
            Form::Chat => chat(record),
            Form::Alpaca => {
                let mut messages = asked(record)?;
                messages.push(json!({ "role": "assistant", "content": text(record, &["output", "response"])? }));
                Ok(Example::Chat { messages, tools: tools(record)? })
            }
            Form::Completion => completion(record),
            Form::Preference => preference(record),
            Form::Unpaired => unpaired(record),
            Form::Tokens => tokens(record),
            Form::TokenPairs => Ok(Example::TokenPair {
                prompt: record.fields.get("prompt_ids").map_or(Ok(vec![]), |v| ids(record, "prompt_ids", v))?,
                chosen: ids(record, "chosen_ids", &record.fields["chosen_ids"])?,
                rejected: ids(record, "rejected_ids", &record.fields["rejected_ids"])?,
                margin: margin(record),
            }),
        }
    }
}

/// The first of `names` that is there, as text.
fn text(record: &Record, names: &[&str]) -> Result<String, Problem> {
    let found = names.iter().find_map(|n| Some((n, record.fields.get(*n).filter(|v| !v.is_null())?)));
    match found {
        Some((_, Value::String(text))) => Ok(text.clone()),
        Some((name, other)) => {
            let message = format!("{name}: expected a text, found {}", kind_of(other));
            Err(record.problem(message, "write the text in quotes"))
        }
        None => {
            let keys: Vec<&str> = record.fields.keys().map(String::as_str).take(12).collect();
            let message = format!("no {} among the fields [{}]", names[0], keys.join(", "));
            Err(record.problem(message, "every record of a file has the form of the first"))
        }
    }
}

fn field<'r>(record: &'r Record, names: &[&'static str]) -> Option<(&'static str, &'r Value)> {
    names.iter().find_map(|n| Some((*n, record.fields.get(*n).filter(|v| !v.is_null())?)))
}

fn tools(record: &Record) -> Result<Value, Problem> {
    match record.fields.get("tools") {
        None | Some(Value::Null) => Ok(Value::Null),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(Value::Null),
        Some(value) => {
            let list = roles::parsed(record, "tools", value)?;
            let Value::Array(list) = list else {
                let message = format!("tools: expected a list, found {}", kind_of(&list));
                return Err(record.problem(message, "write a list of tools, each an object"));
            };
            // Templates read OpenAI's wrapping.
            let wrapped = |t: Value| match t.get("function") {
                None if t.get("name").is_some() => json!({ "type": "function", "function": t }),
                _ => t,
            };
            Ok(if list.is_empty() { Value::Null } else { list.into_iter().map(wrapped).collect() })
        }
    }
}

/// The messages of a record, with ShareGPT's separate system text in front.
fn messages(record: &Record) -> Result<Vec<Value>, Problem> {
    let Some((name, value)) = field(record, &MESSAGES) else {
        return Err(record.problem("no messages", "every record of a file has the form of the first"));
    };
    let mut list = roles::messages(record, name, value)?;
    if let Some(Value::String(system)) = record.fields.get("system")
        && !system.is_empty()
        && list.first().is_some_and(|m| m["role"] != "system")
    {
        list.insert(0, json!({ "role": "system", "content": system }));
    }
    Ok(list)
}

fn chat(record: &Record) -> Result<Example, Problem> {
    let messages = messages(record)?;
    if !messages.iter().any(|m| m["role"] == "assistant") {
        let hint = "a chat to learn from has at least one message of the assistant";
        return Err(record.problem("no message of the assistant", hint));
    }
    Ok(Example::Chat { messages, tools: tools(record)? })
}

/// Alpaca's question with what came before it.
fn asked(record: &Record) -> Result<Vec<Value>, Problem> {
    let mut messages = Vec::new();
    if let Some(Value::String(system)) = record.fields.get("system").filter(|s| *s != "") {
        messages.push(json!({ "role": "system", "content": system }));
    }
    let turns = match record.fields.get("history") {
        None | Some(Value::Null) => vec![],
        Some(Value::String(s)) if s.is_empty() => vec![],
        Some(value) => match roles::parsed(record, "history", value)? {
            Value::Array(turns) => turns,
            other => {
                let message = format!("history: expected a list, found {}", kind_of(&other));
                return Err(record.problem(message, "write pairs: [[\"question\", \"answer\"], …]"));
            }
        },
    };
    for (i, turn) in turns.iter().enumerate() {
        let (Some(user), Some(answer)) = (turn.get(0).and_then(Value::as_str), turn.get(1).and_then(Value::as_str))
        else {
            let hint = "write pairs: [[\"question\", \"answer\"], …]";
            return Err(record.problem(format!("history[{i}]: expected two texts"), hint));
        };
        messages.push(json!({ "role": "user", "content": user }));
        messages.push(json!({ "role": "assistant", "content": answer }));
    }
    let mut user = text(record, &["instruction"])?;
    if let Some(Value::String(input)) = record.fields.get("input")
        && !input.is_empty()
    {
        user = if user.is_empty() { input.clone() } else { format!("{user}\n{input}") };
    }
    messages.push(json!({ "role": "user", "content": user }));
    Ok(messages)
}

/// A prompt and a completion, both texts or both messages.
fn completion(record: &Record) -> Result<Example, Problem> {
    let asked = field(record, &PROMPT);
    let answer = field(record, &COMPLETION);
    if let (Some((p, prompt @ Value::Array(_))), Some((c, answer))) = (asked, answer) {
        let mut list = roles::messages(record, p, prompt)?;
        list.extend(answer_messages(record, c, answer)?);
        return Ok(Example::Chat { messages: list, tools: tools(record)? });
    }
    Ok(Example::Completion { prompt: text(record, &PROMPT)?, completion: text(record, &COMPLETION)? })
}

/// An answer as messages: a list, one message, or its text.
fn answer_messages(record: &Record, name: &str, value: &Value) -> Result<Vec<Value>, Problem> {
    match value {
        Value::Array(_) => roles::messages(record, name, value),
        Value::Object(_) => Ok(vec![roles::message(record, name, value)?]),
        Value::String(text) => Ok(vec![json!({ "role": "assistant", "content": text })]),
        other => {
            let message = format!("{name}: expected a text or messages, found {}", kind_of(other));
            Err(record.problem(message, "write the answer"))
        }
    }
}

/// The prompt of a record: messages, Alpaca's question or text.
fn prompt(record: &Record) -> Result<Option<Prompt>, Problem> {
    if field(record, &MESSAGES).is_some() {
        return Ok(Some(Prompt::Chat(messages(record)?)));
    }
    if record.fields.contains_key("instruction") {
        return Ok(Some(Prompt::Chat(asked(record)?)));
    }
    match field(record, &PROMPT) {
        Some((name, value @ Value::Array(_))) => Ok(Some(Prompt::Chat(roles::messages(record, name, value)?))),
        Some(_) => Ok(Some(Prompt::Text(text(record, &PROMPT)?))),
        None => Ok(None),
    }
}

fn preference(record: &Record) -> Result<Example, Problem> {
    let sides = [&record.fields["chosen"], &record.fields["rejected"]];
    let is_text = sides.map(Value::is_string) == [true, true];
    let (prompt, [chosen, rejected]) = match prompt(record)? {
        Some(Prompt::Text(p)) if is_text => {
            let [chosen, rejected] = sides.map(|s| Prompt::Text(s.as_str().unwrap_or_default().to_owned()));
            (Prompt::Text(p), [chosen, rejected])
        }
        Some(Prompt::Text(p)) => {
            // A prompt in words before answers in messages is the user's.
            let prompt = vec![json!({ "role": "user", "content": p })];
            let chosen = answer_messages(record, "chosen", sides[0])?;
            let rejected = answer_messages(record, "rejected", sides[1])?;
            // Some sets repeat the prompt in both answers.
            match shared(&chosen, &rejected) {
                0 => (Prompt::Chat(prompt), [Prompt::Chat(chosen), Prompt::Chat(rejected)]),
                n => (
                    Prompt::Chat(chosen[..n].to_vec()),
                    [Prompt::Chat(chosen[n..].to_vec()), Prompt::Chat(rejected[n..].to_vec())],
                ),
            }
        }
        Some(Prompt::Chat(p)) => {
            let chosen = answer_messages(record, "chosen", sides[0])?;
            let rejected = answer_messages(record, "rejected", sides[1])?;
            (Prompt::Chat(p), [Prompt::Chat(chosen), Prompt::Chat(rejected)])
        }
        None => implicit(record, sides, is_text)?,
    };
    if chosen == rejected {
        let hint = "a pair teaches by its difference: remove the record, or make the answers differ";
        return Err(record.problem("chosen and rejected are the same", hint));
    }
    Ok(Example::Preference { prompt, chosen, rejected, tools: tools(record)?, margin: margin(record) })
}

/// The prompt that both answers begin with.
fn implicit(record: &Record, sides: [&Value; 2], is_text: bool) -> Result<(Prompt, [Prompt; 2]), Problem> {
    if is_text {
        let [a, b] = sides.map(|s| s.as_str().unwrap_or_default());
        let common =
            a.char_indices().zip(b.chars()).take_while(|((_, x), y)| x == y).map(|((i, c), _)| i + c.len_utf8());
        // Half a word that both answers share belongs to the answers.
        let end = common.last().unwrap_or(0);
        let end = if end == a.len().min(b.len()) { end } else { a[..end].rfind(char::is_whitespace).map_or(0, |i| i) };
        return Ok((
            Prompt::Text(a[..end].to_owned()),
            [Prompt::Text(a[end..].to_owned()), Prompt::Text(b[end..].to_owned())],
        ));
    }
    let chosen = answer_messages(record, "chosen", sides[0])?;
    let rejected = answer_messages(record, "rejected", sides[1])?;
    let n = shared(&chosen, &rejected);
    let (c, r) = (chosen[n..].to_vec(), rejected[n..].to_vec());
    if n == 0 {
        let hint = "give a prompt, or let both answers begin with the same messages";
        return Err(record.problem("no prompt, and the answers share no first message", hint));
    }
    Ok((Prompt::Chat(chosen[..n].to_vec()), [Prompt::Chat(c), Prompt::Chat(r)]))
}

/// How many messages both begin with.
fn shared(a: &[Value], b: &[Value]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

fn margin(record: &Record) -> Option<f32> {
    record.fields.get("margin").and_then(Value::as_f64).map(|m| m as f32)
}

fn unpaired(record: &Record) -> Result<Example, Problem> {
    let Some((name, label)) = field(record, &LABELS) else {
        return Err(record.problem("no label", "write \"label\": true or false"));
    };
    let desirable = match label {
        Value::Bool(b) => *b,
        Value::Number(n) if n.as_f64() == Some(1.0) => true,
        Value::Number(n) if n.as_f64() == Some(0.0) => false,
        Value::String(s) if s.eq_ignore_ascii_case("true") || s == "1" => true,
        Value::String(s) if s.eq_ignore_ascii_case("false") || s == "0" => false,
        other => {
            let message = format!("{name}: expected true or false, found {other}");
            return Err(record.problem(message, "write \"label\": true or false"));
        }
    };
    let tools = tools(record)?;
    let answer = field(record, &COMPLETION);
    let (prompt, completion) = match (prompt(record)?, answer) {
        (Some(Prompt::Text(p)), Some((_, Value::String(c)))) => (Prompt::Text(p), Prompt::Text(c.clone())),
        (Some(Prompt::Chat(p)), Some((name, c))) => (Prompt::Chat(p), Prompt::Chat(answer_messages(record, name, c)?)),
        (Some(Prompt::Chat(mut p)), None) => {
            // The last message is what is judged.
            match p.pop().filter(|m| m["role"] == "assistant" && !p.is_empty()) {
                Some(last) => (Prompt::Chat(p), Prompt::Chat(vec![last])),
                None => {
                    let hint = "let the messages end with the assistant's answer that the label judges";
                    return Err(record.problem("no answer to judge", hint));
                }
            }
        }
        _ => {
            let hint = "write prompt, completion and label, or messages and label";
            return Err(record.problem("no prompt with a completion", hint));
        }
    };
    Ok(Example::Unpaired { prompt, completion, tools, desirable })
}

fn ids(record: &Record, name: &str, value: &Value) -> Result<Vec<u32>, Problem> {
    let parsed = roles::parsed(record, name, value)?;
    let list = parsed.as_array().map(|l| l.iter().map(|v| v.as_u64().and_then(|v| u32::try_from(v).ok())).collect());
    list.flatten().ok_or_else(|| {
        record.problem(format!("{name}: expected a list of token ids"), "write whole numbers from 0, such as [1, 2, 3]")
    })
}

fn tokens(record: &Record) -> Result<Example, Problem> {
    let ids = ids(record, "input_ids", &record.fields["input_ids"])?;
    let mut learned = vec![true; ids.len()];
    let check = |name: &str, n: usize| match n == ids.len() {
        true => Ok(()),
        false => {
            let message = format!("{name} has {n} entries, input_ids has {}", ids.len());
            Err(record.problem(message, "give one entry for each token"))
        }
    };
    let list = |name: &str| -> Result<Option<Vec<i64>>, Problem> {
        let Some(value) = record.fields.get(name).filter(|v| !v.is_null()) else { return Ok(None) };
        let parsed = roles::parsed(record, name, value)?;
        let entry = |v: &Value| v.as_i64().or(v.as_bool().map(i64::from));
        let numbers: Option<Vec<i64>> = parsed.as_array().and_then(|l| l.iter().map(entry).collect());
        let numbers = numbers
            .ok_or_else(|| record.problem(format!("{name}: expected a list of numbers"), "write one for each token"))?;
        check(name, numbers.len())?;
        Ok(Some(numbers))
    };
    if let Some(labels) = list("labels")? {
        for (i, (&label, &id)) in labels.iter().zip(&ids).enumerate() {
            if label >= 0 && label != i64::from(id) {
                let message = format!("labels[{i}] is {label}, input_ids[{i}] is {id}");
                return Err(record.problem(message, "a label is the token's id, or -100 where it is not learned"));
            }
            learned[i] &= label >= 0;
        }
    }
    for name in ["assistant_masks", "completion_mask"] {
        if let Some(mask) = list(name)? {
            learned.iter_mut().zip(mask).for_each(|(l, m)| *l &= m != 0);
        }
    }
    Ok(Example::Tokens { ids, learned })
}
