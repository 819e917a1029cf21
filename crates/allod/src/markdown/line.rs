//! Styled text, and wrapping it into lines of a terminal.

use unicode_width::UnicodeWidthChar;

/// How a run of text looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Style {
    pub(crate) bold: bool,
    pub(crate) italic: bool,
    pub(crate) dim: bool,
    pub(crate) underline: bool,
    pub(crate) strike: bool,
    pub(crate) code: bool,
}

impl Style {
    fn codes(self) -> String {
        let all = [(self.bold, "1"), (self.dim, "2"), (self.italic, "3"), (self.underline, "4"), (self.strike, "9")];
        let codes = all.into_iter().chain([(self.code, "36")]).filter(|c| c.0).map(|c| c.1);
        codes.collect::<Vec<_>>().join(";")
    }
}

/// A character and how it looks.
pub(crate) type Cell = (char, Style);

/// Columns that the cells take.
pub(crate) fn width(cells: &[Cell]) -> usize {
    cells.iter().map(|c| c.0.width().unwrap_or(0)).sum()
}

/// The cells as a string, with escape sequences around styled runs if `styled`.
pub(crate) fn paint(cells: &[Cell], styled: bool) -> String {
    let mut text = String::new();
    for run in cells.chunk_by(|a, b| a.1 == b.1) {
        let codes = if styled { run[0].1.codes() } else { String::new() };
        if !codes.is_empty() {
            text.push_str(&format!("\x1b[{codes}m"));
        }
        text.extend(run.iter().map(|c| c.0));
        if !codes.is_empty() {
            text.push_str("\x1b[0m");
        }
    }
    text
}

/// Breaks cells into lines of at most `columns`: at line feeds, else at spaces and beside wide characters, else inside
/// words that are longer than a line.
pub(crate) fn wrap(cells: &[Cell], columns: usize) -> Vec<Vec<Cell>> {
    cells.split(|c| c.0 == '\n').flat_map(|line| wrap_line(line, columns.max(1))).collect()
}

fn wrap_line(cells: &[Cell], columns: usize) -> Vec<Vec<Cell>> {
    let mut lines = Vec::new();
    let (mut start, mut used, mut chance) = (0, 0, None);
    for (i, &(c, _)) in cells.iter().enumerate() {
        let wide = c.width().unwrap_or(0);
        if wide == 2 && i > start {
            chance = Some(i);
        }
        if used + wide > columns && c != ' ' && i > start {
            let end = chance.filter(|&at| at > start).unwrap_or(i);
            lines.push(trimmed(&cells[start..end]));
            start = end;
            chance = None;
            used = width(&cells[start..i]);
        }
        used += wide;
        if c == ' ' {
            chance = Some(i + 1);
        }
    }
    lines.push(trimmed(&cells[start..]));
    lines
}

/// Without the spaces that the break swallows.
fn trimmed(cells: &[Cell]) -> Vec<Cell> {
    let end = cells.iter().rposition(|c| c.0 != ' ').map_or(0, |i| i + 1);
    cells[..end].to_vec()
}
