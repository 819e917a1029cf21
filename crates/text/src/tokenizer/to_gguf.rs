//! A folder's tokenizer as GGUF metadata, with the keys that llama.cpp's converter writes.

use super::error::Error;
use super::folder::{self, Source};
use super::json::{field, merge, present};
use super::vocab::{Kind, Role, Token};
use super::words::{Cut, Step};
use super::{Model, Special, Tokenizer, bytes, json, pre, roles, sentencepiece};
use crate::Templates;
use allod_formats::{Array, Metadata, Value};
use serde_json::Value as Json;
use std::path::Path;
use unicode_normalization::UnicodeNormalization;

/// What stands for a space.
const SPACE: char = '▁';
/// The score of a token that no merge makes; it must never win over one that some merge makes.
const NO_SCORE: f32 = -1e9;

/// The metadata that a GGUF file of the model in `folder` needs for its tokenizer and chat templates.
///
/// What GGUF cannot express (a way of cutting without a name, a normalizer no reader applies) is refused: the result is
/// read back, and must encode a text of all its tokens as the folder's tokenizer does.
///
/// # Errors
/// Those of [`Tokenizer::from_folder`]; [`Error::Unsupported`] when there is no GGUF form;
/// [`Error::Malformed`] for broken chat templates.
pub fn to_gguf(folder: &Path) -> Result<Metadata, Error> {
    let tokenizer = Tokenizer::from_folder(folder)?;
    let mut meta = match folder::source(folder)? {
        Source::Json(file) => from_json(&file, &tokenizer)?,
        Source::SentencePiece(bytes) => sentencepiece::metadata(&bytes)?,
        Source::Tiktoken => from_merges(&tokenizer, &[])?,
    };
    pad(&mut meta, folder)?;
    set_roles(&mut meta, &tokenizer);
    set_templates(&mut meta, folder)?;
    verify(&meta, &tokenizer)?;
    Ok(meta)
}

fn from_json(file: &Json, tokenizer: &Tokenizer) -> Result<Metadata, Error> {
    let model = field(file, "model")?;
    match &tokenizer.parts.model {
        Model::Bpe(_) => {
            let merges = present(model.get("merges")).and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
            match tokenizer.parts.vocab.spelling {
                super::vocab::Spelling::Space(SPACE) => scored_merges(merges, tokenizer),
                _ => from_merges(tokenizer, merges),
            }
        }
        Model::Unigram(_) => from_unigram(file, model, tokenizer),
        Model::WordPiece(_) => Ok(from_wordpiece(model, file, tokenizer)),
        Model::Spm(_) | Model::Words { .. } => Err(Error::unsupported("model.type", "a model of whole words in GGUF")),
    }
}

/// Byte-level merges, cut in a way that has a name.
fn from_merges(tokenizer: &Tokenizer, merges: &[Json]) -> Result<Metadata, Error> {
    let Model::Bpe(bpe) = &tokenizer.parts.model else { return Err(no_form("its model")) };
    let mut patterns = Vec::new();
    for step in &tokenizer.parts.steps {
        match step {
            Step::Split { pattern, cut: Cut::Isolated, invert: false } => patterns.push(pattern.source()),
            other => return Err(no_form(&format!("the step {other:?}"))),
        }
    }
    let pre = pre::ALL.iter().filter(|pre| pre.cuts_like(&patterns) && !pre.on_chars);
    let pre = pre.min_by_key(|pre| pre.whole_words != bpe.takes_whole_words());
    let pre = pre.ok_or_else(|| no_form(&format!("a way of cutting by {patterns:?}")))?;
    let merges = match merges {
        [] => bpe.merges_in_order().map(|(left, right)| pair(tokenizer, left, right)).collect(),
        lines => lines.iter().filter_map(merge).map(|(left, right)| format!("{left} {right}")).collect::<Vec<_>>(),
    };
    let mut meta = start("gpt2", pre.names[0], &tokenizer.parts.vocab.tokens, |_, text| text.to_owned());
    meta.set("tokenizer.ggml.merges", merges);
    Ok(meta)
}

