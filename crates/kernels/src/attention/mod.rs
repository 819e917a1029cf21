//! Attention over a paged cache of keys and values.
//!
//! The result of a row is defined without regard to how the work is cut (see [`reference()`], which is the definition in
//! code): keys are walked in splits of [`SPLIT`] from position 0; within a split a score is one chain of fused
//! multiply-adds over the head's elements (with keys of integers, over exact sums of blocks), the weights are `exp(score -
//! maximum of the split)`, their sum is taken in eight lanes by position, and each output element is one chain over the
//! split's keys (with values of I16, over exact sums of pages); splits are merged in order with the running maximum
//! (the online softmax of Milakov & Gimelshein 2018, arXiv:1805.02867, at split granularity). So a long context may be spread over threads and a prompt tiled, with the same bytes.
//!
//! All rows read what the cache holds, rounded or quantized, including the keys of their own step.

mod cache;
mod coded;
mod integer;
mod product;
mod reference;
mod source;
mod tile;
mod unpack;
mod wide;

use std::ops::Range;

pub use cache::{KvCache, KvError, KvLayout, KvType, PAGE, PAGE_LAYOUT, Turn};
pub use reference::reference;
pub use tile::attend;

/// Positions whose weights share one maximum; a whole number of pages.
pub const SPLIT: usize = 512;

/// What an attention layer computes.
#[derive(Clone, Copy, Debug)]
pub struct AttendParams<'a> {
    /// Query heads, a multiple of the cache's `kv_heads`; head `h` reads key-value head `h / (heads / kv_heads)`.
    pub heads: usize,
    /// Factor on `⟨q, k⟩`.
    pub scale: f32,
    /// `c · tanh(score / c)` after scaling (Gemma 2).
    pub softcap: Option<f32>,
    /// Causal: row `p` sees `p - window + 1 ..= p`. Not causal: `p - window ..= p + window` (ModernBERT).
    pub window: Option<u32>,
    /// Only positions in the same chunk of that many (Llama 4).
    pub chunk: Option<u32>,
    /// Whether a row sees only positions up to its own; else all of its sequence (encoders).
    pub causal: bool,
    /// Per head, the logit of a key without a value (gpt-oss).
    pub sinks: Option<&'a [f32]>,
    /// Per head, the slope of a bias `slope · (key position - query position)` (Press et al. 2021, arXiv:2108.12409).
    pub alibi: Option<&'a [f32]>,
    /// Values are the first this many elements of the keys; none are stored (absorbed MLA, arXiv:2405.04434).
    pub v_prefix: Option<usize>,
}

impl AttendParams<'_> {
    /// Plain causal attention.
    pub fn causal(heads: usize, scale: f32) -> Self {
        AttendParams {
            heads,
            scale,
            softcap: None,
            window: None,
            chunk: None,
            causal: true,
            sinks: None,
            alibi: None,
            v_prefix: None,
        }
    }

    /// Positions that the row at `position` sees, of a sequence that ends before `end`.
    pub(crate) fn visible(&self, position: u32, end: u32) -> Range<u32> {
        let (mut low, mut high) = (0, if self.causal { position + 1 } else { end });
        if let Some(window) = self.window {
            low = if self.causal { (position + 1).saturating_sub(window) } else { position.saturating_sub(window) };
            high = high.min(position.saturating_add(window).saturating_add(1));
        }
        if let Some(chunk) = self.chunk.filter(|&c| c > 0) {
            let start = position / chunk * chunk;
            low = low.max(start);
            high = high.min(start.saturating_add(chunk));
        }
        low..high
    }
}

/// Consecutive rows that continue one sequence. Their keys and values are in the cache before anything attends.
#[derive(Clone, Debug)]
pub struct SeqRows<'a> {
    /// Its rows in the step.
    pub rows: Range<usize>,
    /// Position in the sequence of the first of them.
    pub start: u32,
    /// Page table: entry `i` names the page of positions `16 i .. 16 i + 16`. Pages that no row sees may be anything.
    pub pages: &'a [u32],
}

impl SeqRows<'_> {
    /// One past the position of the last row.
    fn end(&self) -> u32 {
        self.start + self.rows.len() as u32
    }
}
