//! A [`Description`] brought into the tokenizers library.

use super::description::{Added, Bpe, Description, Model, SPACE, words};
use super::error::Error;
use super::vocab::{Kind, Spelling, Vocab};
use super::{Parts, Tokenizer, bytes, steps};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{self, BPE};
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    DecoderWrapper, ModelWrapper, NormalizedString, Normalizer, NormalizerWrapper, PostProcessorWrapper,
    PreTokenizedString, PreTokenizer, PreTokenizerWrapper, SplitDelimiterBehavior, Token, TokenizerImpl,
};

/// Longest word that WordPiece looks for tokens in, in characters: it takes quadratic time.
const LONGEST_WORD: usize = 1000;
/// Words up to this many bytes are remembered with their ids, and how many of them.
const SEEN_WORD: usize = 64;
const SEEN_WORDS: usize = 1 << 14;

/// The library's stations in order. It decodes nothing and adds nothing around a text: both are ours.
pub(super) type Pipeline = TokenizerImpl<
    Encoder,
    Shared<NormalizerWrapper>,
    Shared<PreTokenizerWrapper>,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// What pipelines of one vocabulary have in common.
#[derive(Clone, Debug)]
pub(super) struct Shared<T>(Arc<T>);

impl<T> From<T> for Shared<T> {
    fn from(station: T) -> Self {
        Shared(Arc::new(station))
    }
}

impl Normalizer for Shared<NormalizerWrapper> {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        self.0.normalize(text)
    }
}

impl PreTokenizer for Shared<PreTokenizerWrapper> {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
        self.0.pre_tokenize(text)
    }
}

/// Words and their ids.
type Seen = HashMap<Box<str>, Box<[u32]>>;

/// A model that also knows the ids of the added tokens, which the library would number itself, and the words that it
/// encoded before: the library's own cache belongs to the thread and outlives the tokenizer.
#[derive(Clone, Debug)]
pub(super) struct Encoder {
    model: Arc<ModelWrapper>,
    added: Arc<HashMap<String, u32>>,
    seen: Arc<RwLock<Seen>>,
}

impl Encoder {
    fn new(model: ModelWrapper, added: HashMap<String, u32>) -> Encoder {
        Encoder { model: Arc::new(model), added: Arc::new(added), seen: Arc::default() }
    }

    /// The ids of `word` if it was seen before. Never waits: what another thread holds counts as not seen.
    fn recall(&self, word: &str) -> Option<Vec<Token>> {
        let seen = self.seen.try_read().ok()?;
        Some(seen.get(word)?.iter().map(|&id| Token::new(id, String::new(), (0, 0))).collect())
    }

    fn remember(&self, word: &str, tokens: &[Token]) {
        if let Ok(mut seen) = self.seen.try_write()
            && seen.len() < SEEN_WORDS
        {
            seen.insert(word.into(), tokens.iter().map(|token| token.id).collect());
        }
    }
}

impl tokenizers::Model for Encoder {
    type Trainer = TrainerWrapper;

    /// Of the tokens only the ids count here.
    fn tokenize(&self, word: &str) -> tokenizers::Result<Vec<Token>> {
        if word.len() > SEEN_WORD {
            return self.model.tokenize(word);
        }
        if let Some(tokens) = self.recall(word) {
            return Ok(tokens);
        }
        let tokens = self.model.tokenize(word)?;
        self.remember(word, &tokens);
        Ok(tokens)
    }

    fn token_to_id(&self, text: &str) -> Option<u32> {
        self.added.get(text).copied().or_else(|| self.model.token_to_id(text))
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.model.id_to_token(id)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        self.model.get_vocab()
    }

    fn get_vocab_size(&self) -> usize {
        self.model.get_vocab_size()
    }

    fn save(&self, folder: &Path, prefix: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        self.model.save(folder, prefix)
    }

    fn get_trainer(&self) -> TrainerWrapper {
        self.model.get_trainer()
    }
}

