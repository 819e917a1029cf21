//! Attention by its definition: one row and head at a time, one number at a time.

use half::f16;

use super::cache::{BLOCK, KvType, PAGE, half_to_f32, index};
use super::{AttendParams, KvCache, SPLIT, SeqRows};
use crate::lanes::{LANES, tree};
use crate::math::{exp, tanh};

/// Element `d` at position `slot` of a plane.
fn number(dtype: KvType, plane: &[u8], d: usize, slot: usize, is_key: bool) -> f32 {
    let half = |at: usize| u16::from_le_bytes([plane[at], plane[at + 1]]);
    let quant = |bytes: usize| {
        let block = d / BLOCK * bytes * PAGE;
        (half_to_f32(f16::from_bits(half(block + 2 * slot))), block + 2 * PAGE)
    };
    match dtype {
        KvType::F32 => {
            let at = 4 * index(d, slot, is_key);
            f32::from_le_bytes([plane[at], plane[at + 1], plane[at + 2], plane[at + 3]])
        }
        KvType::F16 => half_to_f32(f16::from_bits(half(2 * index(d, slot, is_key)))),
        KvType::BF16 => f32::from_bits(u32::from(half(2 * index(d, slot, is_key))) << 16),
        KvType::Q8_0 => {
            let (scale, rows) = quant(34);
            f32::from(plane[rows + index(d % BLOCK, slot, is_key)] as i8) * scale
        }
        KvType::Q4_0 => {
            let (scale, rows) = quant(18);
            let pair = plane[rows + index(d % PAGE, slot, is_key)];
            let nibble = if d % BLOCK < PAGE { pair & 15 } else { pair >> 4 };
            (i32::from(nibble) - 8) as f32 * scale
        }
    }
}

/// What [`attend`](super::attend) computes, spelled out. `q` is `[rows × heads · k_dim]`, `out` is `[rows × heads ·
/// v_dim]`.
///
/// # Panics
/// When slices or page tables are too short.
pub fn reference(p: &AttendParams<'_>, q: &[f32], cache: &KvCache, seqs: &[SeqRows<'_>], out: &mut [f32]) {
    let layout = cache.layout();
    let v_dim = p.v_prefix.unwrap_or(layout.v_dim);
    for seq in seqs {
        for (i, row) in seq.rows.clone().enumerate() {
            for head in 0..p.heads {
                let at = row * p.heads + head;
                let q = &q[at * layout.k_dim..][..layout.k_dim];
                let out = &mut out[at * v_dim..][..v_dim];
                one(p, q, cache, seq, seq.start + i as u32, head, out);
            }
        }
    }
}

fn one(
    p: &AttendParams<'_>,
    q: &[f32],
    cache: &KvCache,
    seq: &SeqRows<'_>,
    position: u32,
    head: usize,
    out: &mut [f32],
) {
    let layout = cache.layout();
    let kv_head = head / (p.heads / layout.kv_heads);
    let element = |key: usize, d: usize, is_key: bool| {
        let page = seq.pages[key / PAGE];
        let plane = if is_key { cache.keys(page, kv_head) } else { cache.values(page, kv_head) };
        number(layout.dtype, plane, d, key % PAGE, is_key)
    };
    let visible = p.visible(position, seq.end());
    let visible = visible.start as usize..visible.end as usize;

    let (mut top, mut total) = (f32::NEG_INFINITY, 0f32);
    if let Some(sinks) = p.sinks {
        (top, total) = (sinks[head], 1.0);
    }
    out.fill(0.0);
    for split in visible.start / SPLIT..visible.end.div_ceil(SPLIT) {
        let keys = visible.start.max(split * SPLIT)..visible.end.min((split + 1) * SPLIT);
        let score = |key: usize| {
            let dot = (0..layout.k_dim).fold(0f32, |acc, d| q[d].mul_add(element(key, d, true), acc));
            let mut s = dot * p.scale;
            if let Some(cap) = p.softcap {
                s = cap * tanh(s / cap);
            }
            if let Some(slopes) = p.alibi {
                s = slopes[head].mul_add((key as i64 - i64::from(position)) as f32, s);
            }
            s
        };
        let mut weights: Vec<f32> = keys.clone().map(score).collect();
        let m = weights.iter().fold(f32::NEG_INFINITY, |m, &s| if s > m { s } else { m });
        let mut lanes = [0f32; LANES];
        for (w, key) in weights.iter_mut().zip(keys.clone()) {
            *w = exp(*w - m);
            lanes[key % LANES] += *w;
        }
        // Merge: both sides are brought to the larger maximum.
        let new_top = if m > top { m } else { top };
        let (old, new) = (exp(top - new_top), exp(m - new_top));
        total = tree(lanes).mul_add(new, total * old);
        for (d, o) in out.iter_mut().enumerate() {
            let is_key = p.v_prefix.is_some();
            let sum =
                weights.iter().zip(keys.clone()).fold(0f32, |acc, (w, key)| w.mul_add(element(key, d, is_key), acc));
            *o = sum.mul_add(new, *o * old);
        }
        top = new_top;
    }
    let inverse = if total > 0.0 { 1.0 / total } else { 0.0 };
    out.iter_mut().for_each(|o| *o *= inverse);
}
