//! Values that may be written in more than one way.

use serde::{Deserialize, Deserializer, de::Error};

/// A number of bytes, with K, M, G or T for powers of 1024.
///
/// # Errors
/// It is none.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let (digits, power) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1),
        Some((at, 'm' | 'M')) => (&text[..at], 2),
        Some((at, 'g' | 'G')) => (&text[..at], 3),
        Some((at, 't' | 'T')) => (&text[..at], 4),
        _ => (text, 0),
    };
    let number = digits.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
    let number = number.ok_or("expected a number of bytes, such as 8G")?;
    Ok((number * 1024f64.powi(power)) as u64)
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a number of bytes, such as 8589934592 or \"8G\"")]
enum Bytes {
    Number(u64),
    Text(String),
}

impl Bytes {
    fn count<E: Error>(self) -> Result<u64, E> {
        match self {
            Bytes::Number(n) => Ok(n),
            Bytes::Text(text) => bytes(&text).map_err(|e| E::custom(format!("{e}, found {text:?}"))),
        }
    }
}

pub(super) fn byte_count<'d, D: Deserializer<'d>>(from: D) -> Result<u64, D::Error> {
    Bytes::deserialize(from)?.count()
}

pub(super) fn byte_count_option<'d, D: Deserializer<'d>>(from: D) -> Result<Option<u64>, D::Error> {
    Option::<Bytes>::deserialize(from)?.map(Bytes::count).transpose()
}
