//! Mixes: the types that lose least for a size, and files that hold such a choice.
//!
//! Every matrix is tried in every type on a sample of its rows; what it loses is the part of its output's power that
//! turns into noise, weighted by importance where there are statistics. The noise of a network's matrices adds up, so
//! the best mix for a size is a knapsack: Lagrange's multiplier finds the types at which one more byte is worth the
//! same everywhere, and what is then left of the size goes to the greatest gains that fit.

use crate::{
    imatrix::Imatrix,
    recipe::{self, Choice, Role},
    run::{Error, sampled_error},
};
use allod_formats::{TensorInfo, WeightSource};
use allod_kernels::pool::Pool;
use allod_tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// The types that a mix is made of, smallest first.
pub const TYPES: &[DType] = &[
    DType::IQ2_XXS,
    DType::IQ2_S,
    DType::Q2_K,
    DType::IQ3_XXS,
    DType::Q3_K,
    DType::IQ3_S,
    DType::IQ4_XS,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
    DType::Q8_0,
];

/// Rows of a matrix that are tried.
const SAMPLE: usize = 48;
/// The output matrix works on the logits themselves, behind which no norm evens things out.
const OUTPUT_WEIGHT: f64 = 4.0;

/// A choice for every tensor, to be kept in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mix {
    /// What it is called; goes into the files made with it.
    pub name: String,
    /// Types of tensors by name. Tensors that are not here keep their type.
    pub tensors: BTreeMap<String, String>,
}

