//! Attention over packed sequences and its adjoint, tile by tile: no matrix of rows by rows exists at any time
//! (Dao et al. 2022, arXiv:2205.14135). Unlike [`crate::attention`] there is no cache: a sequence is whole.

use crate::{
    attention::AttendParams,
    isa::Isa,
    lanes,
    linear::float_panel,
    math::{exp, ln, tanh},
    pool::{Parts, Pool},
    twin::twin,
};
use std::ops::Range;

/// Rows of a tile.
const ROWS: usize = 64;
/// Keys of a tile.
const KEYS: usize = 64;
/// Width of the micro-kernel.
const PANEL: usize = 16;

type Sums = [f32; PANEL];

/// The shape of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Masks, scale, caps, sinks; [`AttendParams::v_prefix`] where values are a part of the keys.
    pub params: AttendParams<'a>,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a query or key head.
    pub key_dim: usize,
    /// Elements of a value head.
    pub value_dim: usize,
}

impl Attention<'_> {
    fn group(&self) -> usize {
        self.params.heads / self.kv_heads
    }

    /// Key blocks that some of `rows` of a sequence of `len` see.
    fn keys(&self, rows: Range<usize>, len: usize) -> Range<usize> {
        let first = self.params.visible(rows.start as u32, len as u32);
        let last = self.params.visible(rows.end as u32 - 1, len as u32);
        first.start.min(last.start) as usize / KEYS * KEYS..first.end.max(last.end) as usize
    }

    fn alibi(&self, head: usize) -> f32 {
        self.params.alibi.map_or(0.0, |a| a[head])
    }
}

/// Head `head` of rows of a matrix `[T × heads · dim]`.
#[derive(Clone, Copy)]
struct Heads<'a> {
    data: &'a [f32],
    stride: usize,
    dim: usize,
}

impl<'a> Heads<'a> {
    fn row(&self, row: usize, head: usize, stride_dim: usize) -> &'a [f32] {
        &self.data[row * self.stride + head * stride_dim..][..self.dim]
    }
}

/// Keys and values of one attention.
#[derive(Clone, Copy)]
struct KeyValues<'a> {
    k: Heads<'a>,
    v: Heads<'a>,
    /// Elements from one head of `v` to the next.
    v_step: usize,
}

impl<'a> KeyValues<'a> {
    fn new(a: &Attention<'_>, k: &'a [f32], v: Option<&'a [f32]>) -> KeyValues<'a> {
        let keys = Heads { data: k, stride: a.kv_heads * a.key_dim, dim: a.key_dim };
        match v {
            Some(v) => {
                let v = Heads { data: v, stride: a.kv_heads * a.value_dim, dim: a.value_dim };
                KeyValues { k: keys, v, v_step: a.value_dim }
            }
            None => KeyValues { k: keys, v: Heads { dim: a.value_dim, ..keys }, v_step: a.key_dim },
        }
    }
    fn key(&self, row: usize, head: usize) -> &'a [f32] {
        self.k.row(row, head, self.k.dim)
    }
    fn value(&self, row: usize, head: usize) -> &'a [f32] {
        self.v.row(row, head, self.v_step)
    }
}

/// Packs vectors side by side: `out[p][i][j] = rows(16 p + j)[i]`, 0 beyond the last.
fn across<'r>(count: usize, dim: usize, rows: impl Fn(usize) -> &'r [f32], out: &mut Vec<f32>) {
    out.clear();
    out.resize(count.next_multiple_of(PANEL) * dim, 0.0);
    for r in 0..count {
        let panel = &mut out[r / PANEL * dim * PANEL..][..dim * PANEL];
        for (to, v) in panel.as_chunks_mut::<PANEL>().0.iter_mut().zip(rows(r)) {
            to[r % PANEL] = *v;
        }
    }
}

/// Packs vectors one above the other: `out[p][r][j] = rows(r)[16 p + j]`, 0 beyond the last.
fn along<'r>(count: usize, dim: usize, rows: impl Fn(usize) -> &'r [f32], out: &mut Vec<f32>) {
    out.clear();
    out.resize(dim.next_multiple_of(PANEL) * count, 0.0);
    for r in 0..count {
        for (p, part) in rows(r).chunks(PANEL).enumerate() {
            out[(p * count + r) * PANEL..][..part.len()].copy_from_slice(part);
        }
    }
}

