//! The `normalizer` and the `pre_tokenizer` of a `tokenizer.json`.

use super::super::bytes;
use super::super::charsmap::CharsMap;
use super::super::error::Error;
use super::super::gguf::bert_steps;
use super::super::normalize::{Bert, Normalizer, Replace};
use super::super::pattern::Pattern;
use super::super::words::{Cut, Prefix, Step};
use super::{field, kind, present, string, wrong};
use serde_json::Value;

/// What GPT-2's pre-tokenizer cuts at.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// BERT's punctuation: Unicode's, and all of ASCII's symbols.
const PUNCTUATION: &str = r"[\p{P}!-/:-@\[-`{-~]";

pub(super) fn normalizers(value: &Value, path: &str) -> Result<Vec<Normalizer>, Error> {
    let flag = |key: &str, default: bool| value.get(key).and_then(Value::as_bool).unwrap_or(default);
    Ok(vec![match kind(value) {
        "Sequence" => return each(value, "normalizers", path, normalizers),
        "NFC" => Normalizer::Nfc,
        "NFD" => Normalizer::Nfd,
        "NFKC" => Normalizer::Nfkc,
        "NFKD" => Normalizer::Nfkd,
        "Lowercase" => Normalizer::Lowercase,
        "StripAccents" => Normalizer::StripAccents,
        "Strip" => Normalizer::Strip { left: flag("strip_left", true), right: flag("strip_right", true) },
        "Prepend" => Normalizer::Prepend(string(value, "prepend", path)?.to_owned()),
        "Replace" => {
            let to = string(value, "content", path)?.to_owned();
            Normalizer::Replace(match needle(value, path)? {
                Needle::Literal(from) => Replace::Literal { from: from.to_owned(), to },
                Needle::Regex(source) => Replace::Matches { pattern: Pattern::new(source)?, to },
            })
        }
        "BertNormalizer" => {
            let lowercase = flag("lowercase", true);
            Normalizer::Bert(Bert {
                clean: flag("clean_text", true),
                separate_chinese: flag("handle_chinese_chars", true),
                strip_accents: flag("strip_accents", lowercase),
                lowercase,
            })
        }
        "Precompiled" => {
            let map = bytes::base64(string(value, "precompiled_charsmap", path)?)
                .ok_or_else(|| Error::malformed(format!("{path}.precompiled_charsmap"), "base64", "something else"))?;
            Normalizer::Precompiled(CharsMap::new(&map)?)
        }
        "ByteLevel" => Normalizer::ByteLevel,
        other => return Err(Error::unsupported(format!("{path}.type"), other)),
    }])
}

pub(super) fn steps(value: &Value, path: &str) -> Result<Vec<Step>, Error> {
    let flag = |key: &str, default: bool| value.get(key).and_then(Value::as_bool).unwrap_or(default);
    let split = |source: &str, cut| Ok(Step::Split { pattern: Pattern::new(source)?, cut, invert: false });
    Ok(match kind(value) {
        "Sequence" => return each(value, "pretokenizers", path, steps),
        "ByteLevel" => {
            let mut out = Vec::new();
            if flag("add_prefix_space", true) {
                out.push(Step::PrefixSpace);
            }
            if flag("use_regex", true) {
                out.push(split(GPT2, Cut::Isolated)?);
            }
            out.push(Step::ByteLevel);
            out
        }
        "Split" => {
            let pattern = match needle(value, path)? {
                Needle::Literal(text) => Pattern::literal(text)?,
                Needle::Regex(source) => Pattern::new(source)?,
            };
            vec![Step::Split { pattern, cut: cut(value, path)?, invert: flag("invert", false) }]
        }
        "Metaspace" => vec![metaspace(value, path)?],
        "Digits" if flag("individual_digits", false) => vec![split(r"\p{N}", Cut::Isolated)?],
        "Digits" => vec![split(r"\p{N}+", Cut::Isolated)?],
        "Punctuation" => vec![split(PUNCTUATION, cut(value, path)?)?],
        "BertPreTokenizer" => bert_steps(),
        "Whitespace" => {
            let pattern = Pattern::new(r"\w+|[^\w\s]+")?;
            vec![Step::Split { pattern, cut: Cut::Removed, invert: true }]
        }
        "WhitespaceSplit" => vec![split(r"\s", Cut::Removed)?],
        "CharDelimiterSplit" => {
            let pattern = Pattern::literal(string(value, "delimiter", path)?)?;
            vec![Step::Split { pattern, cut: Cut::Removed, invert: false }]
        }
        "FixedLength" => match value.get("length").and_then(Value::as_u64) {
            Some(length @ 1..) => vec![Step::FixedLength(length as usize)],
            _ => return Err(wrong(path, "a length above 0", value)),
        },
        other => return Err(Error::unsupported(format!("{path}.type"), other)),
    })
}

fn each<T>(
    value: &Value,
    key: &str,
    path: &str,
    read: impl Fn(&Value, &str) -> Result<Vec<T>, Error>,
) -> Result<Vec<T>, Error> {
    let list = field(value, key)?;
    let list = list.as_array().ok_or_else(|| wrong(&format!("{path}.{key}"), "an array", list))?;
    let mut out = Vec::new();
    for (i, part) in list.iter().enumerate() {
        out.extend(read(part, &format!("{path}.{key}[{i}]"))?);
    }
    Ok(out)
}

fn metaspace(value: &Value, path: &str) -> Result<Step, Error> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let stand_in = text("replacement").and_then(|r| r.chars().next());
    let stand_in = stand_in.ok_or_else(|| wrong(path, "a replacement character", value))?;
    let prefix = match (text("prepend_scheme"), value.get("add_prefix_space").and_then(Value::as_bool)) {
        (Some("never"), _) | (_, Some(false)) => Prefix::Never,
        (Some("first"), _) => Prefix::First,
        (Some("always") | None, _) => Prefix::Always,
        (Some(other), _) => return Err(Error::unsupported(format!("{path}.prepend_scheme"), other)),
    };
    let split = value.get("split").and_then(Value::as_bool).unwrap_or(true);
    Ok(Step::Metaspace { stand_in, prefix, split })
}

enum Needle<'v> {
    Literal(&'v str),
    Regex(&'v str),
}

fn needle<'v>(value: &'v Value, path: &str) -> Result<Needle<'v>, Error> {
    let pattern = present(value.get("pattern")).ok_or_else(|| wrong(path, "a pattern", value))?;
    match (pattern.get("String").and_then(Value::as_str), pattern.get("Regex").and_then(Value::as_str)) {
        (Some(text), _) => Ok(Needle::Literal(text)),
        (_, Some(source)) => Ok(Needle::Regex(source)),
        _ => Err(wrong(&format!("{path}.pattern"), "a String or a Regex", pattern)),
    }
}

fn cut(value: &Value, path: &str) -> Result<Cut, Error> {
    match value.get("behavior").and_then(Value::as_str) {
        Some("Removed") => Ok(Cut::Removed),
        Some("Isolated") | None => Ok(Cut::Isolated),
        Some("MergedWithPrevious") => Ok(Cut::MergedWithPrevious),
        Some("MergedWithNext") => Ok(Cut::MergedWithNext),
        Some("Contiguous") => Ok(Cut::Contiguous),
        Some(other) => Err(Error::unsupported(format!("{path}.behavior"), other)),
    }
}
