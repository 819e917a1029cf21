//! An answer on its way from token ids to the reader.

use crate::interrupt::Guard;
use crate::markdown::{Drawing, Mode};
use crate::printer::{self, Progress, harmless};
use allod_engine::{Event, Finish, Request, Session, Stats, StopStrings, Token};
use allod_text::output::{self, Reader};
use anyhow::Result;
use std::io::{Stdout, Write, stdout};
use std::time::Duration;

/// A finished answer.
#[derive(Default)]
pub(crate) struct Answer {
    /// What is meant for the reader.
    pub(crate) text: String,
    /// What the model thought before.
    pub(crate) reasoning: String,
    pub(crate) tokens: Vec<Token>,
    pub(crate) ended: Option<Ended>,
    pub(crate) stats: Stats,
    pub(crate) seed: u64,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    By(Finish),
    StopString,
}

impl Ended {
    /// The word for it in JSON.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Ended::By(Finish::Stop(_) | Finish::Complete) | Ended::StopString => "stop",
            Ended::By(Finish::Length) => "length",
            Ended::By(Finish::ContextFull) => "context_full",
            Ended::By(Finish::Cancelled) => "cancelled",
        }
    }
}

/// What stands between the ids and the text.
pub(crate) struct Pipe {
    pub(crate) reader: Reader,
    pub(crate) stops: StopStrings,
}

/// Where the text goes while it is written.
pub(crate) enum Sink {
    /// Nowhere; it is reported at the end.
    Silent,
    /// Through stdout as it is, without the reasoning.
    Plain,
    /// Drawn on a terminal, the reasoning dimmed.
    Drawn { drawing: Drawing<Stdout>, thinking: bool },
}

impl Sink {
    /// How answers are shown on this stdout: drawn where it is a terminal, else as they are.
    pub(crate) fn fitting(mode: Mode) -> Sink {
        if !printer::draws() {
            return Sink::Plain;
        }
        Sink::Drawn { drawing: Drawing::new(stdout(), mode, printer::size, printer::styled()), thinking: false }
    }

    fn write(&mut self, event: &output::Event) -> Result<()> {
        use output::Event::{Content, Reasoning};
        match (self, event) {
            (Sink::Plain, Content(text)) => {
                let mut out = stdout().lock();
                out.write_all(text.as_bytes())?;
                out.flush()?;
            }
            (Sink::Drawn { thinking, .. }, Reasoning(text)) => {
                let text = harmless(if *thinking { text } else { text.trim_start() });
                *thinking |= !text.is_empty();
                let mut out = stdout().lock();
                let (on, off) = if printer::styled() { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
                write!(out, "{on}{text}{off}")?;
                out.flush()?;
            }
            (Sink::Drawn { drawing, thinking }, Content(text)) => {
                if std::mem::take(thinking) {
                    stdout().write_all(b"\n\n")?;
                }
                drawing.push(text)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, answer: &Answer) -> Result<()> {
        match self {
            Sink::Silent => {}
            Sink::Plain if answer.text.ends_with('\n') => {}
            Sink::Plain => stdout().write_all(b"\n")?,
            Sink::Drawn { drawing, thinking } => {
                if *thinking {
                    stdout().write_all(b"\n")?;
                }
                drawing.finish(answer.ended == Some(Ended::By(Finish::Cancelled)))?;
            }
        }
        Ok(())
    }
}

/// Generates an answer into `sink`. Ctrl-C ends it early; what is there by then is the answer.
pub(crate) fn answer(session: &mut Session, request: Request, mut pipe: Pipe, sink: &mut Sink) -> Result<Answer> {
    let cancel = request.cancel.clone();
    let _guard = Guard::new(cancel.clone());
    let mut progress = Progress::default();
    let mut answer = Answer::default();
    let mut generation = session.generate(request)?;
    answer.seed = generation.seed();
    for event in &mut generation {
        match event? {
            Event::Prompt { done, total } => progress.show(&format!("reading the prompt: {done} of {total} tokens")),
            // What comes behind the text that ended the answer is none of it.
            Event::Token(_) if pipe.stops.found().is_some() => {}
            Event::Token(token) => {
                progress.clear();
                let text = pipe.reader.text(token.id);
                answer.tokens.push(token);
                let text = pipe.stops.push(&text);
                answer.take(pipe.reader.push_text(&text), sink)?;
                if pipe.stops.found().is_some() {
                    cancel.cancel();
                }
            }
            Event::Finished { reason, stats } => {
                let by_string = pipe.stops.found().is_some();
                answer.ended = Some(if by_string { Ended::StopString } else { Ended::By(reason) });
                answer.stats = stats;
            }
        }
    }
    let text = pipe.stops.push(&pipe.reader.text_left()) + &pipe.stops.finish();
    answer.take(pipe.reader.push_text(&text), sink)?;
    answer.take(pipe.reader.finish(), sink)?;
    sink.finish(&answer)?;
    Ok(answer)
}

impl Answer {
    fn take(&mut self, events: Vec<output::Event>, sink: &mut Sink) -> Result<()> {
        for event in events {
            match &event {
                output::Event::Reasoning(text) => self.reasoning.push_str(text),
                output::Event::Content(text) => self.text.push_str(text),
                _ => {}
            }
            sink.write(&event)?;
        }
        Ok(())
    }

    /// One line on how it went, for stderr.
    pub(crate) fn summary(&self) -> String {
        let Stats { generated_tokens, prompt_tokens, cached_tokens, first_token, .. } = self.stats;
        let cached = if cached_tokens > 0 { format!(" ({cached_tokens} cached)") } else { String::new() };
        let mut line = format!(
            "{generated_tokens} tokens, {:.1} tokens/s, first after {}; prompt {prompt_tokens}{cached}",
            self.stats.generated_per_second(),
            duration(first_token),
        );
        match self.ended {
            Some(Ended::By(Finish::Length)) => line.push_str("; stopped by max_tokens"),
            Some(Ended::By(Finish::Cancelled)) => line.push_str("; stopped by you"),
            _ => {}
        }
        line
    }
}

fn duration(time: Duration) -> String {
    if time.as_secs() < 1 { format!("{} ms", time.as_millis()) } else { format!("{:.2} s", time.as_secs_f64()) }
}
