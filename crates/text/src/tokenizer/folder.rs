//! Tokenizers from the files of a model's folder.

use super::description::{Added, Description};
use super::error::Error;
use super::json::{self, Beside};
use super::vocab::Role;
use super::{Tokenizer, gguf, sentencepiece, tiktoken};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Role names in `tokenizer_config.json` and `special_tokens_map.json`.
pub(super) const NAMES: &[(Role, &str)] = &[
    (Role::Bos, "bos_token"),
    (Role::Eos, "eos_token"),
    (Role::Unk, "unk_token"),
    (Role::Sep, "sep_token"),
    (Role::Pad, "pad_token"),
    (Role::Cls, "cls_token"),
    (Role::Mask, "mask_token"),
    (Role::Eot, "eot_token"),
];

/// Texts of special tokens and their ids.
type SpecialIds = &'static [(&'static str, u32)];

/// Names of OpenAI's rank files, the way of cutting, and what is special there.
const TIKTOKEN: &[(&str, &str, SpecialIds)] = &[
    ("o200k_base.tiktoken", "gpt-4o", &[("<|endoftext|>", 199_999), ("<|endofprompt|>", 200_018)]),
    (
        "cl100k_base.tiktoken",
        "dbrx",
        &[
            ("<|endoftext|>", 100_257),
            ("<|fim_prefix|>", 100_258),
            ("<|fim_middle|>", 100_259),
            ("<|fim_suffix|>", 100_260),
            ("<|endofprompt|>", 100_276),
        ],
    ),
];

impl Tokenizer {
    /// The tokenizer of a model's folder: `tokenizer.json`, else SentencePiece's `tokenizer.model`, else `vocab.json`
    /// with `merges.txt` (GPT-2's kind), else `vocab.txt` (BERT's), else tiktoken ranks. `tokenizer_config.json`,
    /// `special_tokens_map.json` and `generation_config.json` add roles and ids that end a generation.
    ///
    /// # Errors
    /// [`Error::NotFound`] when none of them is there, [`Error::Io`], and those of the files.
    pub fn from_folder(folder: &Path) -> Result<Tokenizer, Error> {
        describe(folder)?.build()
    }
}

/// What a folder's files say.
pub(super) fn describe(folder: &Path) -> Result<Description, Error> {
    let beside = beside(folder)?;
    match source(folder)? {
        Source::Json { file, size } => return json::describe(file, size, &beside),
        Source::SentencePiece(bytes) => {
            let mut meta = sentencepiece::metadata(&bytes)?;
            let eos = meta.uint("tokenizer.ggml.eos_token_id");
            if let Some(&eot) = beside.stops.iter().find(|&&id| eos != Some(id.into())) {
                meta.set("tokenizer.ggml.eot_token_id", eot);
            }
            return gguf::describe(&meta);
        }
        Source::Tiktoken => {}
    }
    for (name, pre, special) in TIKTOKEN {
        if let Some(bytes) = read(folder, name)? {
            return tiktoken::describe(&bytes, pre, special);
        }
    }
    if let Some(bytes) = read(folder, "tiktoken.model")? {
        let special: Vec<(&str, u32)> = beside.extras.iter().map(|e| (&*e.token.content, e.id)).collect();
        return tiktoken::describe(&bytes, "kimi-k2", &special);
    }
    Err(Error::NotFound {
        path: folder.to_owned(),
        looked_for: "tokenizer.json, tokenizer.model, vocab.json with merges.txt, vocab.txt, *.tiktoken",
    })
}

/// The file that describes a folder's vocabulary.
pub(super) enum Source {
    /// `tokenizer.json`, or what older files amount to.
    Json {
        /// Its content.
        file: Value,
        /// Bytes it was read from.
        size: usize,
    },
    /// `tokenizer.model`.
    SentencePiece(Vec<u8>),
    /// Ranks, or nothing at all.
    Tiktoken,
}

pub(super) fn source(folder: &Path) -> Result<Source, Error> {
    if let Some(bytes) = read(folder, "tokenizer.json")? {
        let file = serde_json::from_slice(&bytes);
        let file = file.map_err(|e| Error::malformed("tokenizer.json", "JSON", e.to_string()))?;
        return Ok(Source::Json { file, size: bytes.len() });
    }
    if let Some(bytes) = read(folder, "tokenizer.model")? {
        return Ok(Source::SentencePiece(bytes));
    }
    Ok(plain_files(folder)?.map_or(Source::Tiktoken, |file| {
        let size = file.to_string().len();
        Source::Json { file, size }
    }))
}

