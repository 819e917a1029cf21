//! Names for what a page holds.

use allod_plan::PAGE;
use blake3::Hasher;

/// Names all tokens from the beginning of a sequence to the end of a page, and whatever else decides what the model
/// computes for them (an adapter) or who may share it (a salt). Equal names mean equal bytes in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageHash(blake3::Hash);

impl PageHash {
    /// The beginning of every sequence under `salt` that runs through the adapter with this digest.
    pub fn root(salt: &[u8], adapter: Option<&blake3::Hash>) -> PageHash {
        let mut hasher = Hasher::new_derive_key("allod 2026 key-value pages");
        hasher.update(&(salt.len() as u64).to_le_bytes()).update(salt);
        if let Some(adapter) = adapter {
            hasher.update(adapter.as_bytes());
        }
        PageHash(hasher.finalize())
    }

    /// The name in 64 hexadecimal digits.
    pub fn to_hex(&self) -> String {
        self.0.to_hex().to_string()
    }

    /// The name of which these are the digits.
    pub fn from_hex(digits: &str) -> Option<PageHash> {
        blake3::Hash::from_hex(digits).ok().map(PageHash)
    }

    /// The page with `tokens` that follows this one.
    pub fn next(&self, tokens: &[u32; PAGE]) -> PageHash {
        let mut hasher = Hasher::new();
        hasher.update(self.0.as_bytes());
        for token in tokens {
            hasher.update(&token.to_le_bytes());
        }
        PageHash(hasher.finalize())
    }
}
