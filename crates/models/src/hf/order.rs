//! Rows of a tensor in another order, or some of them: the part of a [`super::Fix`] that only moves bytes.

use super::names::{Heads, rebuild};
use crate::Error;
use allod_tensor::{DType, Tensor};

/// Picks entries `order` of axis `axis`.
pub(super) fn pick(t: &Tensor, axis: usize, order: &[usize]) -> Result<Tensor, Error> {
    let odd = |what: &str| Error::Layout(format!("a {} tensor of shape {:?} {what}", t.dtype, t.shape));
    let Some(&entries) = t.shape.get(axis) else { return Err(odd("lacks an axis to reorder")) };
    if t.dtype.is_quantized() && axis + 1 == t.shape.len() {
        return Err(odd("cannot be reordered within its blocks"));
    }
    if order.iter().any(|&i| i >= entries) {
        return Err(odd("is too small for the heads that its configuration gives"));
    }
    let outer: usize = t.shape[..axis].iter().product();
    let run = t.data.len() / (outer * entries).max(1);
    let mut data = Vec::with_capacity(outer * order.len() * run);
    for o in 0..outer {
        for &i in order {
            data.extend_from_slice(&t.data[(o * entries + i) * run..][..run]);
        }
    }
    let mut shape = t.shape.clone();
    shape[axis] = order.len();
    rebuild(t.dtype, shape, data)
}

/// Where each entry came from, seen from where it came: the order that takes `order` back.
pub(super) fn inverse(order: &[usize]) -> Vec<usize> {
    let mut back = vec![0; order.len()];
    for (to, &from) in order.iter().enumerate() {
        if let Some(b) = back.get_mut(from) {
            *b = to;
        }
    }
    back
}

/// Every `of`-th of `n` from `index`.
pub(super) fn every(n: usize, index: usize, of: usize) -> Vec<usize> {
    (index..n).step_by(of).collect()
}

/// Value heads that stand by the key head they share, `[key heads, share]`, become `[share, key heads]`. The last
/// `n` of `all` entries are theirs, in equal runs.
pub(super) fn tiled(all: usize, n: usize, h: Heads) -> Vec<usize> {
    let (keys, share) = (h.groups.max(1), (h.states / h.groups.max(1)).max(1));
    let (first, run) = (all.saturating_sub(n), n / (keys * share));
    let values = (0..keys * share).flat_map(|to| {
        let from = to % keys * share + to / keys;
        (0..run).map(move |i| first + from * run + i)
    });
    (0..first).chain(values).collect()
}

/// Rows that hold `[query | key | values | gates]` of one key head after another: all queries, all keys, all values.
pub(super) fn qkv_of_groups(h: Heads) -> Vec<usize> {
    let (key, values) = (h.state_dim, h.values_per_group());
    let part = |start: usize, len: usize| {
        (0..h.groups).flat_map(move |g| (0..len).map(move |i| g * 2 * (key + values) + start + i))
    };
    part(0, key).chain(part(key, key)).chain(part(2 * key, values)).collect()
}

/// Of the same rows, all gates.
pub(super) fn gates_of_groups(h: Heads) -> Vec<usize> {
    let (key, values) = (h.state_dim, h.values_per_group());
    (0..h.groups).flat_map(|g| (0..values).map(move |i| g * 2 * (key + values) + 2 * key + values + i)).collect()
}

/// The key rows (`nope` of each head) or value rows (the rest of each head) of MLA's `kv_b`.
pub(super) fn of_kv_b(h: Heads, values: bool) -> Vec<usize> {
    let all = h.nope + h.value;
    let range = if values { h.nope..all } else { 0..h.nope };
    (0..h.query).flat_map(|i| range.clone().map(move |r| i * all + r)).collect()
}

/// gpt-oss keeps MXFP4 as two tensors: nibbles in the order of the values, and scales. GGUF's block of 32 is the scale,
/// then 16 bytes of which byte `j` holds value `j` low and value `j + 16` high. The bits are the same.
pub(super) fn mxfp4(blocks: &[u8], scales: &[u8], shape: Vec<usize>) -> Result<Tensor, Error> {
    let mut data = Vec::with_capacity(scales.len() * 17);
    for (b, scale) in blocks.as_chunks::<16>().0.iter().zip(scales) {
        let value = |i: usize| b[i / 2] >> (4 * (i % 2)) & 15;
        data.push(*scale);
        data.extend((0..16).map(|j| value(j) | value(j + 16) << 4));
    }
    rebuild(DType::MXFP4, shape, data)
}
