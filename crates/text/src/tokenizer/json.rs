//! Tokenizers from `tokenizer.json`, the file of Hugging Face's tokenizers library.

use super::Tokenizer;
use super::description::{Added, Bpe, Description, Model};
use super::error::Error;
use super::roles;
use super::steps::kind;
use super::vocab::{Kind, Role, Spelling, Token, Vocab};
use serde_json::Value;
use std::collections::HashSet;
use tokenizers::AddedToken;

/// What a `tokenizer.json` does not say and the files beside it do.
#[derive(Clone, Debug, Default)]
pub(super) struct Beside {
    /// Texts of special tokens by role.
    pub(super) roles: Vec<(Role, String)>,
    /// Tokens that `tokenizer.json` may lack.
    pub(super) extras: Vec<Added>,
    /// Ids that end a generation.
    pub(super) stops: Vec<u32>,
}

impl Tokenizer {
    /// The tokenizer that a `tokenizer.json` describes. What only the files beside it say (which token is BOS) is
    /// guessed from what the file adds around texts; [`Tokenizer::from_folder`] reads them all. Its sections on
    /// truncation and padding have no effect.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the path into the file, [`Error::Unsupported`], [`Error::Regex`].
    pub fn from_json(json: &[u8]) -> Result<Tokenizer, Error> {
        let file: Value = serde_json::from_slice(json)
            .map_err(|e| Error::malformed("tokenizer.json", "a JSON object", format!("an error: {e}")))?;
        describe(file, json.len(), &Beside::default())?.build()
    }
}

/// What a file of `size` bytes and those beside it say.
pub(super) fn describe(mut file: Value, size: usize, beside: &Beside) -> Result<Description, Error> {
    let mut added = added_tokens(&file)?;
    let known: HashSet<u32> = added.iter().map(|a| a.id).collect();
    added.extend(beside.extras.iter().filter(|extra| !known.contains(&extra.id)).cloned());
    let mut take = |key: &str| file.get_mut(key).map_or(Value::Null, Value::take);
    let [normalizer, pre_tokenizer, decoder, post_processor] =
        ["normalizer", "pre_tokenizer", "decoder", "post_processor"].map(&mut take);
    let (model, unk) = model(take("model"))?;
    let tokens = tokens(&model, unk, &added, size)?;
    let (spelling, strip_space) = spelling(&decoder);
    let mut vocab = Vocab::new(tokens, spelling);
    vocab.strip_space = strip_space;
    vocab.strip_all = strip_space && kind(&decoder) == "Metaspace";
    vocab.cleanup = kind(&decoder) == "WordPiece" && decoder.get("cleanup") != Some(&Value::Bool(false));
    let (before, after) = match post_processor {
        Value::Null => (Vec::new(), Vec::new()),
        value => around(&value, "post_processor", &vocab)?,
    };
    for (role, text) in &beside.roles {
        let id = added.iter().find(|a| a.token.content == *text).map(|a| a.id).or_else(|| vocab.find(text));
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
    Ok(Description { vocab, added, normalizer, pre_tokenizer, decoder, model, before, after })
}

fn added_tokens(file: &Value) -> Result<Vec<Added>, Error> {
    let Some(list) = present(file.get("added_tokens")) else { return Ok(Vec::new()) };
    let list = list.as_array().ok_or_else(|| wrong("added_tokens", "an array", list))?;
    let entry = |(i, entry): (usize, &Value)| {
        let path = format!("added_tokens[{i}]");
        let content = string(entry, "content", &path)?;
        Ok(Added { id: id(field(entry, "id")?, &format!("{path}.id"))?, token: added_token(content, entry) })
    };
    list.iter().enumerate().map(entry).collect()
}

/// The token `content` with the flags of `entry`.
pub(super) fn added_token(content: &str, entry: &Value) -> AddedToken {
    let flag = |key| entry.get(key).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(false);
    AddedToken::from(content, special)
        .normalized(flag("normalized").unwrap_or(!special))
        .single_word(flag("single_word").unwrap_or(false))
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false))
}

/// The `model` of a file, and the id of its unknown token.
fn model(mut value: Value) -> Result<(Model, Option<u32>), Error> {
    let kind = match kind(&value) {
        // Files of the first versions do not say.
        "" if value.get("merges").is_some() => "BPE",
        "" if value.get("continuing_subword_prefix").is_some() => "WordPiece",
        "" => return Err(Error::malformed("model.type", "a kind of model", "nothing")),
        other => other,
    }
    .to_owned();
    let vocab =
        value.get_mut("vocab").map(Value::take).ok_or_else(|| Error::malformed("vocab", "a value", "nothing"))?;
    let flag = |key: &str| value.get(key).and_then(Value::as_bool).unwrap_or(false);
    if kind == "Unigram" {
        let unk = present(value.get("unk_id")).map(|v| id(v, "model.unk_id")).transpose()?;
        let pieces = scored(vocab)?;
        return Ok((Model::Unigram { pieces, unk, byte_fallback: flag("byte_fallback") }, unk));
    }
    let ids = numbered(vocab)?;
    let text = |key: &str| value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    let unk = text("unk_token");
    let unk_id = unk.as_ref().and_then(|unk| ids.iter().find(|(text, _)| text == unk)).map(|&(_, id)| id);
    let model = match kind.as_str() {
        "BPE" => Model::Bpe(Bpe {
            whole_words: flag("ignore_merges"),
            byte_fallback: flag("byte_fallback"),
            fuse_unk: flag("fuse_unk"),
            prefix: text("continuing_subword_prefix"),
            suffix: text("end_of_word_suffix"),
            lenient: false,
            ids,
            merges: merges(value.get_mut("merges").map_or(Value::Null, Value::take))?,
            unk,
        }),
        "WordPiece" => {
            let max_chars = match present(value.get("max_input_chars_per_word")) {
                Some(n) => n.as_u64().ok_or_else(|| wrong("model.max_input_chars_per_word", "a number", n))?,
                None => 100,
            };
            let prefix = value.get("continuing_subword_prefix").and_then(Value::as_str).unwrap_or("##").to_owned();
            let max_chars = usize::try_from(max_chars).unwrap_or(usize::MAX);
            Model::WordPiece { ids, unk: unk.unwrap_or_else(|| "[UNK]".into()), prefix, max_chars }
        }
        "WordLevel" => Model::Words { ids, unk: unk.unwrap_or_else(|| "<unk>".into()) },
        other => return Err(Error::unsupported("model.type", other)),
    };
    Ok((model, unk_id))
}

