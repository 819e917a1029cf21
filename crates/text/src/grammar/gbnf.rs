//! llama.cpp's GBNF in terms of Lark.
//!
//! Rules that do not lead back to themselves become terminals, so that they match as one regular expression; only the
//! recursive ones stay rules.

use super::{Error, literal};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Groups within groups.
const DEEPEST: usize = 32;

/// What a rule is made of.
#[derive(Debug)]
enum Node {
    Literal(String),
    /// A regular expression for one character.
    Class(String),
    /// A special token, as Lark writes it.
    Token(String),
    Rule(String),
    Sequence(Vec<Node>),
    Choice(Vec<Node>),
    Repeat(Box<Node>, usize, Option<usize>),
}

/// The grammar `text` in Lark.
pub(super) fn to_lark(text: &str) -> Result<String, Error> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    let rules = parser.rules()?;
    if !rules.contains_key("root") {
        return Err(Error::grammar("gbnf", "expected a rule named `root`, found none"));
    }
    let mut uses: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut structural = BTreeSet::new();
    for (name, node) in &rules {
        let mut names = BTreeSet::new();
        if node.collect(&mut names) {
            structural.insert(name.as_str());
        }
        if let Some(missing) = names.iter().find(|used| !rules.contains_key(**used)) {
            return Err(Error::grammar("gbnf", format!("rule `{name}` uses `{missing}`, which is not defined")));
        }
        uses.insert(name, names);
    }
    spread(&uses, &mut structural);
    let numbers: BTreeMap<&str, usize> = rules.keys().map(String::as_str).zip(0..).collect();
    let name = |rule: &str| match structural.contains(rule) {
        true => format!("r{}", numbers[rule]),
        false => format!("T{}", numbers[rule]),
    };
    let mut out = format!("start: {}\n", name("root"));
    for (rule, node) in &rules {
        let _ = write!(out, "{}: ", name(rule));
        node.write(&mut out, &name);
        out.push('\n');
    }
    Ok(out)
}

/// Adds to `structural` every rule that leads back to itself or to a structural one.
fn spread<'a>(uses: &BTreeMap<&'a str, BTreeSet<&'a str>>, structural: &mut BTreeSet<&'a str>) {
    let reached = |from: &'a str| {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut open: Vec<&str> = uses[from].iter().copied().collect();
        while let Some(next) = open.pop() {
            if seen.insert(next) {
                open.extend(&uses[next]);
            }
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> = uses.keys().map(|&rule| (rule, reached(rule))).collect();
    structural.extend(reached.iter().filter(|(rule, seen)| seen.contains(*rule)).map(|(rule, _)| *rule));
    let below: Vec<&str> =
        reached.iter().filter(|(_, seen)| seen.iter().any(|r| structural.contains(r))).map(|(rule, _)| *rule).collect();
    structural.extend(below);
}

impl Node {
    /// Gathers the rules it uses; true when it has a special token.
    fn collect<'a>(&'a self, names: &mut BTreeSet<&'a str>) -> bool {
        match self {
            Node::Literal(_) | Node::Class(_) => false,
            Node::Token(_) => true,
            Node::Rule(name) => {
                names.insert(name);
                false
            }
            Node::Sequence(nodes) | Node::Choice(nodes) => {
                nodes.iter().fold(false, |special, node| node.collect(names) | special)
            }
            Node::Repeat(node, ..) => node.collect(names),
        }
    }

    fn write(&self, out: &mut String, name: &impl Fn(&str) -> String) {
        match self {
            Node::Literal(text) => out.push_str(&literal(text)),
            Node::Class(class) => {
                let _ = write!(out, "/{class}/");
            }
            Node::Token(token) => out.push_str(token),
            Node::Rule(rule) => out.push_str(&name(rule)),
            Node::Sequence(nodes) if nodes.is_empty() => out.push_str("\"\""),
            Node::Sequence(nodes) => join(nodes, " ", out, name),
            Node::Choice(nodes) => {
                out.push('(');
                join(nodes, " | ", out, name);
                out.push(')');
            }
            Node::Repeat(_, _, Some(0)) => out.push_str("\"\""),
            Node::Repeat(node, min, max) => {
                out.push('(');
                node.write(out, name);
                out.push(')');
                let _ = match (min, max) {
                    (0, None) => write!(out, "*"),
                    (1, None) => write!(out, "+"),
                    (0, Some(1)) => write!(out, "?"),
                    (min, None) => write!(out, "{{{min},}}"),
                    (min, Some(max)) => write!(out, "{{{min},{max}}}"),
                };
            }
        }
    }
}

