//! Several tensors of GGUF that are one in a folder: back together. Each says with its [`Fix`] which entries of an axis
//! it took; what was done before they were taken is undone to the whole, what was done after to each.

use super::{
    Fix,
    names::{Heads, rebuild},
    order,
};
use crate::Error;
use allod_tensor::{Shape, Tensor};
use std::slice::from_ref;

impl Fix {
    /// What is done before some entries are taken, and the taking with what follows it.
    fn halves(&self) -> (&[Fix], &[Fix]) {
        let steps = if let Fix::Then(all) = self { all } else { from_ref(self) };
        steps.split_at(steps.iter().position(|f| f.takes()).unwrap_or(steps.len()))
    }

    /// True where others have the rest of a tensor.
    fn takes(self) -> bool {
        use Fix::{Every, GatesOfGroups, KeysOfKvB, Part, QkvOfGroups, ValuesOfKvB};
        matches!(self, Every { .. } | Part { .. } | QkvOfGroups | GatesOfGroups | KeysOfKvB | ValuesOfKvB)
    }

    /// The entries that it takes of `all`.
    fn taken(self, all: usize, heads: Heads) -> Vec<usize> {
        match self {
            Fix::Part { index, of } => (all / of * index..all / of * (index + 1)).collect(),
            Fix::Every { index, of } => order::every(all, index, of),
            Fix::QkvOfGroups => order::qkv_of_groups(heads),
            Fix::GatesOfGroups => order::gates_of_groups(heads),
            Fix::KeysOfKvB => order::of_kv_b(heads, false),
            Fix::ValuesOfKvB => order::of_kv_b(heads, true),
            _ => (0..all).collect(),
        }
    }

    /// The axis of the whole, of so many, whose entries it takes.
    fn axis(self, axes: usize) -> usize {
        match self {
            Fix::Every { .. } => 1,
            Fix::Part { .. } => usize::from(axes == 3),
            _ => 0,
        }
    }
}

/// The shape of what `parts` are put together to.
pub(crate) fn joined_shape(parts: &[(Fix, Shape)], heads: Heads) -> Shape {
    let Some((fix, first)) = parts.first() else { return vec![] };
    let (before, after) = fix.halves();
    let undone = |fixes: &[Fix], shape: &Shape| fixes.iter().rev().fold(shape.clone(), |s, f| f.undo_shape(s, heads));
    let mut shape = undone(after, first);
    let axis = after.first().map_or(0, |f| f.axis(shape.len()));
    for (fix, part) in &parts[1..] {
        let more = undone(fix.halves().1, part).get(axis).copied().unwrap_or(0);
        shape.iter_mut().skip(axis).take(1).for_each(|d| *d = d.saturating_add(more));
    }
    undone(before, &shape)
}

/// Takes the fixes of `parts` back and puts them together, tensors of one type of plain numbers.
pub(crate) fn join(parts: Vec<(Fix, Tensor)>, heads: Heads) -> Result<Tensor, Error> {
    let Some(&(fix, _)) = parts.first() else { return Err(Error::Layout("a tensor of no parts".into())) };
    let (before, after) = fix.halves();
    let Some(&taking) = after.first() else {
        let one = <[(Fix, Tensor); 1]>::try_from(parts);
        let [(fix, t)] = one.map_err(|all| Error::Layout(format!("{} tensors with one name", all.len())))?;
        return fix.undo(t, heads);
    };
    let mut takers = Vec::with_capacity(parts.len());
    let mut tensors = Vec::with_capacity(parts.len());
    for (fix, t) in parts {
        let after = fix.halves().1;
        takers.extend(after.first().copied());
        tensors.push(after.iter().rev().try_fold(t, |t, f| f.undo(t, heads))?);
    }
    let axis = taking.axis(tensors[0].shape.len());
    let together = concat(&tensors, axis)?;
    let all = together.shape[axis];
    let order: Vec<usize> = takers.iter().flat_map(|f| f.taken(all, heads)).collect();
    let mut seen = order.clone();
    seen.sort_unstable();
    if !seen.iter().copied().eq(0..all) {
        return Err(Error::Layout(format!("parts of {all} entries that are no whole")));
    }
    let whole = order::pick(&together, axis, &order::inverse(&order))?;
    before.iter().rev().try_fold(whole, |t, f| f.undo(t, heads))
}

/// One tensor after the other along `axis`.
fn concat(parts: &[Tensor], axis: usize) -> Result<Tensor, Error> {
    let first = &parts[0];
    let differs = |t: &&Tensor| {
        let others = |s: &Shape| -> Vec<usize> { s.iter().enumerate().filter(|d| d.0 != axis).map(|d| *d.1).collect() };
        t.dtype != first.dtype || t.shape.len() <= axis || others(&t.shape) != others(&first.shape)
    };
    if let Some(t) = parts.iter().find(differs) {
        let (a, b) = (first, t);
        return Err(Error::Layout(format!("{} {:?} does not join {} {:?}", b.dtype, b.shape, a.dtype, a.shape)));
    }
    let outer: usize = first.shape[..axis].iter().product();
    let mut data = Vec::with_capacity(parts.iter().map(|t| t.data.len()).sum());
    for o in 0..outer {
        for t in parts {
            let run = t.data.len() / outer;
            data.extend_from_slice(&t.data[o * run..(o + 1) * run]);
        }
    }
    let mut shape = first.shape.clone();
    shape[axis] = parts.iter().map(|t| t.shape[axis]).sum();
    rebuild(first.dtype, shape, data)
}
