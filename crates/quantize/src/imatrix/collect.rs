//! Collecting statistics: a text goes through a model, and every matrix tells what it was multiplied with.

use super::{Entry, Imatrix};
use allod_cpu::{Cpu, Inputs, Pool, Reach};
use allod_eval::{Error as ScoreError, Progress, Scorer, Windows};
use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
};

/// Why collecting ended early.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The model could not run the text, or the caller asked to stop.
    #[error(transparent)]
    Score(#[from] ScoreError),
    /// A matrix was multiplied with something that is no number.
    #[error(
        "the inputs of {name} are not finite: the model overflows on this text, and its statistics would say nothing"
    )]
    NotFinite {
        /// The matrix.
        name: String,
    },
}

/// Sums over one chunk of text, in f64.
#[derive(Default)]
struct Sums {
    entries: BTreeMap<String, (Vec<f64>, Vec<f64>)>,
    /// Also matrices outside the layers.
    output: bool,
}

impl Sums {
    fn see(&mut self, inputs: &Inputs<'_>) {
        let wanted: Vec<&str> =
            inputs.weights.iter().copied().filter(|n| self.output || n.starts_with("blk.")).collect();
        let Some((first, others)) = wanted.split_first() else { return };
        let (columns, rows) = (inputs.columns, inputs.rows.chunks_exact(inputs.columns));
        if rows.len() == 0 {
            return;
        }
        // Heads are computed for every token alike and share a count.
        let (matrices, counts) = match inputs.reach {
            Reach::One => (1, 1),
            Reach::Heads(n) => (n, 1),
            Reach::Experts { count, .. } => (count, count),
        };
        let mut part = (vec![0f64; matrices * columns], vec![0f64; counts]);
        let mut add = |matrix: usize, row: &[f32], factor: f32| {
            let sums = &mut part.0[matrix * columns..(matrix + 1) * columns];
            for (sum, v) in sums.iter_mut().zip(row) {
                let v = f64::from(v * factor);
                *sum += v * v;
            }
            part.1[if counts == 1 { 0 } else { matrix }] += if counts == 1 { 1.0 / matrices as f64 } else { 1.0 };
        };
        let share = rows.len();
        for (i, row) in rows.enumerate() {
            match inputs.reach {
                Reach::One => add(0, row, 1.0),
                Reach::Heads(n) => add(i % n, row, 1.0),
                Reach::Experts { chosen, factors, .. } => {
                    let top = chosen.len() / share;
                    for slot in i * top..(i + 1) * top {
                        add(chosen[slot] as usize, row, factors.map_or(1.0, |f| f[slot]));
                    }
                }
            }
        }
        for name in others {
            self.fold(name, &part);
        }
        self.fold(first, &part);
    }

    fn fold(&mut self, name: &str, part: &(Vec<f64>, Vec<f64>)) {
        match self.entries.get_mut(name) {
            None => drop(self.entries.insert(name.into(), part.clone())),
            Some(sums) => {
                sums.0.iter_mut().zip(&part.0).for_each(|(a, b)| *a += b);
                sums.1.iter_mut().zip(&part.1).for_each(|(a, b)| *a += b);
            }
        }
    }

    /// Adds a chunk to the statistics and forgets it. A chunk's sums are rounded once: statistics that are saved between
    /// two chunks and taken up again are the same as if nothing had been in between.
    fn flush(&mut self, into: &mut Imatrix) -> Result<(), CollectError> {
        for (name, (sums, counts)) in std::mem::take(&mut self.entries) {
            let rounded = |v: &[f64]| v.iter().map(|&v| v as f32).collect::<Vec<f32>>();
            let part = Entry { sums: rounded(&sums), counts: rounded(&counts) };
            if part.sums.iter().any(|v| !v.is_finite()) {
                return Err(CollectError::NotFinite { name });
            }
            match into.entries.get_mut(&name) {
                None => drop(into.entries.insert(name, part)),
                Some(entry) => entry.add(&part),
            }
        }
        into.chunks += 1;
        Ok(())
    }
}

/// What to collect from.
#[derive(Clone, Copy, Debug)]
pub struct Collect<'a> {
    /// Ids of a text.
    pub tokens: &'a [u32],
    /// How it is cut.
    pub windows: &'a Windows,
    /// The first window to run: those before it are in the statistics already.
    pub first: usize,
    /// Also matrices outside the layers, such as the output matrix.
    pub output: bool,
}

/// Runs a text and adds what it tells to `into`. After each window, `progress` gets the statistics so far, which it may
/// save, and says whether to go on.
///
/// # Errors
/// [`CollectError`].
pub fn collect(
    cpu: &mut Cpu,
    pool: &Pool,
    what: &Collect<'_>,
    into: &mut Imatrix,
    progress: &mut dyn FnMut(Progress, &Imatrix) -> ControlFlow<()>,
) -> Result<(), CollectError> {
    let &Collect { tokens, windows, first, output } = what;
    let sums = Arc::new(Mutex::new(Sums { output, ..Sums::default() }));
    let seen = Arc::clone(&sums);
    cpu.observe(Some(Box::new(move |inputs| seen.lock().unwrap_or_else(PoisonError::into_inner).see(inputs))));
    let mut failed = Ok(());
    let done = windows.each(Scorer::new(cpu, pool), tokens, first, output, &mut |p| {
        failed = sums.lock().unwrap_or_else(PoisonError::into_inner).flush(into);
        if failed.is_err() { ControlFlow::Break(()) } else { progress(p, into) }
    });
    cpu.observe(None);
    failed?;
    Ok(done?)
}