/// A mix that names types that do not exist.
#[derive(Debug, thiserror::Error)]
pub enum MixError {
    /// No JSON, or not of this form.
    #[error("not a mix: {0}")]
    Json(#[from] serde_json::Error),
    /// No such type.
    #[error("tensor {tensor:?}: there is no type {found:?}")]
    Type {
        /// The tensor.
        tensor: String,
        /// What stands there.
        found: String,
    },
    /// A tensor that the model lacks.
    #[error("{origin} has no tensor {tensor:?}: the mix was made for another model")]
    Tensor {
        /// The model.
        origin: String,
        /// The tensor.
        tensor: String,
    },
}

impl Mix {
    /// The mix that choices amount to.
    pub fn of(name: &str, choices: &[Choice]) -> Mix {
        let changed = choices.iter().filter(|c| c.from != c.to);
        Mix { name: name.into(), tensors: changed.map(|c| (c.name.clone(), c.to.name().to_owned())).collect() }
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// [`MixError::Json`].
    pub fn from_json(text: &str) -> Result<Mix, MixError> {
        Ok(serde_json::from_str(text)?)
    }

    /// JSON to be read and edited.
    ///
    /// # Errors
    /// [`MixError::Json`].
    pub fn to_json(&self) -> Result<String, MixError> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// The choices for a model.
    ///
    /// # Errors
    /// [`MixError`] for types and tensors that do not exist.
    pub fn choices(&self, source: &dyn WeightSource) -> Result<Vec<Choice>, MixError> {
        if let Some(tensor) = self.tensors.keys().find(|n| source.info(n).is_none()) {
            return Err(MixError::Tensor { origin: source.origin(), tensor: tensor.clone() });
        }
        let mut choices = kept(source);
        for c in &mut choices {
            let Some(found) = self.tensors.get(&c.name) else { continue };
            let unknown = || MixError::Type { tensor: c.name.clone(), found: found.clone() };
            c.to = DType::from_name(found).filter(|t| crate::encode::is_writable(*t)).ok_or_else(unknown)?;
        }
        Ok(choices)
    }
}

/// Every tensor as it is, in the order of files.
fn kept(source: &dyn WeightSource) -> Vec<Choice> {
    let tensors = recipe::in_order(recipe::tensors_of(source)).into_iter();
    tensors.map(|(name, i)| Choice { name, from: i.dtype, to: i.dtype, instead_of: None }).collect()
}

/// What a tensor may become.
struct Item {
    /// Its place among the choices.
    index: usize,
    /// Type, bytes and loss; smallest first, each larger one better.
    options: Vec<(DType, u64, f64)>,
}

/// The choices of least loss whose tensors take at most `bytes`; the smallest there are when even they take more.
///
/// # Errors
/// [`Error`] when tensors cannot be read or hold values that cannot be encoded.
pub fn solve(
    source: &dyn WeightSource,
    imatrix: Option<&Imatrix>,
    bytes: u64,
    pool: &Pool,
) -> Result<Vec<Choice>, Error> {
    let mut choices = kept(source);
    let infos: Vec<Option<TensorInfo>> = choices.iter().map(|c| source.info(&c.name)).collect();
    let free: Vec<usize> = (0..choices.len())
        .filter(|&i| infos[i].as_ref().is_some_and(|info| recipe::is_quantizable(&choices[i].name, info)))
        .collect();
    let size = |i: usize, t: DType| infos[i].as_ref().and_then(|i| Tensor::bytes_of(t, &i.shape)).unwrap_or(0) as u64;
    let fixed: u64 = (0..choices.len()).filter(|i| !free.contains(i)).map(|i| size(i, choices[i].from)).sum();
    let items = measure(source, imatrix, &choices, &free, pool)?;
    for (item, at) in items.iter().zip(knapsack(&items, bytes.saturating_sub(fixed))) {
        choices[item.index].to = item.options[at].0;
    }
    Ok(choices)
}

/// Tries every type on every matrix.
fn measure(
    source: &dyn WeightSource,
    imatrix: Option<&Imatrix>,
    choices: &[Choice],
    free: &[usize],
    pool: &Pool,
) -> Result<Vec<Item>, Error> {
    let tied = choices.iter().all(|c| c.name != "output.weight");
    let slots: Vec<Mutex<Option<Result<Item, Error>>>> = free.iter().map(|_| Mutex::new(None)).collect();
    pool.run(free.len(), |i| {
        let name = &choices[free[i]].name;
        let role = Role::of(name);
        let logits = role == Role::Output || tied && role == Role::Embedding;
        let item = options(source, imatrix, name, if logits { OUTPUT_WEIGHT } else { 1.0 });
        let item = item.map(|options| Item { index: free[i], options });
        *slots[i].lock().unwrap_or_else(PoisonError::into_inner) = Some(item);
    });
    slots.into_iter().filter_map(|s| s.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
}

fn options(
    source: &dyn WeightSource,
    imatrix: Option<&Imatrix>,
    name: &str,
    weight: f64,
) -> Result<Vec<(DType, u64, f64)>, Error> {
    let tensor = source.tensor(name)?;
    let info = TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone() };
    let importance = imatrix.map(|m| m.weights(name, &info)).transpose()?.flatten();
    let mut options: Vec<(DType, u64, f64)> = Vec::new();
    let keep = (tensor.dtype, tensor.data.len() as u64, 0.0);
    for &t in TYPES.iter().chain(&[DType::Q4_0, DType::Q5_0]).filter(|t| tensor.columns().is_multiple_of(t.block())) {
        let Some(bytes) = Tensor::bytes_of(t, &tensor.shape) else { continue };
        if bytes as u64 >= keep.1 {
            continue;
        }
        let loss = sampled_error(&source.origin(), name, &tensor, t, importance.clone(), SAMPLE)?;
        options.push((t, bytes as u64, weight * loss));
    }
    options.push(keep);
    options.sort_by(|a, b| a.1.cmp(&b.1).then(a.2.total_cmp(&b.2)));
    // What costs more must lose less.
    let mut least = f64::INFINITY;
    options.retain(|o| {
        let better = o.2 < least;
        least = least.min(o.2);
        better
    });
    Ok(options)
}

/// For every item the number of an option, so that the sizes fit into `room` and the losses' sum is small.
fn knapsack(items: &[Item], room: u64) -> Vec<usize> {
    let at = |price: f64| -> Vec<usize> {
        let cost = |o: &(DType, u64, f64)| o.2 + price * o.1 as f64;
        let cheapest =
            |i: &Item| (0..i.options.len()).min_by(|&a, &b| cost(&i.options[a]).total_cmp(&cost(&i.options[b])));
        items.iter().map(|i| cheapest(i).unwrap_or(0)).collect()
    };
    let size = |chosen: &[usize]| items.iter().zip(chosen).map(|(i, &o)| i.options[o].1).sum::<u64>();
    // Prices of a byte between nothing and all that could be lost.
    let (mut low, mut high) = (-60.0, 10.0);
    for _ in 0..80 {
        let middle: f64 = (low + high) / 2.0;
        if size(&at(middle.exp2())) > room { low = middle } else { high = middle }
    }
    let mut chosen = at(f64::exp2(high));
    let mut left = room.saturating_sub(size(&chosen));
    while let Some((i, o)) = best_step(items, &chosen, left) {
        left -= items[i].options[o].1 - items[i].options[chosen[i]].1;
        chosen[i] = o;
    }
    chosen
}

/// The exchange that gains most for its bytes, among those that fit.
fn best_step(items: &[Item], chosen: &[usize], left: u64) -> Option<(usize, usize)> {
    let steps = items.iter().enumerate().flat_map(|(i, item)| {
        let now = item.options[chosen[i]];
        let larger = item.options.iter().enumerate().skip(chosen[i] + 1);
        larger.filter(move |(_, o)| o.1 - now.1 <= left).map(move |(o, to)| {
            let gain = (now.2 - to.2) / (to.1 - now.1).max(1) as f64;
            (gain, i, o)
        })
    });
    steps.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, i, o)| (i, o))
}
