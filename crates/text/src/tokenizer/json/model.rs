//! The `model` of a `tokenizer.json`.

use super::super::bpe::{self, Bpe};
use super::super::error::Error;
use super::super::normalize::Normalizer;
use super::super::unigram::Unigram;
use super::super::vocab::{Ids, Spelling, Token, Vocab};
use super::super::wordpiece::WordPiece;
use super::super::words::Step;
use super::super::{Model, bytes, gguf};
use super::{field, id, kind, present, wrong};
use serde_json::Value;

/// A model as the file has it.
pub(super) struct Description<'v> {
    value: &'v Value,
    kind: &'v str,
    /// Texts and ids, unigram's in order.
    pub(super) vocab: Vec<(&'v str, u32)>,
    scores: Vec<f64>,
    pub(super) unk: Option<u32>,
    pub(super) byte_fallback: bool,
}

impl<'v> Description<'v> {
    pub(super) fn read(value: &'v Value) -> Result<Description<'v>, Error> {
        let kind = match kind(value) {
            // Files of the first versions do not say.
            "" if value.get("merges").is_some() => "BPE",
            "" if value.get("continuing_subword_prefix").is_some() => "WordPiece",
            "" => return Err(Error::malformed("model.type", "a kind of model", "nothing")),
            other => other,
        };
        let (vocab, scores) = match kind {
            "Unigram" => scored(field(value, "vocab")?)?,
            _ => (numbered(field(value, "vocab")?)?, Vec::new()),
        };
        let unk = match kind {
            "Unigram" => present(value.get("unk_id")).map(|v| id(v, "model.unk_id")).transpose()?,
            _ => {
                let text = value.get("unk_token").and_then(Value::as_str);
                text.and_then(|text| vocab.iter().find(|(t, _)| *t == text)).map(|&(_, id)| id)
            }
        };
        let byte_fallback = value.get("byte_fallback").and_then(Value::as_bool).unwrap_or(false);
        Ok(Description { value, kind, vocab, scores, unk, byte_fallback })
    }

    /// The model. Cutting steps that it does itself are taken out of `steps`, those that make it fast are added.
    pub(super) fn build(
        self,
        vocab: &Vocab,
        normalizers: &[Normalizer],
        steps: &mut Vec<Step>,
    ) -> Result<Model, Error> {
        match self.kind {
            "BPE" => self.byte_pairs(vocab, normalizers, steps),
            "Unigram" => self.unigram(vocab, steps),
            "WordPiece" => self.wordpiece(),
            "WordLevel" => {
                let ids = self.vocab.iter().map(|&(text, id)| (text.as_bytes().into(), id)).collect();
                Ok(Model::Words { ids, unk: self.unk })
            }
            other => Err(Error::unsupported("model.type", other)),
        }
    }

    fn flag(&self, key: &str) -> bool {
        self.value.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    fn text(&self, key: &str) -> &'v str {
        self.value.get(key).and_then(Value::as_str).unwrap_or("")
    }

    fn byte_pairs(self, vocab: &Vocab, normalizers: &[Normalizer], steps: &mut Vec<Step>) -> Result<Model, Error> {
        if !self.text("continuing_subword_prefix").is_empty() {
            return Err(Error::unsupported("model.continuing_subword_prefix", self.text("continuing_subword_prefix")));
        }
        let options = bpe::Options {
            whole_words: self.flag("ignore_merges"),
            byte_fallback: self.byte_fallback,
            unk: self.unk,
            fuse_unk: self.flag("fuse_unk"),
            word_end: Some(self.text("end_of_word_suffix").to_owned()),
        };
        // Where bytes are spelled last thing before the model, it works on the bytes themselves.
        let on_bytes = matches!(steps.last(), Some(Step::ByteLevel))
            && self.text("end_of_word_suffix").is_empty()
            && !normalizers.iter().any(|n| matches!(n, Normalizer::ByteLevel));
        let mut ids = Ids::with_capacity_and_hasher(self.vocab.len(), foldhash::fast::RandomState::default());
        for &(text, id) in &self.vocab {
            match on_bytes {
                true if text.chars().all(|c| bytes::from_printable_char(c).is_some()) => {
                    ids.insert(bytes::from_printable(text).into(), id);
                }
                true => {}
                false => {
                    ids.insert(text.as_bytes().into(), id);
                }
            }
        }
        let merges = self.merges(&ids, on_bytes)?;
        Ok(Model::Bpe(if on_bytes {
            steps.pop();
            Bpe::on_bytes(ids, merges, options)
        } else {
            if !options.whole_words && options.word_end.as_deref() == Some("") {
                steps.extend(boundaries(vocab));
            }
            Bpe::on_chars(ids, merges, options)
        }))
    }

    fn merges(&self, ids: &Ids, on_bytes: bool) -> Result<bpe::Merges, Error> {
        let list = field(self.value, "merges")?;
        let list = list.as_array().ok_or_else(|| wrong("model.merges", "an array", list))?;
        let pairs = list.iter().enumerate().map(|(i, entry)| {
            let (left, right) = merge(entry).ok_or_else(|| wrong(&format!("model.merges[{i}]"), "two texts", entry))?;
            Ok(match on_bytes {
                true => (bytes::from_printable(left), bytes::from_printable(right)),
                false => (left.as_bytes().to_vec(), right.as_bytes().to_vec()),
            })
        });
        bpe::merges_of(pairs, ids)
    }

    fn unigram(self, vocab: &Vocab, steps: &mut Vec<Step>) -> Result<Model, Error> {
        steps.extend(boundaries(vocab));
        // Added tokens are part of the model's own list as well, and their kind must not hide them from it.
        let tokens: Vec<Token> = self
            .vocab
            .iter()
            .map(|&(text, id)| {
                let kind = vocab.get(id).map_or(super::Kind::Normal, |t| t.kind);
                let kind = if kind == super::Kind::Byte { kind } else { super::Kind::Normal };
                Token { text: text.into(), kind }
            })
            .collect();
        Ok(Model::Unigram(Unigram::new(&tokens, &self.scores, self.unk, self.byte_fallback)?))
    }

    fn wordpiece(self) -> Result<Model, Error> {
        let prefix = self.value.get("continuing_subword_prefix").and_then(Value::as_str).unwrap_or("##");
        let max_chars = match present(self.value.get("max_input_chars_per_word")) {
            Some(n) => n.as_u64().ok_or_else(|| wrong("model.max_input_chars_per_word", "a number", n))?,
            None => 100,
        };
        let (mut heads, mut tails) = (Ids::default(), Ids::default());
        for &(text, id) in &self.vocab {
            if let Some(tail) = text.strip_prefix(prefix).filter(|tail| !tail.is_empty()) {
                tails.insert(tail.as_bytes().into(), id);
            }
            heads.insert(text.as_bytes().into(), id);
        }
        let unk = self.unk.ok_or_else(|| Error::malformed("model.unk_token", "a token", self.text("unk_token")))?;
        Ok(Model::WordPiece(WordPiece::new(heads, tails, Some(unk), max_chars as usize)))
    }
}

/// Where words can be cut off a text with `▁` for a space without changing its encoding.
fn boundaries(vocab: &Vocab) -> Option<Step> {
    (vocab.spelling == Spelling::Space('▁') && vocab.find("▁").is_some()).then(|| gguf::boundaries(vocab))
}

/// The two texts of a merge, written as one line or as a pair.
pub(crate) fn merge(entry: &Value) -> Option<(&str, &str)> {
    match entry {
        Value::String(line) => line.split_once(' ').filter(|(_, right)| !right.contains(' ')),
        Value::Array(pair) => match &pair[..] {
            [Value::String(left), Value::String(right)] => Some((left, right)),
            _ => None,
        },
        _ => None,
    }
}

fn numbered(vocab: &Value) -> Result<Vec<(&str, u32)>, Error> {
    let map = vocab.as_object().ok_or_else(|| wrong("model.vocab", "an object", vocab))?;
    map.iter().map(|(text, number)| Ok((text.as_str(), id(number, &format!("model.vocab[{text:?}]"))?))).collect()
}

type Scored<'v> = (Vec<(&'v str, u32)>, Vec<f64>);

fn scored(vocab: &Value) -> Result<Scored<'_>, Error> {
    let list = vocab.as_array().ok_or_else(|| wrong("model.vocab", "an array", vocab))?;
    let entry = |(id, entry): (u32, &'_ Value)| match entry.as_array().map(Vec::as_slice) {
        Some([Value::String(_), Value::Number(score)]) => Ok((id, score.as_f64().unwrap_or(f64::NAN))),
        _ => Err(wrong(&format!("model.vocab[{id}]"), "a text and a score", entry)),
    };
    let scores = (0u32..).zip(list).map(entry).collect::<Result<Vec<_>, _>>()?;
    let text = |(id, entry)| Ok((string_at(entry, 0, id)?, id));
    Ok(((0u32..).zip(list).map(text).collect::<Result<_, Error>>()?, scores.into_iter().map(|(_, s)| s).collect()))
}

fn string_at(entry: &Value, index: usize, id: u32) -> Result<&str, Error> {
    entry.get(index).and_then(Value::as_str).ok_or_else(|| wrong(&format!("model.vocab[{id}]"), "a text", entry))
}
