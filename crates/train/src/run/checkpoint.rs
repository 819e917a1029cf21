//! Checkpoints: safetensors and JSON, complete or not there at all.

use crate::{
    Error,
    optim::{Optimizer, State},
};
use allod_formats::{
    Safetensors,
    safetensors::{Dtype, Writer},
};
use allod_plan::TrainedTensor;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

const TENSORS: &str = "tensors.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps taken.
    pub step: usize,
    /// Identifies settings, data and base.
    pub identity: String,
    /// Chain over the losses of all steps so far.
    pub losses: String,
    /// Tokens seen.
    pub tokens: u64,
    /// The best evaluation loss and its step.
    pub best: Option<(f64, usize)>,
    /// Evaluations since then.
    pub waited: usize,
}

fn folder(run: &Path) -> PathBuf {
    run.join("checkpoints")
}

fn name(step: usize) -> String {
    format!("step-{step:07}")
}

/// Checkpoints of a run, oldest first, by step.
///
/// # Errors
/// [`Error::Io`].
pub fn list(run: &Path) -> Result<Vec<(usize, PathBuf)>, Error> {
    let folder = folder(run);
    if !folder.is_dir() {
        return Ok(vec![]);
    }
    let entries = fs::read_dir(&folder).and_then(|d| d.collect::<Result<Vec<_>, _>>()).map_err(Error::io(&folder))?;
    let step = |e: fs::DirEntry| {
        let number = e.file_name().to_str()?.strip_prefix("step-")?.parse().ok()?;
        Some((number, e.path()))
    };
    let mut found: Vec<_> = entries.into_iter().filter_map(step).collect();
    found.sort();
    Ok(found)
}

/// Writes a checkpoint and removes those that are no longer kept.
///
/// # Errors
/// [`Error::Io`], [`Error::Formats`].
pub fn save(
    run: &Path,
    tensors: &[TrainedTensor],
    optimizer: &Optimizer,
    progress: &Progress,
    keep: usize,
) -> Result<PathBuf, Error> {
    let folder = folder(run);
    let target = folder.join(name(progress.step));
    let partial = folder.join(format!(".{}.partial", name(progress.step)));
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(Error::io(&partial))?;
    }
    fs::create_dir_all(&partial).map_err(Error::io(&partial))?;
    write_tensors(&partial.join(TENSORS), tensors)?;
    let states: Vec<(String, &State)> = optimizer.state().collect();
    let announced = states.iter().map(|(name, state)| match state {
        State::F32(v) => (name.clone(), Dtype::F32, vec![v.len()]),
        State::U8(v) => (name.clone(), Dtype::U8, vec![v.len()]),
    });
    let mut writer = Writer::create(partial.join(OPTIMIZER), announced, &IndexMap::new(), None)?;
    for (name, state) in &states {
        match state {
            State::F32(v) => writer.append(name, bytemuck::cast_slice(v))?,
            State::U8(v) => writer.append(name, v)?,
        }
    }
    writer.finish()?;
    let text = serde_json::to_vec_pretty(progress).unwrap_or_default();
    write_synced(&partial.join(STATE), &text)?;
    if target.exists() {
        fs::remove_dir_all(&target).map_err(Error::io(&target))?;
    }
    fs::rename(&partial, &target).map_err(Error::io(&target))?;
    sync_folder(&folder)?;
    let best = progress.best.map(|(_, step)| step);
    let all = list(run)?;
    let old = all.len().saturating_sub(keep.max(1));
    for (step, path) in &all[..old] {
        if Some(*step) != best {
            fs::remove_dir_all(path).map_err(Error::io(path))?;
        }
    }
    Ok(target)
}

/// Writes trained tensors to a file.
///
/// # Errors
/// [`Error::Formats`].
pub fn write_tensors(path: &Path, tensors: &[TrainedTensor]) -> Result<(), Error> {
    let announced = tensors.iter().map(|t| (t.name.clone(), Dtype::F32, t.shape.clone()));
    let mut writer = Writer::create(path, announced, &IndexMap::new(), None)?;
    for t in tensors {
        writer.append(&t.name, bytemuck::cast_slice(&t.data))?;
    }
    writer.finish()?;
    Ok(())
}

/// Reads trained tensors into those of a model, all of them.
///
/// # Errors
/// [`Error::Run`] when one is missing or of another shape.
pub fn read_tensors(path: &Path, tensors: &mut [TrainedTensor]) -> Result<(), Error> {
    let file = Safetensors::open(path)?;
    for t in tensors {
        let hint = "resume with the settings that the run began with";
        let entry = file.entry(&t.name).filter(|e| e.shape == t.shape && e.dtype == Dtype::F32);
        if entry.is_none() {
            return Err(Error::run(path, format!("no tensor {} of shape {:?}", t.name, t.shape), hint));
        }
        read_f32(&file.bytes(&t.name)?, &mut t.data);
    }
    Ok(())
}

fn read_f32(bytes: &[u8], out: &mut [f32]) {
    let (numbers, _) = bytes.as_chunks::<4>();
    out.iter_mut().zip(numbers).for_each(|(o, b)| *o = f32::from_le_bytes(*b));
}

/// Takes up a checkpoint.
///
/// # Errors
/// [`Error::Run`] when it is of another run, [`Error::Formats`] when it is damaged.
pub fn load(
    path: &Path,
    identity: &str,
    tensors: &mut [TrainedTensor],
    optimizer: &mut Optimizer,
) -> Result<Progress, Error> {
    let state = path.join(STATE);
    let text = fs::read(&state).map_err(Error::io(&state))?;
    let hint = "remove the folder and resume from an earlier checkpoint";
    let progress: Progress = serde_json::from_slice(&text).map_err(|e| Error::run(&state, e.to_string(), hint))?;
    if progress.identity != identity {
        return Err(Error::run(
            path,
            "the checkpoint is of a run with other settings, data or base model",
            "resume with what the run began with, or begin anew in another folder",
        ));
    }
    read_tensors(&path.join(TENSORS), tensors)?;
    let file = Safetensors::open(path.join(OPTIMIZER))?;
    optimizer.restore(progress.step as u64, |name| {
        let (dtype, bytes) = (file.entry(name)?.dtype, file.bytes(name).ok()?);
        match dtype {
            Dtype::F32 => {
                let mut values = vec![0.0; bytes.len() / 4];
                read_f32(&bytes, &mut values);
                Some(State::F32(values))
            }
            Dtype::U8 => Some(State::U8(bytes.to_vec())),
            _ => None,
        }
    })?;
    Ok(progress)
}

/// Writes a file that is complete or as before.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.partial"));
    write_synced(&partial, bytes)?;
    fs::rename(&partial, path).map_err(Error::io(path))?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    use std::io::Write;
    let mut file = File::create(path).map_err(Error::io(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io(path))
}

fn sync_folder(folder: &Path) -> Result<(), Error> {
    if cfg!(unix) {
        File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io(folder))?;
    }
    Ok(())
}
