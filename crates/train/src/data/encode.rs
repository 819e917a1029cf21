//! Examples to token ids, and which of them are learned.

use super::{Example, Record, roles, shape::Prompt};
use crate::{Error, error::Problem};
use allod_text::{Conversation, Role, Special, Template, Templates, Tokenizer};
use serde_json::{Map, Value, json};
use std::ops::Range;

/// A template for models that have none: every message between marks, the assistant's to be learned.
pub const CHATML: &str = "{%- for message in messages -%}\
{{- '<|im_start|>' + message['role'] + '\\n' -}}\
{%- if message['role'] == 'assistant' -%}{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}\
{%- else -%}{{- message['content'] + '<|im_end|>' -}}{%- endif -%}{{- '\\n' -}}{%- endfor -%}\
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}";

/// Which tokens are learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mask {
    /// Text: all. Prompt and completion: the completion. Chats: what the assistant says, by the template's own marks
    /// where it has them, else as [`Mask::Answers`] finds it.
    #[default]
    Auto,
    /// Every token.
    All,
    /// What comes after the prompt: in a chat, the last answer.
    Completion,
    /// What the template marks as the assistant's (`{% generation %}`).
    Assistant,
    /// What the assistant says, found by rendering the chat with another answer in its place.
    Answers,
}

/// What happens to a sequence that is too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truncation {
    /// Its end is cut off.
    #[default]
    KeepStart,
    /// Its beginning is cut off.
    KeepEnd,
    /// It is left out.
    Drop,
}

/// A sequence of ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Ids.
    pub ids: Vec<u32>,
    /// One flag for each: whether the model is to learn to write it.
    pub learned: Vec<bool>,
    /// How many of the first ids are the prompt.
    pub prompt: usize,
    /// Ids that were cut off.
    pub cut: usize,
}

/// An example as ids.
#[derive(Clone, Debug, PartialEq)]
pub enum Encoded {
    /// A sequence to learn from.
    One(Tokens),
    /// Two answers, the first better.
    Pair(Tokens, Tokens, Option<f32>),
    /// An answer that is wanted or not.
    Judged(Tokens, bool),
    /// Nothing would be learned from it: why.
    Skipped(&'static str),
}

/// A model's way of writing examples as ids.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: Tokenizer,
    plain: Option<Template>,
    with_tools: Option<Template>,
    variables: Map<String, Value>,
    /// Seconds since 1970 for templates that write the date.
    now: u64,
    /// What is learned.
    pub mask: Mask,
    /// Longest sequence.
    pub max_length: usize,
    /// What happens to longer ones.
    pub truncation: Truncation,
}

