//! llama.cpp's first form of the statistics (`.dat`): the number of matrices; for each the length of its name, the
//! name, the number of calls, the number of values, and mean squares times the number of calls; then, in newer files,
//! the number of chunks, the length of the text's name, and the name. Numbers are 32 bits wide, little-endian.

use super::{Entry, Error, Imatrix};

/// Tokens of a call, which the form does not say: what everybody used.
const CALL: u32 = 512;

/// Longest name believed.
const NAME: usize = 1 << 12;

struct Bytes<'a> {
    rest: &'a [u8],
    origin: &'a str,
    /// The matrix being read.
    name: String,
}

impl<'a> Bytes<'a> {
    fn wrong(&self, what: String) -> Error {
        Error::Entry { origin: self.origin.into(), name: self.name.clone(), what }
    }

    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8], Error> {
        let found = self.rest.len();
        let Some((head, rest)) = self.rest.split_at_checked(n) else {
            return Err(self.wrong(format!("expected {n} bytes of {what}, found {found}")));
        };
        self.rest = rest;
        Ok(head)
    }

    fn count(&mut self, what: &str) -> Result<usize, Error> {
        let b = self.take(4, what)?;
        let n = i32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        usize::try_from(n).map_err(|_| self.wrong(format!("{what}: expected a number from 0 on, found {n}")))
    }

    fn text(&mut self, what: &str) -> Result<String, Error> {
        let n = self.count(what)?;
        if n > NAME {
            return Err(self.wrong(format!("{what}: expected at most {NAME} bytes, found {n}")));
        }
        let bytes = self.take(n, what)?.to_vec();
        String::from_utf8(bytes).map_err(|_| self.wrong(format!("{what}: no UTF-8")))
    }
}

/// Reads a whole file.
pub(super) fn read(bytes: &[u8], origin: &str) -> Result<Imatrix, Error> {
    let mut b = Bytes { rest: bytes, origin, name: "head".into() };
    let entries = b.count("number of matrices")?;
    let mut out = Imatrix { chunk_size: CALL, ..Imatrix::default() };
    for i in 0..entries {
        b.name = format!("matrix {i}");
        b.name = b.text("name")?;
        let calls = b.count("calls")?;
        let values = b.count("number of values")?;
        let data = b.take(values.saturating_mul(4), "values")?;
        let sums = data.as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v) * CALL as f32).collect();
        let entry = Entry { sums, counts: vec![calls as f32 * CALL as f32] };
        entry.check(origin, &b.name)?;
        out.entries.insert(b.name.clone(), entry);
    }
    b.name = "end".into();
    if !b.rest.is_empty() {
        out.chunks = u32::try_from(b.count("chunks")?).unwrap_or(0);
        out.datasets.push(b.text("name of the text")?);
    }
    Ok(out)
}
