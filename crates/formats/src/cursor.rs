use crate::{Error, error::TRUNCATED};
use std::{fmt::Display, path::Path};

/// Reads little-endian fields from bytes that nobody vouches for. Every read says what it is after, so that an error
/// can name it.
pub(crate) struct Cursor<'a> {
    pub(crate) path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

/// A number with a fixed little-endian form.
pub(crate) trait Scalar: Sized {
    const SIZE: usize;
    /// `bytes` are [`Scalar::SIZE`] long.
    fn from_le(bytes: &[u8]) -> Self;
}

macro_rules! scalars {
    ($($t:ty),*) => { $(impl Scalar for $t {
        const SIZE: usize = size_of::<$t>();
        fn from_le(bytes: &[u8]) -> $t {
            let mut b = [0; size_of::<$t>()];
            b.copy_from_slice(bytes);
            <$t>::from_le_bytes(b)
        }
    })* };
}
scalars!(u8, i8, u16, i16, u32, i32, f32, u64, i64, f64);

impl<'a> Cursor<'a> {
    pub(crate) fn new(path: &'a Path, bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { path, bytes, at: 0 }
    }

    /// Where the next read starts.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Bytes left.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `n` bytes.
    pub(crate) fn take(&mut self, n: usize, field: impl Display) -> Result<&'a [u8], Error> {
        let Some(taken) = self.bytes[self.at..].get(..n) else {
            let (expected, found) =
                (format!("{n} bytes at offset {}", self.at), format!("{} bytes before the end", self.left()));
            return Err(Error::malformed(self.path, field, expected, found, TRUNCATED));
        };
        self.at += n;
        Ok(taken)
    }

    /// The next number.
    pub(crate) fn scalar<T: Scalar>(&mut self, field: impl Display) -> Result<T, Error> {
        self.take(T::SIZE, field).map(T::from_le)
    }

    /// The next `n` numbers; memory is taken only for numbers that are there.
    pub(crate) fn scalars<T: Scalar>(&mut self, n: usize, field: impl Display) -> Result<Vec<T>, Error> {
        let bytes = self.take(n.saturating_mul(T::SIZE), field)?;
        Ok(bytes.chunks_exact(T::SIZE).map(T::from_le).collect())
    }

    /// A count of things that take at least `least` bytes each: refused when they cannot all lie in what is left.
    pub(crate) fn count(&mut self, least: usize, field: impl Display) -> Result<usize, Error> {
        let declared: u64 = self.scalar(&field)?;
        let most = self.left() / least;
        match usize::try_from(declared) {
            Ok(n) if n <= most => Ok(n),
            _ => {
                let (expected, found) =
                    (format!("at most {most}, which is what {} bytes can hold", self.left()), declared);
                Err(Error::malformed(self.path, field, expected, found, TRUNCATED))
            }
        }
    }
}