impl Encoder {
    /// `templates` may be empty. `now`: the time that templates take for the present.
    ///
    /// # Errors
    /// [`Error::Template`]; [`Error::Setting`] when [`Mask::Assistant`] is asked of a template without marks.
    pub fn new(
        tokenizer: Tokenizer,
        templates: &Templates,
        mask: Mask,
        max_length: usize,
        truncation: Truncation,
        now: u64,
    ) -> Result<Encoder, Error> {
        let (plain, with_tools) = (templates.compile(false)?, templates.compile(true)?);
        if mask == Mask::Assistant
            && let Some(template) = &plain
            && !template.marks_generation()
        {
            return Err(Error::setting(
                "data.mask = \"assistant\"",
                "the model's chat template does not mark what the assistant writes ({% generation %})",
                "use mask = \"answers\", which finds it by rendering, mask = \"completion\" for the last answer only, or \
                 give a template that marks it",
            ));
        }
        let token = |role| Some(Value::from(tokenizer.token_text(tokenizer.special(role)?)?));
        let names =
            [("bos_token", Role::Bos), ("eos_token", Role::Eos), ("unk_token", Role::Unk), ("pad_token", Role::Pad)];
        let variables = names.into_iter().filter_map(|(name, role)| Some((name.to_owned(), token(role)?))).collect();
        Ok(Encoder { tokenizer, plain, with_tools, variables, now, mask, max_length, truncation })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The source of the template for chats without tools.
    pub fn template(&self) -> Option<&str> {
        self.plain.as_ref().map(Template::source)
    }

    /// The ids of an example. A text may give several sequences; the others give one entry.
    ///
    /// # Errors
    /// A [`Problem`] of the record.
    pub fn encode(&self, record: &Record, example: &Example) -> Result<Vec<Encoded>, Problem> {
        match example {
            Example::Text { text, ends } => self.text(record, text, *ends),
            Example::Chat { messages, tools } => {
                let tokens = self.chat(record, messages, tools)?;
                Ok(vec![self.one(tokens)])
            }
            Example::Completion { prompt, completion } => {
                let mut tokens = self.answer(record, &text_of(prompt), &text_of(completion), &Value::Null)?;
                if self.mask == Mask::All {
                    tokens.learned.fill(true);
                }
                Ok(vec![self.one(tokens)])
            }
            Example::Preference { prompt, chosen, rejected, tools, margin } => {
                let chosen = self.answer(record, prompt, chosen, tools)?;
                let rejected = self.answer(record, prompt, rejected, tools)?;
                Ok(vec![self.pair(record, chosen, rejected, *margin)?])
            }
            Example::Unpaired { prompt, completion, tools, desirable } => {
                let tokens = self.answer(record, prompt, completion, tools)?;
                Ok(vec![match self.cut(tokens) {
                    Ok(tokens) => Encoded::Judged(tokens, *desirable),
                    Err(why) => Encoded::Skipped(why),
                }])
            }
            Example::Tokens { ids, learned } => {
                self.check(record, ids)?;
                let prompt = learned.iter().position(|l| *l).unwrap_or(ids.len());
                Ok(vec![self.one(Tokens { ids: ids.clone(), learned: learned.clone(), prompt, cut: 0 })])
            }
            Example::TokenPair { prompt, chosen, rejected, margin } => {
                let side = |answer: &[u32]| -> Result<Tokens, Problem> {
                    let ids = [prompt, answer].concat();
                    self.check(record, &ids)?;
                    let learned = (0..ids.len()).map(|i| i >= prompt.len()).collect();
                    Ok(Tokens { ids, learned, prompt: prompt.len(), cut: 0 })
                };
                let (chosen, rejected) = (side(chosen)?, side(rejected)?);
                Ok(vec![self.pair(record, chosen, rejected, *margin)?])
            }
        }
    }

    fn check(&self, record: &Record, ids: &[u32]) -> Result<(), Problem> {
        let vocabulary = self.tokenizer.vocab_size();
        match ids.iter().find(|&&id| id as usize >= vocabulary) {
            Some(id) => {
                let message = format!("token id {id} in a vocabulary of {vocabulary}");
                Err(record.problem(message, "the data were tokenized for another model"))
            }
            None => Ok(()),
        }
    }

    fn ids(&self, record: &Record, text: &str, special: Special) -> Result<Vec<u32>, Problem> {
        self.tokenizer.encode(text, special).map_err(|e| record.problem(e.to_string(), "shorten or split the text"))
    }

    /// Plain text: cut into windows rather than cut off. Each window repeats the last id of the one before, so that every
    /// id is predicted once.
    fn text(&self, record: &Record, text: &str, ends: bool) -> Result<Vec<Encoded>, Problem> {
        let mut ids = self.ids(record, text, Special { parse: true, add: true })?;
        let eos = self.tokenizer.special(Role::Eos);
        if ends && eos.is_some() && ids.last().copied() != eos {
            ids.extend(eos);
        }
        if ids.len() < 2 {
            return Ok(vec![Encoded::Skipped("one token or none: there is nothing to predict")]);
        }
        let stride = self.max_length.max(2) - 1;
        let starts = (0..ids.len() - 1).step_by(stride);
        Ok(starts
            .map(|start| {
                let ids = ids[start..(start + stride + 1).min(ids.len())].to_vec();
                Encoded::One(Tokens { learned: vec![true; ids.len()], ids, prompt: 0, cut: 0 })
            })
            .collect())
    }

    fn one(&self, tokens: Tokens) -> Encoded {
        self.cut(tokens).map_or_else(Encoded::Skipped, Encoded::One)
    }

    fn pair(&self, record: &Record, a: Tokens, b: Tokens, margin: Option<f32>) -> Result<Encoded, Problem> {
        if a.ids == b.ids {
            let hint = "a pair teaches by its difference: remove the record, or make the answers differ";
            return Err(record.problem("chosen and rejected are the same tokens", hint));
        }
        Ok(match (self.cut(a), self.cut(b)) {
            (Ok(a), Ok(b)) if a.ids == b.ids => Encoded::Skipped("the answers differ only beyond the longest length"),
            (Ok(a), Ok(b)) => Encoded::Pair(a, b, margin),
            (Err(why), _) | (_, Err(why)) => Encoded::Skipped(why),
        })
    }

    /// The sequence at most as long as allowed, or why nothing is left of it.
    fn cut(&self, mut t: Tokens) -> Result<Tokens, &'static str> {
        let over = t.ids.len().saturating_sub(self.max_length);
        if over > 0 {
            match self.truncation {
                Truncation::Drop => return Err("longer than the longest length"),
                Truncation::KeepStart => {
                    t.ids.truncate(self.max_length);
                    t.learned.truncate(self.max_length);
                    t.prompt = t.prompt.min(self.max_length);
                }
                Truncation::KeepEnd => {
                    t.ids.drain(..over);
                    t.learned.drain(..over);
                    t.prompt = t.prompt.saturating_sub(over);
                }
            }
            t.cut = over;
        }
        // The first id is given: nothing predicts it.
        if t.learned.iter().skip(1).any(|l| *l) {
            Ok(t)
        } else if over > 0 {
            Err("nothing to learn is left after cutting it to the longest length")
        } else {
            Err("no token of it is learned: the mask is empty")
        }
    }

