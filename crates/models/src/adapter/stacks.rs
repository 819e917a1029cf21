//! Adapters of stacks of experts, which Transformers keeps as parameters of three axes and PEFT changes through
//! `target_parameters`: the rows of `A` are `[expert, rank]`, the columns of `B` `[rank, expert]`. Gate and up are one
//! parameter there.

use super::{matched, numbers, transposed};
use crate::{
    Arch, Error,
    hf::{Fix, Heads, join},
};
use allod_plan::Delta;
use allod_tensor::Tensor;
use std::collections::BTreeMap;

/// What PEFT puts around a module once for each of its parameters that it changes.
pub(super) const WRAPPER: &str = ".base_layer";

/// Architectures whose class keeps experts `[in, out]` without telling PEFT, which then takes the one for the other.
const TURNED: &[&str] = &["llama4_text"];

/// What is done to the rows of the stack `name`. A and B say what is in and what is out, however the class stores it.
pub(super) fn rows_of_stack(arch: &Arch, name: &str, fix: Fix) -> Result<Fix, Error> {
    if TURNED.contains(&arch.model_type) {
        let hint = "PEFT takes input for output in the experts of this class; use a GGUF adapter or merge";
        return Err(Error::Layout(format!("{name}: {hint}")));
    }
    match fix {
        Fix::Transpose => Ok(Fix::None),
        Fix::Then(&[Fix::Transpose, rows]) => Ok(rows),
        Fix::None | Fix::Part { .. } | Fix::Every { .. } => Ok(fix),
        _ => Err(Error::Layout(format!("{name}: expected a stack of experts, found a weight of another form"))),
    }
}

/// The parameters that the class of `arch` gives the module `owner`, in the order in which it declares them, which is
/// that of the tables. PEFT wraps the first of them innermost.
pub(super) fn parameters(arch: &Arch, owner: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (path, parameter) in arch.names().filter_map(|name| name.hf.rsplit_once('.')) {
        let full = format!("{owner}.{parameter}");
        if !found.contains(&full) && matched(path, owner).is_some_and(|m| m.ending.is_empty()) {
            found.push(full);
        }
    }
    found
}

/// `A` and `B` of rank `rank` without the ranks for which `B` is zero in all experts, and how many are left: where parts
/// of a parameter were changed each by itself, those of the others. A change that has not begun stays as it is.
pub(super) fn used(rank: usize, a: Vec<f32>, b: Vec<f32>, width: usize) -> (usize, Vec<f32>, Vec<f32>) {
    let used: Vec<bool> = (0..rank).map(|k| b.iter().skip(k).step_by(rank.max(1)).any(|&v| v != 0.0)).collect();
    let left = used.iter().filter(|&&used| used).count();
    if left == rank || left == 0 {
        return (rank, a, b);
    }
    let keep = |i: usize| used[i % rank];
    let rows = a.chunks_exact(width.max(1)).enumerate().filter(|(i, _)| keep(*i));
    let columns = b.iter().enumerate().filter(|(i, _)| keep(*i));
    (left, rows.flat_map(|(_, row)| row).copied().collect(), columns.map(|(_, v)| *v).collect())
}

/// Leaves out the parts of a parameter whose `B` is all zero, where that of another is not.
pub(super) fn drop_idle(parts: &mut BTreeMap<String, Delta>) {
    let is_idle = |d: &Delta| d.b.iter().all(|&v| v == 0.0);
    if !parts.values().all(is_idle) {
        parts.retain(|_, d| !is_idle(d));
    }
}

/// A stack of the base, which is a parameter or a part of one.
pub(super) struct Part<'a> {
    pub(super) name: String,
    pub(super) fix: Fix,
    /// `[experts, out, in]`
    pub(super) shape: [usize; 3],
    pub(super) delta: Option<&'a Delta>,
}

/// The changes of all parts of a parameter as one, whose rank is the sum of theirs: the matrices `A` one below the other,
/// each `B` in columns of its own. Returns rank, `A` and `B` as PEFT stores them.
pub(super) fn fused(arch: &Arch, parts: &[Part<'_>], heads: Heads) -> Result<(usize, Vec<f32>, Vec<f32>), Error> {
    let experts = parts.first().map_or(1, |p| p.shape[0]).max(1);
    let rank: usize = parts.iter().filter_map(|p| p.delta).map(|d| d.rank).sum();
    let (mut first, mut columns) = (0, Vec::with_capacity(parts.len()));
    for Part { name, fix, shape: [_, rows, width], delta } in parts {
        let mut b = vec![0.0; experts * rows * rank];
        if let Some(d) = delta {
            d.check_stack(name, experts, *rows, *width)?;
            for (to, from) in b.chunks_exact_mut(rank.max(1)).zip(d.b.chunks_exact(d.rank.max(1))) {
                to[first..first + d.rank].copy_from_slice(from);
            }
            first += d.rank;
        }
        columns.push((rows_of_stack(arch, name, *fix)?, Tensor::from_f32(vec![experts, *rows, rank], &b)));
    }
    let of_expert = |e: usize| {
        parts.iter().filter_map(|p| p.delta).flat_map(move |d| &d.a[e * (d.a.len() / experts)..][..d.a.len() / experts])
    };
    let a = (0..experts).flat_map(of_expert).copied().collect();
    let b = numbers("lora_B", &join(columns, heads)?)?;
    Ok((rank, a, transposed(&b, b.len() / experts)))
}
