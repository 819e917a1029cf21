//! Writing sets of files so that they appear complete or not at all, and tensors into them one after the other.

use crate::Error;
use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// A file under a temporary name in the folder where it will stand. Dropped before it is published, it is removed.
#[derive(Debug)]
struct Staged {
    file: BufWriter<File>,
    temporary: PathBuf,
    target: PathBuf,
    published: bool,
}

impl Staged {
    fn create(target: PathBuf, start: &[u8]) -> Result<Staged, Error> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let temporary = target.with_file_name(format!(".{name}.{}-{number}.partial", std::process::id()));
        let file = File::create_new(&temporary).map_err(Error::io(&temporary))?;
        let mut staged = Staged { file: BufWriter::with_capacity(1 << 20, file), temporary, target, published: false };
        staged.write(start)?;
        Ok(staged)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(Error::io(&self.temporary))
    }

    /// Everything on the disk, still under the temporary name.
    fn sync(&mut self) -> Result<(), Error> {
        self.file.flush().and_then(|()| self.file.get_ref().sync_all()).map_err(Error::io(&self.temporary))
    }

    fn publish(&mut self) -> Result<(), Error> {
        fs::rename(&self.temporary, &self.target).map_err(Error::io(&self.target))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.published {
            // Nobody is left to tell if it fails.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// A tensor that will be written.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) name: String,
    pub(crate) bytes: usize,
    /// In which file.
    pub(crate) file: usize,
    /// Zero bytes behind it.
    pub(crate) padding: usize,
}

/// Files whose starts are written, and the tensors that are still to come, in order.
#[derive(Debug)]
pub(crate) struct Stage {
    path: PathBuf,
    files: Vec<Staged>,
    tensors: Vec<Planned>,
    /// The tensor being written and how many bytes of it are there.
    at: usize,
    done: usize,
}

impl Stage {
    /// `files`: where each will stand and what it starts with. `path` stands for all of them in messages.
    pub(crate) fn create(path: &Path, files: Vec<(PathBuf, Vec<u8>)>, tensors: Vec<Planned>) -> Result<Stage, Error> {
        let files = files.into_iter().map(|(path, start)| Staged::create(path, &start)).collect::<Result<_, _>>()?;
        Ok(Stage { path: path.into(), files, tensors, at: 0, done: 0 })
    }

    /// Appends bytes to the tensor called `name`: the current one, or the next when the current one is complete.
    pub(crate) fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        while self.tensors.get(self.at).is_some_and(|t| t.name != name) {
            self.complete_current(|| format!("tensor {name:?}"))?;
        }
        let Some(t) = self.tensors.get(self.at) else {
            return Err(Error::unwritable(
                &self.path,
                format!("tensor {name:?}"),
                "the order announced",
                "it out of order",
            ));
        };
        if bytes.len() > t.bytes - self.done {
            let found = format!("{} or more", self.done.saturating_add(bytes.len()));
            return Err(Error::unwritable(&self.path, format!("tensor {name:?}"), format!("{} bytes", t.bytes), found));
        }
        self.done += bytes.len();
        self.files[t.file].write(bytes)
    }

    /// Pads the current tensor and goes on to the next.
    fn complete_current(&mut self, instead: impl Fn() -> String) -> Result<(), Error> {
        let t = &self.tensors[self.at];
        if self.done < t.bytes {
            let expected = format!("{} more bytes", t.bytes - self.done);
            return Err(Error::unwritable(&self.path, format!("tensor {:?}", t.name), expected, instead()));
        }
        self.files[t.file].write(&vec![0; t.padding])?;
        (self.at, self.done) = (self.at + 1, 0);
        Ok(())
    }

    /// Puts all files in their places; the first, without which nobody opens the others, comes last.
    pub(crate) fn finish(mut self) -> Result<Vec<PathBuf>, Error> {
        while self.at < self.tensors.len() {
            self.complete_current(|| "the end".into())?;
        }
        self.files.iter_mut().try_for_each(Staged::sync)?;
        self.files.iter_mut().rev().try_for_each(Staged::publish)?;
        if cfg!(unix) {
            // A rename lasts once the folder is on the disk as well.
            let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io(folder))?;
        }
        Ok(self.files.iter().map(|f| f.target.clone()).collect())
    }
}