/// The bytes of a file, or `None` when there is no such file.
pub(super) fn read(folder: &Path, name: &str) -> Result<Option<Vec<u8>>, Error> {
    let path = folder.join(name);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { path, source }),
    }
}

/// A JSON file, or null when there is none.
pub(super) fn read_json(folder: &Path, name: &str) -> Result<Value, Error> {
    match read(folder, name)? {
        Some(bytes) => serde_json::from_slice(&bytes).map_err(|e| Error::malformed(name, "JSON", e.to_string())),
        None => Ok(Value::Null),
    }
}

/// What the files beside a vocabulary say about it.
pub(super) fn beside(folder: &Path) -> Result<Beside, Error> {
    let config = read_json(folder, "tokenizer_config.json")?;
    let map = read_json(folder, "special_tokens_map.json")?;
    let mut beside = Beside::default();
    for &(role, name) in NAMES {
        let text = |file: &Value| {
            let value = file.get(name)?;
            value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
        };
        if let Some(text) = text(&config).or_else(|| text(&map)) {
            beside.roles.push((role, text));
        }
    }
    for (id, entry) in config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
        let (Ok(id), Some(text)) = (id.parse(), entry.get("content").and_then(Value::as_str)) else {
            return Err(Error::malformed(
                format!("tokenizer_config.json: added_tokens_decoder.{id}"),
                "an id and its content",
                entry.to_string(),
            ));
        };
        beside.extras.push(Added { id, token: json::added_token(text, entry) });
    }
    for name in ["generation_config.json", "config.json"] {
        beside.stops = ids(read_json(folder, name)?.get("eos_token_id"));
        if !beside.stops.is_empty() {
            break;
        }
    }
    Ok(beside)
}

fn ids(value: Option<&Value>) -> Vec<u32> {
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(id).collect(),
        Some(single) => id(single).into_iter().collect(),
        None => Vec::new(),
    }
}

/// Vocabulary files of the time before `tokenizer.json`, as the `tokenizer.json` they amount to.
fn plain_files(folder: &Path) -> Result<Option<Value>, Error> {
    if let (Some(vocab), Some(merges)) = (read(folder, "vocab.json")?, read(folder, "merges.txt")?) {
        let vocab: Value =
            serde_json::from_slice(&vocab).map_err(|e| Error::malformed("vocab.json", "JSON", e.to_string()))?;
        let merges = utf8("merges.txt", &merges)?;
        let merges: Vec<&str> = merges.lines().filter(|l| !l.starts_with("#version") && !l.is_empty()).collect();
        let config = read_json(folder, "tokenizer_config.json")?;
        let prefix = config.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(false);
        return Ok(Some(json!({
            "added_tokens": special_entries(&vocab),
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": prefix},
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": vocab, "merges": merges},
        })));
    }
    let Some(words) = read(folder, "vocab.txt")? else { return Ok(None) };
    let words = utf8("vocab.txt", &words)?;
    let vocab: Map<String, Value> = words.lines().enumerate().map(|(id, word)| (word.to_owned(), id.into())).collect();
    let vocab = Value::Object(vocab);
    let config = read_json(folder, "tokenizer_config.json")?;
    // Without a word on it: a vocabulary with capital letters was made from text that had them.
    let cased = |word: &str| !word.starts_with('[') && word.bytes().any(|b| b.is_ascii_uppercase());
    let lowercase = config.get("do_lower_case").and_then(Value::as_bool).unwrap_or(!words.lines().any(cased));
    Ok(Some(json!({
        "added_tokens": special_entries(&vocab),
        "normalizer": {"type": "BertNormalizer", "lowercase": lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "cls": ["[CLS]", vocab.get("[CLS]")], "sep": ["[SEP]", vocab.get("[SEP]")]},
        "decoder": {"type": "WordPiece"},
        "model": {"type": "WordPiece", "vocab": vocab, "unk_token": "[UNK]"},
    })))
}

/// Tokens that are special in every vocabulary of these kinds.
fn special_entries(vocab: &Value) -> Vec<Value> {
    let names =
        ["<|endoftext|>", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>", "<pad>", "<unk>", "<mask>"];
    let entry = |name: &&str| Some(json!({"id": vocab.get(*name)?, "content": name, "special": true}));
    names.iter().filter_map(entry).collect()
}

fn utf8<'b>(name: &str, bytes: &'b [u8]) -> Result<&'b str, Error> {
    std::str::from_utf8(bytes).map_err(|e| Error::malformed(name, "UTF-8", e.to_string()))
}
