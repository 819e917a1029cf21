//! Tokenizers from `tokenizer.json`, the file of Hugging Face's tokenizers library.

mod model;
mod steps;

pub(super) use model::merge;

use super::added::{Added, Finder};
use super::error::Error;
use super::vocab::{Kind, Role, Spelling, Token, Vocab};
use super::{Model, Parts, Tokenizer, roles};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

/// What a `tokenizer.json` does not say and the files beside it do.
#[derive(Clone, Debug, Default)]
pub(super) struct Beside {
    /// Texts of special tokens by role.
    pub(super) roles: Vec<(Role, String)>,
    /// Tokens that `tokenizer.json` may lack.
    pub(super) extras: Vec<Extra>,
    /// Ids that end a generation.
    pub(super) stops: Vec<u32>,
}

/// A token that `tokenizer_config.json` lists.
#[derive(Clone, Debug)]
pub(super) struct Extra {
    pub(super) id: u32,
    pub(super) text: String,
    pub(super) special: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
}

impl Tokenizer {
    /// The tokenizer that a `tokenizer.json` describes. What only the files beside it say (which token is BOS) is
    /// guessed from what the file adds around texts; [`Tokenizer::from_folder`] reads them all.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the path into the file, [`Error::Unsupported`], [`Error::Regex`].
    pub fn from_json(json: &[u8]) -> Result<Tokenizer, Error> {
        from_json(json, &Beside::default())
    }
}

pub(super) fn from_json(json: &[u8], beside: &Beside) -> Result<Tokenizer, Error> {
    let file: Value = serde_json::from_slice(json)
        .map_err(|e| Error::malformed("tokenizer.json", "a JSON object", format!("an error: {e}")))?;
    from_value(&file, json.len(), beside)
}

/// As [`from_json`], of a file of `size` bytes.
pub(super) fn from_value(file: &Value, size: usize, beside: &Beside) -> Result<Tokenizer, Error> {
    let mut added = added_tokens(file)?;
    let known: HashSet<u32> = added.iter().map(|a| a.token.id).collect();
    for Extra { id, text, special, lstrip, rstrip } in beside.extras.iter().cloned() {
        if !known.contains(&id) {
            let token = Added { id, text, special, lstrip, rstrip, single_word: false };
            added.push(AddedToken { token, normalize: false });
        }
    }
    let model = model::Description::read(field(file, "model")?)?;
    let tokens = tokens(&model, &added, size)?;
    let (spelling, strip_space) = spelling(file.get("decoder"));
    let mut vocab = Vocab::new(tokens, spelling);
    vocab.strip_space = strip_space;

    let normalizers = match present(file.get("normalizer")) {
        Some(value) => steps::normalizers(value, "normalizer")?,
        None => Vec::new(),
    };
    let mut steps = match present(file.get("pre_tokenizer")) {
        Some(value) => steps::steps(value, "pre_tokenizer")?,
        None => Vec::new(),
    };
    let model = model.build(&vocab, &normalizers, &mut steps)?;
    let (before, after) = match present(file.get("post_processor")) {
        Some(value) => around(value, "post_processor", &vocab)?,
        None => (Vec::new(), Vec::new()),
    };
    for (role, text) in &beside.roles {
        let id = added.iter().find(|a| a.token.text == *text).map(|a| a.token.id).or_else(|| vocab.find(text));
        vocab.set_role(*role, id);
    }
    if vocab.role(Role::Bos).is_none() && beside.roles.is_empty() {
        vocab.set_role(Role::Bos, before.first().copied());
    }
    if vocab.role(Role::Unk).is_none() {
        let unk = vocab.tokens.iter().position(|t| t.kind == Kind::Unknown).and_then(|id| u32::try_from(id).ok());
        vocab.set_role(Role::Unk, unk);
    }
    roles::complete(&mut vocab, &beside.stops);
    assemble(vocab, added, normalizers, steps, model, (before, after))
}

