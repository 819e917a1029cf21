//! A conversation at the terminal.

mod input;
mod slash;

use crate::answer::{Answer, Ended, Sink};
use crate::chat::{Chat, Message, Role};
use crate::failure;
use crate::markdown::Mode;
use crate::printer::{count, note};
use allod_engine::Finish;
use anyhow::Result;
use input::{Input, Reader};
use std::io::{Write, stderr};
use std::process::ExitCode;

/// The state of the conversation.
pub(crate) struct Talk {
    chat: Chat,
    system: Option<String>,
    messages: Vec<Message>,
    /// Without a template: the text so far, which an empty line continues.
    text: String,
}

/// Talks until the person has enough.
pub(crate) fn run(chat: Chat, system: Option<String>) -> Result<ExitCode> {
    let mut reader = Reader::open()?;
    let mut talk = Talk { chat, system, messages: Vec::new(), text: String::new() };
    talk.greet(reader.is_first_use());
    loop {
        let done = match reader.read()? {
            Input::Leave => return Ok(ExitCode::SUCCESS),
            Input::Nothing => Ok(()),
            Input::Text(text) => talk.say(text),
            Input::Command(line) if matches!(line.trim(), "/exit" | "/quit" | "/bye") => return Ok(ExitCode::SUCCESS),
            Input::Command(line) => slash::command(&mut talk, &line),
        };
        if let Err(error) = done {
            let _ = stderr().write_all(failure::told(&error).as_bytes());
        }
    }
}

impl Talk {
    fn greet(&self, first_use: bool) {
        let Chat { name, session, .. } = &self.chat;
        note(&format!("{name} · {} tokens of context", count(session.context())));
        if first_use && self.chat.template.is_some() {
            note("/help shows what you can do here; Ctrl-C stops an answer, Ctrl-D leaves");
        } else if self.chat.template.is_none() {
            note("type the beginning of a text; an empty line goes on; /help shows more");
        }
    }

    fn say(&mut self, text: String) -> Result<()> {
        if self.chat.template.is_none() {
            return self.carry_on(text);
        }
        if text.trim().is_empty() {
            return Ok(());
        }
        self.messages.push(Message { role: Role::User, content: text });
        self.reply()
    }

    /// Answers the last message. Without an answer it counts as unsaid.
    fn reply(&mut self) -> Result<()> {
        let Some(template) = self.chat.template.take() else { return Ok(()) };
        let system = self.system.iter().map(|s| Message { role: Role::System, content: s.clone() });
        let all: Vec<Message> = system.chain(self.messages.iter().cloned()).collect();
        let answer = self.chat.reply(&template, &all, &mut Sink::fitting(Mode::Markdown));
        self.chat.template = Some(template);
        match answer {
            Ok((_, answer)) => {
                self.tell(&answer);
                self.messages.push(Message { role: Role::Assistant, content: answer.text });
                Ok(())
            }
            Err(error) => {
                self.messages.pop();
                Err(error)
            }
        }
    }

    /// Without a template: continues a new text, or the one before.
    fn carry_on(&mut self, text: String) -> Result<()> {
        let whole = if text.is_empty() { self.text.clone() } else { text };
        if whole.is_empty() {
            return Ok(());
        }
        let (_, answer) = self.chat.complete(&whole, &mut Sink::fitting(Mode::Plain))?;
        self.tell(&answer);
        self.text = whole + &answer.text;
        Ok(())
    }

    fn tell(&self, answer: &Answer) {
        note(&format!("\n{}", answer.summary()));
        if answer.ended == Some(Ended::By(Finish::ContextFull)) {
            let full = "the context is full: /reset begins anew, /undo takes back the last turn, --ctx gives more room";
            note(full);
        }
    }
}
