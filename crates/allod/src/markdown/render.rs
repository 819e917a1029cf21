//! Markdown to lines of a terminal.

use super::line::{Cell, Style, paint, width, wrap};
use pulldown_cmark::{Alignment, CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

fn parser(source: &str) -> Parser<'_> {
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    Parser::new_ext(source, options)
}

/// Where the last top-level block of `source` begins, if there are others before it, which then are finished; else 0.
pub(crate) fn last_block(source: &str) -> usize {
    let (mut depth, mut first, mut last) = (0, None, 0);
    for (event, range) in parser(source).into_offset_iter() {
        if depth == 0 {
            last = range.start;
            first = first.or(Some(last));
        }
        match event {
            Event::Start(_) => depth += 1,
            Event::End(_) => depth -= 1,
            _ => {}
        }
    }
    // White space before the only block is none.
    if first == Some(last) { 0 } else { last }
}

/// The lines of `source` on a terminal of `columns`.
pub(crate) fn render(source: &str, columns: usize, styled: bool) -> Vec<String> {
    let mut renderer = Renderer { columns, styled, ..Renderer::default() };
    for event in parser(source) {
        renderer.event(event);
    }
    renderer.flush();
    renderer.lines
}

/// The lines of text that is no markdown.
pub(crate) fn plain(source: &str, columns: usize) -> Vec<String> {
    let cells = cells(&source.replace('\t', "    "), Style::default());
    let lines = if cells.is_empty() { Vec::new() } else { wrap(&cells, columns) };
    lines.iter().map(|line| paint(line, false)).collect()
}

/// What stands before the lines of a list item or a quotation: something once, then something else.
struct Margin {
    once: Option<String>,
    then: String,
}

#[derive(Default)]
struct Table {
    alignments: Vec<Alignment>,
    rows: Vec<Vec<Vec<Cell>>>,
}

#[derive(Default)]
struct Renderer {
    columns: usize,
    styled: bool,
    lines: Vec<String>,
    margins: Vec<Margin>,
    /// Next number of each open list; `None` for bullets.
    lists: Vec<Option<u64>>,
    cells: Vec<Cell>,
    style: Style,
    /// Destinations of the open links, and where their text begins.
    links: Vec<(String, usize)>,
    code: bool,
    table: Option<Table>,
    /// A block has ended: the next one keeps its distance.
    gap: bool,
}

