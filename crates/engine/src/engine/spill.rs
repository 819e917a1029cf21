//! Pages and states that memory has no room for, as files of bounded size in all. Each is named by what it holds, is
//! written to a file of another name first, and carries its digest: what a crash or a full disk left behind is told
//! from what was meant, and thrown away.

use crate::PageHash;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Where spilled pages go.
#[derive(Clone, Debug)]
pub struct SpillOptions {
    /// A folder that only this program writes to. It is made if it is not there.
    pub folder: PathBuf,
    /// Bytes that all files together may take.
    pub bytes: u64,
    /// What decides, beside the tokens, what a page holds: the digests of plan and weights, the type of cached values, the
    /// layout of a page. Files of another identity are never read.
    pub identity: Vec<u8>,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Page,
    /// The recurrent state after a page.
    State,
}

type Name = (PageHash, Kind);

/// The files of one identity.
#[derive(Debug)]
pub(super) struct Spill {
    folder: PathBuf,
    limit: u64,
    bytes: u64,
    files: HashMap<Name, File>,
    /// Names by the time they were last of use.
    order: BTreeMap<u64, Name>,
    clock: u64,
}

#[derive(Clone, Copy, Debug)]
struct File {
    bytes: u64,
    used: u64,
}

/// Digest of name and content, before the content.
const HEAD: usize = 32;

impl Spill {
    pub(super) fn open(options: &SpillOptions) -> io::Result<Spill> {
        let identity = blake3::hash(&options.identity).to_hex();
        let folder = options.folder.join(&identity[..32]);
        fs::create_dir_all(&folder)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            match parse(&entry.path()) {
                Some(name) if meta.is_file() => found.push((meta.modified()?, name, meta.len())),
                // Left behind in the middle of writing, or not ours.
                _ if entry.path().extension().is_some_and(|e| e == "part") => fs::remove_file(entry.path())?,
                _ => {}
            }
        }
        found.sort_unstable_by_key(|f| f.0);
        let mut spill =
            Spill { folder, limit: options.bytes, bytes: 0, files: HashMap::new(), order: BTreeMap::new(), clock: 0 };
        found.into_iter().for_each(|(_, name, bytes)| spill.enter(name, bytes));
        spill.make_room(0);
        Ok(spill)
    }

    pub(super) fn contains(&self, name: Name) -> bool {
        self.files.contains_key(&name)
    }

    /// Files and their bytes.
    pub(super) fn size(&self) -> (usize, u64) {
        (self.files.len(), self.bytes)
    }

    /// Stores `content`, unless it is there or too large. A failure of the disk is a page that is not there later.
    pub(super) fn put(&mut self, name: Name, content: &[u8]) -> bool {
        let bytes = (content.len() + HEAD) as u64;
        if self.contains(name) || bytes > self.limit {
            return false;
        }
        self.make_room(bytes);
        let path = self.path(name);
        let part = path.with_extension("part");
        let whole = [digest(name, content).as_bytes(), content].concat();
        let written = fs::write(&part, whole).and_then(|()| fs::rename(&part, &path));
        if written.is_err() {
            // What is left of it is removed when the folder is opened again, if it cannot be now.
            drop(fs::remove_file(&part));
            return false;
        }
        self.enter(name, bytes);
        true
    }

    /// What is stored under a name. A file that is not as it was written is removed.
    pub(super) fn get(&mut self, name: Name) -> Option<Vec<u8>> {
        let file = *self.files.get(&name)?;
        let mut whole = Vec::new();
        let read = fs::File::open(self.path(name)).and_then(|f| f.take(file.bytes + 1).read_to_end(&mut whole));
        let sound = read.is_ok() && whole.len() as u64 == file.bytes && whole.len() >= HEAD;
        if !sound || digest(name, &whole[HEAD..]).as_bytes() != &whole[..HEAD] {
            self.remove(name);
            return None;
        }
        self.order.remove(&file.used);
        self.bytes -= file.bytes;
        self.enter(name, file.bytes);
        Some(whole.split_off(HEAD))
    }

    fn enter(&mut self, name: Name, bytes: u64) {
        self.clock += 1;
        self.bytes += bytes;
        self.files.insert(name, File { bytes, used: self.clock });
        self.order.insert(self.clock, name);
    }

    fn make_room(&mut self, bytes: u64) {
        while self.bytes + bytes > self.limit {
            let Some((_, &oldest)) = self.order.first_key_value() else { return };
            self.remove(oldest);
        }
    }

    fn remove(&mut self, name: Name) {
        if let Some(file) = self.files.remove(&name) {
            self.order.remove(&file.used);
            self.bytes -= file.bytes;
            drop(fs::remove_file(self.path(name)));
        }
    }

    fn path(&self, (hash, kind): Name) -> PathBuf {
        let extension = if kind == Kind::Page { "page" } else { "state" };
        self.folder.join(format!("{}.{extension}", hash.to_hex()))
    }
}

fn digest((hash, kind): Name, content: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(hash.to_hex().as_bytes()).update(&[kind as u8]).update(content);
    hasher.finalize()
}

fn parse(path: &Path) -> Option<Name> {
    let kind = match path.extension()?.to_str()? {
        "page" => Kind::Page,
        "state" => Kind::State,
        _ => return None,
    };
    Some((PageHash::from_hex(path.file_stem()?.to_str()?)?, kind))
}
