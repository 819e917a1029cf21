//! Adapters under the names and in the layout of Transformers' modules: the way back of [`super::open`].

use super::{
    numbers,
    stacks::{Part, WRAPPER, fused, parameters},
};
use crate::{
    Error,
    convert::{folder_name, folder_names},
    hf::{Back, Fix, back},
};
use allod_formats::WeightSource;
use allod_plan::{Delta, Lora};
use allod_tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};

/// An adapter of one weight, as PEFT stores it.
pub struct Module {
    /// What PEFT calls the module that holds `A` and `B`.
    pub path: String,
    /// `A`, `[rank × in]`; of a stack of experts `[experts · rank × in]`.
    pub a: Vec<f32>,
    /// `B`, `[out × rank]`; of a stack of experts `[out × rank · experts]`.
    pub b: Vec<f32>,
    /// `m`, `[out]`
    pub magnitude: Option<Vec<f32>>,
    /// Rows of `A`, of one expert.
    pub rank: usize,
    /// Of a stack: how many.
    pub experts: Option<usize>,
    /// Whether PEFT is to be told of the parameter (`target_parameters`) and not of the module.
    pub is_parameter: bool,
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

/// The names of all weights of the base that [`modules`] may name.
///
/// # Errors
/// As [`modules`].
pub fn module_names(base: &dyn WeightSource) -> Result<Vec<String>, Error> {
    let back = back(base)?;
    let named = base.names().into_iter().filter_map(|name| match base.info(&name)?.shape.len() {
        2 => Some(module(&back, &name)?.0),
        3 => Some(parameter(&back, &name)?.0),
        _ => None,
    });
    Ok(named.collect::<BTreeSet<_>>().into_iter().collect())
}

/// Routers that are called otherwise in files than in Transformers' classes.
const ROUTERS: &[(&str, &str)] =
    &[(".block_sparse_moe.gate", ".mlp.gate"), (".block_sparse_moe.router.layer", ".block_sparse_moe.router")];

/// The module whose weight a matrix is, and what was done to its layout.
fn module(back: &Back, name: &str) -> Option<(String, Fix)> {
    let (full, fix) = folder_name(back, name)?;
    let module = full.strip_suffix(".weight")?;
    let router = ROUTERS.iter().find_map(|(file, class)| Some(format!("{}{class}", module.strip_suffix(file)?)));
    Some((router.unwrap_or_else(|| module.to_owned()), fix))
}

/// The parameter of Transformers' class that holds a stack, and what was done to its layout.
fn parameter(back: &Back, name: &str) -> Option<(String, Fix)> {
    folder_names(back, name).find(|(hf, _)| !hf.contains("{e}") && !hf.ends_with(".weight"))
}

/// The weights that `adapter` changes: matrices by the names of their modules (`model.layers.0.self_attn.q_proj`), stacks
/// of experts by those of their parameters (`model.layers.0.mlp.experts.down_proj`).
///
/// # Errors
/// [`Error::NoWayBack`] for a base that Transformers cannot describe; [`Error::Layout`] for weights that are parts of a
/// module there, for experts that are no parameters there, and for DoRA beside experts; [`Error::Adapter`] for matrices
/// that do not fit a stack.
pub fn modules(base: &dyn WeightSource, adapter: &Lora) -> Result<BTreeMap<String, Module>, Error> {
    let back = back(base)?;
    let mut stacks: BTreeMap<String, Vec<Part<'_>>> = BTreeMap::new();
    for name in base.names() {
        let Some(&[experts, rows, columns]) = base.info(&name).as_ref().map(|i| &i.shape[..]) else { continue };
        let Some((parameter, fix)) = parameter(&back, &name) else { continue };
        let (shape, delta) = ([experts, rows, columns], adapter.deltas.get(&name));
        stacks.entry(parameter).or_default().push(Part { name, fix, shape, delta });
    }
    let in_stack = |name: &String| stacks.values().flatten().any(|part| part.name == *name);
    let mut out = BTreeMap::new();
    for (name, delta) in adapter.deltas.iter().filter(|(name, _)| !in_stack(name)) {
        let (module, mut one) = matrix(&back, base, name, delta)?;
        // Beside experts PEFT takes some names of modules for those of experts, and routers are no linear modules.
        let is_taken = name.contains(".ffn_") || module.ends_with(".gate_proj");
        one.is_parameter = !stacks.is_empty() && is_taken && delta.magnitude.is_none();
        out.insert(module, one);
    }
    stacks.retain(|_, parts| parts.iter().any(|p| p.delta.is_some()));
    let is_dora = adapter.deltas.values().any(|d| d.magnitude.is_some());
    for (name, parts) in &stacks {
        if is_dora {
            let hint = "PEFT has no DoRA in adapters that change experts; train LoRA alone, or merge";
            return Err(Error::Layout(format!("{name}: {hint}")));
        }
        let owner = name.rsplit_once('.').map_or(name.as_str(), |(owner, _)| owner);
        let declared = parameters(back.arch, owner);
        let outer = declared.iter().rev().take_while(|p| *p != name).filter(|p| stacks.contains_key(*p)).count();
        let (rank, a, b) = fused(back.arch, parts, back.heads)?;
        let path = format!("{owner}{}", WRAPPER.repeat(outer));
        let experts = parts.first().map(|p| p.shape[0]);
        out.insert(name.clone(), Module { path, a, b, magnitude: None, rank, experts, is_parameter: true });
    }
    Ok(out)
}

/// The module that the matrix `name` is, and its change there.
fn matrix(back: &Back, base: &dyn WeightSource, name: &str, delta: &Delta) -> Result<(String, Module), Error> {
    let (module, fix) = module(back, name).ok_or_else(|| Error::UnknownTensor {
        origin: base.origin(),
        name: name.to_owned(),
        arch: back.arch.gguf,
    })?;
    if module.contains("{e}") {
        let hint = "experts are no parameters of Transformers' class; write a GGUF adapter or merge";
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
    let magnitude = m.map(|m| numbers(name, &m)).transpose()?;
    let (path, a, b) = (module.clone(), numbers(name, &a)?, numbers(name, &b)?);
    Ok((module, Module { path, a, b, magnitude, rank: *rank, experts: None, is_parameter: false }))
}
