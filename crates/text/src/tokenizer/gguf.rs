//! Tokenizers from GGUF metadata: the `tokenizer.ggml.*` keys.

use super::description::{Added, Bpe, Description, Model, SPACE, sequence, spaces, split, words};
use super::error::Error;
use super::pre::Pre;
use super::roles;
use super::vocab::{Kind, Role, Spelling, Token, Vocab};
use super::{Tokenizer, charsmap, scores};
use allod_formats::{Array, Metadata, Value};
use base64::Engine as _;
use serde_json::{Value as Json, json};
use tokenizers::AddedToken;

impl Tokenizer {
    /// The tokenizer that a GGUF file's metadata describes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a kind or a way of cutting that is not known, [`Error::Malformed`] for keys that are
    /// missing, of the wrong type, or contradict each other.
    pub fn from_gguf(meta: &Metadata) -> Result<Tokenizer, Error> {
        describe(meta)?.build()
    }
}

/// What the metadata say.
pub(super) fn describe(meta: &Metadata) -> Result<Description, Error> {
    let kind = require_str(meta, "tokenizer.ggml.model")?;
    let on_bytes = kind == "gpt2" && !pre_of(meta, kind)?.on_chars;
    let spelling = if on_bytes { Spelling::ByteLevel } else { Spelling::Space(SPACE) };
    let mut vocab = Vocab::new(tokens(meta)?, spelling);
    read_roles(meta, kind, &mut vocab)?;
    roles::complete(&mut vocab, &[]);
    let (before, after) = around(meta, kind, &vocab)?;
    let added = added(meta, &vocab);
    let whole = |normalizer, pre_tokenizer, decoder, model, vocab| Description {
        vocab,
        added,
        normalizer,
        pre_tokenizer,
        decoder,
        model,
        before,
        after,
    };
    match kind {
        "gpt2" | "gemma4" => {
            let (normalizer, cuts, decoder, model) = byte_pairs(meta, kind, &vocab)?;
            Ok(whole(normalizer, cuts, decoder, model, vocab))
        }
        "llama" | "t5" => {
            let (normalizer, prefix) = sentencepiece_normalizer(meta)?;
            vocab.strip_space = prefix;
            let (model, cuts) = match kind {
                "llama" => (scored_pairs(meta, &vocab)?, Json::Null),
                // Sums of scores are rounded: Transformers takes them word by word.
                _ => (unigram(meta, &vocab)?, words(typed_texts(&vocab)).map_or(Json::Null, |words| split(&words))),
            };
            Ok(whole(normalizer, cuts, spelled_with_spaces(prefix), model, vocab))
        }
        "bert" => {
            (vocab.strip_space, vocab.cleanup) = (true, true);
            let decoder = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
            let model = wordpiece(&vocab)?;
            Ok(whole(bert_normalizer(meta), json!({"type": "BertPreTokenizer"}), decoder, model, vocab))
        }
        other => Err(Error::Unsupported {
            field: "tokenizer.ggml.model".into(),
            name: other.chars().take(80).collect(),
            nearest: None,
        }),
    }
}

fn tokens(meta: &Metadata) -> Result<Vec<Token>, Error> {
    let texts = require_strings(meta, "tokenizer.ggml.tokens")?;
    if texts.is_empty() || texts.len() >= u32::MAX as usize {
        return Err(Error::malformed("tokenizer.ggml.tokens", "tokens", format!("{} of them", texts.len())));
    }
    let kinds = match meta.get("tokenizer.ggml.token_type") {
        None => None,
        Some(_) => Some(of_length(meta.ints("tokenizer.ggml.token_type"), "tokenizer.ggml.token_type", texts.len())?),
    };
    let kind = |i: usize| kinds.as_ref().map_or(Kind::Normal, |kinds| Kind::from_number(kinds[i]));
    Ok(texts.iter().enumerate().map(|(i, text)| Token { text: text.as_str().into(), kind: kind(i) }).collect())
}

fn scores(meta: &Metadata, count: usize) -> Result<Vec<f32>, Error> {
    let scores = of_length(meta.floats("tokenizer.ggml.scores"), "tokenizer.ggml.scores", count)?;
    match scores.iter().any(|score| score.is_nan()) {
        true => Err(Error::malformed("tokenizer.ggml.scores", "numbers", "NaN")),
        false => Ok(scores),
    }
}

