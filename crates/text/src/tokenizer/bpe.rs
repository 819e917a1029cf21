//! Byte-pair encoding with ranked merges (Sennrich et al. 2016), on bytes or on characters with byte fallback.

use super::bytes;
use super::error::Error;
use super::merge::Merger;
use super::vocab::Ids;
use std::collections::HashMap;

/// Pair of ids to (rank, merged id).
pub(super) type Merges = HashMap<(u32, u32), (u32, u32), foldhash::fast::RandomState>;

/// No token: pairs never contain it.
const NOTHING: u32 = u32::MAX;

/// What a word is made of before the first merge.
#[derive(Clone, Debug)]
enum Alphabet {
    /// Its bytes.
    Bytes(Box<[Option<u32>; 256]>),
    /// Its characters; those without a token are spelled as bytes, where the vocabulary has byte tokens.
    Chars { ids: HashMap<char, u32, foldhash::fast::RandomState>, fallback: Option<Box<[u32; 256]>> },
}

/// A ranked-merge model.
#[derive(Clone, Debug)]
pub(super) struct Bpe {
    alphabet: Alphabet,
    merges: Merges,
    /// Words that are tokens, taken whole without merging.
    whole: Option<Ids>,
    unk: Option<u32>,
    fuse_unk: bool,
    /// What the last character of a word carries (`</w>`).
    word_end: Option<(String, Ids)>,
}

/// What differs between vocabularies.
#[derive(Default)]
pub(super) struct Options {
    /// A word that is a token is not merged (`ignore_merges`).
    pub(super) whole_words: bool,
    /// Characters outside the alphabet become `<0x..>` tokens.
    pub(super) byte_fallback: bool,
    /// Stands for what cannot be spelled at all; without it such characters vanish, as Hugging Face's do.
    pub(super) unk: Option<u32>,
    /// A run of unknown characters is one token.
    pub(super) fuse_unk: bool,
    /// Suffix of word-final tokens.
    pub(super) word_end: Option<String>,
}

impl Bpe {
    /// A model whose words are bytes: `ids` maps raw bytes.
    pub(super) fn on_bytes(ids: Ids, merges: Merges, options: Options) -> Bpe {
        let alphabet = Alphabet::Bytes(Box::new(std::array::from_fn(|b| ids.get(&[b as u8][..]).copied())));
        Bpe::new(alphabet, ids, merges, options)
    }

    /// A model whose words are characters: `ids` maps UTF-8.
    pub(super) fn on_chars(ids: Ids, merges: Merges, options: Options) -> Bpe {
        let chars = ids.iter().filter_map(|(text, &id)| Some((single_char(text)?, id))).collect();
        let byte = |b: usize| ids.get(bytes::to_hex(b as u8).as_bytes()).copied();
        let table: [u32; 256] = std::array::from_fn(|b| byte(b).unwrap_or(NOTHING));
        let fallback = (options.byte_fallback && !table.contains(&NOTHING)).then(|| Box::new(table));
        Bpe::new(Alphabet::Chars { ids: chars, fallback }, ids, merges, options)
    }

    fn new(alphabet: Alphabet, ids: Ids, merges: Merges, options: Options) -> Bpe {
        let Options { whole_words, unk, fuse_unk, word_end, .. } = options;
        let word_end = word_end.filter(|s| !s.is_empty()).map(|suffix| {
            let ends = |(text, &id): (&Box<[u8]>, &u32)| Some((text.strip_suffix(suffix.as_bytes())?.into(), id));
            let finals = ids.iter().filter_map(ends).collect();
            (suffix, finals)
        });
        Bpe { alphabet, merges, whole: whole_words.then_some(ids), unk, fuse_unk, word_end }
    }

    /// True when words that are tokens are not merged.
    pub(super) fn takes_whole_words(&self) -> bool {
        self.whole.is_some()
    }

    /// Pairs of ids, first merged first.
    pub(super) fn merges_in_order(&self) -> impl Iterator<Item = (u32, u32)> {
        let mut pairs: Vec<_> = self.merges.iter().map(|(&pair, &(rank, _))| (rank, pair)).collect();
        pairs.sort_unstable();
        pairs.into_iter().map(|(_, pair)| pair)
    }

