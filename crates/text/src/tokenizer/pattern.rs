//! Regular expressions that cut text into words.
//!
//! Published patterns are written for backtracking engines because of one alternative, `\s+(?!\S)`: a run of spaces
//! but for the one that belongs to the next word. Where that is all that needs it, the pattern is rewritten for an
//! automaton, which takes linear time on any text; everything else runs on a backtracking engine with a step limit.

use super::error::Error;
use regex_automata::meta;
use std::ops::Range;

/// The alternative that looks ahead.
const TRAILING_SPACES: &str = r"\s+(?!\S)";
/// Steps a backtracking match may take before it is given up.
const STEP_LIMIT: usize = 2_000_000;
/// Bytes a compiled automaton may take: large Unicode classes need a few hundred KiB.
const SIZE_LIMIT: usize = 16 << 20;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    source: String,
    engine: Engine,
}

#[derive(Clone, Debug)]
enum Engine {
    /// `shortened` is the one of the automaton's patterns whose last character is not part of the match.
    Automaton {
        regex: meta::Regex,
        shortened: Option<usize>,
    },
    Backtracking(fancy_regex::Regex),
}

impl Pattern {
    /// Compiles `source`.
    ///
    /// # Errors
    /// [`Error::Regex`].
    pub(super) fn new(source: &str) -> Result<Pattern, Error> {
        let engine = match automaton(source) {
            Some(engine) => engine,
            None => fancy_regex::RegexBuilder::new(source)
                .backtrack_limit(STEP_LIMIT)
                .delegate_size_limit(SIZE_LIMIT)
                .build()
                .map(Engine::Backtracking)
                .map_err(|e| Error::regex(source, e))?,
        };
        Ok(Pattern { source: source.to_owned(), engine })
    }

    /// A pattern that matches `text` itself.
    ///
    /// # Errors
    /// [`Error::Regex`] when it is too long to compile.
    pub(super) fn literal(text: &str) -> Result<Pattern, Error> {
        Pattern::new(&regex_syntax::escape(text))
    }

    /// What it was compiled from.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// Calls `found` with every match in order; some may be empty.
    ///
    /// # Errors
    /// [`Error::Regex`] when a match takes more steps than allowed.
    pub(super) fn each_match(&self, text: &str, mut found: impl FnMut(Range<usize>)) -> Result<(), Error> {
        match &self.engine {
            Engine::Automaton { regex, shortened } => {
                let mut input = regex_automata::Input::new(text);
                while let Some(m) = regex.search(&input) {
                    let mut end = m.end();
                    if *shortened == Some(m.pattern().as_usize()) {
                        end -= text[..end].chars().next_back().map_or(0, char::len_utf8);
                    }
                    found(m.start()..end);
                    // After an empty match the search goes on one character later, as everywhere.
                    let skip = if end > m.start() { 0 } else { text[end..].chars().next().map_or(1, char::len_utf8) };
                    if end + skip > text.len() {
                        break;
                    }
                    input.set_start(end + skip);
                }
                Ok(())
            }
            Engine::Backtracking(regex) => {
                for m in regex.find_iter(text) {
                    found(m.map_err(|e| Error::regex(&self.source, e))?.range());
                }
                Ok(())
            }
        }
    }
}

/// An automaton that matches as `source` does, where that can be had.
fn automaton(source: &str) -> Option<Engine> {
    let build = |patterns: &[&str], shortened| {
        let config = meta::Config::new().nfa_size_limit(Some(SIZE_LIMIT)).hybrid_cache_capacity(8 << 20);
        let regex = meta::Builder::new().configure(config).build_many(patterns).ok()?;
        Some(Engine::Automaton { regex, shortened })
    };
    if is_regular(source) {
        return build(&[source], None);
    }
    let (before, after) = source.split_once(TRAILING_SPACES)?;
    let (before, after) = (before.strip_suffix('|').unwrap_or(before), after.strip_prefix('|').unwrap_or(after));
    let top_level = |part: &str| part.is_empty() || is_regular(part);
    if !top_level(before) || !top_level(after) {
        return None;
    }
    // Alternatives in order of preference. A run of spaces at the end of the text is taken whole.
    let mut patterns: Vec<&str> = Vec::new();
    patterns.extend((!before.is_empty()).then_some(before));
    patterns.push(r"\s+\z");
    let shortened = patterns.len();
    patterns.push(r"\s+\s");
    patterns.extend((!after.is_empty()).then_some(after));
    build(&patterns, Some(shortened))
}

/// True when an automaton gives a backtracking engine's matches. Lookaround and atomic groups are syntax errors to the
/// automaton's parser; a possessive quantifier it would read as a repeated repetition.
fn is_regular(source: &str) -> bool {
    let possessive = ["?+", "*+", "++", "}+"].iter().any(|q| source.contains(q));
    !possessive && regex_syntax::parse(source).is_ok()
}

/// A set of characters, for the classes that normalizers need.
#[derive(Clone, Debug)]
pub(super) struct CharSet(Vec<(char, char)>);

impl CharSet {
    /// The characters of a class such as `\p{Mn}`; none when `class` is not one.
    pub(super) fn new(class: &str) -> CharSet {
        match regex_syntax::parse(class).map(regex_syntax::hir::Hir::into_kind) {
            Ok(regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(set))) => {
                CharSet(set.ranges().iter().map(|r| (r.start(), r.end())).collect())
            }
            _ => CharSet(Vec::new()),
        }
    }

    pub(super) fn contains(&self, c: char) -> bool {
        let after = self.0.partition_point(|&(start, _)| start <= c);
        after > 0 && c <= self.0[after - 1].1
    }
}
