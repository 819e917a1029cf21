//! Optimizers: from gradients to the next weights. Every element (in Muon every matrix) is computed by itself in one
//! fixed order, so that the result does not depend on the number of threads.

mod adafactor;
mod adamw;
mod adamw8;
mod clip;
mod muon;
mod schedule;
mod sgd;

pub use clip::{global_norm, scale};
pub use schedule::{Decay, Schedule, Shape};

use crate::Error;
use allod_kernels::pool::Pool;
use serde::{Deserialize, Serialize};
use std::sync::{Mutex, PoisonError};

/// Elements that one task works on.
const CHUNK: usize = 1 << 14;

/// A trained tensor and its gradient.
#[derive(Debug)]
pub struct Parameter<'a> {
    /// Its name, as in checkpoints.
    pub name: &'a str,
    /// Outermost first.
    pub shape: &'a [usize],
    /// The weights.
    pub data: &'a mut [f32],
    /// The gradient of the loss.
    pub grad: &'a mut [f32],
}

/// How a tensor is treated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Times the learning rate.
    pub rate: f64,
    /// Decay times the learning rate is taken off the weights.
    pub weight_decay: f64,
    /// A matrix between hidden states, which Muon orthogonalizes; others get AdamW there.
    pub hidden_matrix: bool,
}

/// An optimizer and its constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Kind {
    /// AdamW (Loshchilov and Hutter 2019), state in 32 bits.
    Adamw(Adam),
    /// AdamW with state in 8 bits (Dettmers et al. 2022).
    Adamw8bit(Adam),
    /// Adafactor (Shazeer and Stern 2018) with a given learning rate: one number of state per row and column.
    Adafactor,
    /// Muon (Jordan et al. 2024) for matrices between hidden states, AdamW for the rest.
    Muon(Muon),
    /// Gradient descent, with momentum.
    Sgd(Sgd),
}

/// Constants of AdamW.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adam {
    /// Decay of the mean.
    pub beta1: f64,
    /// Decay of the mean square.
    pub beta2: f64,
    /// Added to the root.
    pub eps: f64,
}

impl Default for Adam {
    fn default() -> Adam {
        Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 }
    }
}

/// Constants of Muon.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Muon {
    /// Decay of the mean.
    pub momentum: f64,
    /// The gradient once more after the mean.
    pub nesterov: bool,
    /// Newton-Schulz steps.
    pub steps: usize,
    /// The rate is times 0.2 √(larger side), so that updates are as large as AdamW's and its rates fit; else it is times
    /// √(max(1, rows / columns)).
    pub match_rms: bool,
    /// For what is not a matrix between hidden states.
    pub adam: Adam,
    /// Times the learning rate there.
    pub adam_rate: f64,
}

impl Default for Muon {
    fn default() -> Muon {
        Muon { momentum: 0.95, nesterov: true, steps: 5, match_rms: false, adam: Adam::default(), adam_rate: 1.0 }
    }
}

/// Constants of gradient descent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sgd {
    /// Decay of the mean.
    pub momentum: f64,
    /// The gradient once more after the mean.
    pub nesterov: bool,
}

/// State of an optimizer as tensors.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Numbers.
    F32(Vec<f32>),
    /// Codes.
    U8(Vec<u8>),
}

impl State {
    fn f32(&mut self) -> &mut [f32] {
        match self {
            State::F32(v) => v,
            State::U8(_) => &mut [],
        }
    }
}

