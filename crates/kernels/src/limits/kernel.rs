//! Kernels at given shapes, timed beside the machine's limits.

use super::best;
use crate::{
    attention::{AttendParams, KvCache, KvError, KvLayout, PAGE, SeqRows, attend},
    isa::Isa,
    linear::{Input, PackError, Product, Scratch, Weights, linear},
    pool::Pool,
};
use allod_tensor::{DType, Tensor};
use std::hint::black_box;

/// Bytes that are read in turn, so that a kernel with few rows finds none of them in a cache: decoding reads each
/// layer's weights once a token.
const COLD: usize = 160 << 20;
/// Input rows from which a kernel reads so little for its products that it need not start cold.
const MANY: usize = 64;

/// What one call of a kernel took and did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Seconds of the best call.
    pub seconds: f64,
    /// Bytes of weights, or of keys and values, that it reads.
    pub bytes: usize,
    /// Multiply-adds.
    pub products: usize,
}

impl Timing {
    /// Gigabytes a second.
    pub fn read(&self) -> f64 {
        self.bytes as f64 / self.seconds / 1e9
    }

    /// Thousand millions of multiply-adds a second.
    pub fn rate(&self) -> f64 {
        self.products as f64 / self.seconds / 1e9
    }
}

/// A product of `tokens` input rows with weights `[rows, cols]`.
///
/// # Errors
/// [`PackError`] for types that are no weights and shapes that cut a block.
pub fn time_linear(
    pool: &Pool,
    isa: Isa,
    dtype: DType,
    (rows, cols): (usize, usize),
    tokens: usize,
) -> Result<Timing, PackError> {
    let size = || PackError::Size { expected: Tensor::bytes_of(dtype, &[rows, cols]), found: 0 };
    let bytes = Tensor::bytes_of(dtype, &[rows, cols]).filter(|&b| b > 0).ok_or_else(size)?;
    let copies = if tokens < MANY { COLD.div_ceil(bytes).max(2) } else { 1 };
    // As floats, alone or in blocks, these are numbers of ordinary size.
    let data: Vec<u8> = (0..bytes).map(|i| 0x30 + (i * 37 % 16) as u8).collect();
    let tensor = Tensor::new(dtype, [rows, cols], data.into()).map_err(|_| size())?;
    let copies: Vec<Weights> = (0..copies).map(|_| Weights::pack(&tensor, pool)).collect::<Result<_, _>>()?;
    // Most far below the greatest, as activations are: what kernels may add up in 16 bits depends on it.
    let x = |i: usize| [7919, 6007, 4003, 2011].iter().map(|by| (i * by % 1009) as f32 / 504.0 - 1.0).sum();
    let x: Vec<f32> = (0..tokens * cols).map(x).collect();
    let (mut y, mut scratch) = (vec![0.0; tokens * rows], Scratch::new());
    let mut turn = copies.iter().cycle();
    let seconds = best(|| {
        // Cycling over no copies cannot be: there is one at least.
        let Some(w) = turn.next() else { return };
        let mut input = Input::new(&mut scratch, &x, tokens, cols);
        linear(pool, isa, &mut input, &mut [Product { w, bias: None, y: &mut y, stride: rows }]);
    });
    black_box(&y);
    Ok(Timing { seconds, bytes, products: rows * cols * tokens })
}

/// Causal attention of `tokens` rows of one sequence after `depth` positions.
///
/// # Errors
/// [`KvError`] for sizes that overflow and for want of memory.
pub fn time_attention(
    pool: &Pool,
    isa: Isa,
    layout: KvLayout,
    heads: usize,
    depth: usize,
    tokens: usize,
) -> Result<Timing, KvError> {
    let context = depth + tokens;
    let pages: Vec<u32> = (0..context.div_ceil(PAGE) as u32).collect();
    let bytes = layout.page_bytes().unwrap_or(0) * pages.len();
    let copies = if tokens < MANY { COLD.div_ceil(bytes.max(1)).max(2) } else { 1 };
    let number = |i: usize| ((i * 7919 % 1000) as f32 - 500.0) / 500.0;
    let k: Vec<f32> = (0..context * layout.kv_heads * layout.k_dim).map(number).collect();
    let v: Vec<f32> = (0..context * layout.kv_heads * layout.v_dim).map(number).collect();
    let mut caches = Vec::with_capacity(copies);
    for _ in 0..copies {
        let mut cache = KvCache::new(layout, pages.len())?;
        cache.write(pool, isa, &k, &v, &[SeqRows { rows: 0..context, start: 0, pages: &pages }]);
        caches.push(cache);
    }
    let q: Vec<f32> = (0..tokens * heads * layout.k_dim).map(number).collect();
    let mut out = vec![0.0; tokens * heads * layout.v_dim];
    let seqs = [SeqRows { rows: 0..tokens, start: depth as u32, pages: &pages }];
    let params = AttendParams::causal(heads, 1.0 / (layout.k_dim as f32).sqrt());
    let mut turn = caches.iter().cycle();
    let seconds = best(|| {
        let Some(cache) = turn.next() else { return };
        attend(pool, isa, &params, &q, cache, &seqs, &mut out);
    });
    black_box(&out);
    let seen: usize = (depth + 1..=context).sum();
    Ok(Timing { seconds, bytes, products: seen * heads * (layout.k_dim + layout.v_dim) })
}