fn assemble(
    vocab: Vocab,
    added: Vec<AddedToken>,
    normalizers: Vec<super::normalize::Normalizer>,
    steps: Vec<super::words::Step>,
    model: Model,
    (before, after): (Vec<u32>, Vec<u32>),
) -> Result<Tokenizer, Error> {
    let (mut raw, mut normalized) = (Vec::new(), Vec::new());
    for AddedToken { mut token, normalize } in added {
        if normalize {
            for normalizer in &normalizers {
                token.text = normalizer.apply(Cow::Borrowed(&token.text))?.into_owned();
            }
            normalized.push(token);
        } else {
            raw.push(token);
        }
    }
    let (added, added_normalized) = (Finder::new(raw)?, Finder::new(normalized)?);
    let vocab = Arc::new(vocab);
    Ok(Tokenizer {
        parts: Arc::new(Parts { vocab, added, normalizers, added_normalized, steps, model, before, after }),
    })
}

struct AddedToken {
    token: Added,
    /// It is looked for in the normalized text.
    normalize: bool,
}

fn added_tokens(file: &Value) -> Result<Vec<AddedToken>, Error> {
    let Some(list) = present(file.get("added_tokens")) else { return Ok(Vec::new()) };
    let list = list.as_array().ok_or_else(|| wrong("added_tokens", "an array", list))?;
    list.iter()
        .enumerate()
        .map(|(i, entry)| {
            let path = format!("added_tokens[{i}]");
            let flag = |key| entry.get(key).and_then(Value::as_bool).unwrap_or(false);
            let token = Added {
                id: id(field(entry, "id")?, &format!("{path}.id"))?,
                text: string(entry, "content", &path)?.to_owned(),
                special: flag("special"),
                lstrip: flag("lstrip"),
                rstrip: flag("rstrip"),
                single_word: flag("single_word"),
            };
            let normalize = entry.get("normalized").and_then(Value::as_bool).unwrap_or(!token.special);
            Ok(AddedToken { token, normalize })
        })
        .collect()
}

/// The vocabulary by id. An id larger than the file cannot be meant: every token takes bytes.
fn tokens(model: &model::Description, added: &[AddedToken], file_size: usize) -> Result<Vec<Token>, Error> {
    let highest = model.vocab.iter().map(|(_, id)| *id).chain(added.iter().map(|a| a.token.id)).max();
    let Some(highest) = highest else { return Err(Error::malformed("model.vocab", "tokens", "none")) };
    if highest as usize >= file_size {
        return Err(Error::malformed("model.vocab", "ids that are dense", format!("id {highest}")));
    }
    let mut tokens = vec![Token { text: "".into(), kind: Kind::Unused }; highest as usize + 1];
    for (text, id) in &model.vocab {
        let byte = model.byte_fallback && super::bytes::parse_hex(text).is_some();
        let kind = if byte { Kind::Byte } else { Kind::Normal };
        tokens[*id as usize] = Token { text: (*text).into(), kind };
    }
    for AddedToken { token, .. } in added {
        let kind = match (token.special, model.unk == Some(token.id)) {
            (true, true) => Kind::Unknown,
            (true, false) => Kind::Control,
            (false, _) => Kind::UserDefined,
        };
        tokens[token.id as usize] = Token { text: token.text.as_str().into(), kind };
    }
    Ok(tokens)
}

/// How tokens spell bytes, and whether the first begins with a space that is not the text's.
fn spelling(decoder: Option<&Value>) -> (Spelling, bool) {
    if present(decoder).is_none() {
        return (Spelling::Separate, true);
    }
    let (mut spelling, mut strip) = (Spelling::Plain, false);
    for part in flat(decoder, "decoders") {
        let text = |key: &str| part.get(key).and_then(Value::as_str);
        match kind(part) {
            "ByteLevel" => spelling = Spelling::ByteLevel,
            "Metaspace" => {
                let stand_in = text("replacement").and_then(|r| r.chars().next()).unwrap_or('▁');
                spelling = Spelling::Space(stand_in);
                let never = text("prepend_scheme") == Some("never");
                strip |= !never && part.get("add_prefix_space").and_then(Value::as_bool) != Some(false);
            }
            "Replace" if text("content") == Some(" ") => {
                let from = part.get("pattern").and_then(|p| p.get("String")).and_then(Value::as_str);
                if let Some(stand_in) = from.and_then(|f| f.chars().next()) {
                    spelling = Spelling::Space(stand_in);
                }
            }
            "Strip" => strip |= part.get("start").and_then(Value::as_u64).unwrap_or(0) > 0,
            "WordPiece" => {
                spelling = Spelling::Continuing(text("prefix").unwrap_or("##").into());
                strip = true;
            }
            "BPEDecoder" => spelling = Spelling::WordEnd(text("suffix").unwrap_or("</w>").into()),
            _ => {}
        }
    }
    (spelling, strip)
}

