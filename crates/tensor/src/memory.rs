use memmap2::MmapMut;
use std::{
    io,
    ops::{Deref, DerefMut},
};

/// Zeroed bytes to write to, which the system finds when they are first written. They lie in huge pages where the system
/// has such: what is read kilobytes apart would else spend much of its time looking up addresses.
#[derive(Default)]
pub struct Memory(Option<MmapMut>);

impl Memory {
    /// `len` bytes, aligned as a page is.
    ///
    /// # Errors
    /// What the operating system says when it has not that much memory.
    pub fn zeroed(len: usize) -> io::Result<Memory> {
        if len == 0 {
            return Ok(Memory::default());
        }
        let map = MmapMut::map_anon(len)?;
        #[cfg(target_os = "linux")]
        // A hint; smaller pages will do.
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Memory(Some(map)))
    }
}

impl Deref for Memory {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or(&mut [])
    }
}

#[cfg(test)]
mod tests {
    use super::Memory;

    #[test]
    fn is_zero_can_be_written_and_may_be_empty() {
        let mut memory = Memory::zeroed(5000).unwrap();
        assert_eq!(*memory, [0; 5000]);
        memory[4999] = 7;
        assert_eq!(memory.iter().map(|&b| usize::from(b)).sum::<usize>(), 7);
        assert!(Memory::zeroed(0).unwrap().is_empty());
    }

    #[test]
    fn more_than_there_is_is_an_error() {
        assert!(Memory::zeroed(usize::MAX / 2).is_err());
    }
}
