//! SentencePiece's precompiled normalization, checked before the library follows it.
//!
//! Layout: u32 size of a trie in bytes, the trie's u32 units, then the replacements, each ended by a zero byte. A unit
//! of the trie (darts-clone) holds: bits 0–7 the label with bit 31 a leaf flag, bit 8 "has a leaf", bit 9 the scale of
//! the offset in bits 10–30; a leaf holds its value, a place among the replacements, in bits 0–30.

use super::error::Error;

/// True to its layout: whatever text it is applied to, no step leaves the trie or the replacements.
///
/// # Errors
/// [`Error::Malformed`].
pub(super) fn check(bytes: &[u8]) -> Result<(), Error> {
    let malformed = |found: String| Error::malformed("precompiled_charsmap", "a trie and its replacements", found);
    let (head, rest) = bytes.split_first_chunk::<4>().ok_or_else(|| malformed(format!("{} bytes", bytes.len())))?;
    let size = u32::from_le_bytes(*head) as usize;
    if size > rest.len() || size == 0 || !size.is_multiple_of(4) {
        return Err(malformed(format!("a trie of {size} bytes in {}", rest.len())));
    }
    let (trie, replacements) = rest.split_at(size);
    let replacements = std::str::from_utf8(replacements).map_err(|e| malformed(e.to_string()))?;
    let units: Vec<u32> = trie.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
    let mut open = vec![offset(units[0])];
    let mut seen = vec![false; units.len()];
    while let Some(node) = open.pop() {
        if node | 0xFF >= units.len() {
            return Err(malformed(format!("a step to unit {node} of {}", units.len())));
        }
        for label in 1..=0xFF {
            let at = node ^ label;
            let unit = units[at];
            if unit & (1 << 31 | 0xFF) != label as u32 || std::mem::replace(&mut seen[at], true) {
                continue;
            }
            let next = at ^ offset(unit);
            if unit >> 8 & 1 == 1 {
                let value = units.get(next).map(|leaf| (leaf & 0x7FFF_FFFF) as usize);
                if value.is_none_or(|value| !replacements.is_char_boundary(value)) {
                    return Err(malformed(format!("a leaf at unit {next} without a replacement")));
                }
            }
            open.push(next);
        }
    }
    Ok(())
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize
}
