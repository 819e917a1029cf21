//! Texts that structure an answer, some with a gap.

/// Stands for a call's id in a marker.
pub(super) const ID: char = '\u{F8F0}';
/// Stands for a number.
pub(super) const DIGITS: char = '\u{F8F1}';
/// Stands for a lower-case word.
pub(super) const WORD: char = '\u{F8F2}';
/// Stands for the name that came before.
pub(super) const KEY: char = '\u{F8F3}';

/// A text to be found; white space around it does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) text: String,
    /// White space that the template writes before and after.
    pub(super) before: String,
    pub(super) after: String,
}

/// How a text begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// With the marker: bytes of it, and what filled its gap.
    Whole(usize, String),
    /// Perhaps: more text will tell.
    Partly,
    No,
}

impl Marker {
    pub(super) fn new(text: &str) -> Marker {
        let trimmed = text.trim();
        let start = text.find(trimmed).unwrap_or(0);
        let after = &text[start + trimmed.len()..];
        Marker { text: trimmed.to_owned(), before: text[..start].to_owned(), after: after.to_owned() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Whether `text` begins with the marker; an empty one is never found.
    pub(super) fn at_start(&self, text: &str, key: &str) -> Found {
        if self.is_empty() {
            return Found::No;
        }
        let mut rest = text;
        let mut filled = String::new();
        for c in self.text.chars() {
            let taken = match c {
                ID => rest.find(|c: char| c.is_whitespace() || matches!(c, '<' | '[' | '"')).unwrap_or(rest.len()),
                DIGITS => rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()),
                WORD => rest.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(rest.len()),
                KEY if rest.starts_with(key) => key.len(),
                KEY if key.starts_with(rest) => return Found::Partly,
                KEY => return Found::No,
                c if rest.starts_with(c) => c.len_utf8(),
                _ if rest.is_empty() => return Found::Partly,
                _ => return Found::No,
            };
            if matches!(c, ID | WORD) {
                filled = rest[..taken].to_owned();
            }
            if matches!(c, ID | DIGITS | WORD) && taken == rest.len() {
                return Found::Partly;
            }
            rest = &rest[taken..];
        }
        Found::Whole(text.len() - rest.len(), filled)
    }

    /// The first place where `text` has the marker, or could once more text comes: where, its bytes, its filling.
    pub(super) fn find(&self, text: &str, key: &str) -> Option<(usize, Found)> {
        let first = self.text.chars().next()?;
        let gap = matches!(first, ID | DIGITS | WORD | KEY);
        text.char_indices().filter(|(_, c)| gap || *c == first).find_map(|(at, _)| {
            let found = self.at_start(&text[at..], key);
            (found != Found::No).then_some((at, found))
        })
    }
}

/// What two texts begin with, cut back so that no `<…>` or `[…]` is torn.
pub(super) fn common_start<'a>(a: &'a str, b: &str) -> &'a str {
    let mut end = a.char_indices().zip(b.chars()).find(|((_, x), y)| x != y).map(|((at, _), _)| at);
    let shorter =
        if a.len() <= b.len() { a.len() } else { a.char_indices().nth(b.chars().count()).map_or(a.len(), |p| p.0) };
    let end = end.take().unwrap_or(shorter);
    let mut start = &a[..end];
    for (open, close) in [('<', '>'), ('[', ']')] {
        if let Some(at) = start.rfind(open)
            && !start[at..].contains(close)
            && end < a.len()
        {
            start = &start[..at];
        }
    }
    start.strip_suffix("<|open|>").unwrap_or(start)
}

/// What two texts end with.
pub(super) fn common_end<'a>(a: &'a str, b: &str) -> &'a str {
    let same = a.chars().rev().zip(b.chars().rev()).take_while(|(x, y)| x == y);
    let length: usize = same.map(|(c, _)| c.len_utf8()).sum();
    &a[a.len() - length..]
}