/// Products of up to [`ROWS`] rows with the keys of a tile, `[rows][KEYS]`.
fn scores(isa: Isa, panels: &[f32], dim: usize, rows: &[&[f32]], out: &mut [[f32; KEYS]]) {
    let mut sums = [Sums::default(); ROWS];
    for (p, panel) in panels.chunks_exact(dim * PANEL).enumerate() {
        let sums = &mut sums[..rows.len()];
        sums.fill([0.0; PANEL]);
        float_panel(isa, panel, rows, sums);
        for (out, s) in out.iter_mut().zip(&*sums) {
            out[p * PANEL..(p + 1) * PANEL].copy_from_slice(s);
        }
    }
}

twin! {
    /// From products to scores: scale, soft cap, linear bias by distance. `first` is the first key's position.
    fn shape(x: &mut [f32], scale: f32, cap: f32, slope: f32, position: f32, first: f32) {
        for v in x.iter_mut() {
            *v *= scale;
        }
        if cap > 0.0 {
            for v in x.iter_mut() {
                *v = cap * tanh(*v / cap);
            }
        }
        if slope != 0.0 {
            for (i, v) in x.iter_mut().enumerate() {
                *v += slope * (first + i as f32 - position);
            }
        }
    }
}

twin! {
    /// `exp(x - max)` in place; returns the sum.
    fn weigh(x: &mut [f32], max: f32) -> f32 {
        for v in x.iter_mut() {
            *v = exp(*v - max);
        }
        lanes::sum(x)
    }
}

/// The scores of one row with a tile's keys; those it does not see are `-inf`.
fn row_scores(isa: Isa, a: &Attention<'_>, (head, position, len): (usize, usize, usize), first: usize, x: &mut [f32]) {
    let p = &a.params;
    shape(isa, x, p.scale, p.softcap.unwrap_or(0.0), a.alibi(head), position as f32, first as f32);
    let seen = p.visible(position as u32, len as u32);
    let (low, high) = (seen.start as usize, seen.end as usize);
    x[..low.saturating_sub(first).min(KEYS)].fill(f32::NEG_INFINITY);
    x[high.saturating_sub(first).min(KEYS)..].fill(f32::NEG_INFINITY);
}

/// Attention of whole sequences: `out` is `[T × heads · value_dim]`, `lse` `[T × heads]` the logarithm of each row's
/// sum of weights, which the adjoint wants. `v` is `None` where values are a part of the keys.
///
/// # Panics
/// When a slice is too short for its shape.
#[expect(clippy::too_many_arguments, reason = "three inputs and two outputs")]
pub fn attend(
    pool: &Pool,
    isa: Isa,
    a: &Attention<'_>,
    q: &[f32],
    k: &[f32],
    v: Option<&[f32]>,
    sequences: &[Range<usize>],
    out: &mut [f32],
    lse: &mut [f32],
) {
    let heads = a.params.heads;
    let kv = KeyValues::new(a, k, v);
    let q = Heads { data: q, stride: heads * a.key_dim, dim: a.key_dim };
    let tiles: Vec<(usize, usize)> =
        sequences.iter().enumerate().flat_map(|(s, r)| (0..r.len()).step_by(ROWS).map(move |t| (s, t))).collect();
    let (out, lse) = (Parts::new(out), Parts::new(lse));
    pool.run(tiles.len() * heads, |task| {
        let ((s, first), head) = (tiles[task / heads], task % heads);
        let seq = &sequences[s];
        let rows = first..(first + ROWS).min(seq.len());
        let write = |t: usize, sums: &[Sums], panels: usize, scale: f32, l: f32| {
            let row = seq.start + first + t;
            #[expect(unsafe_code, reason = "tasks write disjoint heads of rows")]
            // SAFETY: a head of a row belongs to one task.
            let (o, e) =
                unsafe { (out.part((row * heads + head) * a.value_dim, a.value_dim), lse.part(row * heads + head, 1)) };
            for (p, o) in o.chunks_mut(PANEL).enumerate().take(panels) {
                o.iter_mut().zip(&sums[p * ROWS + t]).for_each(|(o, s)| *o = s * scale);
            }
            e[0] = l;
        };
        tile(isa, a, (q, kv), seq, (head, rows), write);
    });
}