fn pair(tokenizer: &Tokenizer, left: u32, right: u32) -> String {
    format!("{} {}", tokenizer.token_text(left).unwrap_or(""), tokenizer.token_text(right).unwrap_or(""))
}

/// SentencePiece's BPE as Hugging Face writes it, back to scores: the earlier a token is merged, the higher.
fn scored_merges(merges: &[Json], tokenizer: &Tokenizer) -> Result<Metadata, Error> {
    let tokens = &tokenizer.parts.vocab.tokens;
    let ids: std::collections::HashMap<&str, usize> = tokens.iter().enumerate().map(|(i, t)| (&*t.text, i)).collect();
    let mut scores = vec![NO_SCORE; tokens.len()];
    for (rank, (left, right)) in merges.iter().filter_map(merge).enumerate() {
        if let Some(&id) = ids.get(format!("{left}{right}").as_str()) {
            scores[id] = scores[id].max(-(rank as f32));
        }
    }
    let mut meta = start("llama", "default", tokens, with_spaces);
    meta.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    meta.set("tokenizer.ggml.add_space_prefix", tokenizer.parts.vocab.strip_space);
    Ok(meta)
}

/// Added tokens are looked for in the text as it comes, where a space is a space.
fn with_spaces(kind: Kind, text: &str) -> String {
    if kind == Kind::UserDefined { text.replace(SPACE, " ") } else { text.to_owned() }
}

fn from_unigram(file: &Json, model: &Json, tokenizer: &Tokenizer) -> Result<Metadata, Error> {
    let mut meta = start("t5", "default", &tokenizer.parts.vocab.tokens, with_spaces);
    let score = |entry: &Json| entry.get(1).and_then(Json::as_f64).unwrap_or(0.0) as f32;
    let mut scores: Vec<f32> = field(model, "vocab")?.as_array().into_iter().flatten().map(score).collect();
    scores.resize(tokenizer.vocab_size(), 0.0);
    meta.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    meta.set("tokenizer.ggml.add_space_prefix", tokenizer.parts.vocab.strip_space);
    for normalizer in json::flat(file.get("normalizer"), "normalizers") {
        match (json::kind(normalizer), normalizer.get("precompiled_charsmap").and_then(Json::as_str)) {
            ("Precompiled", Some(map)) => {
                let map = bytes::base64(map).unwrap_or_default();
                meta.set("tokenizer.ggml.precompiled_charsmap", Value::Array(Array::U8(map)));
            }
            ("Replace", _) => meta.set("tokenizer.ggml.remove_extra_whitespaces", true),
            _ => {}
        }
    }
    Ok(meta)
}

/// WordPiece with a space before every word instead of a prefix before every continuation.
fn from_wordpiece(model: &Json, file: &Json, tokenizer: &Tokenizer) -> Metadata {
    let prefix = model.get("continuing_subword_prefix").and_then(Json::as_str).unwrap_or("##");
    let mut meta = start("bert", "bert-bge", &tokenizer.parts.vocab.tokens, |kind, text| {
        match (kind, text.strip_prefix(prefix)) {
            (Kind::Normal, _) if text.starts_with('[') && text.ends_with(']') => text.to_owned(),
            (Kind::Normal, Some(tail)) => tail.to_owned(),
            (Kind::Normal, None) => format!("{SPACE}{text}"),
            _ => text.to_owned(),
        }
    });
    for normalizer in json::flat(file.get("normalizer"), "normalizers") {
        for key in ["lowercase", "strip_accents"] {
            if let Some(flag) = normalizer.get(key).and_then(Json::as_bool) {
                meta.set(format!("tokenizer.ggml.normalizer.{key}"), flag);
            }
        }
    }
    meta
}