fn of_length<T>(values: Option<Vec<T>>, key: &str, count: usize) -> Result<Vec<T>, Error> {
    match values {
        Some(values) if values.len() >= count => Ok(values),
        Some(values) => Err(Error::malformed(key, format!("{count} numbers, one a token"), values.len().to_string())),
        None => Err(Error::malformed(key, "an array of numbers", "something else or nothing")),
    }
}

fn read_roles(meta: &Metadata, kind: &str, vocab: &mut Vocab) -> Result<(), Error> {
    let defaults: &[(Role, u32)] = match kind {
        "llama" => &[(Role::Bos, 1), (Role::Eos, 2), (Role::Unk, 0)],
        "bert" => &[(Role::Cls, 101), (Role::Unk, 100), (Role::Sep, 102), (Role::Pad, 0), (Role::Mask, 103)],
        "t5" => &[(Role::Eos, 1), (Role::Unk, 2), (Role::Pad, 0)],
        _ => &[],
    };
    for &(role, id) in defaults {
        vocab.set_role(role, Some(id));
    }
    for (role, keys) in roles::KEYS {
        for key in keys.iter().map(|key| format!("tokenizer.ggml.{key}")) {
            let Some(value) = meta.get(&key) else { continue };
            let id = value.as_i64().ok_or_else(|| Error::malformed(&key, "a token id", format!("{value:?}")))?;
            // Some writers store -1 for "none".
            if id == -1 || id == i64::from(u32::MAX) {
                vocab.set_role(*role, None);
                break;
            }
            let id = u32::try_from(id)
                .ok()
                .filter(|&id| (id as usize) < vocab.tokens.len())
                .ok_or_else(|| Error::malformed(&key, format!("an id below {}", vocab.tokens.len()), id.to_string()))?;
            vocab.set_role(*role, Some(id));
            break;
        }
    }
    Ok(())
}

fn pre_of(meta: &Metadata, kind: &str) -> Result<&'static Pre, Error> {
    let name = if kind == "gemma4" { "gemma4" } else { meta.str("tokenizer.ggml.pre").unwrap_or("default") };
    Pre::named(name)
}

/// How byte-pair models decode, cut and merge.
fn byte_pairs(meta: &Metadata, kind: &str, vocab: &Vocab) -> Result<(Json, Json, Json, Model), Error> {
    let pre = pre_of(meta, kind)?;
    let mut ids = mergeable(vocab);
    let merges = match meta.get("tokenizer.ggml.merges") {
        // Kimi K2 is published as ranks; its ids are the ranks.
        None if pre.names.contains(&"kimi-k2") => scores::merges_of_ranks(&ids),
        _ => ranked_merges(require_strings(meta, "tokenizer.ggml.merges")?)?,
    };
    let unk = if pre.on_chars { unknown(vocab, &mut ids) } else { None };
    let model = Model::Bpe(Bpe {
        ids,
        merges,
        // Files have merges left of tokens that were taken out.
        lenient: true,
        unk,
        fuse_unk: pre.on_chars,
        byte_fallback: pre.on_chars,
        whole_words: pre.whole_words,
        ..Bpe::default()
    });
    let cuts = pre.cuts.iter().map(|pattern| split(pattern));
    Ok(match pre.on_chars {
        true => (spaces(), sequence("pretokenizers", cuts.collect()), spelled_with_spaces(false), model),
        false => (Json::Null, sequence("pretokenizers", cuts.chain([byte_level()]).collect()), byte_level(), model),
    })
}

/// Bytes as printable characters, and back.
pub(super) fn byte_level() -> Json {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false})
}