impl Description {
    /// The tokenizer that this describes.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::Unsupported`] and [`Error::Regex`] for what the library could not work with.
    pub(super) fn build(self) -> Result<Tokenizer, Error> {
        let Description { vocab, added, normalizer, pre_tokenizer, model, before, after, .. } = self;
        check_white_space(&added)?;
        let normalizer = steps::normalizer(&normalizer, "normalizer")?;
        let mut cuts = steps::pre_tokenizer(&pre_tokenizer, "pre_tokenizer")?;
        cuts.extend(boundaries(&vocab, &model)?);
        let cuts = steps::one(cuts, |cuts| {
            PreTokenizerWrapper::Sequence(tokenizers::pre_tokenizers::sequence::Sequence::new(cuts))
        });
        let model = model.build(&vocab)?;
        let mut ids = HashMap::with_capacity(added.len());
        for Added { id, token } in &added {
            ids.entry(token.content.clone()).or_insert(*id);
        }
        let mut parsing = Pipeline::new(Encoder::new(model, ids));
        let refused =
            |e: tokenizers::Error| Error::malformed("added_tokens", "tokens of different texts", e.to_string());
        parsing.with_normalizer(normalizer).map_err(refused)?;
        parsing.with_pre_tokenizer(cuts);
        parsing.add_tokens(added.into_iter().map(|added| added.token)).map_err(refused)?;
        let mut plain = parsing.clone();
        plain.set_encode_special_tokens(true);
        Ok(Tokenizer { parts: Arc::new(Parts { vocab: Arc::new(vocab), parsing, plain, before, after }) })
    }
}

/// Where a token swallows the white space after it, the library cannot bear one that is white space itself and swallows
/// more.
fn check_white_space(added: &[Added]) -> Result<(), Error> {
    let blank = added.iter().find(|a| a.token.lstrip && a.token.content.trim().is_empty());
    match (blank, added.iter().find(|a| a.token.rstrip)) {
        (Some(blank), Some(before)) => Err(Error::malformed(
            format!("added token {}", blank.id),
            format!("no `lstrip` for white space beside the `rstrip` of token {}", before.id),
            format!("{:?}", blank.token.content),
        )),
        _ => Ok(()),
    }
}

impl Model {
    fn build(self, vocab: &Vocab) -> Result<ModelWrapper, Error> {
        let refused = |e: tokenizers::Error| Error::malformed("model", "a model", e.to_string());
        Ok(match self {
            Model::Bpe(bpe) => ModelWrapper::BPE(bpe.build(vocab)?),
            Model::Unigram { mut pieces, unk, byte_fallback } => {
                for (id, piece) in (0u32..).zip(&mut pieces) {
                    let unused = vocab.get(id).is_some_and(|token| token.kind == Kind::Unused);
                    if unk != Some(id) && (unused || !is_typed(vocab, id)) {
                        *piece = (String::new(), f64::INFINITY);
                    }
                }
                let unk = unk.map(|id| id as usize);
                ModelWrapper::Unigram(Unigram::from(pieces, unk, byte_fallback).map_err(refused)?)
            }
            Model::WordPiece { ids, unk, prefix, max_chars } => {
                if max_chars > LONGEST_WORD {
                    let found = max_chars.to_string();
                    return Err(Error::malformed(
                        "model.max_input_chars_per_word",
                        format!("at most {LONGEST_WORD}"),
                        found,
                    ));
                }
                let ids = typed(ids, vocab, Some(&unk));
                if !ids.contains_key(&unk) {
                    return Err(Error::malformed("model.unk_token", "a token", unk));
                }
                let builder = WordPiece::builder().vocab(ids).unk_token(unk).continuing_subword_prefix(prefix);
                ModelWrapper::WordPiece(builder.max_input_chars_per_word(max_chars).build().map_err(refused)?)
            }
            Model::Words { ids, unk } => {
                let ids = typed(ids, vocab, Some(&unk));
                ModelWrapper::WordLevel(WordLevel::builder().vocab(ids).unk_token(unk).build().map_err(refused)?)
            }
        })
    }
}

