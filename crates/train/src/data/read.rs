//! Files to records, one at a time: a file may be larger than memory.

use super::Record;
use crate::{Error, error::Problem};
use serde_json::{Map, Value};
use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
    sync::Arc,
};

/// Bytes of one line, one element of a JSON array or one document.
const LONGEST: usize = 256 << 20;
/// Bytes of text that are taken as one record where nothing separates documents.
const BLOCK: usize = 1 << 20;
/// A line that separates documents of a text file.
const SEPARATOR: &str = "<|endoftext|>";

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// An object on each line.
    JsonLines,
    /// One array of objects.
    JsonArray,
    /// Comma-separated values under a line of names.
    Csv,
    /// The same, separated by tabs.
    Tsv,
    /// Plain text.
    Text,
    /// Apache Parquet.
    Parquet,
}

impl FileKind {
    /// By name, and for JSON by what the file begins with.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Setting`] for an ending that says nothing.
    pub fn of(path: &Path) -> Result<FileKind, Error> {
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        match ending.as_str() {
            "csv" => Ok(FileKind::Csv),
            "tsv" => Ok(FileKind::Tsv),
            "txt" | "text" | "md" => Ok(FileKind::Text),
            "parquet" => Ok(FileKind::Parquet),
            "jsonl" | "ndjson" | "json" => {
                let mut reader = BufReader::new(File::open(path).map_err(Error::io(path))?);
                let first = skip_space(&mut reader, &mut 1).map_err(Error::io(path))?;
                Ok(if first == Some(b'[') { FileKind::JsonArray } else { FileKind::JsonLines })
            }
            _ => Err(Error::setting(
                format!("data {}", path.display()),
                "the name does not say what it is",
                "let it end in .jsonl, .json, .csv, .tsv, .txt or .parquet",
            )),
        }
    }
}

/// What a reader gives: a record, or what is wrong with the one that should be there.
pub type Read1 = Result<Record, Problem>;

/// Calls `each` with every record of a file, in order. After a problem that leaves the rest of the file unreadable there
/// are no more.
///
/// # Errors
/// [`Error::Io`], and what `each` returns.
pub fn records(path: &Path, each: &mut dyn FnMut(Read1) -> Result<(), Error>) -> Result<(), Error> {
    let kind = FileKind::of(path)?;
    let name: Arc<str> = path.display().to_string().into();
    if kind == FileKind::Parquet {
        return parquet(path, &name, each);
    }
    let file = File::open(path).map_err(Error::io(path))?;
    let mut input = Input { path, name, reader: BufReader::with_capacity(1 << 18, file), line: 1 };
    match kind {
        FileKind::JsonLines => input.json_lines(each),
        FileKind::JsonArray => input.json_array(each),
        FileKind::Csv => input.csv(b',', each),
        FileKind::Tsv => input.csv(b'\t', each),
        FileKind::Text | FileKind::Parquet => input.text(each),
    }
}

#[cfg(feature = "parquet")]
fn parquet(path: &Path, name: &Arc<str>, each: &mut dyn FnMut(Read1) -> Result<(), Error>) -> Result<(), Error> {
    super::parquet::records(path, name, each)
}

#[cfg(not(feature = "parquet"))]
fn parquet(path: &Path, _: &Arc<str>, _: &mut dyn FnMut(Read1) -> Result<(), Error>) -> Result<(), Error> {
    Err(Error::setting(
        format!("data {}", path.display()),
        "this build does not read parquet",
        "build with `--features parquet`, or convert the file to .jsonl",
    ))
}

struct Input<'a> {
    path: &'a Path,
    name: Arc<str>,
    reader: BufReader<File>,
    line: usize,
}

type Each<'e> = &'e mut dyn FnMut(Read1) -> Result<(), Error>;