/// The decoder of vocabularies that have [`SPACE`] for a space and bytes as `<0x0A>`.
fn spelled_with_spaces(strip: bool) -> Json {
    let mut parts = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if strip {
        parts.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": parts})
}

/// The tokens that take part in merging.
fn mergeable(vocab: &Vocab) -> Vec<(String, u32)> {
    let tokens = (0u32..).zip(&vocab.tokens).filter(|(_, token)| !token.kind.is_added());
    tokens.map(|(id, token)| (token.text.to_string(), id)).collect()
}

/// The unknown token, which a model must have among its own to give it.
fn unknown(vocab: &Vocab, ids: &mut Vec<(String, u32)>) -> Option<String> {
    let id = vocab.role(Role::Unk)?;
    let text = vocab.get(id)?.text.to_string();
    ids.push((text.clone(), id));
    Some(text)
}

fn ranked_merges(lines: &[String]) -> Result<Vec<(String, String)>, Error> {
    let pair = |(rank, line): (usize, &String)| {
        // The first part may begin with a space, the second with none.
        let cut = line.char_indices().skip(1).find(|&(_, c)| c == ' ').map(|(i, _)| i);
        let cut =
            cut.ok_or_else(|| Error::malformed(format!("tokenizer.ggml.merges[{rank}]"), "two texts", line.clone()))?;
        Ok((line[..cut].to_owned(), line[cut + 1..].to_owned()))
    };
    lines.iter().enumerate().map(pair).collect()
}

/// SentencePiece's BPE: neighbours merge when their text is a token, best score first.
fn scored_pairs(meta: &Metadata, vocab: &Vocab) -> Result<Model, Error> {
    let scores = scores(meta, vocab.tokens.len())?;
    // Tokens found in the text beforehand merge as well; structure must not arise from text.
    let tokens = (0u32..).zip(&vocab.tokens).filter(|(_, token)| !token.kind.is_special());
    let mut ids: Vec<(String, u32)> = tokens.map(|(id, token)| (token.text.to_string(), id)).collect();
    let pieces = ids.iter().filter(|(_, id)| vocab.get(*id).is_some_and(|token| token.kind != Kind::Byte));
    let merges = scores::merges_of_scores(pieces.map(|(text, id)| (&**text, *id)), &scores);
    let unk = unknown(vocab, &mut ids);
    let byte_fallback = has_bytes(vocab);
    let bpe = Bpe { ids, merges, lenient: true, unk, fuse_unk: true, byte_fallback, ..Bpe::default() };
    Ok(Model::Bpe(bpe))
}

fn unigram(meta: &Metadata, vocab: &Vocab) -> Result<Model, Error> {
    let piece = |(token, score): (&Token, f32)| {
        // Tokens of the user are found before anything else; here a score of 0 makes them win as well.
        let score = if token.kind == Kind::UserDefined { 0.0 } else { f64::from(score) };
        (token.text.to_string(), score)
    };
    let pieces = vocab.tokens.iter().zip(scores(meta, vocab.tokens.len())?).map(piece).collect();
    Ok(Model::Unigram { pieces, unk: vocab.role(Role::Unk), byte_fallback: has_bytes(vocab) })
}

fn typed_texts(vocab: &Vocab) -> impl Iterator<Item = &str> {
    let tokens = vocab.tokens.iter().filter(|token| !token.kind.is_special() && token.kind != Kind::Unused);
    tokens.map(|token| &*token.text)
}

fn has_bytes(vocab: &Vocab) -> bool {
    vocab.tokens.iter().any(|token| token.kind == Kind::Byte)
}

/// The changes of a text that SentencePiece makes, and whether a space goes before it.
fn sentencepiece_normalizer(meta: &Metadata) -> Result<(Json, bool), Error> {
    let prefix = meta.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let mut parts = Vec::new();
    if let Some(map) = precompiled(meta)? {
        parts.push(json!({"type": "Precompiled", "precompiled_charsmap": map}));
    }
    if meta.bool("tokenizer.ggml.remove_extra_whitespaces").unwrap_or(false) {
        let replace = |pattern, content| json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content});
        parts.extend([replace("^ +| +$", ""), replace(" {2,}", " ")]);
    }
    if prefix {
        parts.push(json!({"type": "Prepend", "prepend": SPACE}));
    }
    parts.push(spaces());
    Ok((sequence("normalizers", parts), prefix))
}

/// The precompiled normalization in base64.
fn precompiled(meta: &Metadata) -> Result<Option<String>, Error> {
    let key = "tokenizer.ggml.precompiled_charsmap";
    let bytes = match meta.get(key) {
        None => return Ok(None),
        Some(Value::Array(Array::U8(bytes))) => bytes.clone(),
        Some(Value::Array(Array::I8(bytes))) => bytes.iter().map(|&b| b as u8).collect(),
        Some(_) => return Err(Error::malformed(key, "an array of bytes", "another type")),
    };
    charsmap::check(&bytes)?;
    Ok(Some(base64::engine::general_purpose::STANDARD.encode(bytes)))
}

