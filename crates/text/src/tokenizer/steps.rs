//! The `normalizer` and the `pre_tokenizer` of a `tokenizer.json`, read by the library.
//!
//! The library panics on some files and leaves out what others took for granted: both are looked after here.

use super::charsmap;
use super::error::Error;
use base64::Engine as _;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokenizers::normalizers::Precompiled;
use tokenizers::utils::SysRegex;
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper};

const NORMALIZERS: &[&str] = &[
    "BertNormalizer",
    "Strip",
    "StripAccents",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Lowercase",
    "Nmt",
    "Precompiled",
    "Replace",
    "Prepend",
    "ByteLevel",
];
const PRE_TOKENIZERS: &[&str] = &[
    "BertPreTokenizer",
    "ByteLevel",
    "CharDelimiterSplit",
    "Metaspace",
    "Whitespace",
    "Split",
    "Punctuation",
    "WhitespaceSplit",
    "Digits",
    "UnicodeScripts",
    "FixedLength",
];

/// The normalizer that `value` describes, if any.
///
/// # Errors
/// [`Error::Unsupported`], [`Error::Malformed`], [`Error::Regex`].
pub(super) fn normalizer(value: &Value, path: &str) -> Result<Option<NormalizerWrapper>, Error> {
    each(value, "normalizers", path, &|value, path| {
        known(value, path, NORMALIZERS)?;
        if kind(value) == "Precompiled" {
            let path = format!("{path}.precompiled_charsmap");
            let map = value.get("precompiled_charsmap").and_then(Value::as_str).unwrap_or("");
            let map = base64(map).ok_or_else(|| Error::malformed(&path, "base64", "something else"))?;
            charsmap::check(&map)?;
            let map = Precompiled::from(&map).map_err(|e| Error::malformed(path, "a table", e.to_string()))?;
            return Ok(NormalizerWrapper::Precompiled(map));
        }
        read(value, path)
    })
    .map(|parts| one(parts, |parts| NormalizerWrapper::Sequence(tokenizers::normalizers::Sequence::new(parts))))
}

/// The pre-tokenizer that `value` describes, if any.
///
/// # Errors
/// [`Error::Unsupported`], [`Error::Malformed`], [`Error::Regex`].
pub(super) fn pre_tokenizer(value: &Value, path: &str) -> Result<Vec<PreTokenizerWrapper>, Error> {
    each(value, "pretokenizers", path, &|value, path| {
        known(value, path, PRE_TOKENIZERS)?;
        if kind(value) == "FixedLength" && value.get("length").and_then(Value::as_u64).is_none_or(|n| n == 0) {
            return Err(Error::malformed(format!("{path}.length"), "a length above 0", value.to_string()));
        }
        read(value, path)
    })
}

/// `parts` as one, where there are any.
pub(super) fn one<T>(mut parts: Vec<T>, sequence: impl Fn(Vec<T>) -> T) -> Option<T> {
    match parts.len() {
        0 | 1 => parts.pop(),
        _ => Some(sequence(parts)),
    }
}

/// Standard base64, padding optional.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    base64::engine::general_purpose::STANDARD_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

/// `read` applied to every part of a sequence of sequences.
fn each<T>(
    value: &Value,
    key: &str,
    path: &str,
    read: &dyn Fn(&Value, &str) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    if value.is_null() {
        return Ok(Vec::new());
    }
    if kind(value) != "Sequence" {
        return Ok(vec![read(value, path)?]);
    }
    let path = format!("{path}.{key}");
    let list = value.get(key).and_then(Value::as_array);
    let list = list.ok_or_else(|| Error::malformed(&path, "an array", value.to_string()))?;
    let parts = list.iter().enumerate().map(|(i, part)| each(part, key, &format!("{path}[{i}]"), read));
    Ok(parts.collect::<Result<Vec<_>, Error>>()?.into_iter().flatten().collect())
}

fn known(value: &Value, path: &str, names: &[&str]) -> Result<(), Error> {
    match names.contains(&kind(value)) {
        true => Ok(()),
        false => Err(Error::unsupported(format!("{path}.type"), kind(value))),
    }
}

fn read<T: DeserializeOwned>(value: &Value, path: &str) -> Result<T, Error> {
    let value = with_defaults(value);
    serde_json::from_value(value.clone()).map_err(|e| {
        let source = value.pointer("/pattern/Regex").and_then(Value::as_str);
        match source.and_then(|source| Some((source, SysRegex::new(source).err()?))) {
            Some((source, e)) => Error::regex(source, e),
            None => Error::malformed(path, format!("a {}", kind(&value)), e.to_string()),
        }
    })
}

/// Settings that older files leave out, as those who wrote them meant them.
fn with_defaults(value: &Value) -> Value {
    let defaults = match kind(value) {
        "ByteLevel" => json!({"add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        "Split" => json!({"behavior": "Isolated", "invert": false}),
        "Digits" => json!({"individual_digits": false}),
        "Strip" => json!({"strip_left": true, "strip_right": true}),
        "BertNormalizer" => {
            json!({"clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true})
        }
        "Metaspace" if value.get("add_prefix_space") == Some(&Value::Bool(false)) => json!({"prepend_scheme": "never"}),
        _ => json!({}),
    };
    let mut whole: Map<String, Value> = defaults.as_object().cloned().unwrap_or_default();
    whole.extend(value.as_object().cloned().unwrap_or_default());
    Value::Object(whole)
}

/// The value of `type`, or nothing.
pub(super) fn kind(value: &Value) -> &str {
    value.get("type").and_then(Value::as_str).unwrap_or("")
}
