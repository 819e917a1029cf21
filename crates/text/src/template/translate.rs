//! Jinja2 constructs that the engine lacks or takes differently, rewritten in the source before it is compiled.
//!
//! | in the template | becomes | because |
//! |---|---|---|
//! | `{% generation %}…{% endgeneration %}` | a call block of [`super::spans::FUNCTION`] | Transformers' own tag |
//! | `for x in y` | `for x in __iterable__((y))` | Python refuses to iterate over `None` |
//! | `x.items` without a call | `x.items__method__` | an attribute of a dict is its method before it is a key |
//! | `x\|map(…)` | `x\|__map__(…)` | some filters give generators, which have no length and no JSON |
//! | `a\|safe + b` | `a\|safe ~ (b)\|__escape__` | safe text added to other text escapes it |
//!
//! Lines stay where they are, so that messages name the right ones.

use super::spans;

/// Wraps what a loop iterates over.
pub(super) const ITERABLE: &str = "__iterable__";
/// Escapes what is not safe.
pub(super) const ESCAPE: &str = "__escape__";
/// Ends the name of an attribute that is a method.
pub(super) const METHOD: &str = "__method__";

/// Methods of Python's dict that are also likely keys.
const METHODS: [&str; 8] = ["items", "keys", "values", "get", "pop", "copy", "update", "clear"];

/// Filters that give generators in Jinja2: the name they are rewritten to, and their own.
pub(super) const LAZY: [(&str, &str); 5] = [
    ("__map__", "map"),
    ("__select__", "select"),
    ("__reject__", "reject"),
    ("__selectattr__", "selectattr"),
    ("__rejectattr__", "rejectattr"),
];

/// Rewrites a whole template.
pub(super) fn translate(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + source.len() / 16);
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = match rest.as_bytes().get(1) {
            Some(b'#') => rest.find("#}").map_or(rest.len(), |end| end + 2),
            Some(b'{') => tag_length(rest, "}}"),
            Some(b'%') => tag_length(rest, "%}"),
            _ => 1,
        };
        let (tag, after) = rest.split_at(length);
        rest = after;
        if tag.starts_with("{#") || length < 4 {
            out.push_str(tag);
            continue;
        }
        let (open, inner, close) = (&tag[..2], &tag[2..length - 2], &tag[length - 2..]);
        out.push_str(open);
        out.push_str(&translate_tag(inner, open == "{%"));
        out.push_str(close);
        if open == "{%" && inner.trim_matches(['-', '+']).trim() == "raw" {
            let end = raw_length(rest);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    out
}

/// Length of the tag that `text` begins with, strings inside it skipped; all of `text` where it does not end.
fn tag_length(text: &str, end: &str) -> usize {
    let mut at = 2;
    let mut depth = 0usize;
    while at < text.len() {
        let token = token(&text[at..]);
        match token {
            "{" | "[" | "(" => depth += 1,
            // `}}` ends a tag only where no brace is open: `{{ {'a': {}} }}`.
            "}" | "]" | ")" if depth > 0 => {
                depth -= 1;
                at += 1;
                continue;
            }
            _ => {}
        }
        if text[at..].starts_with(end) {
            return at + end.len();
        }
        at += token.len();
    }
    text.len()
}

/// Bytes before the tag that ends a raw block.
fn raw_length(text: &str) -> usize {
    let ends = |at: &usize| text[at + 2..].trim_start_matches(['-', '+']).trim_start().starts_with("endraw");
    text.match_indices("{%").map(|(at, _)| at).find(ends).unwrap_or(text.len())
}

/// The first token of a text that is not empty: a string, a name or number, white space, or one character.
fn token(text: &str) -> &str {
    let run = |same: fn(char) -> bool| &text[..text.find(|c| !same(c)).unwrap_or(text.len())];
    match text.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let mut escaped = false;
            let end = text.char_indices().skip(1).find(|&(_, c)| {
                let closes = c == quote && !escaped;
                escaped = c == '\\' && !escaped;
                closes
            });
            &text[..end.map_or(text.len(), |(i, _)| i + 1)]
        }
        Some(c) if c.is_whitespace() => run(char::is_whitespace),
        Some(c) if is_name(c) => run(is_name),
        c => &text[..c.map_or(0, char::len_utf8)],
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// A token and the number of brackets open around it.
#[derive(Clone, Copy)]
struct Token<'s> {
    text: &'s str,
    depth: usize,
}

fn tokens(mut text: &str) -> Vec<Token<'_>> {
    let (mut out, mut depth) = (Vec::new(), 0usize);
    while !text.is_empty() {
        let token = token(text);
        if matches!(token, ")" | "]" | "}") {
            depth = depth.saturating_sub(1);
        }
        out.push(Token { text: token, depth });
        if matches!(token, "(" | "[" | "{") {
            depth += 1;
        }
        text = &text[token.len()..];
    }
    out
}

/// What is written around each token.
struct Edits {
    before: Vec<String>,
    after: Vec<String>,
    instead: Vec<Option<String>>,
}

fn translate_tag(inner: &str, is_block: bool) -> String {
    let tokens = tokens(inner);
    let mut edits = Edits {
        before: vec![String::new(); tokens.len()],
        after: vec![String::new(); tokens.len()],
        instead: vec![None; tokens.len()],
    };
    let solid: Vec<usize> = (0..tokens.len()).filter(|&i| !tokens[i].text.trim().is_empty()).collect();
    if is_block {
        translate_statement(&tokens, &solid, &mut edits);
    }
    translate_methods(&tokens, &solid, &mut edits);
    translate_safe(&tokens, &solid, &mut edits);
    translate_lazy(&tokens, &solid, &mut edits);
    let mut out = String::with_capacity(inner.len());
    for (i, token) in tokens.iter().enumerate() {
        out.push_str(&edits.before[i]);
        out.push_str(edits.instead[i].as_deref().unwrap_or(token.text));
        out.push_str(&edits.after[i]);
    }
    out
}