/// One tile of rows of one head; `write` takes a row of the tile, the sums `[panel][row]`, their factor and the lse.
fn tile(
    isa: Isa,
    a: &Attention<'_>,
    (q, kv): (Heads<'_>, KeyValues<'_>),
    seq: &Range<usize>,
    (head, rows): (usize, Range<usize>),
    write: impl Fn(usize, &[Sums], usize, f32, f32),
) {
    let (n, kv_head, len) = (rows.len(), head / a.group(), seq.len());
    let queries: [&[f32]; ROWS] = std::array::from_fn(|t| match t < n {
        true => q.row(seq.start + rows.start + t, head, q.dim),
        false => &[],
    });
    let panels = a.value_dim.div_ceil(PANEL);
    let mut acc = vec![Sums::default(); panels * ROWS];
    let sink = a.params.sinks.map(|s| s[head]);
    let mut max = [sink.unwrap_or(f32::NEG_INFINITY); ROWS];
    let mut total = [if sink.is_some() { 1.0 } else { 0.0f32 }; ROWS];
    let mut x = [[0f32; KEYS]; ROWS];
    let mut packed = Vec::new();
    let keys = a.keys(rows.clone(), len);
    for first in keys.clone().step_by(KEYS) {
        let count = KEYS.min(keys.end - first);
        across(count, a.key_dim, |r| kv.key(seq.start + first + r, kv_head), &mut packed);
        scores(isa, &packed, a.key_dim, &queries[..n], &mut x[..n]);
        for (t, x) in x[..n].iter_mut().enumerate() {
            let x = &mut x[..];
            row_scores(isa, a, (head, rows.start + t, len), first, x);
            x[count..].fill(f32::NEG_INFINITY);
            let top = lanes::max(x);
            if top == f32::NEG_INFINITY {
                x.fill(0.0);
                continue;
            }
            if top > max[t] {
                let factor = if max[t] == f32::NEG_INFINITY { 0.0 } else { exp(max[t] - top) };
                total[t] *= factor;
                (0..panels).for_each(|p| acc[p * ROWS + t].iter_mut().for_each(|v| *v *= factor));
                max[t] = top;
            }
            total[t] += weigh(isa, x, max[t]);
        }
        along(count, a.value_dim, |r| kv.value(seq.start + first + r, kv_head), &mut packed);
        let weights: [&[f32]; ROWS] = std::array::from_fn(|t| &x[t][..count]);
        for (panel, acc) in packed.chunks_exact(count * PANEL).zip(acc.chunks_exact_mut(ROWS)) {
            float_panel(isa, panel, &weights[..n], &mut acc[..n]);
        }
    }
    for t in 0..n {
        write(t, &acc, panels, 1.0 / total[t], max[t] + ln(total[t]));
    }
}

/// Inputs and results of an attention, for its adjoint.
#[derive(Clone, Copy, Debug)]
pub struct Attended<'a> {
    /// Queries.
    pub q: &'a [f32],
    /// Keys.
    pub k: &'a [f32],
    /// Values, unless they are a part of the keys.
    pub v: Option<&'a [f32]>,
    /// What [`attend`] gave.
    pub out: &'a [f32],
    /// Likewise.
    pub lse: &'a [f32],
    /// Derivative by `out`.
    pub d_out: &'a [f32],
}

