//! llama.cpp's file of saved predictions: `_logits_`, then as 32-bit numbers the tokens of a window, the size of the
//! vocabulary, the number of windows, and all tokens; then for every counted position a record of log-probabilities
//! in 16 bits: scale and lowest value as f32, and for every id the multiple of the scale above the lowest. The lowest
//! is at most 16 below the highest. Everything is little-endian.

use crate::{Error, Windows, rows::Softmax};
use std::{
    fs::{self, File},
    io::{BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

const MAGIC: &[u8; 8] = b"_logits_";
/// Log-probabilities further below the highest are not told apart.
const DEPTH: f32 = 16.0;
const STEPS: f32 = 65535.0;

/// Bytes of a record: two floats, and 16 bits for every id, of which there is an even number.
pub(crate) fn record_bytes(vocabulary: usize) -> usize {
    2 * vocabulary.next_multiple_of(2) + 8
}

/// The record of a row of logits.
pub(crate) fn record(row: &[f32], softmax: &Softmax) -> Vec<u8> {
    let low = softmax.min.max(softmax.max - DEPTH);
    let lowest = low - softmax.max - softmax.log_sum as f32;
    let scale = (softmax.max - low) / STEPS;
    let mut out = Vec::with_capacity(record_bytes(row.len()));
    out.extend(scale.to_le_bytes());
    out.extend(lowest.to_le_bytes());
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let step = |v: &f32| if *v > low { (inverse * (v - low)).round_ties_even() as u16 } else { 0 };
    out.extend(row.iter().flat_map(|v| step(v).to_le_bytes()));
    out.resize(record_bytes(row.len()), 0);
    out
}

/// The log-probabilities of a record.
pub(crate) fn log_probs(record: &[u8], out: &mut [f32]) {
    let float = |at: usize| f32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
    let (scale, lowest) = (float(0), float(4));
    for (out, b) in out.iter_mut().zip(record[8..].as_chunks::<2>().0) {
        *out = scale * f32::from(u16::from_le_bytes(*b)) + lowest;
    }
}

/// A file being written. It takes its place when it is finished; dropped before, it is removed.
pub struct LogitsWriter {
    file: BufWriter<File>,
    temporary: PathBuf,
    path: PathBuf,
    finished: bool,
}

impl LogitsWriter {
    /// Starts a file for the windows over `tokens`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] for windows that the format cannot express (those of a strided perplexity).
    pub fn create(path: &Path, windows: &Windows, vocabulary: usize, tokens: &[u32]) -> Result<LogitsWriter, Error> {
        let whole = windows.step == windows.context && windows.first == windows.context / 2;
        let numbers = [windows.context, vocabulary, windows.count].map(|n| i32::try_from(n).ok());
        let ([Some(context), Some(vocabulary), Some(count)], true) = (numbers, whole) else {
            let expected = "windows side by side of which the second half counts".into();
            let found = format!("{windows:?}");
            return Err(Error::File { path: path.into(), field: "windows", expected, found });
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{}.partial", std::process::id()));
        let file = File::create(&temporary).map_err(|source| Error::Io { path: temporary.clone(), source })?;
        let file = BufWriter::with_capacity(1 << 20, file);
        let mut writer = LogitsWriter { file, temporary, path: path.into(), finished: false };
        writer.append(MAGIC)?;
        for n in [context, vocabulary, count] {
            writer.append(&n.to_le_bytes())?;
        }
        let text = &tokens[..windows.context * windows.count];
        writer.append(&text.iter().flat_map(|t| t.to_le_bytes()).collect::<Vec<u8>>())?;
        Ok(writer)
    }

    fn io(&self, source: std::io::Error) -> Error {
        Error::Io { path: self.path.clone(), source }
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|e| self.io(e))
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<(), Error> {
        let done = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        done.and_then(|()| fs::rename(&self.temporary, &self.path)).map_err(|e| self.io(e))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for LogitsWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Nobody is left to tell if it fails.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// A file of saved predictions, read from front to back.
pub struct LogitsReader {
    file: BufReader<File>,
    path: PathBuf,
    /// Tokens of a window.
    pub context: usize,
    /// Ids of the vocabulary.
    pub vocabulary: usize,
    /// Number of windows.
    pub count: usize,
    /// The tokens of all windows.
    pub tokens: Vec<u32>,
}

impl LogitsReader {
    /// Opens a file and holds what its head says against its length.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::File`].
    pub fn open(path: &Path) -> Result<LogitsReader, Error> {
        let io = |source| Error::Io { path: path.into(), source };
        let wrong = |field, expected: &str, found: String| Error::File {
            path: path.into(),
            field,
            expected: expected.into(),
            found,
        };
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut file = BufReader::with_capacity(1 << 20, file);
        let mut head = [0; 20];
        if length < 20 {
            return Err(wrong("length", "at least 20 bytes", length.to_string()));
        }
        file.read_exact(&mut head).map_err(io)?;
        if head[..8] != *MAGIC {
            return Err(wrong("start", "\"_logits_\"", String::from_utf8_lossy(&head[..8]).escape_debug().to_string()));
        }
        let number = |at: usize| i32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let fields = [(8, "tokens of a window", 4), (12, "vocabulary", 1), (16, "windows", 1)];
        let mut sizes = [0; 3];
        for (size, (at, field, least)) in sizes.iter_mut().zip(fields) {
            let n = number(at);
            let big = usize::try_from(n).ok().filter(|n| *n >= least);
            *size = big.ok_or_else(|| wrong(field, &format!("a number from {least} on"), n.to_string()))?;
        }
        let [context, vocabulary, count] = sizes;
        let rows = (context - 1 - context / 2) as u64;
        let expected = 20 + count as u128 * (4 * context as u128 + u128::from(rows) * record_bytes(vocabulary) as u128);
        if u128::from(length) != expected {
            let what = format!("{expected} bytes for {count} windows of {context} tokens over {vocabulary} ids");
            return Err(wrong("length", &what, length.to_string()));
        }
        let mut bytes = vec![0; 4 * context * count];
        file.read_exact(&mut bytes).map_err(io)?;
        let tokens: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        if let Some(bad) = tokens.iter().find(|&&t| t as usize >= vocabulary) {
            return Err(wrong("tokens", &format!("ids below {vocabulary}"), bad.to_string()));
        }
        Ok(LogitsReader { file, path: path.into(), context, vocabulary, count, tokens })
    }

    /// The next `rows` records.
    pub(crate) fn records(&mut self, rows: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; rows * record_bytes(self.vocabulary)];
        self.file.read_exact(&mut bytes).map_err(|source| Error::Io { path: self.path.clone(), source })?;
        Ok(bytes)
    }
}
