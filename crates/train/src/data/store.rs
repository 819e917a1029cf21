//! Encoded sequences, kept in memory while they are few and in a mapped file beyond that.

use super::encode::{Encoded, Tokens};
use crate::Error;
use allod_tensor::Bytes;
use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

/// Ids held in memory before they go to a file.
const IN_MEMORY: usize = 64 << 20;
/// Marks an id that is learned; vocabularies are smaller.
const LEARNED: u32 = 1 << 31;

/// A sequence's place in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    start: u64,
    length: u32,
    prompt: u32,
}

/// What is trained on at once, by numbers of sequences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Item {
    /// A sequence to learn from.
    One(u32),
    /// Two answers, the first better, and by how much.
    Pair(u32, u32, Option<f32>),
    /// An answer that is wanted or not. The second is its prompt with another example's answer, for KTO.
    Judged(u32, u32, bool),
}

impl Item {
    /// Its sequences.
    pub fn sequences(&self) -> impl Iterator<Item = u32> + use<> {
        let (a, b) = match *self {
            Item::One(s) => (s, None),
            Item::Pair(a, b, _) => (a, Some(b)),
            Item::Judged(s, kl, _) => (s, Some(kl).filter(|kl| *kl != s)),
        };
        std::iter::once(a).chain(b)
    }
}

/// A sequence as it stands in the store.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'s> {
    marked: &'s [u32],
    /// How many of the first ids are the prompt.
    pub prompt: usize,
}

impl<'s> Sequence<'s> {
    /// Number of ids.
    pub fn len(&self) -> usize {
        self.marked.len()
    }
    /// True where there are none.
    pub fn is_empty(&self) -> bool {
        self.marked.is_empty()
    }
    /// The ids.
    pub fn ids(&self) -> impl Iterator<Item = u32> + use<'s> {
        self.marked.iter().map(|m| m & !LEARNED)
    }
    /// Whether each is learned.
    pub fn learned(&self) -> impl Iterator<Item = bool> + use<'s> {
        self.marked.iter().map(|m| m & LEARNED != 0)
    }
    /// Ids that are learned and that something precedes.
    pub fn supervised(&self) -> usize {
        self.learned().skip(1).filter(|l| *l).count()
    }
}

/// Encoded sequences.
#[derive(Debug)]
pub struct Store {
    places: Vec<Place>,
    marked: Marked,
}

#[derive(Debug)]
enum Marked {
    Memory(Vec<u32>),
    Mapped(Bytes),
}

impl Store {
    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.places.len()
    }
    /// True where there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// A sequence by its number.
    pub fn get(&self, number: u32) -> Sequence<'_> {
        let Place { start, length, prompt } = self.places[number as usize];
        let all: &[u32] = match &self.marked {
            Marked::Memory(all) => all,
            // The map begins with a page; what was written is of four-byte numbers.
            Marked::Mapped(bytes) => bytemuck::try_cast_slice(bytes).unwrap_or_default(),
        };
        let marked = all.get(start as usize..start as usize + length as usize).unwrap_or_default();
        Sequence { marked, prompt: prompt as usize }
    }

    /// Identifies ids and masks: BLAKE3 over every sequence's length, prompt and marked ids.
    pub fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for number in 0..self.len() as u32 {
            let s = self.get(number);
            hasher.update(&(s.len() as u64).to_le_bytes());
            hasher.update(&(s.prompt as u64).to_le_bytes());
            for id in s.marked {
                hasher.update(&id.to_le_bytes());
            }
        }
        hasher.finalize()
    }
}

/// Fills a [`Store`].
#[derive(Debug)]
pub struct Builder {
    places: Vec<Place>,
    marked: Vec<u32>,
    written: u64,
    spill: Option<Spill>,
    folder: PathBuf,
}

#[derive(Debug)]
struct Spill {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Drop for Spill {
    fn drop(&mut self) {
        // Mapped, it lives on without its name; nobody is left to tell if this fails.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Builder {
    /// `folder`: where a file may be written if the data are many.
    pub fn new(folder: &Path) -> Builder {
        Builder { places: vec![], marked: vec![], written: 0, spill: None, folder: folder.into() }
    }

    /// Sequences so far.
    pub fn len(&self) -> usize {
        self.places.len()
    }
    /// True where there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Adds a sequence and gives its number.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn push(&mut self, tokens: &Tokens) -> Result<u32, Error> {
        let number = self.places.len() as u32;
        let start = self.written + self.marked.len() as u64;
        self.places.push(Place { start, length: tokens.ids.len() as u32, prompt: tokens.prompt as u32 });
        let marked = tokens.ids.iter().zip(&tokens.learned).map(|(id, l)| id | if *l { LEARNED } else { 0 });
        self.marked.extend(marked);
        if self.marked.len() >= IN_MEMORY {
            self.flush()?;
        }
        Ok(number)
    }

    /// Adds an example; a judged one gets itself as its companion. `None` for one that teaches nothing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn add(&mut self, encoded: &Encoded) -> Result<Option<Item>, Error> {
        Ok(match encoded {
            Encoded::One(tokens) => Some(Item::One(self.push(tokens)?)),
            Encoded::Pair(a, b, margin) => Some(Item::Pair(self.push(a)?, self.push(b)?, *margin)),
            Encoded::Judged(tokens, desirable) => {
                let number = self.push(tokens)?;
                Some(Item::Judged(number, number, *desirable))
            }
            Encoded::Skipped(_) => None,
        })
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.spill.is_none() {
            let path = self.folder.join(format!(".tokens-{}.partial", std::process::id()));
            let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
            self.spill = Some(Spill { file: BufWriter::new(file.map_err(Error::io(&path))?), path });
        }
        if let Some(spill) = &mut self.spill {
            spill.file.write_all(bytemuck::cast_slice(&self.marked)).map_err(Error::io(&spill.path))?;
            self.written += self.marked.len() as u64;
            self.marked.clear();
        }
        Ok(())
    }

    /// The store.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<Store, Error> {
        if self.spill.is_some() {
            self.flush()?;
        }
        let marked = match &mut self.spill {
            None => Marked::Memory(std::mem::take(&mut self.marked)),
            Some(spill) => {
                let mapped = spill.file.flush().and_then(|()| Bytes::map(spill.file.get_ref()));
                Marked::Mapped(mapped.map_err(Error::io(&spill.path))?)
            }
        };
        Ok(Store { places: std::mem::take(&mut self.places), marked })
    }
}
