//! Writing sets of files so that they appear complete or not at all, and tensors into them one after the other.

use crate::Error;
use std::{
    fs::{self, File},
    io::{BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// Writes a whole file: whoever opens `path` finds what was there before or all of `bytes`.
///
/// # Errors
/// The disk's.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut staged = Staged::create(path.to_path_buf(), bytes)?;
    staged.sync()?;
    staged.publish()
}

/// A file under a temporary name in the folder where it will stand. Dropped before it is published, it is removed.
#[derive(Debug)]
struct Staged {
    file: BufWriter<File>,
    temporary: PathBuf,
    target: PathBuf,
    /// Stays where it is when dropped: published, or to be continued.
    keep: bool,
}

impl Staged {
    fn create(target: PathBuf, start: &[u8]) -> Result<Staged, Error> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let temporary = target.with_file_name(format!(".{name}.{}-{number}.partial", std::process::id()));
        let file = File::create_new(&temporary).map_err(Error::io(&temporary))?;
        let mut staged = Staged { file: BufWriter::with_capacity(1 << 20, file), temporary, target, keep: false };
        staged.write(start)?;
        Ok(staged)
    }

    /// Continues the file that an interrupted run left, or starts one that a later run can continue. Gives how many of
    /// the `sizes` (of tensors, each with its padding) are there. A file that starts otherwise is another work's: it is
    /// overwritten.
    fn resume(
        target: PathBuf,
        start: &[u8],
        sizes: impl Iterator<Item = (usize, usize)>,
    ) -> Result<(Staged, usize), Error> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let temporary = target.with_file_name(format!(".{name}.partial"));
        let named = temporary.clone();
        let io = Error::io(&named);
        let options = File::options().read(true).write(true).create(true).truncate(false).open(&temporary);
        let mut file = options.map_err(&io)?;
        file.try_lock().map_err(|e| io(e.into()))?;
        let mut found = Vec::with_capacity(start.len());
        Read::by_ref(&mut file).take(start.len() as u64).read_to_end(&mut found).map_err(&io)?;
        let (mut end, mut complete) = (0, 0);
        if found == start {
            let length = file.metadata().map_err(&io)?.len();
            end = start.len() as u64;
            for (bytes, padding) in sizes {
                if length < end + bytes as u64 {
                    break;
                }
                (end, complete) = (end + (bytes + padding) as u64, complete + 1);
            }
        }
        file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end))).map_err(&io)?;
        let file = BufWriter::with_capacity(1 << 20, file);
        let mut staged = Staged { file, temporary, target, keep: true };
        if end == 0 {
            staged.write(start)?;
        }
        Ok((staged, complete))
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
        self.keep = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.keep {
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

    /// As [`Stage::create`], but takes up what an interrupted run of the same work left and leaves it when dropped.
    /// Gives how many tensors, the first ones, are there already.
    pub(crate) fn resume(
        path: &Path,
        starts: Vec<(PathBuf, Vec<u8>)>,
        tensors: Vec<Planned>,
    ) -> Result<(Stage, usize), Error> {
        let (mut files, mut at) = (Vec::new(), 0);
        for (i, (target, start)) in starts.into_iter().enumerate() {
            let of_file = tensors.iter().filter(|t| t.file == i).map(|t| (t.bytes, t.padding));
            // After a file with gaps nothing counts.
            let continues = tensors[..at].len() == tensors.iter().filter(|t| t.file < i).count();
            let (file, complete) = Staged::resume(target, &start, of_file.filter(|_| continues))?;
            at += complete;
            files.push(file);
        }
        Ok((Stage { path: path.into(), files, tensors, at, done: 0 }, at))
    }

    /// Removes what is there so far.
    pub(crate) fn discard(mut self) {
        self.files.iter_mut().for_each(|f| f.keep = false);
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
