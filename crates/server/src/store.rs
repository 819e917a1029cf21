//! What outlives the process: small JSON documents and large blobs in a folder. A write is whole or not there at all.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A folder of documents by kind and name.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

impl Store {
    pub(crate) fn new(root: PathBuf) -> Store {
        Store { root }
    }

    /// Where a document lies. Names may be anything: what a path could misread is written as `%XX`.
    fn path(&self, kind: &str, name: &str) -> PathBuf {
        self.root.join(kind).join(format!("{}.json", escaped(name)))
    }

    /// Where a blob lies; a plain name of our own making.
    pub(crate) fn blob(&self, kind: &str, name: &str) -> PathBuf {
        self.root.join(kind).join(escaped(name))
    }

    /// Writes a document in place of an older one.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn put(&self, kind: &str, name: &str, value: &impl Serialize) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(value)?;
        self.write(&self.path(kind, name), |file| file.write_all(&bytes))
    }

    /// Writes a file that appears only when it is whole and on disk.
    ///
    /// # Errors
    /// The file system's, or `fill`'s.
    pub(crate) fn write(&self, path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        let folder = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder)?;
        let staged = folder.join(format!(".{}.tmp", crate::ids::new("")));
        let done = File::create(&staged).and_then(|mut file| {
            fill(&mut file)?;
            file.sync_all()
        });
        let done = done.and_then(|()| fs::rename(&staged, path)).and_then(|()| File::open(folder)?.sync_all());
        if done.is_err() {
            drop(fs::remove_file(&staged));
        }
        done
    }

    /// Reads a document.
    ///
    /// # Errors
    /// The file system's; it is no such document.
    pub(crate) fn get<T: DeserializeOwned>(&self, kind: &str, name: &str) -> io::Result<Option<T>> {
        match fs::read(self.path(kind, name)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Removes a document; false when there was none.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn delete(&self, kind: &str, name: &str) -> io::Result<bool> {
        match fs::remove_file(self.path(kind, name)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// All documents of a kind that can be read, in no order; the others are told of in the log.
    pub(crate) fn all<T: DeserializeOwned>(&self, kind: &str) -> Vec<T> {
        let entries = fs::read_dir(self.root.join(kind)).into_iter().flatten().flatten();
        let paths = entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json"));
        let read = |path: PathBuf| {
            let document = fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
            document.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "not read")).ok()
        };
        paths.filter_map(read).collect()
    }
}

/// A name as one component of a path.
fn escaped(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    let mut out = String::with_capacity(name.len());
    if name.is_empty() {
        out.push('%');
    }
    for (i, b) in name.bytes().enumerate() {
        if plain(b) || (b == b'.' && i > 0) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leaves_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("state"));
        for name in ["../../etc/passwd", "..", ".", "", "a/b", "a\\b", "a\0b", "né", "%2e%2e"] {
            store.put("kind", name, &name).unwrap();
            assert_eq!(store.get::<String>("kind", name).unwrap().as_deref(), Some(name));
        }
        assert_eq!(store.all::<String>("kind").len(), 9);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(folder.path().join("state")).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().into());
        store.put("kind", "one", &1).unwrap();
        let broken = store.write(&store.path("kind", "one"), |file| {
            file.write_all(b"half")?;
            Err(io::Error::other("power"))
        });
        assert!(broken.is_err());
        assert_eq!(store.get::<u32>("kind", "one").unwrap(), Some(1));
        assert_eq!(fs::read_dir(folder.path().join("kind")).unwrap().count(), 1);
    }
}
