//! Files with weights and splits to a [`Dataset`].

use super::{
    Form, Record,
    encode::{Encoded, Encoder, Tokens},
    read,
    report::Report,
    store::{Builder, Item, Store},
};
use crate::{Error, error::Problem};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A file of records, or a folder of such files.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// How often its records come in an epoch: 2 repeats each once, 0.5 takes every other.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

/// What to make of sources.
#[derive(Debug)]
pub struct Options<'a> {
    /// Turns examples into ids.
    pub encoder: &'a Encoder,
    /// `{{key}}` in texts becomes its value.
    pub replace: &'a [(String, String)],
    /// The share of examples, from 0 to below 1, that is kept for evaluation.
    pub held_out: f64,
    /// Decides which.
    pub seed: u64,
    /// Records with problems are counted and left out instead of ending the reading.
    pub skip_problems: bool,
    /// At most so many examples of all sources together.
    pub limit: Option<usize>,
    /// A judged example's companion is the one before it among so many (KTO); 0: none.
    pub companions: usize,
    /// Where a file of ids may be written.
    pub folder: &'a Path,
}

/// Examples as ids: those to learn from and those to evaluate on.
#[derive(Debug)]
pub struct Dataset {
    /// Their sequences.
    pub store: Store,
    /// What is trained on, in the order of the sources.
    pub train: Vec<Item>,
    /// What is held out.
    pub held_out: Vec<Item>,
    /// What was seen on the way.
    pub report: Report,
}

/// The files of a source: itself, or those in a folder in order of their names.
fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    if !path.exists() {
        let what = format!("data {}", path.display());
        return Err(Error::setting(what, "there is no such file", "name a file of examples, such as train.jsonl"));
    }
    if !path.is_dir() {
        return Ok(vec![path.into()]);
    }
    let entries = std::fs::read_dir(path).and_then(|d| d.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>());
    let mut found: Vec<PathBuf> = entries.map_err(Error::io(path))?;
    found.retain(|p| p.is_file() && read::FileKind::of(p).is_ok());
    found.sort();
    match found.is_empty() {
        true => Err(Error::setting(format!("data {}", path.display()), "no data files in it", "name a file")),
        false => Ok(found),
    }
}

/// Reads and encodes sources; all of `held_out` are evaluated on.
///
/// # Errors
/// The first problem of a record unless problems are skipped; [`Error::Setting`] when nothing is left to learn from.
pub fn load(sources: &[Source], held_out: &[Source], options: &Options<'_>) -> Result<Dataset, Error> {
    let mut loading = Loading {
        options,
        builder: Builder::new(options.folder),
        report: Report::default(),
        train: vec![],
        held_out: vec![],
        companions: vec![],
        examples: 0,
        evaluates: false,
    };
    let all = sources.iter().map(|s| (s, false)).chain(held_out.iter().map(|s| (s, true)));
    for (source, evaluates) in all {
        if evaluates && !loading.evaluates {
            loading.companions()?;
            (loading.evaluates, loading.examples) = (true, 0);
        }
        if !(source.weight > 0.0 && source.weight <= 1000.0) {
            let what = format!("data {}: weight", source.path.display());
            return Err(Error::setting(what, format!("{} is no weight", source.weight), "give a number above 0"));
        }
        for file in files(&source.path)? {
            loading.file(&file, source.weight)?;
        }
    }
    loading.companions()?;
    let Loading { builder, train, held_out, report, .. } = loading;
    if train.is_empty() {
        let skipped: usize = report.skipped.values().sum();
        let first = report.problems.first().map_or_else(String::new, |p| format!("; the first problem: {p}"));
        let (problems, reasons) = (report.problem_count, report.reasons());
        return Err(Error::setting(
            "data",
            format!("nothing to learn from: {skipped} examples skipped{reasons}, {problems} with problems{first}"),
            "see `allod tune check`",
        ));
    }
    Ok(Dataset { store: builder.finish()?, train, held_out, report })
}

struct Loading<'a, 'o> {
    options: &'o Options<'a>,
    builder: Builder,
    report: Report,
    train: Vec<Item>,
    held_out: Vec<Item>,
    /// Judged examples that wait for companions: where their items stand, and their ids.
    companions: Vec<(bool, usize, Tokens)>,
    examples: usize,
    /// What comes now is evaluated on.
    evaluates: bool,
}

