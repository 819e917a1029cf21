use std::{fmt, fs::File, io, ops::Range, sync::Arc};

/// Immutable bytes, mapped from a file, owned, or part of the program itself, shared by reference count. Slicing copies nothing.
#[derive(Clone)]
pub struct Bytes {
    owner: Owner,
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    Mapped(Arc<memmap2::Mmap>),
    Owned(Arc<Vec<u8>>),
    Static(&'static [u8]),
}

impl Bytes {
    /// Maps a whole file read-only.
    ///
    /// # Errors
    /// What the operating system says when the file cannot be mapped.
    #[expect(unsafe_code, reason = "mapping a file")]
    pub fn map(file: &File) -> io::Result<Bytes> {
        // SAFETY: the mapping is private and read-only. A file that another process truncates while it is mapped
        // raises SIGBUS on access, as for every program that maps its input; nothing here can turn that into an error.
        let map = unsafe { memmap2::Mmap::map(file)? };
        let len = map.len();
        Ok(Bytes { owner: Owner::Mapped(Arc::new(map)), range: 0..len })
    }

    /// The part at `range`, or `None` when it does not lie inside.
    pub fn slice(&self, range: Range<usize>) -> Option<Bytes> {
        let end = self.range.start.checked_add(range.end)?;
        if range.start > range.end || end > self.range.end {
            return None;
        }
        Some(Bytes { owner: self.owner.clone(), range: self.range.start + range.start..end })
    }

    /// Tells the system that these bytes of a mapped file will hardly be looked at again, so that they need not stay in
    /// memory. They stay readable.
    #[expect(unsafe_code, reason = "advice on a mapping")]
    pub fn release(&self) {
        #[cfg(unix)]
        if let Owner::Mapped(map) = &self.owner {
            // SAFETY: the mapping is of a file and never written, so what is dropped comes back from the file.
            let _ = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, self.range.start, self.range.len())
            };
        }
    }

    /// True when the bytes lie in a mapped file.
    pub fn is_mapped(&self) -> bool {
        matches!(self.owner, Owner::Mapped(_))
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(v: Vec<u8>) -> Bytes {
        let len = v.len();
        Bytes { owner: Owner::Owned(Arc::new(v)), range: 0..len }
    }
}

impl From<&'static [u8]> for Bytes {
    fn from(v: &'static [u8]) -> Bytes {
        Bytes { owner: Owner::Static(v), range: 0..v.len() }
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &self.owner {
            Owner::Mapped(m) => m,
            Owner::Owned(v) => v,
            Owner::Static(v) => v,
        };
        &all[self.range.clone()]
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({}{})", self.len(), if self.is_mapped() { ", mapped" } else { "" })
    }
}