/// What an optimizer remembers of a tensor, by name.
pub(crate) type Slot = Vec<(&'static str, State)>;

/// An optimizer at work.
#[derive(Debug)]
pub struct Optimizer {
    kind: Kind,
    groups: Vec<Group>,
    slots: Vec<Slot>,
    names: Vec<String>,
    steps: u64,
}

impl Optimizer {
    /// An optimizer for tensors of these names and shapes.
    pub fn new(kind: Kind, parameters: &[(String, Vec<usize>)], groups: Vec<Group>) -> Optimizer {
        let slot = |((_, shape), group): (&(String, Vec<usize>), &Group)| match kind {
            Kind::Adamw(_) => adamw::slot(shape),
            Kind::Adamw8bit(_) => adamw8::slot(shape),
            Kind::Adafactor => adafactor::slot(shape),
            Kind::Muon(_) if group.hidden_matrix && shape.len() == 2 => muon::slot(shape),
            Kind::Muon(_) => adamw::slot(shape),
            Kind::Sgd(sgd) => sgd::slot(sgd, shape),
        };
        let slots = parameters.iter().zip(&groups).map(slot).collect();
        let names = parameters.iter().map(|p| p.0.clone()).collect();
        Optimizer { kind, groups, slots, names, steps: 0 }
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Takes a step. `parameters` are those it was made for, in the same order.
    pub fn step(&mut self, parameters: &mut [Parameter<'_>], learning_rate: f64, pool: &Pool) {
        self.steps += 1;
        let t = self.steps;
        for ((p, group), slot) in parameters.iter_mut().zip(&self.groups).zip(&mut self.slots) {
            let mut rate = Rate { rate: learning_rate * group.rate, weight_decay: group.weight_decay, t };
            match self.kind {
                Kind::Adamw(adam) => adamw::step(&adam, p, slot, rate, pool),
                Kind::Adamw8bit(adam) => adamw8::step(&adam, p, slot, rate, pool),
                Kind::Adafactor => adafactor::step(p, slot, rate),
                Kind::Muon(muon) if group.hidden_matrix && p.shape.len() == 2 => muon::step(&muon, p, slot, rate, pool),
                Kind::Muon(muon) => {
                    rate.rate *= muon.adam_rate;
                    adamw::step(&muon.adam, p, slot, rate, pool);
                }
                Kind::Sgd(sgd) => sgd::step(sgd, p, slot, rate),
            }
        }
    }

    /// What it remembers, under `<tensor>.<name>`.
    pub fn state(&self) -> impl Iterator<Item = (String, &State)> {
        let named = self.names.iter().zip(&self.slots);
        named.flat_map(|(name, slot)| slot.iter().map(move |(kind, state)| (format!("{name}.{kind}"), state)))
    }

    /// Takes up what [`Optimizer::state`] gave after `steps` steps.
    ///
    /// # Errors
    /// A message that names what is missing or of another size.
    pub fn restore(&mut self, steps: u64, mut find: impl FnMut(&str) -> Option<State>) -> Result<(), Error> {
        for (name, slot) in self.names.iter().zip(&mut self.slots) {
            for (kind, state) in slot {
                let name = format!("{name}.{kind}");
                let found = find(&name);
                let same = match (&*state, &found) {
                    (State::F32(a), Some(State::F32(b))) => a.len() == b.len(),
                    (State::U8(a), Some(State::U8(b))) => a.len() == b.len(),
                    _ => false,
                };
                *state = found.filter(|_| same).ok_or_else(|| {
                    let message = format!("the checkpoint's optimizer has no fitting {name}");
                    Error::setting("optimizer", message, "resume with the optimizer that the run began with")
                })?;
            }
        }
        self.steps = steps;
        Ok(())
    }
}

/// A step's numbers for one tensor.
#[derive(Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) rate: f64,
    pub(crate) weight_decay: f64,
    /// From 1.
    pub(crate) t: u64,
}

impl Rate {
    /// What the weights are multiplied by first.
    fn keep(self) -> f32 {
        (1.0 - self.rate * self.weight_decay) as f32
    }
}

/// Does every job, on as many threads as there are.
pub(crate) fn each<J: Send>(pool: &Pool, jobs: Vec<J>, work: impl Fn(J) + Sync) {
    let jobs: Vec<Mutex<Option<J>>> = jobs.into_iter().map(|j| Mutex::new(Some(j))).collect();
    pool.run(jobs.len(), |i| {
        if let Some(job) = jobs[i].lock().unwrap_or_else(PoisonError::into_inner).take() {
            work(job);
        }
    });
}