/// The keys that every kind has.
fn start(model: &str, pre: &str, tokens: &[Token], text: impl Fn(Kind, &str) -> String) -> Metadata {
    let mut meta = Metadata::default();
    meta.set("tokenizer.ggml.model", model);
    meta.set("tokenizer.ggml.pre", pre);
    let name = |(id, token): (usize, &Token)| match token.kind {
        Kind::Unused if token.text.is_empty() => format!("[PAD{id}]"),
        kind => text(kind, &token.text),
    };
    meta.set("tokenizer.ggml.tokens", tokens.iter().enumerate().map(name).collect::<Vec<String>>());
    let kinds = tokens.iter().map(|token| token.kind as i32).collect();
    meta.set("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds)));
    meta
}

/// Fills the vocabulary up to the rows of the embedding.
fn pad(meta: &mut Metadata, folder: &Path) -> Result<(), Error> {
    let config = folder::read_json(folder, "config.json")?;
    let size = config.get("vocab_size").or_else(|| config.get("text_config")?.get("vocab_size")).and_then(Json::as_u64);
    let Some(mut tokens) = meta.strings("tokenizer.ggml.tokens").map(<[String]>::to_vec) else { return Ok(()) };
    // No model pads by more than it has.
    let size = size.and_then(|s| usize::try_from(s).ok()).filter(|&s| s > tokens.len() && s / 2 <= tokens.len() + 4096);
    let Some(size) = size else { return Ok(()) };
    for id in tokens.len()..size {
        tokens.push(format!("[PAD{id}]"));
    }
    meta.set("tokenizer.ggml.tokens", tokens);
    if let Some(Value::Array(Array::I32(kinds))) = meta.get("tokenizer.ggml.token_type") {
        let mut kinds = kinds.clone();
        kinds.resize(size, Kind::Unused as i32);
        meta.set("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds)));
    }
    if let Some(mut scores) = meta.floats("tokenizer.ggml.scores") {
        scores.resize(size, NO_SCORE);
        meta.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    }
    Ok(())
}

fn set_roles(meta: &mut Metadata, tokenizer: &Tokenizer) {
    for (role, keys) in roles::KEYS {
        if let Some(id) = tokenizer.special(*role) {
            meta.set(format!("tokenizer.ggml.{}", keys[0]), id);
        }
    }
    if meta.str("tokenizer.ggml.model") == Some("bert") {
        // There, what begins a text is read as BOS.
        if let (None, Some(cls)) = (tokenizer.special(Role::Bos), tokenizer.special(Role::Cls)) {
            meta.set("tokenizer.ggml.bos_token_id", cls);
        }
        return;
    }
    meta.set("tokenizer.ggml.add_bos_token", tokenizer.add_bos());
    meta.set("tokenizer.ggml.add_eos_token", tokenizer.add_eos());
}

fn set_templates(meta: &mut Metadata, folder: &Path) -> Result<(), Error> {
    let templates =
        Templates::from_folder(folder).map_err(|e| Error::malformed("chat_template", "templates", e.to_string()))?;
    if !templates.named.is_empty() {
        meta.set("tokenizer.chat_templates", templates.named.keys().cloned().collect::<Vec<String>>());
    }
    for (name, source) in &templates.named {
        meta.set(format!("tokenizer.chat_template.{name}"), source.as_str());
    }
    if let Some(source) = &templates.default {
        meta.set("tokenizer.chat_template", source.as_str());
    }
    Ok(())
}

/// Encodes all tokens' texts, in reverse and in normal form C, with both.
fn verify(meta: &Metadata, tokenizer: &Tokenizer) -> Result<(), Error> {
    let back = Tokenizer::from_gguf(meta)?;
    let mut sample = String::new();
    for id in (0..tokenizer.vocab_size() as u32).rev().filter(|&id| !tokenizer.is_special(id)) {
        sample.extend(String::from_utf8_lossy(&tokenizer.token_bytes(id).unwrap_or_default()).nfc());
    }
    sample.push_str("  I'll  see\n\n\nyou in 1234567 days,\tZoë!\r\n");
    let (expected, found) = (tokenizer.encode(&sample, Special::NONE)?, back.encode(&sample, Special::NONE)?);
    match expected.iter().zip(&found).position(|(a, b)| a != b) {
        None if expected.len() == found.len() => Ok(()),
        at => {
            let at = at.unwrap_or(0);
            let around = tokenizer.decode(&expected[at.saturating_sub(3)..expected.len().min(at + 4)], false);
            Err(no_form(&format!("a vocabulary that cuts {around:?} as this one does")))
        }
    }
}

fn no_form(what: &str) -> Error {
    Error::unsupported("GGUF", what)
}
