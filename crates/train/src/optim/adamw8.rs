//! AdamW with its state in eight bits: blocks of 256 numbers, each block's largest magnitude in `f32` and codes into a
//! table that is fine near zero (Dettmers et al. 2022, "8-bit optimizers via block-wise quantization").

use super::{Adam, Parameter, Rate, Slot, State, adamw, each};
use allod_kernels::pool::Pool;
use std::sync::LazyLock;

/// Numbers that share a scale.
const BLOCK: usize = 256;
/// Tensors below this size keep their state in 32 bits: norms and biases are few and delicate.
const SMALL: usize = 4096;

pub(super) fn slot(shape: &[usize]) -> Slot {
    let n: usize = shape.iter().product();
    if n < SMALL {
        return adamw::slot(shape);
    }
    let scales = || State::F32(vec![0.0; n.div_ceil(BLOCK)]);
    let zero = |table: &[f32; 256]| State::U8(vec![nearest(table, 0.0); n]);
    vec![
        ("exp_avg", zero(&SIGNED)),
        ("exp_avg.scale", scales()),
        ("exp_avg_sq", zero(&UNSIGNED)),
        ("exp_avg_sq.scale", scales()),
    ]
}

/// Values from −1 to 1: sign, exponent in unary, the rest a linear fraction.
static SIGNED: LazyLock<[f32; 256]> = LazyLock::new(|| dynamic(true));
/// Values from 0 to 1.
static UNSIGNED: LazyLock<[f32; 256]> = LazyLock::new(|| dynamic(false));

/// The dynamic data type: with exponent e of 7 down to 0, the means of neighbours among 2^(bits left) steps from 0.1 to
/// 1, times 10^(e − 6); and 0 and 1.
fn dynamic(signed: bool) -> [f32; 256] {
    let mut values = vec![0.0f64, 1.0];
    for e in 0..7u32 {
        let steps = if signed { 1usize << e } else { 1usize << (e + 1) };
        let edge = |i: usize| 0.1 + 0.9 * i as f64 / steps as f64;
        for i in 0..steps {
            let mean = 0.5 * (edge(i) + edge(i + 1)) * 10f64.powi(e as i32 - 6);
            values.push(mean);
            if signed {
                values.push(-mean);
            }
        }
    }
    values.resize(256, 0.0);
    values.sort_by(f64::total_cmp);
    let mut table = [0.0; 256];
    table.iter_mut().zip(values).for_each(|(t, v)| *t = v as f32);
    table
}

/// The code of the closest value.
fn nearest(table: &[f32; 256], x: f32) -> u8 {
    let above = table.partition_point(|t| *t < x).min(255);
    let below = above.saturating_sub(1);
    (if x - table[below] < table[above] - x { below } else { above }) as u8
}

fn decode(table: &[f32; 256], codes: &[u8], scale: f32, out: &mut [f32]) {
    out.iter_mut().zip(codes).for_each(|(o, c)| *o = table[usize::from(*c)] * scale);
}

fn encode(table: &[f32; 256], values: &[f32], codes: &mut [u8]) -> f32 {
    let scale = values.iter().fold(0.0f32, |a, v| a.max(v.abs()));
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    codes.iter_mut().zip(values).for_each(|(c, v)| *c = nearest(table, v * inverse));
    scale
}

pub(super) fn step(adam: &Adam, p: &mut Parameter<'_>, slot: &mut Slot, rate: Rate, pool: &Pool) {
    let [(_, State::U8(m)), (_, State::F32(ms)), (_, State::U8(v)), (_, State::F32(vs))] = slot.as_mut_slice() else {
        return adamw::step(adam, p, slot, rate, pool);
    };
    let c = adamw::Constants::new(adam, rate);
    let parts = p.data.chunks_mut(BLOCK).zip(p.grad.chunks(BLOCK));
    let means = m.chunks_mut(BLOCK).zip(ms);
    let squares = v.chunks_mut(BLOCK).zip(vs);
    let blocks: Vec<_> = parts.zip(means.zip(squares)).collect();
    let mut groups: Vec<Vec<_>> = Vec::new();
    for (i, block) in blocks.into_iter().enumerate() {
        if i % 64 == 0 {
            groups.push(Vec::with_capacity(64));
        }
        if let Some(group) = groups.last_mut() {
            group.push(block);
        }
    }
    each(pool, groups, |group| {
        let (mut mean, mut square) = ([0.0; BLOCK], [0.0; BLOCK]);
        for ((p, g), ((m, ms), (v, vs))) in group {
            let n = p.len();
            decode(&SIGNED, m, *ms, &mut mean[..n]);
            decode(&UNSIGNED, v, *vs, &mut square[..n]);
            for (((p, g), m), v) in p.iter_mut().zip(g).zip(&mut mean).zip(&mut square) {
                c.update(p, *g, m, v);
            }
            *ms = encode(&SIGNED, &mean[..n], m);
            *vs = encode(&UNSIGNED, &square[..n], v);
        }
    });
}