impl Loading<'_, '_> {
    fn file(&mut self, path: &Path, weight: f64) -> Result<(), Error> {
        let mut form: Option<Form> = None;
        let mut number = 0u64;
        let limit = self.options.limit.unwrap_or(usize::MAX);
        read::records(path, &mut |read| {
            if self.examples >= limit {
                return Ok(());
            }
            number += 1;
            let copies = copies(weight, number);
            match read.and_then(|record| self.encode(record, &mut form)) {
                Ok((form, encoded)) => self.take(path, form, &encoded, copies),
                Err(problem) => self.problem(problem),
            }
        })
    }

    fn encode(&self, mut record: Record, form: &mut Option<Form>) -> Result<(Form, Vec<Encoded>), Problem> {
        for value in record.fields.values_mut() {
            replace(value, self.options.replace);
        }
        let expected = match *form {
            Some(form) => form,
            None => *form.insert(Form::of(&record)?),
        };
        let example = expected.read(&record)?;
        Ok((expected, self.options.encoder.encode(&record, &example)?))
    }

    fn problem(&mut self, problem: Problem) -> Result<(), Error> {
        if !self.options.skip_problems {
            return Err(Error::Data(problem));
        }
        self.report.problem(problem);
        Ok(())
    }

    fn take(&mut self, path: &Path, form: Form, encoded: &[Encoded], copies: usize) -> Result<(), Error> {
        self.examples += 1;
        for one in encoded {
            if !self.evaluates {
                self.report.count(path, form, one);
            }
            let Some(item) = self.builder.add(one)? else { continue };
            let held_out = self.evaluates || self.options.held_out > 0.0 && self.is_held_out();
            let list = if held_out { &mut self.held_out } else { &mut self.train };
            let copies = if held_out { 1 } else { copies };
            for _ in 0..copies {
                if let (Encoded::Judged(tokens, _), true) = (one, self.options.companions > 0) {
                    self.companions.push((held_out, list.len(), tokens.clone()));
                }
                list.push(item);
            }
            if self.companions.len() >= self.options.companions.max(1) && self.options.companions > 0 {
                self.companions()?;
            }
        }
        Ok(())
    }

    fn is_held_out(&self) -> bool {
        // The number of the sequence and the seed decide, so that the split does not depend on anything else.
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.options.seed.to_le_bytes()).update(&(self.builder.len() as u64).to_le_bytes());
        let hash: [u8; 32] = hasher.finalize().into();
        let draw = u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]);
        f64::from(draw) / 4_294_967_296.0 < self.options.held_out
    }

    /// Gives each waiting example its prompt with the answer of the one before it; the first takes the last's. One alone
    /// keeps itself.
    fn companions(&mut self) -> Result<(), Error> {
        let waiting = std::mem::take(&mut self.companions);
        if waiting.len() < 2 {
            return Ok(());
        }
        for (i, (held_out, at, tokens)) in waiting.iter().enumerate() {
            let other = &waiting[if i == 0 { waiting.len() - 1 } else { i - 1 }].2;
            let ids = [&tokens.ids[..tokens.prompt], &other.ids[other.prompt..]].concat();
            let mut companion = Tokens {
                learned: (0..ids.len()).map(|i| i >= tokens.prompt).collect(),
                ids,
                prompt: tokens.prompt,
                cut: 0,
            };
            companion.ids.truncate(self.options.encoder.max_length);
            companion.learned.truncate(self.options.encoder.max_length);
            let number = self.builder.push(&companion)?;
            let list = if *held_out { &mut self.held_out } else { &mut self.train };
            if let Item::Judged(_, kl, _) = &mut list[*at] {
                *kl = number;
            }
        }
        Ok(())
    }
}

/// How often record `number` (from 1) comes: over many records, `weight` times on average, evenly.
fn copies(weight: f64, number: u64) -> usize {
    ((number as f64 * weight).floor() - ((number - 1) as f64 * weight).floor()) as usize
}

/// `{{key}}` by its value in every text.
fn replace(value: &mut Value, by: &[(String, String)]) {
    match value {
        Value::String(text) => {
            for (key, new) in by {
                let mark = format!("{{{{{key}}}}}");
                if text.contains(&mark) {
                    *text = text.replace(&mark, new);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|v| replace(v, by)),
        Value::Object(map) => map.values_mut().for_each(|v| replace(v, by)),
        _ => {}
    }
}
