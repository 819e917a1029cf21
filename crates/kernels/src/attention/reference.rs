//! Attention by its definition: one row and head at a time, one number at a time.

use half::f16;

use super::cache::{BLOCK, KvType, PAGE, bytes, code_index, half_to_f32, index, largest, pair_index, rotate};
use super::integer::{self, Scale};
use super::{AttendParams, KvCache, SPLIT, SeqRows};
use crate::isa::Isa;
use crate::lanes::{LANES, tree};
use crate::math::{exp, tanh};

/// Element `d` at position `slot` of a plane: a number and the scale that it is to be multiplied with, but for I16's.
fn number(dtype: KvType, plane: &[u8], d: usize, slot: usize, is_key: bool) -> (f32, f32) {
    let half = |at: usize| u16::from_le_bytes([plane[at], plane[at + 1]]);
    let block = |bytes: usize| {
        let start = d / BLOCK * bytes * PAGE;
        (half_to_f32(f16::from_bits(half(start + 2 * slot))), start + 2 * PAGE)
    };
    match dtype {
        KvType::F32 => {
            let at = 4 * index(d, slot, is_key);
            (f32::from_le_bytes([plane[at], plane[at + 1], plane[at + 2], plane[at + 3]]), 1.0)
        }
        KvType::F16 => (half_to_f32(f16::from_bits(half(2 * index(d, slot, is_key)))), 1.0),
        KvType::BF16 => (f32::from_bits(u32::from(half(2 * index(d, slot, is_key))) << 16), 1.0),
        KvType::I16 => {
            let skipped = if is_key { integer::SCALES } else { 0 };
            (f32::from(half(skipped + 2 * pair_index(d, slot, is_key)) as i16), 1.0)
        }
        KvType::Q8_0 => {
            let (scale, rows) = block(34);
            (f32::from(plane[rows + code_index(d % BLOCK, slot, BLOCK, is_key)] as i8), scale)
        }
        KvType::Q4_0 => {
            let (scale, rows) = block(18);
            let pair = plane[rows + code_index(d % PAGE, slot, PAGE, is_key)];
            let nibble = if d % BLOCK < PAGE { pair & 15 } else { pair >> 4 };
            ((i32::from(nibble) - 8) as f32, scale)
        }
    }
}

/// `⟨q, k⟩`: a chain over the elements, with quantized keys over blocks, in which the query has eight bits too. With keys of
/// integers all of it is one exact sum, and an integer of the key is worth `whole`.
fn dot(dtype: KvType, q: &[f32], whole: f32, key: impl Fn(usize) -> (f32, f32)) -> f32 {
    if !dtype.is_coded() {
        return q.iter().enumerate().fold(0f32, |acc, (d, q)| q.mul_add(key(d).0, acc));
    }
    if dtype == KvType::I16 {
        let scale = Scale::of(q, true);
        let sum: i64 = q.iter().enumerate().map(|(d, q)| i64::from(scale.integer(*q)) * key(d).0 as i64).sum();
        return sum as f32 * (scale.value * whole);
    }
    q.as_chunks::<BLOCK>().0.iter().enumerate().fold(0f32, |acc, (block, q)| {
        let scale = largest(q) / 127.0;
        let codes = bytes(q, scale).into_iter().enumerate();
        let sum: i32 = codes.map(|(i, code)| i32::from(code) * key(block * BLOCK + i).0 as i32).sum();
        (sum as f32).mul_add(scale * key(block * BLOCK).1, acc)
    })
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
    let (layout, rotation) = (cache.layout(), cache.rotation());
    // Blocks go on behind the elements that are asked for.
    let mut q = q.to_vec();
    q.resize(layout.dtype.whole(q.len()), 0.0);
    rotate(Isa::Scalar, &mut q, rotation.keys);
    let mut sums = vec![0f32; layout.dtype.whole(out.len())];
    let kv_head = head / (p.heads / layout.kv_heads);
    let element = |key: usize, d: usize, is_key: bool| {
        let page = seq.pages[key / PAGE];
        let plane = if is_key { cache.keys(page, kv_head) } else { cache.values(page, kv_head) };
        number(layout.dtype, plane, d, key % PAGE, is_key)
    };
    // What an integer of a key, or of its value, is worth.
    let whole = |key: usize, is_key: bool| match layout.dtype {
        KvType::I16 => integer::scales(cache.keys(seq.pages[key / PAGE], kv_head), is_key)[key % PAGE],
        _ => 1.0,
    };
    let visible = p.visible(position, seq.end());
    let visible = visible.start as usize..visible.end as usize;

    let (mut top, mut total) = (f32::NEG_INFINITY, 0f32);
    if let Some(sinks) = p.sinks {
        (top, total) = (sinks[head], 1.0);
    }
    for split in visible.start / SPLIT..visible.end.div_ceil(SPLIT) {
        let keys = visible.start.max(split * SPLIT)..visible.end.min((split + 1) * SPLIT);
        let score = |key: usize| {
            let mut s = dot(layout.dtype, &q, whole(key, true), |d| element(key, d, true)) * p.scale;
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
        let is_key = p.v_prefix.is_some();
        let integers = (layout.dtype == KvType::I16 && !sums.is_empty()).then(|| {
            let (mut all, mut scales, mut codes) = (vec![0.0; SPLIT], vec![0.0; SPLIT], vec![0; SPLIT]);
            for (w, key) in weights.iter().zip(keys.clone()) {
                (all[key % SPLIT], scales[key % SPLIT]) = (*w, whole(key, is_key));
            }
            // What is not finite counts where it has weight.
            let lost: Vec<usize> = (0..SPLIT).filter(|&i| !scales[i].is_finite()).collect();
            lost.iter().for_each(|&i| scales[i] = 0.0);
            let is_lost = weights.iter().any(|w| w.is_nan()) || lost.iter().any(|&i| all[i] != 0.0);
            let worth = integer::weigh(Isa::Scalar, &mut all, &scales, &mut codes);
            (codes, if is_lost { f32::NAN } else { worth })
        });
        for (d, sum) in sums.iter_mut().enumerate() {
            let of_split = match &integers {
                Some((codes, worth)) => {
                    // The sum of a page is exact.
                    let mut pages = [0i64; SPLIT / PAGE];
                    for key in keys.clone() {
                        pages[key % SPLIT / PAGE] += i64::from(codes[key % SPLIT]) * element(key, d, is_key).0 as i64;
                    }
                    pages.iter().fold(0f32, |acc, sum| acc + *sum as f32) * worth
                }
                None => weights.iter().zip(keys.clone()).fold(0f32, |acc, (w, key)| {
                    let (number, scale) = element(key, d, is_key);
                    (w * scale).mul_add(number, acc)
                }),
            };
            *sum = of_split.mul_add(new, *sum * old);
        }
        top = new_top;
    }
    let inverse = if total > 0.0 { 1.0 / total } else { 0.0 };
    sums.iter_mut().for_each(|sum| *sum *= inverse);
    rotate(Isa::Scalar, &mut sums, rotation.values);
    out.copy_from_slice(&sums[..out.len()]);
}