fn bert_normalizer(meta: &Metadata) -> Json {
    let lowercase = meta.bool("tokenizer.ggml.normalizer.lowercase").unwrap_or(true);
    let strip_accents = meta.bool("tokenizer.ggml.normalizer.strip_accents").unwrap_or(lowercase);
    json!({
        "type": "BertNormalizer",
        "clean_text": true,
        "handle_chinese_chars": true,
        "strip_accents": strip_accents,
        "lowercase": lowercase,
    })
}

/// WordPiece: GGUF marks the beginnings of words with [`SPACE`], the library what continues them with `##`.
fn wordpiece(vocab: &Vocab) -> Result<Model, Error> {
    let unk = vocab.role(Role::Unk).and_then(|id| vocab.get(id));
    let unk = unk.ok_or_else(|| Error::malformed("tokenizer.ggml.unknown_token_id", "a token", "none"))?;
    let text = |token: &Token| match token.text.strip_prefix(SPACE) {
        _ if token.kind.is_special() => token.text.to_string(),
        Some(head) => head.to_owned(),
        None => format!("##{}", token.text),
    };
    let ids = (0u32..).zip(&vocab.tokens).map(|(id, token)| (text(token), id)).collect();
    Ok(Model::WordPiece { ids, unk: unk.text.to_string(), prefix: "##".into(), max_chars: 100 })
}

/// What goes before and after a text.
fn around(meta: &Metadata, kind: &str, vocab: &Vocab) -> Result<(Vec<u32>, Vec<u32>), Error> {
    let flag = |key: &str, default: bool| meta.bool(&format!("tokenizer.ggml.{key}")).unwrap_or(default);
    let bos_default = match kind {
        "gpt2" | "gemma4" => pre_of(meta, kind)?.add_bos,
        "llama" | "bert" => true,
        _ => false,
    };
    let bos = vocab.role(Role::Bos).or(vocab.role(Role::Cls));
    // Gemma 4 files have said no and needed it all the same.
    let add_bos = kind == "gemma4" || flag("add_bos_token", bos_default);
    let add_eos = flag("add_eos_token", kind == "t5");
    let sep_default = kind == "bert"
        || ["jina-v1-en", "jina-v2-code", "roberta-bpe"].contains(&meta.str("tokenizer.ggml.pre").unwrap_or(""));
    let add_sep = flag("add_sep_token", sep_default);
    let before = bos.filter(|_| add_bos).into_iter().collect();
    let end = vocab.role(Role::Eos).filter(|_| add_eos);
    let sep = vocab.role(Role::Sep).filter(|_| add_sep && end.is_none());
    Ok((before, end.into_iter().chain(sep).collect()))
}

fn added(meta: &Metadata, vocab: &Vocab) -> Vec<Added> {
    // Phi-3's special tokens swallow the white space after them; GGUF has no key for that.
    let name = meta.str("general.name").unwrap_or("").to_lowercase();
    let phi3 = name.contains("phi-3") || name.contains("phi3");
    let mut out = Vec::new();
    for (id, token) in (0u32..).zip(&vocab.tokens) {
        if token.kind.is_added() {
            let text = &*token.text;
            let token = AddedToken::from(text, token.kind.is_special())
                .normalized(false)
                .rstrip(phi3 && !["<unk>", "<s>", "<|endoftext|>"].contains(&text))
                .lstrip(text == "[MASK]" || text == "<mask>");
            out.push(Added { id, token });
        }
    }
    out
}

fn require_str<'m>(meta: &'m Metadata, key: &str) -> Result<&'m str, Error> {
    meta.str(key).ok_or_else(|| Error::malformed(key, "a string", found(meta, key)))
}

fn require_strings<'m>(meta: &'m Metadata, key: &str) -> Result<&'m [String], Error> {
    meta.strings(key).ok_or_else(|| Error::malformed(key, "an array of strings", found(meta, key)))
}

fn found(meta: &Metadata, key: &str) -> &'static str {
    if meta.get(key).is_some() { "another type" } else { "nothing" }
}