    /// Appends the ids of one word.
    pub(super) fn encode(&self, word: &str, merger: &mut Merger, out: &mut Vec<u32>) {
        if let Some(&id) = self.whole.as_ref().and_then(|ids| ids.get(word.as_bytes())) {
            out.push(id);
            return;
        }
        merger.clear();
        match &self.alphabet {
            Alphabet::Bytes(ids) => self.push_bytes(word, ids, merger),
            Alphabet::Chars { ids, fallback } => {
                for (start, c) in word.char_indices() {
                    let word_final = start + c.len_utf8() == word.len();
                    match self.char_id(c, word_final, ids) {
                        Some(id) => merger.push(id, start, c.len_utf8()),
                        None => self.push_unknown(&word[start..start + c.len_utf8()], start, fallback, merger),
                    }
                }
            }
        }
        merger.run(|left, right| self.merges.get(&(left.id, right.id)).copied());
        let mut previous = NOTHING;
        for symbol in merger.symbols() {
            if !(self.fuse_unk && Some(symbol.id) == self.unk && symbol.id == previous) {
                out.push(symbol.id);
            }
            previous = symbol.id;
        }
    }

    fn push_bytes(&self, word: &str, ids: &[Option<u32>; 256], merger: &mut Merger) {
        for (start, byte) in word.bytes().enumerate() {
            if let Some(id) = ids[byte as usize].or(self.unk) {
                merger.push(id, start, 1);
            }
        }
    }

    fn char_id(&self, c: char, word_final: bool, ids: &HashMap<char, u32, foldhash::fast::RandomState>) -> Option<u32> {
        match &self.word_end {
            Some((_, finals)) if word_final => finals.get(c.encode_utf8(&mut [0; 4]).as_bytes()).copied(),
            _ => ids.get(&c).copied(),
        }
    }

    fn push_unknown(&self, c: &str, start: usize, fallback: &Option<Box<[u32; 256]>>, merger: &mut Merger) {
        match fallback {
            Some(ids) => {
                for (i, byte) in c.bytes().enumerate() {
                    merger.push(ids[byte as usize], start + i, 1);
                }
            }
            None => {
                if let Some(unk) = self.unk {
                    merger.push(unk, start, c.len());
                }
            }
        }
    }
}

/// The character that is all of `text`.
fn single_char(text: &[u8]) -> Option<char> {
    let mut chars = std::str::from_utf8(text).ok()?.chars();
    chars.next().filter(|_| chars.next().is_none())
}

/// Merges from pairs of texts in order of rank; `ids` maps the texts, and what they make must be a token too.
///
/// # Errors
/// [`Error::Malformed`] naming the merge that refers to no token.
pub(super) fn merges_of(
    pairs: impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), Error>>,
    ids: &Ids,
) -> Result<Merges, Error> {
    let mut merges = Merges::default();
    let mut joined = Vec::new();
    for (rank, pair) in pairs.enumerate() {
        let (left, right) = pair?;
        joined.clear();
        joined.extend_from_slice(&left);
        joined.extend_from_slice(&right);
        let id = |text: &[u8]| {
            ids.get(text).copied().ok_or_else(|| {
                let found = format!("`{}`", String::from_utf8_lossy(text));
                Error::malformed(format!("merge {rank}"), "texts of tokens", found)
            })
        };
        let rank = rank as u32;
        merges.entry((id(&left)?, id(&right)?)).or_insert((rank, id(&joined)?));
    }
    Ok(merges)
}

/// Merges of a vocabulary that has ranks instead (tiktoken): any two tokens whose concatenation is a token, lowest
/// rank first. `rank` gives a token's rank.
pub(super) fn merges_of_ranks(ids: &Ids, rank: impl Fn(u32) -> u32) -> Merges {
    let mut merges = Merges::default();
    for (text, &id) in ids {
        for cut in 1..text.len() {
            if let (Some(&left), Some(&right)) = (ids.get(&text[..cut]), ids.get(&text[cut..])) {
                merges.insert((left, right), (rank(id), id));
            }
        }
    }
    merges
}
