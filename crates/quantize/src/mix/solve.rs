//! The mix of least loss for a size.

use super::{Sensitivity, TYPES, kept};
use crate::{
    imatrix::Imatrix,
    recipe::{self, Choice, Role},
    run::{Error, sampled_error},
};
use allod_formats::{TensorInfo, WeightSource};
use allod_kernels::pool::Pool;
use allod_tensor::{DType, Tensor};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// Rows of a matrix that are tried.
const SAMPLE: usize = 48;
/// The output matrix works on the logits themselves, behind which no norm evens things out.
const OUTPUT_WEIGHT: f64 = 4.0;

/// Types for rows that blocks of 256 do not divide.
const SMALL_BLOCKS: &[DType] = &[DType::Q4_0, DType::IQ4_NL, DType::Q4_1, DType::Q5_0, DType::Q5_1];

/// What a mix should keep to.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// Types that are not up for choice, by tensor.
    pub fixed: BTreeMap<String, DType>,
    /// What noise in each matrix does to the logits; without it, all matrices count alike but for the output matrix.
    pub sensitivity: Option<Sensitivity>,
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
    wishes: &Wishes,
    pool: &Pool,
) -> Result<Vec<Choice>, Error> {
    let mut choices = kept(source);
    for c in &mut choices {
        c.to = wishes.fixed.get(&c.name).copied().unwrap_or(c.to);
    }
    let infos: Vec<Option<TensorInfo>> = choices.iter().map(|c| source.info(&c.name)).collect();
    let is_free =
        |c: &Choice, info: &TensorInfo| recipe::is_quantizable(&c.name, info) && !wishes.fixed.contains_key(&c.name);
    let free: Vec<usize> =
        (0..choices.len()).filter(|&i| infos[i].as_ref().is_some_and(|info| is_free(&choices[i], info))).collect();
    let size = |i: usize, t: DType| infos[i].as_ref().and_then(|i| Tensor::bytes_of(t, &i.shape)).unwrap_or(0) as u64;
    let fixed: u64 = (0..choices.len()).filter(|i| !free.contains(i)).map(|i| size(i, choices[i].to)).sum();
    let weights = weights(&choices, wishes.sensitivity.as_ref());
    let items = measure(source, imatrix, &choices, &free, &weights, pool)?;
    for (item, at) in items.iter().zip(knapsack(&items, bytes.saturating_sub(fixed))) {
        choices[item.index].to = item.options[at].0;
    }
    Ok(choices)
}

/// What a unit of loss weighs in every tensor.
fn weights(choices: &[Choice], sensitivity: Option<&Sensitivity>) -> Vec<f64> {
    let tied = choices.iter().all(|c| c.name != "output.weight");
    let by_role = |name: &str| {
        let role = Role::of(name);
        if role == Role::Output || tied && role == Role::Embedding { OUTPUT_WEIGHT } else { 1.0 }
    };
    match sensitivity {
        None => choices.iter().map(|c| by_role(&c.name)).collect(),
        Some(s) => choices.iter().map(|c| s.of(&c.name)).collect(),
    }
}

/// Tries every type on every matrix.
fn measure(
    source: &dyn WeightSource,
    imatrix: Option<&Imatrix>,
    choices: &[Choice],
    free: &[usize],
    weights: &[f64],
    pool: &Pool,
) -> Result<Vec<Item>, Error> {
    let slots: Vec<Mutex<Option<Result<Item, Error>>>> = free.iter().map(|_| Mutex::new(None)).collect();
    pool.run(free.len(), |i| {
        let index = free[i];
        let item = options(source, imatrix, &choices[index].name, weights[index]);
        let item = item.map(|options| Item { index, options });
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
    for &t in TYPES.iter().chain(SMALL_BLOCKS).filter(|t| tensor.columns().is_multiple_of(t.block())) {
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
