//! A folder's tokenizer as GGUF metadata, with the keys that llama.cpp's converter writes.

use super::description::{Bpe, Description, Model, SPACE};
use super::error::Error;
use super::folder::{self, Source};
use super::steps::{self, kind};
use super::vocab::{Kind, Role, Spelling, Token};
use super::{Special, Tokenizer, json, pre, roles, sentencepiece};
use crate::Templates;
use allod_formats::{Array, Metadata, Value};
use serde_json::Value as Json;
use std::path::Path;
use unicode_normalization::UnicodeNormalization;

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
    let description = folder::describe(folder)?;
    let mut meta = match folder::source(folder)? {
        Source::SentencePiece(bytes) => sentencepiece::metadata(&bytes)?,
        Source::Json { .. } | Source::Tiktoken => from_description(&description)?,
    };
    let tokenizer = description.build()?;
    pad(&mut meta, folder)?;
    set_roles(&mut meta, &tokenizer);
    set_templates(&mut meta, folder)?;
    verify(&meta, &tokenizer)?;
    Ok(meta)
}

fn from_description(description: &Description) -> Result<Metadata, Error> {
    let tokens = &description.vocab.tokens;
    match &description.model {
        Model::Bpe(bpe) if description.vocab.spelling == Spelling::Space(SPACE) => {
            Ok(scored_merges(bpe, tokens, description.vocab.strip_space))
        }
        Model::Bpe(bpe) => ranked_merges(bpe, tokens, &description.pre_tokenizer),
        Model::Unigram { pieces, .. } => Ok(from_unigram(pieces, description)),
        Model::WordPiece { prefix, .. } => Ok(from_wordpiece(prefix, description)),
        Model::Words { .. } => Err(Error::unsupported("model.type", "a model of whole words in GGUF")),
    }
}

/// Byte-level merges, cut in a way that has a name.
fn ranked_merges(bpe: &Bpe, tokens: &[Token], pre_tokenizer: &Json) -> Result<Metadata, Error> {
    let mut patterns = Vec::new();
    for step in json::flat(pre_tokenizer, "pretokenizers") {
        patterns.extend(cut(step)?);
    }
    let pre = pre::ALL.iter().filter(|pre| pre.cuts_like(&patterns) && !pre.on_chars);
    let pre = pre.min_by_key(|pre| pre.whole_words != bpe.whole_words);
    let pre = pre.ok_or_else(|| no_form(&format!("a way of cutting by {patterns:?}")))?;
    let mut meta = start("gpt2", pre.names[0], tokens, |_, text| text.to_owned());
    let merges = bpe.merges.iter().map(|(left, right)| format!("{left} {right}"));
    meta.set("tokenizer.ggml.merges", merges.collect::<Vec<String>>());
    Ok(meta)
}

/// The pattern that a step cuts around, if it cuts.
fn cut(step: &Json) -> Result<Option<&str>, Error> {
    let flag = |key: &str, default: bool| step.get(key).and_then(Json::as_bool).unwrap_or(default);
    let refused = || Err(no_form(&format!("the step {step}")));
    match (kind(step), step.pointer("/pattern/Regex").and_then(Json::as_str)) {
        ("ByteLevel", _) if flag("add_prefix_space", true) => refused(),
        ("ByteLevel", _) => Ok(flag("use_regex", true).then_some(pre::GPT2)),
        ("Digits", _) if flag("individual_digits", false) => Ok(Some(r"\p{N}")),
        ("Digits", _) => Ok(Some(r"\p{N}+")),
        ("Split", Some(pattern)) if !flag("invert", false) && step["behavior"] == "Isolated" => Ok(Some(pattern)),
        _ => refused(),
    }
}

/// SentencePiece's BPE as Hugging Face writes it, back to scores: the earlier a token is merged, the higher.
fn scored_merges(bpe: &Bpe, tokens: &[Token], prefix: bool) -> Metadata {
    let ids: std::collections::HashMap<&str, usize> = tokens.iter().enumerate().map(|(i, t)| (&*t.text, i)).collect();
    let mut scores = vec![NO_SCORE; tokens.len()];
    for (rank, (left, right)) in bpe.merges.iter().enumerate() {
        if let Some(&id) = ids.get(format!("{left}{right}").as_str()) {
            scores[id] = scores[id].max(-(rank as f32));
        }
    }
    let mut meta = start("llama", "default", tokens, with_spaces);
    meta.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    meta.set("tokenizer.ggml.add_space_prefix", prefix);
    meta
}

/// Added tokens are looked for in the text as it comes, where a space is a space.
fn with_spaces(kind: Kind, text: &str) -> String {
    if kind == Kind::UserDefined { text.replace(SPACE, " ") } else { text.to_owned() }
}

fn from_unigram(pieces: &[(String, f64)], description: &Description) -> Metadata {
    let mut meta = start("t5", "default", &description.vocab.tokens, with_spaces);
    let mut scores: Vec<f32> = pieces.iter().map(|(_, score)| *score as f32).collect();
    scores.resize(description.vocab.tokens.len(), 0.0);
    meta.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    meta.set("tokenizer.ggml.add_space_prefix", description.vocab.strip_space);
    for normalizer in json::flat(&description.normalizer, "normalizers") {
        match (kind(normalizer), normalizer.get("precompiled_charsmap").and_then(Json::as_str)) {
            ("Precompiled", Some(map)) => {
                let map = steps::base64(map).unwrap_or_default();
                meta.set("tokenizer.ggml.precompiled_charsmap", Value::Array(Array::U8(map)));
            }
            ("Replace", _) => meta.set("tokenizer.ggml.remove_extra_whitespaces", true),
            _ => {}
        }
    }
    meta
}

/// WordPiece with a space before every word instead of a prefix before every continuation.
fn from_wordpiece(prefix: &str, description: &Description) -> Metadata {
    let mut meta =
        start("bert", "bert-bge", &description.vocab.tokens, |kind, text| match (kind, text.strip_prefix(prefix)) {
            (Kind::Normal, _) if text.starts_with('[') && text.ends_with(']') => text.to_owned(),
            (Kind::Normal, Some(tail)) => tail.to_owned(),
            (Kind::Normal, None) => format!("{SPACE}{text}"),
            _ => text.to_owned(),
        });
    for normalizer in json::flat(&description.normalizer, "normalizers") {
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

/// Both encode all tokens' texts alike.
fn verify(meta: &Metadata, tokenizer: &Tokenizer) -> Result<(), Error> {
    let (back, sample) = (Tokenizer::from_gguf(meta)?, tokenizer.sample(1));
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

impl Tokenizer {
    /// The texts of every `step`th token but for structure, in reverse and in normal form C, and a few difficult words.
    pub(super) fn sample(&self, step: usize) -> String {
        // White space before a text is not the same to all readers.
        let mut sample = String::from("a");
        for id in (0..self.vocab_size() as u32).rev().step_by(step).filter(|&id| !self.is_special(id)) {
            sample.extend(String::from_utf8_lossy(&self.token_bytes(id).unwrap_or_default()).nfc());
        }
        sample.push_str("  I'll  see\n\n\nyou in 1234567 days,\tZoë!\r\n");
        sample
    }
}

fn no_form(what: &str) -> Error {
    Error::unsupported("GGUF", what)
}
