//! Reading what a person types: history, several lines, completion of commands.

use super::slash;
use anyhow::Result;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Editor, Helper};
use std::path::PathBuf;

/// What came.
pub(crate) enum Input {
    Text(String),
    Command(String),
    Nothing,
    Leave,
}

/// The keyboard, with the history of earlier conversations.
pub(crate) struct Reader {
    editor: Editor<Lines, DefaultHistory>,
    history: Option<PathBuf>,
    first_use: bool,
}

const QUOTES: &str = "\"\"\"";

impl Reader {
    pub(crate) fn open() -> Result<Reader> {
        let mut editor = Editor::new()?;
        editor.set_helper(Some(Lines));
        let history = history_file();
        // A history that cannot be read is as good as none.
        let loaded = history.as_ref().is_some_and(|path| editor.load_history(path).is_ok());
        Ok(Reader { editor, history, first_use: !loaded })
    }

    pub(crate) fn is_first_use(&self) -> bool {
        self.first_use
    }

    pub(crate) fn read(&mut self) -> Result<Input> {
        let line = match self.editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => return Ok(Input::Nothing),
            Err(ReadlineError::Eof) => return Ok(Input::Leave),
            Err(error) => return Err(error.into()),
        };
        if !line.trim().is_empty() {
            self.remember(&line);
        }
        let text = joined(&line);
        Ok(if text.starts_with('/') { Input::Command(text) } else { Input::Text(text) })
    }

    /// Keeps a line for next time; not being able to is no reason to stop talking.
    fn remember(&mut self, line: &str) {
        let added = self.editor.add_history_entry(line).unwrap_or(false);
        if let Some(path) = self.history.as_ref().filter(|_| added) {
            if let Some(folder) = path.parent() {
                let _ = std::fs::create_dir_all(folder);
            }
            let _ = self.editor.append_history(path);
        }
    }
}

/// `$XDG_STATE_HOME/allod/history`, by default below `~/.local/state`.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let state = state.or_else(|| Some(std::env::home_dir()?.join(".local/state")))?;
    Some(state.join("allod/history"))
}

/// The text that a person meant: without the quotes or backslashes that made it several lines.
fn joined(line: &str) -> String {
    if let Some(rest) = line.trim_start().strip_prefix(QUOTES) {
        let inner = rest.trim_end().strip_suffix(QUOTES).unwrap_or(rest);
        return inner.trim_matches('\n').to_string();
    }
    line.replace("\\\n", "\n").trim_end().to_string()
}

/// Knows when a text goes on in the next line, and which commands there are.
struct Lines;

impl Helper for Lines {}
impl Highlighter for Lines {}
impl Hinter for Lines {
    type Hint = String;
}

impl Validator for Lines {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let text = context.input().trim();
        let quoted = text.strip_prefix(QUOTES).is_some_and(|rest| !rest.ends_with(QUOTES));
        let open = quoted || (!text.starts_with(QUOTES) && text.ends_with('\\'));
        Ok(if open { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Completer for Lines {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..at];
        let (from, all): (usize, Vec<String>) = match typed.strip_prefix("/set ") {
            Some(name) if !name.contains(' ') => (5, slash::parameters()),
            _ => (0, slash::COMMANDS.iter().map(|c| c.0.to_string()).collect()),
        };
        let fits = |c: &String| typed.starts_with('/') && c.starts_with(&typed[from..]);
        Ok((from, all.into_iter().filter(fits).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::joined;

    #[test]
    fn several_lines_become_one_text() {
        assert_eq!(joined("one \\\ntwo"), "one \ntwo");
        assert_eq!(joined("\"\"\"\nfn main() {\n}\n\"\"\""), "fn main() {\n}");
        assert_eq!(joined("\"\"\"quoted\"\"\" "), "quoted");
        assert_eq!(joined("a \\ b"), "a \\ b");
    }
}