impl Input<'_> {
    fn problem(&self, line: usize, message: impl Into<String>, hint: &str) -> Problem {
        Problem { file: self.name.to_string(), line, message: message.into(), hint: hint.into() }
    }

    /// The next line without its end; `None` at the end of the file. Bytes that are no text are a problem of the line.
    fn next_line(&mut self) -> Result<Option<Result<String, Problem>>, Error> {
        let mut bytes = Vec::new();
        let read = Read::by_ref(&mut self.reader).take(LONGEST as u64).read_until(b'\n', &mut bytes);
        if read.map_err(Error::io(self.path))? == 0 {
            return Ok(None);
        }
        if bytes.len() == LONGEST {
            let hint = "split it into records of a line each";
            return Ok(Some(Err(self.problem(self.line, "a line of 256 MiB or more", hint))));
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        Ok(Some(String::from_utf8(bytes).map_err(|e| {
            let message = format!("byte {} of the line is not UTF-8", e.utf8_error().valid_up_to() + 1);
            self.problem(self.line, message, "convert the file, for example with iconv -t utf-8")
        })))
    }

    fn json_lines(&mut self, each: Each<'_>) -> Result<(), Error> {
        while let Some(line) = self.next_line()? {
            let at = self.line;
            self.line += 1;
            let text = match line {
                Ok(text) if text.trim().is_empty() => continue,
                Ok(text) => text,
                Err(problem) => {
                    each(Err(problem))?;
                    continue;
                }
            };
            each(self.object(text.trim_start_matches('\u{FEFF}').as_bytes(), at))?;
        }
        Ok(())
    }

    /// One object of JSON whose text begins on `line`.
    fn object(&self, text: &[u8], line: usize) -> Read1 {
        let value: Value = serde_json::from_slice(text).map_err(|e| {
            let hint = match text.first() {
                Some(b'{') => "check quotes, commas and brackets there; a text may not hold bare line breaks",
                _ => "each record is an object, such as {\"text\": \"…\"}",
            };
            let message = format!("broken JSON at column {}: {}", e.column(), without_place(&e));
            self.problem(line + e.line().saturating_sub(1), message, hint)
        })?;
        match value {
            Value::Object(fields) => Ok(Record { fields, file: Arc::clone(&self.name), line }),
            other => {
                let message = format!("expected an object, found {}", super::kind_of(&other));
                Err(self.problem(line, message, "each record is an object, such as {\"text\": \"…\"}"))
            }
        }
    }

    /// The elements of an array, found by brackets and quotes, parsed one by one.
    fn json_array(&mut self, each: Each<'_>) -> Result<(), Error> {
        let io = Error::io(self.path);
        skip_space(&mut self.reader, &mut self.line).map_err(&io)?;
        self.reader.consume(1);
        loop {
            let next = skip_space(&mut self.reader, &mut self.line).map_err(&io)?;
            match next {
                Some(b']') => return Ok(()),
                Some(b',') => self.reader.consume(1),
                None => {
                    let hint = "the file is cut off: fetch or write it again";
                    return each(Err(self.problem(self.line, "the array is not closed", hint)));
                }
                Some(_) => {
                    let at = self.line;
                    let element = element(&mut self.reader, &mut self.line).map_err(&io)?;
                    if element.len() >= LONGEST {
                        let hint = "check that the brackets before it are closed";
                        return each(Err(self.problem(at, "an element of 256 MiB or more", hint)));
                    }
                    each(self.object(&element, at))?;
                }
            }
        }
    }

    fn csv(&mut self, delimiter: u8, each: Each<'_>) -> Result<(), Error> {
        let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(&mut self.reader);
        let name = Arc::clone(&self.name);
        let wrong = |e: csv::Error| {
            let line = e.position().map_or(1, |p| p.line() as usize);
            let message = match e.kind() {
                csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                    format!("{len} fields under a heading of {expected_len}")
                }
                csv::ErrorKind::Utf8 { .. } => "a field is not UTF-8".into(),
                _ => e.to_string(),
            };
            let hint = "put a field that holds the separator, quotes or line breaks in double quotes";
            Problem { file: name.to_string(), line, message, hint: hint.into() }
        };
        let header = match reader.headers() {
            Ok(header) => header.clone(),
            Err(e) => return each(Err(wrong(e))),
        };
        for row in reader.into_records() {
            each(row.map_err(&wrong).map(|row| {
                let line = row.position().map_or(1, |p| p.line() as usize);
                let pairs = header.iter().zip(row.iter()).filter(|(_, v)| !v.is_empty());
                let fields: Map<_, _> = pairs.map(|(k, v)| (k.trim().to_owned(), Value::from(v))).collect();
                Record { fields, file: Arc::clone(&name), line }
            }))?;
        }
        Ok(())
    }

    /// Documents between separating lines; a long document comes in blocks that end with a line.
    fn text(&mut self, each: Each<'_>) -> Result<(), Error> {
        let (mut block, mut start) = (String::new(), self.line);
        while let Some(line) = self.next_line()? {
            let at = self.line;
            self.line += 1;
            let line = match line {
                Ok(line) => line,
                Err(problem) => {
                    each(Err(problem))?;
                    continue;
                }
            };
            let separates = line.trim() == SEPARATOR;
            if !separates {
                block.push_str(&line);
                block.push('\n');
            }
            if separates || block.len() >= BLOCK {
                each_text(&self.name, &mut block, start, separates, each)?;
                start = at + 1;
            }
        }
        each_text(&self.name, &mut block, start, true, each)
    }
}

fn each_text(name: &Arc<str>, block: &mut String, line: usize, ends: bool, each: Each<'_>) -> Result<(), Error> {
    let mut text = std::mem::take(block);
    if ends {
        // The line break that ends a file or stands before a separator is not the document's.
        text.truncate(text.trim_end_matches('\n').len());
    }
    if text.trim().is_empty() {
        return Ok(());
    }
    let mut fields = Map::new();
    fields.insert("text".into(), text.into());
    if !ends {
        fields.insert(super::CONTINUES.into(), true.into());
    }
    each(Ok(Record { fields, file: Arc::clone(name), line }))
}

/// What the parser said, without its own line and column.
fn without_place(e: &serde_json::Error) -> String {
    let text = e.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

/// The next byte that is no space (nor a byte order mark), left where it is.
fn skip_space(reader: &mut impl BufRead, line: &mut usize) -> std::io::Result<Option<u8>> {
    loop {
        let bytes = reader.fill_buf()?;
        let Some(&byte) = bytes.first() else { return Ok(None) };
        match byte {
            b'\n' => *line += 1,
            b' ' | b'\t' | b'\r' | 0xEF | 0xBB | 0xBF => {}
            other => return Ok(Some(other)),
        }
        reader.consume(1);
    }
}

/// The bytes of one element of an array, up to the comma or bracket behind it.
fn element(reader: &mut impl BufRead, line: &mut usize) -> std::io::Result<Vec<u8>> {
    let (mut out, mut depth, mut quoted, mut escaped) = (Vec::new(), 0usize, false, false);
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() || out.len() >= LONGEST {
            return Ok(out);
        }
        let mut used = 0;
        let mut ended = false;
        for &byte in bytes {
            if !quoted && depth == 0 && matches!(byte, b',' | b']') {
                ended = true;
                break;
            }
            used += 1;
            match byte {
                b'\n' => *line += 1,
                _ if escaped => {}
                b'"' => quoted = !quoted,
                b'{' | b'[' if !quoted => depth += 1,
                b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
                _ => {}
            }
            escaped = quoted && byte == b'\\' && !escaped;
        }
        out.extend_from_slice(&bytes[..used]);
        reader.consume(used);
        if ended {
            return Ok(out);
        }
    }
}
