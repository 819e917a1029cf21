//! Markdown on a terminal while it is still being written: finished blocks are left alone, the open one is drawn again
//! from its first line that changed.

mod line;
mod render;

pub(crate) use render::plain as wrapped;

use crate::printer::harmless;
use std::io::{Result, Write};

/// How text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Markdown,
    /// As it stands, wrapped at words.
    Plain,
}

/// A stream of text drawn on a terminal.
pub(crate) struct Drawing<W: Write> {
    out: W,
    mode: Mode,
    size: fn() -> (usize, usize),
    styled: bool,
    /// Text of the open block.
    source: String,
    /// Its lines as they stand on the screen; the cursor is at the end of the last.
    shown: Vec<String>,
}

impl<W: Write> Drawing<W> {
    /// Draws on `out`, a terminal of `size` columns and rows.
    pub(crate) fn new(out: W, mode: Mode, size: fn() -> (usize, usize), styled: bool) -> Drawing<W> {
        Drawing { out, mode, size, styled, source: String::new(), shown: Vec::new() }
    }

    /// Adds text.
    pub(crate) fn push(&mut self, text: &str) -> Result<()> {
        self.source.push_str(&harmless(text));
        // A line that is still being written may yet belong to the block before it.
        let whole_lines = self.source.rfind('\n').map_or(0, |at| at + 1);
        let (finished, gap) = match self.mode {
            Mode::Markdown => (render::last_block(&self.source[..whole_lines]), "\n\n"),
            Mode::Plain => (whole_lines, ""),
        };
        if finished > 0 {
            let rest = self.source.split_off(finished);
            let block = self.lines();
            if self.shown.strip_prefix(&*block).is_some_and(|after| after.first().is_some_and(String::is_empty)) {
                // The beginning of the next block stands below it already.
                self.shown.drain(..=block.len());
            } else {
                self.draw()?;
                self.out.write_all(gap.as_bytes())?;
                self.shown.clear();
            }
            self.source = rest;
        }
        self.draw()?;
        self.out.flush()
    }

    /// Ends the text and its last line. If a person `interrupted`, the terminal has written `^C` into that line.
    pub(crate) fn finish(&mut self, interrupted: bool) -> Result<()> {
        if let Some(last) = self.shown.last() {
            let again = if interrupted { format!("\r\x1b[J{last}") } else { String::new() };
            // Plain text may just have ended its last line itself.
            let end = if last.is_empty() { "" } else { "\n" };
            write!(self.out, "{again}{end}")?;
        }
        self.source.clear();
        self.shown.clear();
        self.out.flush()
    }

    /// The open block as it should stand on the screen.
    fn lines(&self) -> Vec<String> {
        // The last column stays free: terminals disagree on where the cursor is after writing there.
        let columns = (self.size)().0 - 1;
        match self.mode {
            Mode::Markdown => render::render(&self.source, columns, self.styled),
            Mode::Plain => render::plain(&self.source, columns),
        }
    }

