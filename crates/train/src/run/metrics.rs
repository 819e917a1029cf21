//! What is written about a run while it runs: a line of JSON for each step, and TensorBoard's events.

use super::{checkpoint::write_whole, plot, tensorboard};
use crate::Error;
use serde_json::{Map, Value};
use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// The file of figures.
pub const FILE: &str = "metrics.jsonl";
const EVENTS: &str = "events.out.tfevents";

/// A run's logs, open for appending.
#[derive(Debug)]
pub struct Log {
    lines: File,
    path: PathBuf,
    events: BufWriter<File>,
    events_path: PathBuf,
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

impl Log {
    /// Opens the logs of a run that stands at `step`: what an interrupted part wrote beyond it is taken back.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(run: &Path, step: usize) -> Result<Log, Error> {
        fs::create_dir_all(run).map_err(Error::io(run))?;
        let path = run.join(FILE);
        let kept: String = match step {
            0 => String::new(),
            _ => {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let at = |line: &str| serde_json::from_str::<Value>(line).ok()?.get("step")?.as_u64();
                text.lines().filter(|l| at(l).is_some_and(|s| s <= step as u64)).map(|l| format!("{l}\n")).collect()
            }
        };
        write_whole(&path, kept.as_bytes())?;
        let lines = File::options().append(true).open(&path).map_err(Error::io(&path))?;
        let time = now();
        let folder = run.join("tensorboard");
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        // A part that goes on has a file of its own, as TensorBoard expects.
        let events_path = folder.join(format!("{EVENTS}.{:010}.{}.allod", time as u64, std::process::id()));
        let mut events = BufWriter::new(File::create(&events_path).map_err(Error::io(&events_path))?);
        tensorboard::begin(&mut events, time).map_err(Error::io(&events_path))?;
        Ok(Log { lines, path, events, events_path })
    }

    /// Writes the figures of a step.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&mut self, phase: &str, step: usize, figures: &[(String, f64)]) -> Result<(), Error> {
        let mut object = Map::new();
        object.insert("phase".into(), phase.into());
        object.insert("step".into(), step.into());
        object.extend(figures.iter().map(|(name, value)| (name.clone(), Value::from(*value))));
        let line = format!("{}\n", Value::Object(object));
        self.lines.write_all(line.as_bytes()).map_err(Error::io(&self.path))?;
        let tagged: Vec<(String, f64)> = figures.iter().map(|(n, v)| (format!("{phase}/{n}"), *v)).collect();
        let events = &mut self.events;
        tensorboard::scalars(events, now(), step as u64, &tagged)
            .and_then(|()| events.flush())
            .map_err(Error::io(&self.events_path))
    }
}

/// One figure of a phase by step, from a run's file.
///
/// # Errors
/// [`Error::Io`].
pub fn curve(run: &Path, phase: &str, figure: &str) -> Result<plot::Curve, Error> {
    let path = run.join(FILE);
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let point = |line: &str| {
        let value: Value = serde_json::from_str(line).ok()?;
        (value.get("phase")?.as_str()? == phase)
            .then_some(())
            .and_then(|()| Some((value.get("step")?.as_f64()?, value.get(figure)?.as_f64()?)))
    };
    Ok(text.lines().filter_map(point).collect())
}

/// Writes `report.svg`: losses, learning rate, norm of the gradients.
///
/// # Errors
/// [`Error::Io`].
pub fn report(run: &Path, title: &str) -> Result<PathBuf, Error> {
    let train = |figure| curve(run, "train", figure);
    let panels = [
        ("loss", vec![("train", train("loss")?), ("eval", curve(run, "eval", "loss")?)]),
        ("learning rate", vec![("learning_rate", train("learning_rate")?)]),
        ("norm of the gradients", vec![("grad_norm", train("grad_norm")?)]),
    ];
    let path = run.join("report.svg");
    write_whole(&path, plot::svg(title, &panels).as_bytes())?;
    Ok(path)
}
