//! The terminal: what it can do, and the one line of progress on stderr.

use crate::markdown::wrapped;
use std::io::{IsTerminal, Write, stderr, stdout};

/// Columns and rows of the terminal; 80 × 24 where there is none.
pub(crate) fn size() -> (usize, usize) {
    terminal_size::terminal_size().map_or((80, 24), |(w, h)| (usize::from(w.0).max(20), usize::from(h.0).max(4)))
}

/// Whether answers are drawn (bold, wrapped, in place) rather than passed on as they are.
pub(crate) fn draws() -> bool {
    stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}

/// Whether styles are used at all: not under `NO_COLOR` (no-color.org).
pub(crate) fn styled() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// `text`, dimmed if the terminal on stderr takes that.
pub(crate) fn dim(text: &str) -> String {
    if stderr().is_terminal() && styled() { format!("\x1b[2m{text}\x1b[0m") } else { text.into() }
}

/// Says something beside the answer.
pub(crate) fn note(text: &str) {
    note_beside("", text);
}

/// Says `text` in a column to the right of `label`; long texts stay in that column.
pub(crate) fn note_beside(label: &str, text: &str) {
    let columns = if stderr().is_terminal() { size().0 - 1 } else { usize::MAX };
    // Nothing can be done where stderr is closed.
    let _ = writeln!(stderr(), "{}", dim(&beside(label, text, columns)));
}

/// `text` in a column to the right of `label`, wrapped so that both fit into `columns`.
pub(crate) fn beside(label: &str, text: &str, columns: usize) -> String {
    let indent = label.chars().count();
    let lines = wrapped(text, columns.saturating_sub(indent).max(16));
    format!("{label}{}", lines.join(&format!("\n{}", " ".repeat(indent))))
}

/// A line of progress on stderr that replaces itself; nothing where stderr is no terminal.
#[derive(Default)]
pub(crate) struct Progress {
    shown: bool,
}

impl Progress {
    /// Shows `text` in place of what was shown before.
    pub(crate) fn show(&mut self, text: &str) {
        if stderr().is_terminal() {
            self.shown = true;
            let _ = write!(stderr(), "\r\x1b[K{}", dim(text));
        }
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// `text` without control characters, which could drive the terminal; line feeds and tabs stay.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().filter(|&c| !c.is_control() || c == '\n' || c == '\t').collect()
}

/// Bytes in the unit that suits them.
pub(crate) fn bytes(n: usize) -> String {
    let mut value = n as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// A number of parameters as the field writes it: 2.4M, 0.6B.
pub(crate) fn count(n: usize) -> String {
    match n {
        0..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{:.0}K", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}M", n as f64 / 1e6),
        _ => format!("{:.1}B", n as f64 / 1e9),
    }
}