    fn draw(&mut self) -> Result<()> {
        let rows = (self.size)().1;
        let lines = self.lines();
        if lines.is_empty() {
            return Ok(());
        }
        let same = lines.iter().zip(&self.shown).take_while(|(a, b)| a == b).count();
        let Some(last) = self.shown.len().checked_sub(1) else {
            self.shown = lines;
            return self.out.write_all(self.shown.join("\n").as_bytes());
        };
        // Where the cursor goes back to: at most the last line of either picture.
        let first = same.min(last).min(lines.len() - 1);
        let more = lines[first].strip_prefix(&*self.shown[first]).filter(|_| first == last);
        if let Some(more) = more {
            self.out.write_all(more.as_bytes())?;
            for line in &lines[first + 1..] {
                write!(self.out, "\n{line}")?;
            }
        } else {
            // What has left the screen at the top cannot be drawn again.
            let up = (last - first).min(rows - 1);
            if up > 0 {
                write!(self.out, "\x1b[{up}A")?;
            }
            let from = (last - up).min(lines.len() - 1);
            write!(self.out, "\r\x1b[J{}", lines[from..].join("\n"))?;
        }
        self.shown = lines;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A terminal that knows the few sequences used here.
    fn screen(bytes: &[u8]) -> Vec<String> {
        let text = std::str::from_utf8(bytes).unwrap();
        let (mut rows, mut row, mut column) = (vec![Vec::<char>::new()], 0usize, 0usize);
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\n' => {
                    (row, column) = (row + 1, 0);
                    if row == rows.len() {
                        rows.push(Vec::new());
                    }
                }
                '\r' => column = 0,
                '\x1b' => {
                    assert_eq!(chars.next(), Some('['));
                    let mut number = String::new();
                    let action = loop {
                        match chars.next().unwrap() {
                            c @ ('0'..='9' | ';') => number.push(c),
                            c => break c,
                        }
                    };
                    match action {
                        'A' => row -= number.parse::<usize>().unwrap(),
                        'J' => {
                            rows[row].truncate(column);
                            rows.truncate(row + 1);
                        }
                        'm' => {}
                        other => panic!("{other}"),
                    }
                }
                c => {
                    rows[row].resize(column, ' ');
                    rows[row].push(c);
                    column += 1;
                }
            }
        }
        rows.into_iter().map(|r| r.into_iter().collect::<String>().trim_end().to_string()).collect()
    }

    fn drawn(text: &str, piece: usize, size: fn() -> (usize, usize)) -> Vec<String> {
        drawn_as(Mode::Markdown, text, piece, size)
    }

    fn drawn_as(mode: Mode, text: &str, piece: usize, size: fn() -> (usize, usize)) -> Vec<String> {
        let mut out = Vec::new();
        let mut markdown = Drawing::new(&mut out, mode, size, true);
        let chars: Vec<char> = text.chars().collect();
        for piece in chars.chunks(piece) {
            markdown.push(&piece.iter().collect::<String>()).unwrap();
        }
        markdown.finish(false).unwrap();
        screen(&out)
    }

    const TEXT: &str = "# A title\n\nSome *text* with **bold words** and `code`, long enough to wrap.\n\n\
        1. one\n2. two\n   - inner *item*\n   - another\n\n> quoted\n> text\n\n```rust\nfn main() {\n    body();\n}\n```\n\n\
        | name | value |\n|---|---:|\n| a | 1 |\n| long name | 20 |\n\n---\nThe end.";

    #[test]
    fn streaming_ends_with_what_drawing_at_once_gives() {
        for size in [|| (80, 60), || (30, 60)] {
            let whole = drawn(TEXT, usize::MAX, size);
            for piece in [1, 3, 7] {
                assert_eq!(drawn(TEXT, piece, size), whole);
            }
        }
    }

    #[test]
    fn blocks_look_like_what_they_are() {
        let expected = "\
A title

Some text with bold words
and code, long enough to
wrap.

1. one
2. two
   • inner item
   • another

│ quoted
│ text

```rust
fn main() {
    body();
}
```

name      │ value
──────────┼──────
a         │     1
long name │    20

────────────────────────────

The end.
";
        assert_eq!(drawn(TEXT, 5, || (29, 60)).join("\n"), expected);
    }

    #[test]
    fn a_block_taller_than_the_screen_still_ends_right() {
        let text: String = (0..50).map(|i| format!("- item {i}\n")).collect();
        let lines = drawn(&text, 4, || (80, 10));
        let expected: Vec<String> = (0..50).map(|i| format!("• item {i}")).collect();
        assert_eq!(lines[..50], expected);
    }

    #[test]
    fn a_paragraph_taller_than_the_screen_is_drawn_once() {
        let words: Vec<String> = (0..60).map(|i| format!("word{i}")).collect();
        let text = format!("First.\n\n{}\n\nLast.", words.join(" "));
        let lines = drawn(&text, 3, || (20, 5));
        assert_eq!(lines.iter().filter(|l| l.contains("word0 ")).count(), 1);
        assert_eq!(lines.join(" ").split_whitespace().count(), 62);
    }

    #[test]
    fn white_space_at_the_beginning_is_no_block() {
        for piece in [1, 3, 100] {
            assert_eq!(drawn("\n\n One\nmore\n\ntwo", piece, || (80, 10)), ["One", "more", "", "two", ""]);
        }
    }

    #[test]
    fn plain_text_wraps_at_words() {
        for piece in [1, 4, 100] {
            let lines = drawn_as(Mode::Plain, " One *two*\n\nthree four five six", piece, || (12, 10));
            assert_eq!(lines, [" One *two*", "", "three four", "five six", ""]);
        }
    }

    #[test]
    fn the_model_cannot_drive_the_terminal() {
        assert_eq!(drawn("a\x1b]0;title\x07b \u{9b}31mc", 3, || (80, 10)), ["a]0;titleb 31mc", ""]);
    }
}
