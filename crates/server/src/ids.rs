//! Names for things, and seeds: random, from the operating system.

/// `prefix` and 24 random characters.
pub(crate) fn new(prefix: &str) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = [0; 24];
    fill(&mut bytes);
    let text = bytes.iter().map(|b| char::from(ALPHABET[usize::from(*b % 32)]));
    prefix.chars().chain(text).collect()
}

/// A name for a tool call: nine letters and digits, which every model's template takes.
pub(crate) fn call() -> String {
    new("").chars().take(9).collect()
}

/// A seed that JSON numbers carry exactly.
pub(crate) fn seed() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes) >> 11
}

/// Random bytes. Where the system has none to give, the hasher's own randomness has to do.
pub(crate) fn fill(bytes: &mut [u8]) {
    use std::hash::{BuildHasher, RandomState};
    if getrandom::fill(bytes).is_err() {
        for (i, chunk) in bytes.chunks_mut(8).enumerate() {
            let word = RandomState::new().hash_one(i).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
