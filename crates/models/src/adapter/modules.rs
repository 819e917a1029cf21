//! Adapters under the names and in the layout of Transformers' modules: the way back of [`super::open`].

use super::numbers;
use crate::{
    Error,
    convert::folder_name,
    hf::{Fix, back},
};
use allod_formats::WeightSource;
use allod_plan::{Delta, Lora};
use allod_tensor::Tensor;
use std::collections::BTreeMap;

/// An adapter of one module, as PEFT stores it.
pub struct Module {
    /// `A`, `[rank × in]`
    pub a: Vec<f32>,
    /// `B`, `[out × rank]`
    pub b: Vec<f32>,
    /// `m`, `[out]`
    pub magnitude: Option<Vec<f32>>,
    /// Rows of `A`.
    pub rank: usize,
}

/// A weight of the base that was trained whole, by its module's name and in its layout there.
///
/// # Errors
/// As [`modules`].
pub fn whole(base: &dyn WeightSource, name: &str, values: &[f32]) -> Result<(String, Vec<usize>, Vec<f32>), Error> {
    let back = back(base)?;
    let (module, fix) = folder_name(&back, name).ok_or_else(|| Error::UnknownTensor {
        origin: base.origin(),
        name: name.to_owned(),
        arch: back.arch.gguf,
    })?;
    let shape = base.info(name).map_or_else(|| vec![values.len()], |info| info.shape);
    let t = fix.undo(Tensor::from_f32(shape, values), back.heads)?;
    Ok((module, t.shape.clone(), numbers(name, &t)?))
}

/// The names of all modules of the base that multiply by a matrix of their own, by Transformers' names.
///
/// # Errors
/// As [`modules`].
pub fn module_names(base: &dyn WeightSource) -> Result<Vec<String>, Error> {
    let back = back(base)?;
    let names = base.names().into_iter().filter(|n| base.info(n).is_some_and(|i| i.shape.len() == 2));
    let named = names.filter_map(|name| Some(folder_name(&back, &name)?.0.strip_suffix(".weight")?.to_owned()));
    Ok(named.collect())
}

/// The modules that `adapter` changes, by name (`model.layers.0.self_attn.q_proj`).
///
/// # Errors
/// [`Error::NoWayBack`] for a base that Transformers cannot describe, [`Error::Layout`] for weights that are parts of a
/// module there.
pub fn modules(base: &dyn WeightSource, adapter: &Lora) -> Result<BTreeMap<String, Module>, Error> {
    let back = back(base)?;
    let mut out = BTreeMap::new();
    for (name, delta) in &adapter.deltas {
        let (module, fix) = folder_name(&back, name).ok_or_else(|| Error::UnknownTensor {
            origin: base.origin(),
            name: name.clone(),
            arch: back.arch.gguf,
        })?;
        if module.contains("{e}") {
            let hint = "experts have no adapters of this form in Transformers; write a GGUF adapter or merge";
            return Err(Error::Layout(format!("{name}: {hint}")));
        }
        let Delta { rank, a, b, magnitude, .. } = delta;
        let mut a = Tensor::from_f32(vec![*rank, a.len() / rank.max(&1)], a);
        let mut b = Tensor::from_f32(vec![b.len() / rank.max(&1), *rank], b);
        let mut m = magnitude.as_ref().map(|m| Tensor::from_f32(vec![m.len()], m));
        let one = [fix];
        let steps: Vec<Fix> = if let Fix::Then(all) = fix { all.iter().rev().copied().collect() } else { one.to_vec() };
        for step in steps {
            match step {
                // PEFT keeps both matrices of a transposed module as those of any other.
                Fix::None | Fix::Transpose => {}
                Fix::InterleaveQ | Fix::InterleaveK | Fix::TileRows | Fix::TileValues | Fix::QkvByHead => {
                    b = step.undo(b, back.heads)?;
                    m = m.map(|m| step.undo(m, back.heads)).transpose()?;
                }
                Fix::TileColumns => a = step.undo(a, back.heads)?,
                _ => {
                    let hint = "it is a part of a larger module in Transformers; write a GGUF adapter or merge";
                    return Err(Error::Layout(format!("{name}: {hint}")));
                }
            }
        }
        let module = module.strip_suffix(".weight").unwrap_or(&module).to_owned();
        let magnitude = m.map(|m| numbers(name, &m)).transpose()?;
        let (a, b) = (numbers(name, &a)?, numbers(name, &b)?);
        out.insert(module, Module { a, b, magnitude, rank: *rank });
    }
    Ok(out)
}
