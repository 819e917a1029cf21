//! Tokenizers from GGUF metadata: the `tokenizer.ggml.*` keys.

use super::added::{Added, Finder};
use super::bpe::{self, Bpe};
use super::charsmap::CharsMap;
use super::error::Error;
use super::normalize::{Bert, Normalizer, Replace};
use super::pattern::Pattern;
use super::pre::Pre;
use super::spm::Spm;
use super::unigram::Unigram;
use super::vocab::{Ids, Kind, Role, Spelling, Token, Vocab};
use super::wordpiece::WordPiece;
use super::words::{Cut, Step};
use super::{Model, Parts, Tokenizer, bytes, roles};
use allod_formats::{Array, Metadata, Value};
use std::sync::Arc;

/// What stands for a space.
const SPACE: char = '▁';

/// Everything but the vocabulary and the added tokens.
struct Stations {
    normalizers: Vec<Normalizer>,
    steps: Vec<Step>,
    model: Model,
}

impl Tokenizer {
    /// The tokenizer that a GGUF file's metadata describes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a kind or a way of cutting that is not known, [`Error::Malformed`] for keys that are
    /// missing, of the wrong type, or contradict each other.
    pub fn from_gguf(meta: &Metadata) -> Result<Tokenizer, Error> {
        let kind = require_str(meta, "tokenizer.ggml.model")?;
        let tokens = tokens(meta)?;
        let spelling = match kind {
            "gpt2" if pre_of(meta, kind)?.on_chars => Spelling::Space(SPACE),
            "gpt2" => Spelling::ByteLevel,
            _ => Spelling::Space(SPACE),
        };
        let mut vocab = Vocab::new(tokens, spelling);
        read_roles(meta, kind, &mut vocab)?;
        roles::complete(&mut vocab, &[]);
        let stations = match kind {
            "gpt2" | "gemma4" => byte_pairs(meta, kind, &vocab)?,
            "llama" => sentencepiece(meta, &mut vocab)?,
            "t5" => unigram(meta, &mut vocab)?,
            "bert" => wordpiece(meta, &mut vocab),
            other => {
                return Err(Error::Unsupported {
                    field: "tokenizer.ggml.model".into(),
                    name: other.chars().take(80).collect(),
                    nearest: None,
                });
            }
        };
        let (before, after) = around(meta, kind, &vocab)?;
        let Stations { normalizers, steps, model } = stations;
        let added = Finder::new(added(meta, &vocab))?;
        let added_normalized = Finder::new(Vec::new())?;
        let vocab = Arc::new(vocab);
        Ok(Tokenizer {
            parts: Arc::new(Parts { vocab, added, normalizers, added_normalized, steps, model, before, after }),
        })
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
    of_length(meta.floats("tokenizer.ggml.scores"), "tokenizer.ggml.scores", count)
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

fn byte_pairs(meta: &Metadata, kind: &str, vocab: &Vocab) -> Result<Stations, Error> {
    let pre = pre_of(meta, kind)?;
    let spell = |text: &str| match pre.on_chars {
        true => text.as_bytes().to_vec(),
        false => bytes::from_printable(text),
    };
    let ids = mergeable(vocab, spell);
    let merges = match meta.get("tokenizer.ggml.merges") {
        // Kimi K2 is published as ranks; its ids are the ranks.
        None if pre.names.contains(&"kimi-k2") => bpe::merges_of_ranks(&ids, |id| id),
        _ => ranked_merges(require_strings(meta, "tokenizer.ggml.merges")?, &ids, spell)?,
    };
    let unk = vocab.role(Role::Unk).filter(|_| pre.on_chars);
    let options =
        bpe::Options { whole_words: pre.whole_words, byte_fallback: pre.on_chars, unk, fuse_unk: true, word_end: None };
    let mut steps = pre.steps()?;
    let mut normalizers = Vec::new();
    let model = if pre.on_chars {
        normalizers.push(spaces());
        steps.push(boundaries(vocab));
        Bpe::on_chars(ids, merges, options)
    } else {
        Bpe::on_bytes(ids, merges, options)
    };
    Ok(Stations { normalizers, steps, model: Model::Bpe(model) })
}

/// Ids of the tokens that take part in merging, by the bytes they spell.
fn mergeable(vocab: &Vocab, spell: impl Fn(&str) -> Vec<u8>) -> Ids {
    let mut ids = Ids::with_capacity_and_hasher(vocab.tokens.len(), foldhash::fast::RandomState::default());
    for (id, token) in (0u32..).zip(&vocab.tokens) {
        let text = match token.kind {
            Kind::Normal | Kind::Unused => spell(&token.text),
            Kind::Byte => token.text.as_bytes().to_vec(),
            Kind::Control | Kind::Unknown | Kind::UserDefined => continue,
        };
        ids.entry(text.into()).or_insert(id);
    }
    ids
}

fn ranked_merges(lines: &[String], ids: &Ids, spell: impl Fn(&str) -> Vec<u8>) -> Result<bpe::Merges, Error> {
    let mut merges = bpe::Merges::with_capacity_and_hasher(lines.len(), foldhash::fast::RandomState::default());
    for (rank, line) in (0u32..).zip(lines) {
        // The first part may begin with a space, the second with none.
        let cut = line.char_indices().skip(1).find(|&(_, c)| c == ' ').map(|(i, _)| i);
        let Some(cut) = cut else {
            return Err(Error::malformed(format!("tokenizer.ggml.merges[{rank}]"), "two texts", line.clone()));
        };
        let mut both = spell(&line[..cut]);
        let middle = both.len();
        both.extend_from_slice(&spell(&line[cut + 1..]));
        let (left, right) = both.split_at(middle);
        // A merge of what is no token can never happen; files have such lines where tokens were taken out.
        if let (Some(&left), Some(&right), Some(&id)) = (ids.get(left), ids.get(right), ids.get(&both[..])) {
            merges.entry((left, right)).or_insert((rank, id));
        }
    }
    Ok(merges)
}

fn sentencepiece(meta: &Metadata, vocab: &mut Vocab) -> Result<Stations, Error> {
    let scores = scores(meta, vocab.tokens.len())?;
    let model = Model::Spm(Spm::new(&vocab.tokens, &scores, vocab.role(Role::Unk))?);
    Ok(Stations { normalizers: sentencepiece_normalizers(meta, vocab)?, steps: vec![boundaries(vocab)], model })
}

fn unigram(meta: &Metadata, vocab: &mut Vocab) -> Result<Stations, Error> {
    let scores: Vec<f64> = scores(meta, vocab.tokens.len())?.into_iter().map(f64::from).collect();
    let byte_fallback = vocab.tokens.iter().any(|t| t.kind == Kind::Byte);
    let model = Model::Unigram(Unigram::new(&vocab.tokens, &scores, vocab.role(Role::Unk), byte_fallback)?);
    // A word boundary separates two searches only where `▁` can begin a token.
    let steps = if vocab.find("▁").is_some() { vec![boundaries(vocab)] } else { Vec::new() };
    Ok(Stations { normalizers: sentencepiece_normalizers(meta, vocab)?, steps, model })
}

fn sentencepiece_normalizers(meta: &Metadata, vocab: &mut Vocab) -> Result<Vec<Normalizer>, Error> {
    let prefix = meta.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    vocab.strip_space = prefix;
    let mut normalizers = Vec::new();
    if let Some(map) = charsmap(meta)? {
        normalizers.push(Normalizer::Precompiled(map));
    }
    if meta.bool("tokenizer.ggml.remove_extra_whitespaces").unwrap_or(false) {
        normalizers.push(Normalizer::CollapseSpaces);
    }
    normalizers.push(spaces());
    if prefix {
        normalizers.push(Normalizer::Prepend(SPACE.into()));
    }
    Ok(normalizers)
}

fn charsmap(meta: &Metadata) -> Result<Option<CharsMap>, Error> {
    let key = "tokenizer.ggml.precompiled_charsmap";
    match meta.get(key) {
        None => Ok(None),
        Some(Value::Array(Array::U8(bytes))) => CharsMap::new(bytes).map(Some),
        Some(Value::Array(Array::I8(bytes))) => {
            CharsMap::new(&bytes.iter().map(|&b| b as u8).collect::<Vec<u8>>()).map(Some)
        }
        Some(_) => Err(Error::malformed(key, "an array of bytes", "another type")),
    }
}

fn wordpiece(meta: &Metadata, vocab: &mut Vocab) -> Stations {
    vocab.strip_space = true;
    let (mut heads, mut tails) = (Ids::default(), Ids::default());
    for (id, token) in (0u32..).zip(&vocab.tokens) {
        if token.kind.is_special() {
            continue;
        }
        let (ids, text) = match token.text.strip_prefix(SPACE) {
            Some(head) => (&mut heads, head),
            None => (&mut tails, &*token.text),
        };
        ids.entry(text.as_bytes().into()).or_insert(id);
    }
    let lowercase = meta.bool("tokenizer.ggml.normalizer.lowercase").unwrap_or(true);
    let strip_accents = meta.bool("tokenizer.ggml.normalizer.strip_accents").unwrap_or(lowercase);
    let bert = Bert { clean: true, separate_chinese: true, strip_accents, lowercase };
    let model = WordPiece::new(heads, tails, vocab.role(Role::Unk), 100);
    Stations { normalizers: vec![Normalizer::Bert(bert)], steps: bert_steps(), model: Model::WordPiece(model) }
}

/// White space separates words, punctuation stands alone.
pub(super) fn bert_steps() -> Vec<Step> {
    let step = |source: &str, cut| Some(Step::Split { pattern: Pattern::new(source).ok()?, cut, invert: false });
    [step(r"\s", Cut::Removed), step(r"[\p{P}!-/:-@\[-`{-~]", Cut::Isolated)].into_iter().flatten().collect()
}

fn spaces() -> Normalizer {
    Normalizer::Replace(Replace::Literal { from: " ".into(), to: SPACE.into() })
}

/// Cuts before `▁` wherever no token of the vocabulary reaches across.
pub(super) fn boundaries(vocab: &Vocab) -> Step {
    let mut glued = Vec::new();
    for token in &vocab.tokens {
        if matches!(token.kind, Kind::Control | Kind::Unknown | Kind::Byte) {
            continue;
        }
        let after = token.text.chars().skip(1);
        for (before, c) in token.text.chars().zip(after) {
            if c == SPACE && before != SPACE && !glued.contains(&before) {
                glued.push(before);
            }
        }
    }
    Step::Boundaries { stand_in: SPACE, glued }
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
        if matches!(token.kind, Kind::Control | Kind::Unknown | Kind::UserDefined) {
            let text = token.text.to_string();
            let rstrip = phi3 && !["<unk>", "<s>", "<|endoftext|>"].contains(&&*text);
            let lstrip = text == "[MASK]" || text == "<mask>";
            out.push(Added { id, text, special: token.kind.is_special(), lstrip, rstrip, single_word: false });
        }
    }
    out
}

fn require_str<'m>(meta: &'m Metadata, key: &str) -> Result<&'m str, Error> {
    meta.str(key).ok_or_else(|| Error::malformed(key, "a string", describe(meta, key)))
}

fn require_strings<'m>(meta: &'m Metadata, key: &str) -> Result<&'m [String], Error> {
    meta.strings(key).ok_or_else(|| Error::malformed(key, "an array of strings", describe(meta, key)))
}

fn describe(meta: &Metadata, key: &str) -> &'static str {
    if meta.get(key).is_some() { "another type" } else { "nothing" }
}