fn translate_statement(tokens: &[Token], solid: &[usize], edits: &mut Edits) {
    let text = |at: usize| solid.get(at).map_or("", |&i| tokens[i].text);
    let first = usize::from(matches!(text(0), "-" | "+"));
    let last = solid.len() - usize::from(solid.len() > first + 1 && matches!(text(solid.len() - 1), "-" | "+"));
    match text(first) {
        "generation" if last == first + 1 => edits.instead[solid[first]] = Some(format!("call {}()", spans::FUNCTION)),
        "endgeneration" if last == first + 1 => edits.instead[solid[first]] = Some("endcall".into()),
        "for" => {
            let outside = |at: &usize| tokens[solid[*at]].depth == 0;
            let Some(start) = (first..last).filter(outside).find(|&at| text(at) == "in").map(|at| at + 1) else {
                return;
            };
            let ends = |at: &usize| matches!(text(*at), "if" | "recursive");
            let end = (start..last).filter(outside).find(ends).unwrap_or(last);
            if start < end {
                edits.before[solid[start]].push_str(&format!("{ITERABLE}(("));
                edits.after[solid[end - 1]].push_str("))");
            }
        }
        _ => {}
    }
}

fn translate_methods(tokens: &[Token], solid: &[usize], edits: &mut Edits) {
    for window in solid.windows(2) {
        let [dot, name] = [window[0], window[1]];
        if tokens[dot].text != "." || !METHODS.contains(&tokens[name].text) {
            continue;
        }
        let next = solid.iter().find(|&&i| i > name).map_or("", |&i| tokens[i].text);
        if next != "(" {
            edits.after[name].push_str(METHOD);
        }
    }
}

fn translate_lazy(tokens: &[Token], solid: &[usize], edits: &mut Edits) {
    for window in solid.windows(2) {
        let lazy = LAZY.iter().find(|(_, name)| *name == tokens[window[1]].text);
        if let (Some((lazy, _)), "|") = (lazy, tokens[window[0]].text) {
            edits.instead[window[1]] = Some((*lazy).to_owned());
        }
    }
}

fn translate_safe(tokens: &[Token], solid: &[usize], edits: &mut Edits) {
    let text = |at: usize| solid.get(at).map_or("", |&i| tokens[i].text);
    let mut at = 1;
    while at < solid.len() {
        if !(text(at) == "safe" && text(at - 1) == "|" && text(at + 1) == "+") {
            at += 1;
            continue;
        }
        let depth = tokens[solid[at]].depth;
        at += 1;
        // Every operand of the sum that follows.
        while text(at) == "+" {
            let ends = |&next: &usize| {
                let token = tokens[solid[next]];
                token.depth < depth || token.depth == depth && ends_sum(token.text)
            };
            let end = (at + 1..solid.len()).find(ends).unwrap_or(solid.len());
            if end == at + 1 {
                break;
            }
            edits.instead[solid[at]] = Some("~".into());
            edits.before[solid[at + 1]].insert(0, '(');
            edits.after[solid[end - 1]].push_str(&format!(")|{ESCAPE}"));
            at = end;
        }
    }
}

fn ends_sum(token: &str) -> bool {
    let words = ["if", "else", "and", "or", "not", "in", "is"];
    matches!(token, "+" | "-" | "~" | "," | ":" | "=" | "<" | ">" | "!") || words.contains(&token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constructs_are_rewritten() {
        let cases = [
            ("a{%- generation -%}b{% endgeneration %}", "a{%- call __generation__() -%}b{% endcall %}"),
            ("{% for a, b in x.items() if a in b -%}", "{% for a, b in __iterable__((x.items())) if a in b -%}"),
            ("{%- for x in y['in'] recursive %}", "{%- for x in __iterable__((y['in'])) recursive %}"),
            ("{{ x | map(attribute='map')|list }}", "{{ x | __map__(attribute='map')|list }}"),
            ("{{ f(x.items) + x.items () }}", "{{ f(x.items__method__) + x.items () }}"),
            ("{{ 'a'|safe + b + 'c'|safe }}", "{{ 'a'|safe ~ (b)|__escape__ ~ ('c'|safe)|__escape__ }}"),
            ("{{ f('a'|safe + b[1 + 2], d) }}", "{{ f('a'|safe ~ (b[1 + 2])|__escape__, d) }}"),
        ];
        for (source, expected) in cases {
            assert_eq!(translate(source), expected);
        }
    }

    #[test]
    fn everything_else_stays() {
        for same in [
            "{# {% generation %} #}",
            "{{ '{% generation %}' }}",
            "{% raw %}{% generation %}{% endraw %}",
            "{% set x = \"%}{% generation %}\" %}",
            "{% set generation = 1 %}{ generation }",
            "{% generation",
            "{{ 'a\\'{% generation %}' }}",
            "{{ {'a': {'items': 1}} }}{% set x = {'for': {}}%}",
            "{% if 'x.items' in y %}{{ items.x }}",
            "{",
            "{%",
            "{{",
            "{{}}",
            "{%%}{{ '",
        ] {
            assert_eq!(translate(same), same);
        }
    }
}