    /// What `prompt` and `answer` give together; learned is what comes after their longest common prefix with the prompt
    /// alone, for the last token of a prompt may join the first of an answer.
    fn answer(&self, record: &Record, prompt: &Prompt, answer: &Prompt, tools: &Value) -> Result<Tokens, Problem> {
        let (before, ids) = match (prompt, answer) {
            (Prompt::Text(prompt), Prompt::Text(answer)) => {
                let special = Special { parse: true, add: true };
                let before = self.ids(record, prompt, special)?;
                let mut ids = self.ids(record, &format!("{prompt}{answer}"), special)?;
                let eos = self.tokenizer.special(Role::Eos);
                if eos.is_some() && ids.last().copied() != eos {
                    ids.extend(eos);
                }
                (before, ids)
            }
            _ => {
                let prompt = as_messages(prompt, "user");
                let whole = [prompt.clone(), as_messages(answer, "assistant")].concat();
                let before = self.render(record, &prompt, tools, true)?.0;
                let (text, _) = self.render(record, &whole, tools, false)?;
                (self.ids(record, &before, Special::PARSE)?, self.ids(record, &text, Special::PARSE)?)
            }
        };
        let prompt = before.iter().zip(&ids).take_while(|(a, b)| a == b).count();
        let learned = (0..ids.len()).map(|i| i >= prompt).collect();
        Ok(Tokens { ids, learned, prompt, cut: 0 })
    }

    fn chat(&self, record: &Record, messages: &[Value], tools: &Value) -> Result<Tokens, Problem> {
        if self.mask == Mask::Completion {
            let last = messages.iter().rposition(|m| m["role"] != "assistant").map_or(0, |i| i + 1);
            let (prompt, answer) = messages.split_at(last);
            if answer.is_empty() {
                let hint = "let the chat end with the assistant's answer, or use mask = \"answers\"";
                return Err(record.problem("the last message is not the assistant's", hint));
            }
            return self.answer(record, &Prompt::Chat(prompt.to_vec()), &Prompt::Chat(answer.to_vec()), tools);
        }
        let (text, marked) = self.render(record, messages, tools, false)?;
        let ids = self.ids(record, &text, Special::PARSE)?;
        let template = self.template_for(record, tools)?;
        let marks = template.marks_generation();
        let spans = match self.mask {
            Mask::All => std::iter::once(0..text.len()).collect(),
            Mask::Assistant | Mask::Auto if marks => learned_only(messages, marked),
            Mask::Assistant => {
                let hint = "use mask = \"answers\", or give a template that marks them";
                return Err(record.problem("this chat's template marks no answers ({% generation %})", hint));
            }
            _ => self.answers(record, messages, tools, &text)?,
        };
        let learned = self.mark(record, &ids, &text, &spans)?;
        let prompt = learned.iter().position(|l| *l).unwrap_or(ids.len());
        Ok(Tokens { ids, learned, prompt, cut: 0 })
    }

    fn template_for(&self, record: &Record, tools: &Value) -> Result<&Template, Problem> {
        let template = if tools.is_null() { &self.plain } else { &self.with_tools };
        template.as_ref().ok_or_else(|| {
            let hint = "give one with --template FILE (or --template chatml), or write prompt and completion as texts";
            record.problem("a chat, but the model has no chat template", hint)
        })
    }

    /// The text of messages, and the bytes of it that the template marks.
    fn render(
        &self,
        record: &Record,
        messages: &[Value],
        tools: &Value,
        open: bool,
    ) -> Result<(String, Vec<Range<usize>>), Problem> {
        let conversation = Conversation {
            messages: messages.to_vec().into(),
            tools: tools.clone(),
            documents: Value::Null,
            add_generation_prompt: open,
            variables: self.variables.clone(),
            now: Some(self.now),
        };
        let rendered = self.template_for(record, tools)?.render(&conversation);
        let rendered = rendered.map_err(|e| {
            record.problem(e.to_string(), "see what the model's chat template asks of roles and their order")
        })?;
        Ok((rendered.text, rendered.generated))
    }