/// The adjoint of [`attend`]: adds to `[dq, dk, dv]` (`dv` is empty where values are a part of the keys) and to
/// `d_sinks`.
///
/// A key-value head of a sequence is one task, which walks key tiles, heads and row tiles in order.
///
/// # Panics
/// When a slice is too short for its shape.
pub fn attend_adjoint(
    pool: &Pool,
    isa: Isa,
    a: &Attention<'_>,
    r: &Attended<'_>,
    sequences: &[Range<usize>],
    [dq, dk, dv]: [&mut [f32]; 3],
    d_sinks: Option<&mut [f32]>,
) {
    let heads = a.params.heads;
    let delta = deltas(pool, isa, a, r);
    if let (Some(d), Some(sinks)) = (d_sinks, a.params.sinks) {
        for (lse, delta) in r.lse.chunks_exact(heads).zip(delta.chunks_exact(heads)) {
            for (((d, sink), lse), delta) in d.iter_mut().zip(sinks).zip(lse).zip(delta) {
                *d -= exp(sink - lse) * delta;
            }
        }
    }
    let (dq, dk, dv) = (Parts::new(dq), Parts::new(dk), Parts::new(dv));
    pool.run(sequences.len() * a.kv_heads, |task| {
        let (seq, kv_head) = (&sequences[task / a.kv_heads], task % a.kv_heads);
        for first in (0..seq.len()).step_by(KEYS) {
            let count = KEYS.min(seq.len() - first);
            let mut block = Block::new(isa, a, r, seq, kv_head, first, count);
            for head in kv_head * a.group()..(kv_head + 1) * a.group() {
                for start in (0..seq.len()).step_by(ROWS) {
                    let rows = start..(start + ROWS).min(seq.len());
                    let seen = a.keys(rows.clone(), seq.len());
                    if seen.start < first + count && first < seen.end {
                        block.rows(&delta, head, rows, |row| {
                            #[expect(unsafe_code, reason = "tasks write disjoint heads")]
                            // SAFETY: the query heads of a key-value head of a sequence belong to one task.
                            unsafe {
                                dq.part((row * heads + head) * a.key_dim, a.key_dim)
                            }
                        });
                    }
                }
            }
            for i in 0..count {
                let at = (seq.start + first + i) * a.kv_heads + kv_head;
                #[expect(unsafe_code, reason = "tasks write disjoint heads")]
                // SAFETY: as above.
                let (k, v) = unsafe {
                    let v = if r.v.is_some() { dv.part(at * a.value_dim, a.value_dim) } else { dv.part(0, 0) };
                    (dk.part(at * a.key_dim, a.key_dim), v)
                };
                add_row(&block.dk, i, k);
                add_row(&block.dv, i, if r.v.is_some() { v } else { &mut k[..a.value_dim] });
            }
        }
    });
}

fn add_row(sums: &[Sums], i: usize, out: &mut [f32]) {
    for (p, out) in out.chunks_mut(PANEL).enumerate() {
        out.iter_mut().zip(&sums[p * KEYS + i]).for_each(|(o, s)| *o += s);
    }
}

/// `⟨d_out, out⟩` of each head of each row.
fn deltas(pool: &Pool, isa: Isa, a: &Attention<'_>, r: &Attended<'_>) -> Vec<f32> {
    let mut delta = vec![0.0; r.lse.len()];
    crate::rows::for_rows(pool, r.lse.len(), 1, &mut delta, |range, out| {
        for (i, o) in range.zip(out) {
            let at = i * a.value_dim;
            *o = dot(isa, &r.out[at..at + a.value_dim], &r.d_out[at..at + a.value_dim]);
        }
    });
    delta
}

twin! {
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut sums = [0f32; lanes::LANES];
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            sums[i % lanes::LANES] = a.mul_add(*b, sums[i % lanes::LANES]);
        }
        lanes::tree(sums)
    }
}

/// A tile of keys of one sequence and key-value head, with what was summed for them.
struct Block<'a> {
    isa: Isa,
    a: &'a Attention<'a>,
    r: &'a Attended<'a>,
    seq: &'a Range<usize>,
    first: usize,
    count: usize,
    /// Keys side by side, keys one above the other, values side by side.
    across_k: Vec<f32>,
    along_k: Vec<f32>,
    across_v: Vec<f32>,
    /// `[panel][key]`
    dk: Vec<Sums>,
    dv: Vec<Sums>,
}

