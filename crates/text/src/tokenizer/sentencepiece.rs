//! SentencePiece's `tokenizer.model`: a protocol-buffer message (`sentencepiece_model.proto`), brought into GGUF's keys.

use super::error::Error;
use super::{Tokenizer, vocab::Kind};
use allod_formats::{Array, Metadata, Value};

/// `TrainerSpec.model_type`.
const UNIGRAM: u64 = 1;
const BPE: u64 = 2;

impl Tokenizer {
    /// The tokenizer of a SentencePiece model file.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the bytes are no such file, [`Error::Unsupported`] for word and character models.
    pub fn from_sentencepiece(bytes: &[u8]) -> Result<Tokenizer, Error> {
        Tokenizer::from_gguf(&metadata(bytes)?)
    }
}

/// The keys a GGUF file of this model has.
pub(super) fn metadata(bytes: &[u8]) -> Result<Metadata, Error> {
    let (mut texts, mut scores, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
    let (mut trainer, mut normalizer) = (&[][..], &[][..]);
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(piece)) => {
                let (text, score, kind) = read_piece(piece)?;
                texts.push(text);
                scores.push(score);
                kinds.push(kind);
            }
            (2, Wire::Bytes(spec)) => trainer = spec,
            (3, Wire::Bytes(spec)) => normalizer = spec,
            _ => {}
        }
    }
    if texts.is_empty() {
        return Err(broken("no pieces"));
    }
    let mut meta = Metadata::default();
    let kind = read_trainer(trainer, &mut meta)?;
    read_normalizer(normalizer, &mut meta)?;
    meta.set("tokenizer.ggml.tokens", texts);
    meta.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    meta.set("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds)));
    meta.set("tokenizer.ggml.add_bos_token", kind == "llama");
    meta.set("tokenizer.ggml.add_eos_token", kind == "t5");
    Ok(meta)
}

fn read_piece(bytes: &[u8]) -> Result<(String, f32, i32), Error> {
    let (mut text, mut score, mut kind) = (String::new(), 0.0, Kind::Normal as i32);
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(piece)) => {
                text = std::str::from_utf8(piece).map_err(|_| broken("a piece that is not UTF-8"))?.to_owned();
            }
            (2, Wire::Fixed32(bits)) => score = f32::from_bits(bits),
            (3, Wire::Varint(number)) => kind = i32::try_from(number).unwrap_or(Kind::Unused as i32),
            _ => {}
        }
    }
    Ok((text, score, kind))
}

fn read_trainer(bytes: &[u8], meta: &mut Metadata) -> Result<&'static str, Error> {
    let mut model = UNIGRAM;
    // The defaults of the message; -1 is "none".
    let mut ids = [("unknown", 0u64), ("bos", 1), ("eos", 2), ("padding", u64::MAX)];
    for field in Fields(bytes) {
        match field? {
            (3, Wire::Varint(number)) => model = number,
            (number @ 40..=43, Wire::Varint(id)) => ids[number as usize - 40].1 = id,
            _ => {}
        }
    }
    let kind = match model {
        UNIGRAM => "t5",
        BPE => "llama",
        other => return Err(Error::unsupported("trainer_spec.model_type", other.to_string())),
    };
    meta.set("tokenizer.ggml.model", kind);
    meta.set("tokenizer.ggml.pre", "default");
    for (name, id) in ids {
        let id = u32::try_from(id).unwrap_or(u32::MAX);
        meta.set(format!("tokenizer.ggml.{name}_token_id"), id);
    }
    Ok(kind)
}

fn read_normalizer(bytes: &[u8], meta: &mut Metadata) -> Result<(), Error> {
    let (mut prefix, mut collapse, mut map) = (true, true, &[][..]);
    for field in Fields(bytes) {
        match field? {
            (2, Wire::Bytes(table)) => map = table,
            (3, Wire::Varint(flag)) => prefix = flag != 0,
            (4, Wire::Varint(flag)) => collapse = flag != 0,
            _ => {}
        }
    }
    meta.set("tokenizer.ggml.add_space_prefix", prefix);
    meta.set("tokenizer.ggml.remove_extra_whitespaces", collapse);
    if !map.is_empty() {
        meta.set("tokenizer.ggml.precompiled_charsmap", Value::Array(Array::U8(map.to_vec())));
    }
    Ok(())
}

/// A value on the wire. Groups do not occur.
enum Wire<'b> {
    Varint(u64),
    Fixed64,
    Bytes(&'b [u8]),
    Fixed32(u32),
}

/// The fields of a message: number and value.
struct Fields<'b>(&'b [u8]);

impl<'b> Fields<'b> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: u64) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(count).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Wire<'b>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => self.take(8).map(|_| Wire::Fixed64)?,
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

impl<'b> Iterator for Fields<'b> {
    type Item = Result<(u64, Wire<'b>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| broken("a field that runs past the end")))
    }
}

fn broken(found: &str) -> Error {
    Error::malformed("tokenizer.model", "a SentencePiece model", found)
}