impl Bpe {
    fn build(self, vocab: &Vocab) -> Result<BPE, Error> {
        let Bpe { ids, merges, lenient, unk, fuse_unk, byte_fallback, whole_words, prefix, suffix } = self;
        let ids = typed(ids, vocab, unk.as_deref());
        let merges = possible(merges, &ids, vocab, prefix.as_deref().unwrap_or(""), lenient)?;
        let mut builder = BPE::builder()
            .vocab_and_merges(ids, merges)
            .cache_capacity(0)
            .fuse_unk(fuse_unk)
            .byte_fallback(byte_fallback)
            .ignore_merges(whole_words);
        if let Some(unk) = unk {
            builder = builder.unk_token(unk);
        }
        if let Some(prefix) = prefix {
            builder = builder.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = suffix {
            builder = builder.end_of_word_suffix(suffix);
        }
        builder.build().map_err(|e| Error::malformed("model", "a model of merges", e.to_string()))
    }
}

/// The merges of `bpe` that can happen.
///
/// # Errors
/// [`Error::Malformed`] where there are others and they may not be passed over.
pub(super) fn possible_merges(bpe: Bpe, vocab: &Vocab) -> Result<Vec<(String, String)>, Error> {
    let Bpe { ids, merges, lenient, unk, prefix, .. } = bpe;
    let ids = typed(ids, vocab, unk.as_deref());
    possible(merges, &ids, vocab, prefix.as_deref().unwrap_or(""), lenient)
}

/// The tokens that text alone may become: never one that is structure.
fn typed(ids: Vec<(String, u32)>, vocab: &Vocab, unk: Option<&str>) -> bpe::Vocab {
    let mut map = bpe::Vocab::with_capacity(ids.len());
    for (text, id) in ids {
        if is_typed(vocab, id) || unk == Some(&text) {
            map.entry(text).or_insert(id);
        }
    }
    map
}

/// Bytes may be marked as structure, and are what unknown characters become all the same.
fn is_typed(vocab: &Vocab, id: u32) -> bool {
    vocab.get(id).is_none_or(|token| !token.kind.is_special() || bytes::parse_hex(&token.text).is_some())
}

/// The merges of tokens into a token.
fn possible(
    mut merges: Vec<(String, String)>,
    ids: &bpe::Vocab,
    vocab: &Vocab,
    prefix: &str,
    lenient: bool,
) -> Result<Vec<(String, String)>, Error> {
    let (mut joined, mut missing) = (String::new(), None);
    let special: std::collections::HashSet<&str> = match lenient {
        true => Default::default(),
        false => vocab.tokens.iter().filter(|t| t.kind.is_special()).map(|t| &*t.text).collect(),
    };
    let mut rank = 0usize;
    merges.retain(|(left, right)| {
        joined.clear();
        joined.push_str(left);
        joined.push_str(right.strip_prefix(prefix).unwrap_or("\0"));
        let unknown = [left, right, &joined].into_iter().find(|text| !ids.contains_key(*text));
        if let Some(text) = unknown
            && !lenient
            && missing.is_none()
            && !special.contains(&**text)
        {
            missing = Some((rank, text.clone()));
        }
        rank += 1;
        unknown.is_none()
    });
    match missing {
        None => Ok(merges),
        Some((rank, text)) => Err(Error::malformed(format!("merge {rank}"), "texts of tokens", format!("`{text}`"))),
    }
}

/// Cuts a text into words where that changes nothing but the time merging takes: vocabularies without a pre-tokenizer
/// make a word of the whole text.
fn boundaries(vocab: &Vocab, model: &Model) -> Result<Option<PreTokenizerWrapper>, Error> {
    let Model::Bpe(bpe) = model else { return Ok(None) };
    let plain = !bpe.whole_words && bpe.prefix.is_none() && bpe.suffix.is_none();
    if !plain || vocab.spelling != Spelling::Space(SPACE) {
        return Ok(None);
    }
    let Some(pattern) = words(bpe.ids.iter().map(|(text, _)| text.as_str())) else { return Ok(None) };
    let split = Split::new(SplitPattern::Regex(pattern.clone()), SplitDelimiterBehavior::Isolated, false);
    Ok(Some(PreTokenizerWrapper::Split(split.map_err(|e| Error::regex(&pattern, e))?)))
}