impl<'a> Block<'a> {
    fn new(
        isa: Isa,
        a: &'a Attention<'a>,
        r: &'a Attended<'a>,
        seq: &'a Range<usize>,
        kv_head: usize,
        first: usize,
        count: usize,
    ) -> Block<'a> {
        let kv = KeyValues::new(a, r.k, r.v);
        let (mut across_k, mut along_k, mut across_v) = (vec![], vec![], vec![]);
        across(count, a.key_dim, |i| kv.key(seq.start + first + i, kv_head), &mut across_k);
        along(count, a.key_dim, |i| kv.key(seq.start + first + i, kv_head), &mut along_k);
        across(count, a.value_dim, |i| kv.value(seq.start + first + i, kv_head), &mut across_v);
        let sums = |dim: usize| vec![Sums::default(); dim.div_ceil(PANEL) * KEYS];
        Block { isa, a, r, seq, first, count, across_k, along_k, across_v, dk: sums(a.key_dim), dv: sums(a.value_dim) }
    }

    /// Adds what the rows `rows` of `head` contribute; `dq(row)` is the derivative by that row's query.
    fn rows<'q>(&mut self, delta: &[f32], head: usize, rows: Range<usize>, dq: impl Fn(usize) -> &'q mut [f32]) {
        let (isa, a, n, heads) = (self.isa, self.a, rows.len(), self.a.params.heads);
        let at = |t: usize| self.seq.start + rows.start + t;
        let slice = |data: &'a [f32], dim: usize, t: usize| -> &'a [f32] {
            if t < n { &data[(at(t) * heads + head) * dim..][..dim] } else { &[] }
        };
        let q: [&[f32]; ROWS] = std::array::from_fn(|t| slice(self.r.q, a.key_dim, t));
        let d_out: [&[f32]; ROWS] = std::array::from_fn(|t| slice(self.r.d_out, a.value_dim, t));
        let (mut weights, mut slopes) = ([[0f32; KEYS]; ROWS], [[0f32; KEYS]; ROWS]);
        scores(isa, &self.across_k, a.key_dim, &q[..n], &mut weights[..n]);
        scores(isa, &self.across_v, a.value_dim, &d_out[..n], &mut slopes[..n]);
        for t in 0..n {
            let i = at(t) * heads + head;
            let mut cap = [1f32; KEYS];
            let x = &mut weights[t];
            row_scores(isa, a, (head, rows.start + t, self.seq.len()), self.first, x);
            x[self.count..].fill(f32::NEG_INFINITY);
            if let Some(c) = a.params.softcap {
                let bias = a.alibi(head);
                debug_assert!(bias == 0.0, "no model has both");
                cap.iter_mut()
                    .zip(&*x)
                    .for_each(|(o, s)| *o = if s.is_finite() { 1.0 - (s / c) * (s / c) } else { 0.0 });
            }
            weigh(isa, x, self.r.lse[i]);
            slope(isa, x, &cap, delta[i], a.params.scale, &mut slopes[t]);
        }
        let (mut packed, mut turned) = (vec![], [[0f32; ROWS]; KEYS]);
        let turn = |from: &[[f32; KEYS]; ROWS], to: &mut [[f32; ROWS]; KEYS]| {
            for (i, to) in to.iter_mut().enumerate() {
                for (t, to) in to.iter_mut().enumerate() {
                    *to = from[t][i];
                }
            }
        };
        turn(&weights, &mut turned);
        along(n, a.value_dim, |t| d_out[t], &mut packed);
        gather(isa, &packed, &turned, (self.count, n), &mut self.dv);
        turn(&slopes, &mut turned);
        along(n, a.key_dim, |t| q[t], &mut packed);
        gather(isa, &packed, &turned, (self.count, n), &mut self.dk);

        let by_key: [&[f32]; ROWS] = std::array::from_fn(|t| &slopes[t][..self.count]);
        let mut sums = [Sums::default(); ROWS];
        for (p, panel) in self.along_k.chunks_exact(self.count * PANEL).enumerate() {
            let columns = p * PANEL..a.key_dim.min((p + 1) * PANEL);
            for (t, s) in sums[..n].iter_mut().enumerate() {
                s[..columns.len()].copy_from_slice(&dq(at(t))[columns.clone()]);
            }
            float_panel(isa, panel, &by_key[..n], &mut sums[..n]);
            for (t, s) in sums[..n].iter().enumerate() {
                dq(at(t))[columns.clone()].copy_from_slice(&s[..columns.len()]);
            }
        }
    }
}

/// Adds `turned · packed` to the sums of each key.
fn gather(isa: Isa, packed: &[f32], turned: &[[f32; ROWS]; KEYS], (count, n): (usize, usize), sums: &mut [Sums]) {
    let by_row: [&[f32]; KEYS] = std::array::from_fn(|i| &turned[i][..n]);
    for (panel, sums) in packed.chunks_exact(n * PANEL).zip(sums.chunks_exact_mut(KEYS)) {
        float_panel(isa, panel, &by_row[..count], &mut sums[..count]);
    }
}

twin! {
    /// From the derivative by weights to that by products: `d ← w (d - delta) · cap · scale`.
    fn slope(w: &[f32; KEYS], cap: &[f32; KEYS], delta: f32, scale: f32, d: &mut [f32; KEYS]) {
        for ((d, w), cap) in d.iter_mut().zip(w).zip(cap) {
            *d = w * (*d - delta) * cap * scale;
        }
    }
}