    /// Where the assistant's messages stand in `text`: each is found by rendering the chat with another text in its place,
    /// begins where the model would begin to write, and ends with the token that ends a turn.
    fn answers(
        &self,
        record: &Record,
        messages: &[Value],
        tools: &Value,
        text: &str,
    ) -> Result<Vec<Range<usize>>, Problem> {
        let mut spans = Vec::new();
        for (i, message) in messages.iter().enumerate().filter(|(_, m)| roles::is_learned(m)) {
            let mut other = messages.to_vec();
            other[i]["content"] = "\u{F8FF}".into();
            let (other, _) = self.render(record, &other, tools, false)?;
            let same = |(a, b): &(u8, u8)| a == b;
            let mut start = text.bytes().zip(other.bytes()).take_while(same).count();
            let tail = text[start..].bytes().rev().zip(other[start.min(other.len())..].bytes().rev());
            let mut end = text.len() - tail.take_while(same).count();
            // Equal bytes at an edge may be half a character.
            while !text.is_char_boundary(start) {
                start -= 1;
            }
            while !text.is_char_boundary(end) {
                end += 1;
            }
            let content = message["content"].as_str().unwrap_or_default();
            let unseen = start == end && !content.trim().is_empty();
            let (before, _) = self.render(record, &messages[..i], tools, true).unwrap_or_default();
            if !before.is_empty() && before.len() <= start && text.starts_with(&before) {
                start = before.len();
            }
            if unseen && message.get("tool_calls").is_none() {
                let hint = "use mask = \"completion\", or give a template that marks answers ({% generation %})";
                return Err(record.problem(format!("messages[{i}] does not appear in what the template writes"), hint));
            }
            spans.push(start..self.end_of_turn(text, end));
        }
        Ok(spans)
    }

    /// The end of the first token from `from` on that ends a turn; `from` where none follows.
    fn end_of_turn(&self, text: &str, from: usize) -> usize {
        let stops = self.tokenizer.stop_tokens().iter().filter_map(|&id| self.tokenizer.token_text(id));
        let ends = stops.filter_map(|stop| Some((text[from..].find(stop)?, stop.len())));
        ends.min().map_or(from, |(at, length)| from + at + length)
    }

    /// One flag for each id: whether any of its bytes lie in a span.
    fn mark(&self, record: &Record, ids: &[u32], text: &str, spans: &[Range<usize>]) -> Result<Vec<bool>, Problem> {
        let mut ends = Vec::with_capacity(ids.len());
        let mut bytes = Vec::with_capacity(text.len() + 1);
        for &id in ids {
            bytes.extend_from_slice(&self.tokenizer.token_bytes(id).unwrap_or_default());
            ends.push(bytes.len());
        }
        // Some vocabularies put a space in front of every text.
        let lead = bytes.len().wrapping_sub(text.len());
        if lead <= 1 && &bytes[lead..] == text.as_bytes() {
            let starts = std::iter::once(0).chain(ends.iter().copied());
            let touches = |(start, &end): (usize, &usize)| {
                let (start, end) = (start.saturating_sub(lead), end.saturating_sub(lead));
                spans.iter().any(|s| start < s.end && s.start < end)
            };
            return Ok(starts.zip(&ends).map(touches).collect());
        }
        let mut learned = vec![false; ids.len()];
        for span in spans {
            let mut at = [0, 0];
            for (at, edge) in at.iter_mut().zip([span.start, span.end]) {
                let before = self.ids(record, &text[..edge], Special::PARSE)?;
                *at = before.iter().zip(ids).take_while(|(a, b)| a == b).count();
            }
            learned[at[0]..at[1].max(at[0])].fill(true);
        }
        Ok(learned)
    }
}

/// The spans of messages that are learned, where every assistant message has one.
fn learned_only(messages: &[Value], spans: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let answers: Vec<bool> = messages.iter().filter(|m| m["role"] == "assistant").map(roles::is_learned).collect();
    if answers.len() != spans.len() {
        return spans;
    }
    spans.into_iter().zip(answers).filter(|(_, learned)| *learned).map(|(span, _)| span).collect()
}

fn as_messages(prompt: &Prompt, role: &str) -> Vec<Value> {
    match prompt {
        Prompt::Chat(messages) => messages.clone(),
        Prompt::Text(text) => vec![json!({ "role": role, "content": text })],
    }
}

fn text_of(text: &str) -> Prompt {
    Prompt::Text(text.to_owned())
}