fn merges(list: Value) -> Result<Vec<(String, String)>, Error> {
    let Value::Array(list) = list else { return Err(wrong("model.merges", "an array", &list)) };
    let pair = |(i, entry): (usize, Value)| match merge(entry) {
        Ok(pair) => Ok(pair),
        Err(entry) => Err(wrong(&format!("model.merges[{i}]"), "two texts", &entry)),
    };
    list.into_iter().enumerate().map(pair).collect()
}

/// The two texts of a merge, written as one line or as a pair.
fn merge(entry: Value) -> Result<(String, String), Value> {
    let line = match entry {
        Value::Array(pair) => {
            return match <[Value; 2]>::try_from(pair) {
                Ok([Value::String(left), Value::String(right)]) => Ok((left, right)),
                Ok(pair) => Err(Value::Array(pair.into())),
                Err(list) => Err(Value::Array(list)),
            };
        }
        line => line,
    };
    let cut = line.as_str().and_then(|line| line.split_once(' ')).filter(|(_, right)| !right.contains(' '));
    cut.map(|(left, right)| (left.to_owned(), right.to_owned())).ok_or(line)
}

fn numbered(vocab: Value) -> Result<Vec<(String, u32)>, Error> {
    let Value::Object(map) = vocab else { return Err(wrong("model.vocab", "an object", &vocab)) };
    let entry = |(text, number): (String, Value)| {
        let id = id(&number, "").map_err(|_| wrong(&format!("model.vocab[{text:?}]"), "a token id", &number))?;
        Ok((text, id))
    };
    map.into_iter().map(entry).collect()
}

fn scored(vocab: Value) -> Result<Vec<(String, f64)>, Error> {
    let Value::Array(list) = vocab else { return Err(wrong("model.vocab", "an array", &vocab)) };
    let entry = |(id, entry): (usize, Value)| {
        let score = entry.get(1).and_then(Value::as_f64);
        match (entry.get(0).and_then(Value::as_str), score) {
            (Some(text), Some(score)) => Ok((text.to_owned(), score)),
            _ => Err(wrong(&format!("model.vocab[{id}]"), "a text and a score", &entry)),
        }
    };
    list.into_iter().enumerate().map(entry).collect()
}

/// The vocabulary by id. An id larger than the file cannot be meant: every token takes bytes.
fn tokens(model: &Model, unk: Option<u32>, added: &[Added], file_size: usize) -> Result<Vec<Token>, Error> {
    let (pieces, byte_fallback) = match model {
        Model::Unigram { pieces, byte_fallback, .. } => (&pieces[..], *byte_fallback),
        Model::Bpe(bpe) => (&[][..], bpe.byte_fallback),
        _ => (&[][..], false),
    };
    let entries = model.ids().iter().map(|(text, id)| (text, *id));
    let entries = entries.chain((0u32..).zip(pieces).map(|(id, (text, _))| (text, id)));
    let highest = entries.clone().map(|(_, id)| id).chain(added.iter().map(|a| a.id)).max();
    let Some(highest) = highest else { return Err(Error::malformed("model.vocab", "tokens", "none")) };
    if highest as usize >= file_size {
        return Err(Error::malformed("model.vocab", "ids that are dense", format!("id {highest}")));
    }
    let mut tokens = vec![Token { text: "".into(), kind: Kind::Unused }; highest as usize + 1];
    for (text, id) in entries {
        let byte = byte_fallback && super::bytes::parse_hex(text).is_some();
        let kind = if byte { Kind::Byte } else { Kind::Normal };
        tokens[id as usize] = Token { text: text.as_str().into(), kind };
    }
    for Added { id, token } in added {
        let kind = match (token.special, unk == Some(*id)) {
            (true, true) => Kind::Unknown,
            (true, false) => Kind::Control,
            (false, _) => Kind::UserDefined,
        };
        tokens[*id as usize] = Token { text: token.content.as_str().into(), kind };
    }
    Ok(tokens)
}

/// How tokens spell bytes, and whether the first begins with a space that is not the text's.
fn spelling(decoder: &Value) -> (Spelling, bool) {
    if decoder.is_null() {
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
pub(super) fn flat<'v>(value: &'v Value, key: &str) -> Vec<&'v Value> {
    match value.get(key).and_then(Value::as_array) {
        Some(list) => list.iter().flat_map(|part| flat(part, key)).collect(),
        None => vec![value],
    }
}

/// A value that is there and not null.
fn present(value: Option<&Value>) -> Option<&Value> {
    value.filter(|v| !v.is_null())
}

fn field<'v>(value: &'v Value, key: &str) -> Result<&'v Value, Error> {
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