fn join(nodes: &[Node], between: &str, out: &mut String, name: &impl Fn(&str) -> String) {
    for (i, node) in nodes.iter().enumerate() {
        if i > 0 {
            out.push_str(between);
        }
        node.write(out, name);
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn rules(&mut self) -> Result<BTreeMap<String, Node>, Error> {
        let mut rules = BTreeMap::new();
        loop {
            self.space(true);
            if self.rest().is_empty() {
                return Ok(rules);
            }
            let name = self.name().ok_or_else(|| self.error("a rule's name"))?;
            self.space(false);
            if !self.eat("::=") {
                return Err(self.error("`::=`"));
            }
            self.space(true);
            let node = self.choice(false)?;
            self.space(false);
            if !self.rest().is_empty() && !self.rest().starts_with(['\n', '\r']) {
                return Err(self.error("the end of a rule"));
            }
            rules.insert(name, node);
        }
    }

    fn choice(&mut self, nested: bool) -> Result<Node, Error> {
        let mut alternatives = vec![self.sequence(nested)?];
        loop {
            self.space(nested);
            if !self.eat("|") {
                break;
            }
            self.space(true);
            alternatives.push(self.sequence(nested)?);
        }
        Ok(Node::Choice(alternatives))
    }

    fn sequence(&mut self, nested: bool) -> Result<Node, Error> {
        let mut nodes = Vec::new();
        loop {
            self.space(nested);
            let Some(node) = self.item()? else { return Ok(Node::Sequence(nodes)) };
            let node = self.repeated(node)?;
            nodes.push(node);
        }
    }

    fn item(&mut self) -> Result<Option<Node>, Error> {
        let node = match self.rest().chars().next() {
            Some('"') => Node::Literal(self.quoted()?),
            Some('[') => Node::Class(self.class()?),
            Some('.') => {
                self.at += 1;
                Node::Class("(?s:.)".into())
            }
            Some('<') => {
                let end = self.rest().find('>').ok_or_else(|| self.error("`>`"))?;
                let token = self.rest()[..=end].to_owned();
                self.at += token.len();
                Node::Token(token)
            }
            Some('(') => {
                self.at += 1;
                self.depth += 1;
                if self.depth > DEEPEST {
                    return Err(Error::grammar("gbnf", format!("groups nest deeper than {DEEPEST}")));
                }
                let node = self.choice(true)?;
                self.depth -= 1;
                self.space(true);
                if !self.eat(")") {
                    return Err(self.error("`)`"));
                }
                node
            }
            _ => return Ok(self.name().map(Node::Rule)),
        };
        Ok(Some(node))
    }

    fn repeated(&mut self, node: Node) -> Result<Node, Error> {
        let (min, max) = match self.rest().chars().next() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                let end = self.rest().find('}').ok_or_else(|| self.error("`}`"))?;
                let inside = &self.rest()[1..end];
                let number = |text: &str| text.trim().parse::<usize>().ok().filter(|&n| n < 1 << 30);
                let bounds = match inside.split_once(',') {
                    None => number(inside).map(|n| (n, Some(n))),
                    Some((min, "")) => number(min).map(|min| (min, None)),
                    Some(("", max)) => number(max).map(|max| (0, Some(max))),
                    Some((min, max)) => number(min).zip(number(max)).map(|(min, max)| (min, Some(max))),
                };
                let bounds = bounds.ok_or_else(|| self.error("a number of repetitions"))?;
                self.at += end;
                bounds
            }
            _ => return Ok(node),
        };
        self.at += 1;
        Ok(Node::Repeat(Box::new(node), min, max))
    }

    fn quoted(&mut self) -> Result<String, Error> {
        self.at += 1;
        let mut text = String::new();
        while !self.eat("\"") {
            text.push(self.character()?);
        }
        Ok(text)
    }

    fn class(&mut self) -> Result<String, Error> {
        self.at += 1;
        let mut class = String::from("[");
        if self.eat("^") {
            class.push('^');
        }
        while !self.eat("]") {
            let first = self.character()?;
            let _ = write!(class, "\\x{{{:X}}}", u32::from(first));
            if self.rest().starts_with('-') && !self.rest().starts_with("-]") {
                self.at += 1;
                let last = self.character()?;
                let _ = write!(class, "-\\x{{{:X}}}", u32::from(last));
            }
        }
        class.push(']');
        if class.len() <= 3 {
            return Err(self.error("a character in `[]`"));
        }
        Ok(class)
    }

    /// One character of a literal or class.
    fn character(&mut self) -> Result<char, Error> {
        let c = self.rest().chars().next().ok_or_else(|| self.error("a character"))?;
        self.at += c.len_utf8();
        if c != '\\' {
            return Ok(c);
        }
        let escape = self.rest().chars().next().ok_or_else(|| self.error("an escape"))?;
        self.at += escape.len_utf8();
        let digits = match escape {
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            '"' | '\\' | '[' | ']' | '-' | '^' | '.' | '/' => return Ok(escape),
            _ => return Err(self.error("an escape that GBNF has")),
        };
        let hex = self.rest().get(..digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let c = hex.and_then(char::from_u32).ok_or_else(|| self.error("the number of a character"))?;
        self.at += digits;
        Ok(c)
    }

    fn name(&mut self) -> Option<String> {
        let end = self.rest().find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_'));
        let name = &self.rest()[..end.unwrap_or(self.rest().len())];
        if name.is_empty() {
            return None;
        }
        let name = name.to_owned();
        self.at += name.len();
        Some(name)
    }

    /// Skips blanks and comments, line ends too if `lines`.
    fn space(&mut self, lines: bool) {
        loop {
            let rest = self.rest();
            match rest.chars().next() {
                Some(' ' | '\t') => self.at += 1,
                Some('\n' | '\r') if lines => self.at += 1,
                Some('#') => self.at += rest.find('\n').unwrap_or(rest.len()),
                _ => return,
            }
        }
    }

    fn eat(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn error(&self, expected: &str) -> Error {
        let line = self.text[..self.at].matches('\n').count() + 1;
        let found: String = self.rest().chars().take(12).collect();
        Error::grammar(format!("gbnf, line {line}"), format!("expected {expected}, found `{}`", found.escape_debug()))
    }
}
