//! Text that becomes a grammar in llguidance's dialect of Lark.

use super::Error;
use llguidance::api::TopLevelGrammar;
use std::fmt::Write;

/// Bytes of a grammar.
const LONGEST: usize = 1 << 20;
/// Brackets within brackets; each costs some stack.
const DEEPEST: usize = 64;

/// `text` as a literal of the grammar.
pub(crate) fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\0'..'\u{20}' | '\u{7F}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A grammar that a client wrote, within the limits.
pub(super) fn checked(text: &str) -> Result<TopLevelGrammar, Error> {
    if text.len() > LONGEST {
        return Err(Error::grammar("lark", format!("{} bytes; at most {LONGEST} are read", text.len())));
    }
    if depth(text) > DEEPEST {
        return Err(Error::grammar("lark", format!("brackets nest deeper than {DEEPEST}")));
    }
    Ok(TopLevelGrammar::from_lark(text.to_owned()))
}

/// The whole text matches `pattern`.
pub(super) fn regex(pattern: &str) -> Result<TopLevelGrammar, Error> {
    if pattern.len() > LONGEST {
        return Err(Error::grammar("regex", format!("{} bytes; at most {LONGEST} are read", pattern.len())));
    }
    let mut whole = pattern.strip_prefix('^').unwrap_or(pattern);
    if let Some(rest) = whole.strip_suffix('$') {
        let backslashes = rest.bytes().rev().take_while(|&b| b == b'\\').count();
        whole = if backslashes % 2 == 0 { rest } else { whole };
    }
    if whole.is_empty() {
        return Err(Error::grammar("regex", "an empty pattern matches no token"));
    }
    Ok(TopLevelGrammar::from_regex(whole))
}

/// One of `texts`.
pub(super) fn choice(texts: &[String]) -> Result<TopLevelGrammar, Error> {
    if texts.is_empty() {
        return Err(Error::grammar("choice", "expected at least one text, found none"));
    }
    if texts.iter().map(String::len).sum::<usize>() > LONGEST {
        return Err(Error::grammar("choice", format!("more than {LONGEST} bytes")));
    }
    let texts: Vec<String> = texts.iter().map(|text| literal(text)).collect();
    Ok(TopLevelGrammar::from_lark(format!("start: ONE\nONE: {}\n", texts.join(" | "))))
}

/// How deep brackets nest outside of literals, patterns and comments.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '#' => while chars.next().is_some_and(|c| c != '\n') {},
            '/' if chars.peek() == Some(&'/') => while chars.next().is_some_and(|c| c != '\n') {},
            '"' | '/' => {
                while let Some(inner) = chars.next() {
                    match inner {
                        '\\' => drop(chars.next()),
                        end if end == c || end == '\n' => break,
                        _ => {}
                    }
                }
            }
            '(' | '[' | '{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