impl Renderer {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) if self.code => self.code_lines(&text),
            Event::Text(text) | Event::Html(text) | Event::InlineHtml(text) => self.text(&text, self.style),
            Event::Code(text) => self.text(&text, Style { code: true, ..self.style }),
            // Models end lines where they mean it, as in chats.
            Event::SoftBreak | Event::HardBreak => self.text("\n", self.style),
            Event::TaskListMarker(done) => self.text(if done { "☑ " } else { "☐ " }, self.style),
            Event::Rule => {
                self.block();
                let rule = "─".repeat(self.room().min(60));
                self.line(&cells(&rule, Style { dim: true, ..Style::default() }));
                self.gap = true;
            }
            _ => {}
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Paragraph | Tag::HtmlBlock => self.block(),
            Tag::Heading { level, .. } => {
                self.block();
                self.style.bold = true;
                self.style.underline = level == pulldown_cmark::HeadingLevel::H1;
            }
            Tag::BlockQuote(_) => {
                self.block();
                self.margins.push(Margin { once: None, then: "│ ".into() });
            }
            Tag::CodeBlock(kind) => {
                self.block();
                self.code = true;
                let language = match kind {
                    CodeBlockKind::Fenced(language) => language.to_string(),
                    CodeBlockKind::Indented => String::new(),
                };
                self.fence(&language);
            }
            Tag::List(first) => {
                self.flush();
                if self.lists.is_empty() {
                    self.block();
                }
                self.lists.push(first);
            }
            Tag::Item => self.item(),
            Tag::Table(alignments) => {
                self.block();
                self.table = Some(Table { alignments, rows: Vec::new() });
            }
            Tag::TableHead | Tag::TableRow => {
                if let Some(table) = &mut self.table {
                    table.rows.push(Vec::new());
                }
            }
            Tag::Emphasis => self.style.italic = true,
            Tag::Strong => self.style.bold = true,
            Tag::Strikethrough => self.style.strike = true,
            Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. } => {
                self.links.push((dest_url.to_string(), self.cells.len()));
                self.style.underline = true;
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Paragraph | TagEnd::HtmlBlock => self.end_block(),
            TagEnd::Heading(_) => {
                self.end_block();
                self.style = Style::default();
            }
            TagEnd::BlockQuote(_) => {
                self.end_block();
                self.margins.pop();
            }
            TagEnd::CodeBlock => {
                self.fence("");
                self.code = false;
                self.gap = true;
            }
            TagEnd::List(_) => {
                self.lists.pop();
                self.gap = self.gap || self.lists.is_empty();
            }
            TagEnd::Item => {
                self.flush();
                if self.margins.last().is_some_and(|m| m.once.is_some()) {
                    self.line(&[]);
                }
                self.margins.pop();
            }
            TagEnd::TableCell => {
                let cell = std::mem::take(&mut self.cells);
                if let Some(row) = self.table.as_mut().and_then(|t| t.rows.last_mut()) {
                    row.push(cell);
                }
            }
            TagEnd::Table => {
                let table = self.table.take().unwrap_or_default();
                self.draw_table(&table);
                self.gap = true;
            }
            TagEnd::Emphasis => self.style.italic = false,
            TagEnd::Strong => self.style.bold = false,
            TagEnd::Strikethrough => self.style.strike = false,
            TagEnd::Link | TagEnd::Image => self.end_link(),
            _ => {}
        }
    }

    fn item(&mut self) {
        let mark = match self.lists.last_mut() {
            Some(Some(number)) => {
                *number += 1;
                format!("{}. ", *number - 1)
            }
            _ => "• ".into(),
        };
        let then = " ".repeat(mark.chars().count());
        self.margins.push(Margin { once: Some(mark), then });
    }

    /// Shows where a link leads, unless its text already says so.
    fn end_link(&mut self) {
        self.style.underline = false;
        let Some((url, from)) = self.links.pop() else { return };
        let text: String = self.cells.get(from..).unwrap_or_default().iter().map(|c| c.0).collect();
        if !url.ends_with(&text) || text.is_empty() {
            self.text(&format!(" ({url})"), Style { dim: true, ..self.style });
        }
    }

    fn text(&mut self, text: &str, style: Style) {
        self.cells.extend(cells(text, style));
    }

    /// Begins a block: ends the text before it and keeps the distance.
    fn block(&mut self) {
        self.flush();
        if std::mem::take(&mut self.gap) {
            // The mark of an item that begins here belongs to its text, not to the empty line above.
            let waiting = self.margins.last_mut().and_then(|m| m.once.take());
            let inner = if waiting.is_some() { self.margins.pop() } else { None };
            self.line(&[]);
            self.margins.extend(inner.map(|m| Margin { once: waiting, ..m }));
        }
    }

    fn end_block(&mut self) {
        self.flush();
        self.gap = true;
    }

    fn flush(&mut self) {
        if self.table.is_some() || self.cells.is_empty() {
            return;
        }
        let mut cells = std::mem::take(&mut self.cells);
        while cells.last().is_some_and(|c| c.0 == '\n') {
            cells.pop();
        }
        for line in wrap(&cells, self.room()) {
            self.line(&line);
        }
    }

    /// Columns beside the margins.
    fn room(&self) -> usize {
        let margins: usize = self.margins.iter().map(|m| m.then.chars().count()).sum();
        self.columns.saturating_sub(margins).max(8)
    }

    fn line(&mut self, line: &[Cell]) {
        let mut text = String::new();
        for margin in &mut self.margins {
            text.push_str(&margin.once.take().unwrap_or_else(|| margin.then.clone()));
        }
        text.push_str(&paint(line, self.styled));
        self.lines.push(text.trim_end().to_string());
    }

    fn fence(&mut self, language: &str) {
        self.line(&cells(&format!("```{language}"), Style { dim: true, ..Style::default() }));
    }

    fn code_lines(&mut self, text: &str) {
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            let all = cells(&line.replace('\t', "    "), Style { code: true, ..Style::default() });
            let mut rest = &all[..];
            loop {
                let fits = rest.iter().scan(0, |used, c| {
                    *used += width(&[*c]);
                    Some(*used)
                });
                let end = fits.take_while(|&used| used <= self.room()).count().max(1).min(rest.len());
                self.line(&rest[..end]);
                rest = &rest[end..];
                if rest.is_empty() {
                    break;
                }
            }
        }
    }

    fn draw_table(&mut self, table: &Table) {
        let columns = table.rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut widths = vec![1; columns];
        for row in &table.rows {
            for (w, cell) in widths.iter_mut().zip(row) {
                *w = (*w).max(width(cell));
            }
        }
        // Too wide: the widest column gives way, and its cells wrap.
        while widths.iter().sum::<usize>() + 3 * columns.saturating_sub(1) > self.room() {
            match widths.iter_mut().max() {
                Some(w) if *w > 3 => *w -= 1,
                _ => break,
            }
        }
        for (i, row) in table.rows.iter().enumerate() {
            self.table_row(row, &widths, &table.alignments, i == 0);
            if i == 0 {
                let rule: Vec<String> = widths.iter().map(|&w| "─".repeat(w)).collect();
                self.line(&cells(&rule.join("─┼─"), Style { dim: true, ..Style::default() }));
            }
        }
    }

    fn table_row(&mut self, row: &[Vec<Cell>], widths: &[usize], alignments: &[Alignment], head: bool) {
        let empty = Vec::new();
        let wrapped: Vec<Vec<Vec<Cell>>> =
            widths.iter().enumerate().map(|(i, &w)| wrap(row.get(i).unwrap_or(&empty), w)).collect();
        for n in 0..wrapped.iter().map(Vec::len).max().unwrap_or(0) {
            let mut line = Vec::new();
            for (i, (cell, &w)) in wrapped.iter().zip(widths).enumerate() {
                if i > 0 {
                    line.extend(cells(" │ ", Style { dim: true, ..Style::default() }));
                }
                let content = cell.get(n).unwrap_or(&empty);
                let free = w.saturating_sub(width(content));
                let left = match alignments.get(i) {
                    Some(Alignment::Right) => free,
                    Some(Alignment::Center) => free / 2,
                    _ => 0,
                };
                line.extend(cells(&" ".repeat(left), Style::default()));
                line.extend(content.iter().map(|&(c, s)| (c, Style { bold: s.bold || head, ..s })));
                line.extend(cells(&" ".repeat(free - left), Style::default()));
            }
            self.line(&line);
        }
    }
}

fn cells(text: &str, style: Style) -> Vec<Cell> {
    text.chars().map(|c| (c, style)).collect()
}
