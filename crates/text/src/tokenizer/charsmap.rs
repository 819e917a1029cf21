//! SentencePiece's precompiled normalization: a double-array trie from byte sequences to replacements.
//!
//! Layout (`Normalizer::DecodePrecompiledCharsMap`): u32 size of the trie in bytes, the trie's u32 units, then the
//! replacements, each ended by a zero byte. A unit of the trie (darts-clone) holds: bits 0–7 the label with bit 31 a
//! leaf flag, bit 8 "has a leaf", bit 9 the scale of the offset in bits 10–30; a leaf holds its value in bits 0–30.

use super::error::Error;

/// A normalization table.
#[derive(Clone, Debug)]
pub(super) struct CharsMap {
    units: Vec<u32>,
    replacements: Vec<u8>,
}

impl CharsMap {
    /// Reads the table.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the sizes do not fit the bytes.
    pub(super) fn new(bytes: &[u8]) -> Result<CharsMap, Error> {
        let malformed = |found: String| Error::malformed("precompiled_charsmap", "a trie and its replacements", found);
        let (head, rest) = bytes.split_first_chunk::<4>().ok_or_else(|| malformed(format!("{} bytes", bytes.len())))?;
        let size = u32::from_le_bytes(*head) as usize;
        if size > rest.len() || !size.is_multiple_of(4) {
            return Err(malformed(format!("a trie of {size} bytes in {}", rest.len())));
        }
        let (trie, replacements) = rest.split_at(size);
        let units = trie.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
        Ok(CharsMap { units, replacements: replacements.to_vec() })
    }

    /// The text with the longest known sequence replaced at every place.
    pub(super) fn apply(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            match self.longest(rest.as_bytes()) {
                Some((len, to)) if rest.is_char_boundary(len) => {
                    out.push_str(to);
                    rest = &rest[len..];
                }
                _ => {
                    out.push(c);
                    rest = &rest[c.len_utf8()..];
                }
            }
        }
        out
    }

    /// Length of the longest prefix of `text` in the trie, and what replaces it.
    fn longest(&self, text: &[u8]) -> Option<(usize, &str)> {
        let mut unit = *self.units.first()?;
        let mut node = offset(unit);
        let mut found = None;
        for (i, &byte) in text.iter().enumerate() {
            node ^= byte as usize;
            unit = *self.units.get(node)?;
            if label(unit) != u32::from(byte) {
                break;
            }
            node ^= offset(unit);
            if unit >> 8 & 1 == 1 {
                let Some(leaf) = self.units.get(node) else { break };
                found = Some((i + 1, (leaf & 0x7FFF_FFFF) as usize));
            }
        }
        let (len, value) = found?;
        let replacement = self.replacements.get(value..)?.split(|&b| b == 0).next()?;
        Some((len, std::str::from_utf8(replacement).ok()?))
    }
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize
}

fn label(unit: u32) -> u32 {
    unit & (1 << 31 | 0xFF)
}
