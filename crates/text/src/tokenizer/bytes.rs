//! The two ways vocabularies write bytes as text: GPT-2's printable characters and SentencePiece's `<0x0A>`.

use std::sync::LazyLock;

/// Byte to printable character: printable Latin-1 stands for itself, the other 68 bytes follow from U+0100 on
/// (`bytes_to_unicode` of GPT-2's released encoder).
static PRINTABLE: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut spare = 0x100..;
    std::array::from_fn(|byte| {
        let code = match byte {
            0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => byte as u32,
            _ => spare.next().unwrap_or(0),
        };
        char::from_u32(code).unwrap_or('\u{FFFD}')
    })
});

/// The inverse of [`PRINTABLE`] for U+0000 to U+0143, the last stand-in.
static UNPRINTABLE: LazyLock<[Option<u8>; 0x144]> = LazyLock::new(|| {
    let mut table = [None; 0x144];
    for (byte, &c) in (0u8..=255).zip(PRINTABLE.iter()) {
        table[c as usize] = Some(byte);
    }
    table
});

/// The byte that `c` stands for in byte-level spelling.
pub(super) fn from_printable_char(c: char) -> Option<u8> {
    UNPRINTABLE.get(c as usize).copied().flatten()
}

/// The bytes that byte-level text spells. A character that stands for no byte is itself (vocabularies have a few
/// such tokens, added by hand).
pub(super) fn from_printable(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for c in text.chars() {
        match from_printable_char(c) {
            Some(byte) => out.push(byte),
            None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}

/// Byte-level spelling of `bytes`.
pub(super) fn to_printable(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| PRINTABLE[b as usize]).collect()
}

/// The byte of `<0x0A>`.
pub(super) fn parse_hex(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit())).then(|| u8::from_str_radix(hex, 16).ok())?
}