/// What a post-processor puts around a single text.
fn around(value: &Value, path: &str, vocab: &Vocab) -> Result<(Vec<u32>, Vec<u32>), Error> {
    let pair = |key: &str| -> Result<u32, Error> {
        let path = format!("{path}.{key}");
        let pair = value.get(key).and_then(Value::as_array);
        let number = pair.and_then(|p| p.get(1)).ok_or_else(|| wrong(&path, "a text and an id", value))?;
        in_vocab(id(number, &path)?, &path, vocab)
    };
    match kind(value) {
        "BertProcessing" | "RobertaProcessing" => Ok((vec![pair("cls")?], vec![pair("sep")?])),
        "TemplateProcessing" => template(value, path, vocab),
        "Sequence" => {
            let list = value.get("processors").and_then(Value::as_array);
            let (mut before, mut after) = (Vec::new(), Vec::new());
            for (i, part) in list.into_iter().flatten().enumerate() {
                let (b, a) = around(part, &format!("{path}.processors[{i}]"), vocab)?;
                before.splice(0..0, b);
                after.extend(a);
            }
            Ok((before, after))
        }
        "ByteLevel" => Ok((Vec::new(), Vec::new())),
        other => Err(Error::unsupported(format!("{path}.type"), other)),
    }
}

fn template(value: &Value, path: &str, vocab: &Vocab) -> Result<(Vec<u32>, Vec<u32>), Error> {
    let single = value.get("single").and_then(Value::as_array).ok_or_else(|| wrong(path, "a template", value))?;
    let (mut before, mut after, mut seen) = (Vec::new(), Vec::new(), false);
    for piece in single {
        if piece.get("Sequence").is_some() {
            seen = true;
            continue;
        }
        let name = piece.get("SpecialToken").and_then(|t| t.get("id")).and_then(Value::as_str);
        let name = name.ok_or_else(|| wrong(path, "a special token or a sequence", piece))?;
        let ids = value.get("special_tokens").and_then(|t| t.get(name)).and_then(|t| t.get("ids"));
        let ids = ids.and_then(Value::as_array).ok_or_else(|| wrong(path, "ids of every special token", piece))?;
        for number in ids {
            let target = if seen { &mut after } else { &mut before };
            target.push(in_vocab(id(number, path)?, path, vocab)?);
        }
    }
    Ok((before, after))
}

fn in_vocab(id: u32, path: &str, vocab: &Vocab) -> Result<u32, Error> {
    match vocab.get(id) {
        Some(_) => Ok(id),
        None => Err(Error::malformed(path, format!("an id below {}", vocab.tokens.len()), id.to_string())),
    }
}

/// The parts of a sequence, or the value alone.
pub(super) fn flat<'v>(value: Option<&'v Value>, key: &str) -> Vec<&'v Value> {
    match present(value) {
        Some(value) => {
            value.get(key).and_then(Value::as_array).map_or_else(|| vec![value], |list| list.iter().collect())
        }
        None => Vec::new(),
    }
}

/// The value of `type`, or nothing.
pub(super) fn kind(value: &Value) -> &str {
    value.get("type").and_then(Value::as_str).unwrap_or("")
}

/// A value that is there and not null.
pub(super) fn present(value: Option<&Value>) -> Option<&Value> {
    value.filter(|v| !v.is_null())
}

pub(super) fn field<'v>(value: &'v Value, key: &str) -> Result<&'v Value, Error> {
    value.get(key).ok_or_else(|| Error::malformed(key, "a value", "nothing"))
}

fn string<'v>(value: &'v Value, key: &str, path: &str) -> Result<&'v str, Error> {
    let path = || format!("{path}.{key}");
    let found = value.get(key).ok_or_else(|| Error::malformed(path(), "a string", "nothing"))?;
    found.as_str().ok_or_else(|| wrong(&path(), "a string", found))
}

fn id(value: &Value, path: &str) -> Result<u32, Error> {
    value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong(path, "a token id", value))
}

fn wrong(path: &str, expected: &str, found: &Value) -> Error {
    Error::malformed(path, expected, found.to_string())
}
