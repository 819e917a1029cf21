//! Telling a model's reasoning from its answer while it is written.

/// What a piece of text belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Reasoning,
    Answer,
}

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Cuts a stream at `<think>` and `</think>`. Reasoning is recognized at the very beginning only: later the tags are
/// text like any other.
#[derive(Debug)]
pub(crate) struct Splitter {
    state: State,
    held: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    Reasoning,
    /// Reasoning has ended; the blank lines before the answer are dropped.
    Between,
    Answer,
}

impl Splitter {
    /// A stream that continues `prompt`: many templates end with the opening tag themselves.
    pub(crate) fn after(prompt: &str) -> Splitter {
        let open = prompt.trim_end().ends_with(OPEN);
        Splitter { state: if open { State::Reasoning } else { State::Start }, held: String::new() }
    }

    /// Everything is answer.
    pub(crate) fn off() -> Splitter {
        Splitter { state: State::Answer, held: String::new() }
    }

    /// Takes the next piece and gives what can be told of it.
    pub(crate) fn push(&mut self, piece: &str) -> Vec<(Part, String)> {
        self.held.push_str(piece);
        let mut parts = Vec::new();
        loop {
            match self.state {
                State::Start => match self.held.trim_start() {
                    start if start.starts_with(OPEN) => {
                        self.held = start[OPEN.len()..].to_string();
                        self.state = State::Reasoning;
                    }
                    start if OPEN.starts_with(start) => return parts,
                    _ => self.state = State::Answer,
                },
                State::Reasoning => {
                    if let Some(at) = self.held.find(CLOSE) {
                        parts.push((Part::Reasoning, self.held[..at].to_string()));
                        self.held.drain(..at + CLOSE.len());
                        self.state = State::Between;
                        continue;
                    }
                    let kept = (1..CLOSE.len()).rev().find(|&n| self.held.ends_with(&CLOSE[..n])).unwrap_or(0);
                    let certain: String = self.held.drain(..self.held.len() - kept).collect();
                    parts.push((Part::Reasoning, certain));
                    break;
                }
                State::Between => {
                    self.held = self.held.trim_start().to_string();
                    if self.held.is_empty() {
                        break;
                    }
                    self.state = State::Answer;
                }
                State::Answer => {
                    parts.push((Part::Answer, std::mem::take(&mut self.held)));
                    break;
                }
            }
        }
        parts.retain(|p| !p.1.is_empty());
        parts
    }

    /// What was held back when the stream ends.
    pub(crate) fn finish(&mut self) -> Option<(Part, String)> {
        let part = if self.state == State::Reasoning { Part::Reasoning } else { Part::Answer };
        let rest = std::mem::take(&mut self.held);
        (!rest.is_empty()).then_some((part, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(prompt: &str, text: &str, piece: usize) -> (String, String) {
        let mut splitter = Splitter::after(prompt);
        let chars: Vec<char> = text.chars().collect();
        let mut parts: Vec<_> =
            chars.chunks(piece).flat_map(|c| splitter.push(&c.iter().collect::<String>())).collect();
        parts.extend(splitter.finish());
        let of = |part| parts.iter().filter(|p| p.0 == part).map(|p| p.1.as_str()).collect::<String>();
        (of(Part::Reasoning), of(Part::Answer))
    }

    #[test]
    fn reasoning_is_told_from_the_answer() {
        for piece in [1, 2, 5, 100] {
            let both = ("hm < ok".to_string(), "yes <think>".to_string());
            assert_eq!(split("", "\n<think>hm < ok</think>\n\nyes <think>", piece), both);
            assert_eq!(split("…<think>\n", "hm < ok</think>\n\nyes <think>", piece), both);
            assert_eq!(split("", "<thin air", piece), (String::new(), "<thin air".into()));
            assert_eq!(split("", "<think>cut </thi", piece), ("cut </thi".into(), String::new()));
        }
    }
}
