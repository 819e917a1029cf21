//! From Hugging Face's tensor names and layouts to GGUF's. One table per architecture; the same table reads a folder,
//! converts it, and converts back.

use super::order;
use crate::Error;
use allod_formats::codec;
use allod_tensor::{DType, Shape, Tensor};

/// One tensor, or one kind of tensor in every layer. `{}` stands for the layer, `{e}` for the expert; the endings
/// `.weight` and `.bias` belong to both names. Prefixes such as `model.` are left out.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    /// GGUF's name.
    pub gguf: &'static str,
    /// Hugging Face's.
    pub hf: &'static str,
    /// What differs in layout.
    pub fix: Fix,
}

/// A name whose tensor is the same in both.
pub const fn same(gguf: &'static str, hf: &'static str) -> Name {
    Name { gguf, hf, fix: Fix::None }
}

/// A name whose tensor is laid out differently.
pub const fn fixed(gguf: &'static str, hf: &'static str, fix: Fix) -> Name {
    Name { gguf, hf, fix }
}

/// A tensor that has no part in what we compute, such as the head of another task.
pub const fn ignored(hf: &'static str) -> Name {
    Name { gguf: "", hf, fix: Fix::None }
}

/// How a tensor's layout differs between Hugging Face and GGUF. A pattern with `{e}` also stacks the experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fix {
    /// Not at all.
    None,
    /// Rotary halves of each query head become neighbours.
    InterleaveQ,
    /// Rotary halves of each key head become neighbours.
    InterleaveK,
    /// `[in, out]` becomes `[out, in]` (GPT-2's Conv1D), and so each of a stack; vectors stay.
    Transpose,
    /// GGUF stores `1 + w` (Gemma's norms).
    PlusOne,
    /// GGUF stores `-exp(w)` (Mamba's A).
    NegExp,
    /// Axes of size 1 are dropped.
    Squeeze,
    /// Rows that hold query, key and value of one head after another become all queries, all keys, all values.
    QkvByHead,
    /// The first rows, that no position uses, are dropped (see [`super::Hf::skip_rows`]).
    SkipRows,
    /// `[n]` becomes `[n, 1]`.
    Column,
    /// `[n]` becomes `[groups, n / groups]` (Mamba-2's norm).
    Groups,
    /// Value heads that stand by their key head come `key heads` apart, on the first axis (Qwen3.5's DeltaNet).
    TileRows,
    /// Likewise on the second axis.
    TileColumns,
    /// Likewise in the rows that follow those of queries and keys.
    TileValues,
    /// Of rows with `[query | key | values | gates]` for each key head (Qwen3-Next): all queries, keys, values.
    QkvOfGroups,
    /// Of the same rows: all gates.
    GatesOfGroups,
    /// Of `kv_b`: the keys' part of each head, `[heads, latent, key]` (DeepSeek).
    KeysOfKvB,
    /// Of `kv_b`: the values' part of each head, `[heads, value, latent]`.
    ValuesOfKvB,
    /// Of a stack: every `of`-th row of each from `index` on (gpt-oss).
    Every {
        /// The first.
        index: usize,
        /// Of how many it is one.
        of: usize,
    },
    /// One after the other.
    Then(&'static [Fix]),
    /// Part `index` of `of` equal parts along the first axis (the second where experts are stacked).
    Part {
        /// Which.
        index: usize,
        /// Of how many.
        of: usize,
    },
}

/// Counts that a [`Fix`] needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    /// Query heads.
    pub query: usize,
    /// Key heads.
    pub key: usize,
    /// Rows that [`Fix::SkipRows`] drops.
    pub skip: usize,
    /// Of a query or key head of MLA, the elements without positions.
    pub nope: usize,
    /// Elements of a value head of MLA.
    pub value: usize,
    /// Key heads of DeltaNet, groups of Mamba-2 (`ssm.group_count`).
    pub groups: usize,
    /// Value heads of DeltaNet (`ssm.time_step_rank`).
    pub states: usize,
    /// Elements of a key head of DeltaNet (`ssm.state_size`).
    pub state_dim: usize,
    /// Elements of all its value heads (`ssm.inner_size`).
    pub inner: usize,
}

impl Heads {
    /// Elements of the value heads that share a key head.
    pub(super) fn values_per_group(self) -> usize {
        self.inner / self.groups.max(1)
    }
}

impl Fix {
    /// The shape after the fix.
    pub(crate) fn shape(self, mut shape: Shape, heads: Heads) -> Shape {
        match self {
            Fix::SkipRows => {
                if let Some(rows) = shape.first_mut() {
                    *rows = rows.saturating_sub(heads.skip);
                }
            }
            Fix::Transpose if shape.len() == 2 => shape.swap(0, 1),
            Fix::Transpose if shape.len() == 3 => shape.swap(1, 2),
            Fix::Column => shape.push(1),
            Fix::Groups => shape = vec![heads.groups, shape.iter().product::<usize>() / heads.groups.max(1)],
            Fix::QkvOfGroups => {
                shape.iter_mut().take(1).for_each(|d| *d = 2 * heads.groups * heads.state_dim + heads.inner)
            }
            Fix::GatesOfGroups => shape.iter_mut().take(1).for_each(|d| *d = heads.inner),
            Fix::KeysOfKvB => shape = vec![heads.query, shape.last().copied().unwrap_or(0), heads.nope],
            Fix::ValuesOfKvB => shape = vec![heads.query, heads.value, shape.last().copied().unwrap_or(0)],
            Fix::Every { index, of } => {
                if let Some(d) = shape.get_mut(1) {
                    *d = order::every(*d, index, of).len();
                }
            }
            Fix::Then(all) => shape = all.iter().fold(shape, |shape, f| f.shape(shape, heads)),
            Fix::Squeeze => shape.retain(|&d| d != 1),
            Fix::Part { of, .. } => {
                let axis = usize::from(shape.len() == 3);
                if let Some(d) = shape.get_mut(axis) {
                    *d /= of;
                }
            }
            _ => {}
        }
        shape
    }

    /// The type after the fix: arithmetic widens to F32.
    pub(crate) fn dtype(self, dtype: DType) -> DType {
        match self {
            Fix::PlusOne | Fix::NegExp => DType::F32,
            Fix::KeysOfKvB if dtype.is_quantized() => DType::F32,
            Fix::Then(all) => all.iter().fold(dtype, |dtype, f| f.dtype(dtype)),
            _ => dtype,
        }
    }

    /// The fix for a bias: distances from 1 are those of weights alone.
    pub(crate) fn of_bias(self) -> Fix {
        if self == Fix::PlusOne { Fix::None } else { self }
    }

    /// Applies it.
    pub(crate) fn apply(self, t: Tensor, heads: Heads) -> Result<Tensor, Error> {
        let shape = self.shape(t.shape.clone(), heads);
        match self {
            Fix::None => Ok(t),
            Fix::Squeeze => rebuild(t.dtype, shape, t.data.to_vec()),
            Fix::InterleaveQ => rows(t, heads.query, |i, half| (i % 2) * half + i / 2),
            Fix::InterleaveK => rows(t, heads.key, |i, half| (i % 2) * half + i / 2),
            Fix::PlusOne => map(&t, |w| w + 1.0),
            Fix::NegExp => map(&t, |w| -libm::expf(w)),
            Fix::Transpose if t.shape.len() > 1 => transpose(&t, shape),
            Fix::Transpose => Ok(t),
            Fix::Column | Fix::Groups => rebuild(t.dtype, shape, t.data.to_vec()),
            Fix::TileRows | Fix::TileColumns | Fix::TileValues => {
                let (axis, order) = self.tiling(&t, heads);
                order::pick(&t, axis, &order)
            }
            Fix::QkvOfGroups => order::pick(&t, 0, &order::qkv_of_groups(heads)),
            Fix::GatesOfGroups => order::pick(&t, 0, &order::gates_of_groups(heads)),
            Fix::KeysOfKvB => {
                let plain = if t.dtype.is_quantized() { map(&t, |w| w)? } else { t };
                let keys = order::pick(&plain, 0, &order::of_kv_b(heads, false))?;
                let by_head = vec![heads.query, heads.nope, keys.columns()];
                transpose(&rebuild(keys.dtype, by_head, keys.data.to_vec())?, shape)
            }
            Fix::ValuesOfKvB => {
                let values = order::pick(&t, 0, &order::of_kv_b(heads, true))?;
                rebuild(values.dtype, shape, values.data.to_vec())
            }
            Fix::Every { index, of } => {
                let rows = t.shape.get(1).copied().unwrap_or(0);
                order::pick(&t, 1, &order::every(rows, index, of))
            }
            Fix::Then(all) => all.iter().try_fold(t, |t, f| f.apply(t, heads)),
            Fix::Part { index, of } => part(&t, index, of, shape),
            Fix::QkvByHead => regroup(t, heads.query, 3),
            Fix::SkipRows => skip(&t, heads.skip, shape),
        }
    }
}

impl Fix {
    /// The shape before the fix; of a part, as it was within its whole (see [`super::join`]).
    pub(crate) fn undo_shape(self, mut shape: Shape, heads: Heads) -> Shape {
        match self {
            Fix::SkipRows => {
                if let Some(rows) = shape.first_mut() {
                    *rows = rows.saturating_add(heads.skip);
                }
                shape
            }
            // The only axis that is dropped: the one channel of a depthwise convolution's filter.
            Fix::Squeeze if shape.len() == 2 => vec![shape[0], 1, shape[1]],
            Fix::Part { .. } | Fix::Every { .. } | Fix::QkvOfGroups | Fix::GatesOfGroups => shape,
            Fix::KeysOfKvB => vec![heads.query * heads.nope, shape.get(1).copied().unwrap_or(0)],
            Fix::ValuesOfKvB => vec![heads.query * heads.value, shape.last().copied().unwrap_or(0)],
            Fix::Column | Fix::Groups => vec![shape.iter().product()],
            Fix::Then(all) => all.iter().rev().fold(shape, |shape, f| f.undo_shape(shape, heads)),
            _ => self.shape(shape, heads),
        }
    }

    /// Takes it back, for a tensor of plain numbers. A part becomes what it was within its whole.
    pub(crate) fn undo(self, t: Tensor, heads: Heads) -> Result<Tensor, Error> {
        let shape = self.undo_shape(t.shape.clone(), heads);
        match self {
            Fix::None | Fix::Part { .. } | Fix::Every { .. } | Fix::QkvOfGroups | Fix::GatesOfGroups => Ok(t),
            Fix::Squeeze => rebuild(t.dtype, shape, t.data.to_vec()),
            Fix::InterleaveQ => rows(t, heads.query, |i, half| 2 * (i % half) + i / half),
            Fix::InterleaveK => rows(t, heads.key, |i, half| 2 * (i % half) + i / half),
            Fix::PlusOne => map(&t, |w| w - 1.0),
            Fix::NegExp => map(&t, |w| libm::logf(-w)),
            Fix::Transpose => self.apply(t, heads),
            Fix::Column | Fix::Groups => rebuild(t.dtype, shape, t.data.to_vec()),
            Fix::TileRows | Fix::TileColumns | Fix::TileValues => {
                let (axis, order) = self.tiling(&t, heads);
                order::pick(&t, axis, &order::inverse(&order))
            }
            Fix::Then(all) => all.iter().rev().try_fold(t, |t, f| f.undo(t, heads)),
            Fix::KeysOfKvB => {
                let by_head = vec![heads.query, heads.nope, t.shape.get(1).copied().unwrap_or(0)];
                rebuild(t.dtype, shape, transpose(&t, by_head)?.data.to_vec())
            }
            Fix::ValuesOfKvB => rebuild(t.dtype, shape, t.data.to_vec()),
            Fix::QkvByHead => regroup(t, 3, heads.query),
            Fix::SkipRows => {
                let unused = t.row_bytes() * heads.skip;
                rebuild(t.dtype, shape, [vec![0; unused], t.data.to_vec()].concat())
            }
        }
    }

    /// Axis and order of a change of value heads.
    fn tiling(self, t: &Tensor, heads: Heads) -> (usize, Vec<usize>) {
        let axis = usize::from(self == Fix::TileColumns);
        let all = t.shape.get(axis).copied().unwrap_or(0);
        let values = if self == Fix::TileValues { heads.inner.min(all) } else { all };
        (axis, order::tiled(all, values, heads))
    }
}

/// Rows in `outer` groups of `inner` equal runs become `inner` groups of `outer` runs.
fn regroup(t: Tensor, outer: usize, inner: usize) -> Result<Tensor, Error> {
    let all = t.shape.first().copied().unwrap_or(0);
    if outer == 0 || !all.is_multiple_of(outer * inner) {
        return Err(Error::Layout(format!("{all} rows are not {outer} × {inner} equal runs")));
    }
    let run = t.data.len() / (outer * inner);
    let runs = (0..inner).flat_map(|i| (0..outer).map(move |o| (o * inner + i) * run));
    let data = runs.flat_map(|at| t.data[at..at + run].iter().copied()).collect();
    rebuild(t.dtype, t.shape, data)
}

fn skip(t: &Tensor, rows: usize, shape: Shape) -> Result<Tensor, Error> {
    let all = t.shape.first().copied().unwrap_or(0);
    let row = t.data.len() / all.max(1);
    let rest = t.data.slice(rows.min(all) * row..t.data.len());
    let rest = rest.ok_or_else(|| Error::Layout(format!("{all} rows, {rows} of them unused")))?;
    Tensor::new(t.dtype, shape, rest).map_err(|e| Error::Layout(e.to_string()))
}

/// Reorders the rows within each head: row `i` comes from `from(i, half)`.
fn rows(t: Tensor, heads: usize, from: impl Fn(usize, usize) -> usize) -> Result<Tensor, Error> {
    let all = t.shape.first().copied().unwrap_or(0);
    if heads == 0 || !all.is_multiple_of(2 * heads) {
        return Err(Error::Layout(format!("{all} rows are not {heads} heads of an even size")));
    }
    let (head, row) = (all / heads, t.data.len() / all.max(1));
    let mut out = Vec::with_capacity(t.data.len());
    for h in 0..heads {
        for i in 0..head {
            let at = (h * head + from(i, head / 2)) * row;
            out.extend_from_slice(&t.data[at..at + row]);
        }
    }
    rebuild(t.dtype, t.shape, out)
}

fn map(t: &Tensor, f: impl Fn(f32) -> f32) -> Result<Tensor, Error> {
    let values = codec::to_f32(t).map_err(|e| Error::Layout(e.to_string()))?;
    let values: Vec<f32> = values.into_iter().map(f).collect();
    Ok(Tensor::from_f32(t.shape.clone(), &values))
}

/// Swaps the last two axes.
fn transpose(t: &Tensor, shape: Shape) -> Result<Tensor, Error> {
    let &[.., r, c] = t.shape.as_slice() else { return Ok(t.clone()) };
    let size = t.dtype.block_bytes();
    if t.dtype.is_quantized() {
        return Err(Error::Layout(format!("a {} tensor cannot be transposed", t.dtype)));
    }
    let mut out = Vec::with_capacity(t.data.len());
    for one in t.data.chunks_exact((r * c * size).max(1)) {
        for j in 0..c {
            for i in 0..r {
                out.extend_from_slice(&one[(i * c + j) * size..][..size]);
            }
        }
    }
    rebuild(t.dtype, shape, out)
}

fn part(t: &Tensor, index: usize, of: usize, shape: Shape) -> Result<Tensor, Error> {
    let outer = if t.shape.len() == 3 { t.shape[0] } else { 1 };
    let each = t.data.len() / outer.max(1);
    if !each.is_multiple_of(of) || t.shape.len() < 2 && !t.len().is_multiple_of(of) {
        return Err(Error::Layout(format!("shape {:?} has no {of} equal parts", t.shape)));
    }
    let size = each / of;
    if outer == 1 {
        let data = t.data.slice(index * size..(index + 1) * size);
        let data = data.ok_or_else(|| Error::Layout(format!("shape {:?} has no part {index}", t.shape)))?;
        return Tensor::new(t.dtype, shape, data).map_err(|e| Error::Layout(e.to_string()));
    }
    let data = (0..outer).flat_map(|e| t.data[e * each + index * size..][..size].iter().copied()).collect();
    rebuild(t.dtype, shape, data)
}

pub(crate) fn rebuild(dtype: DType, shape: Shape, data: Vec<u8>) -> Result<Tensor, Error> {
    Tensor::new(dtype, shape, data.into()).map_err(|e| Error::Layout(e.to_string()))
}

/// The names of Llama and of the many that took them over.
pub const LLAMA_LIKE: &[Name] = &[
    same("token_embd", "embed_tokens"),
    same("output_norm", "norm"),
    same("output", "lm_head"),
    same("blk.{}.attn_norm", "layers.{}.input_layernorm"),
    same("blk.{}.attn_q", "layers.{}.self_attn.q_proj"),
    same("blk.{}.attn_k", "layers.{}.self_attn.k_proj"),
    same("blk.{}.attn_v", "layers.{}.self_attn.v_proj"),
    same("blk.{}.attn_qkv", "layers.{}.self_attn.qkv_proj"),
    same("blk.{}.attn_output", "layers.{}.self_attn.o_proj"),
    same("blk.{}.attn_q_norm", "layers.{}.self_attn.q_norm"),
    same("blk.{}.attn_k_norm", "layers.{}.self_attn.k_norm"),
    same("blk.{}.ffn_norm", "layers.{}.post_attention_layernorm"),
    same("blk.{}.ffn_gate", "layers.{}.mlp.gate_proj"),
    same("blk.{}.ffn_up", "layers.{}.mlp.up_proj"),
    same("blk.{}.ffn_up", "layers.{}.mlp.gate_up_proj"),
    same("blk.{}.ffn_down", "layers.{}.mlp.down_proj"),
];

/// What changes against [`LLAMA_LIKE`] where GGUF pairs neighbouring elements in RoPE.
pub const INTERLEAVED_QK: &[Name] = &[
    fixed("blk.{}.attn_q", "layers.{}.self_attn.q_proj", Fix::InterleaveQ),
    fixed("blk.{}.attn_k", "layers.{}.self_attn.k_proj", Fix::InterleaveK),
];

/// What changes against [`LLAMA_LIKE`] in Gemma: norms store their distance from 1.
pub const GEMMA_NORMS: &[Name] = &[
    fixed("output_norm", "norm", Fix::PlusOne),
    fixed("blk.{}.attn_norm", "layers.{}.input_layernorm", Fix::PlusOne),
    fixed("blk.{}.attn_q_norm", "layers.{}.self_attn.q_norm", Fix::PlusOne),
    fixed("blk.{}.attn_k_norm", "layers.{}.self_attn.k_norm", Fix::PlusOne),
    fixed("blk.{}.ffn_norm", "layers.{}.post_attention_layernorm", Fix::PlusOne),
];

/// What changes against [`GEMMA_NORMS`] where both ends of each part are normed.
pub const SANDWICH_NORMS: &[Name] = &[
    fixed("blk.{}.post_attention_norm", "layers.{}.post_attention_layernorm", Fix::PlusOne),
    fixed("blk.{}.ffn_norm", "layers.{}.pre_feedforward_layernorm", Fix::PlusOne),
    fixed("blk.{}.post_ffw_norm", "layers.{}.post_feedforward_layernorm", Fix::PlusOne),
];

/// Mixtures of experts in the place of [`LLAMA_LIKE`]'s feed-forward parts: each by itself, or stacked with gate and up
/// fused.
pub const EXPERTS: &[Name] = &[
    same("blk.{}.ffn_gate_inp", "layers.{}.mlp.gate"),
    same("blk.{}.ffn_gate_exps", "layers.{}.mlp.experts.{e}.gate_proj"),
    same("blk.{}.ffn_up_exps", "layers.{}.mlp.experts.{e}.up_proj"),
    same("blk.{}.ffn_down_exps", "layers.{}.mlp.experts.{e}.down_proj"),
    fixed("blk.{}.ffn_gate_exps.weight", "layers.{}.mlp.experts.gate_up_proj", Fix::Part { index: 0, of: 2 }),
    fixed("blk.{}.ffn_up_exps.weight", "layers.{}.mlp.experts.gate_up_proj", Fix::Part { index: 1, of: 2 }),
    same("blk.{}.ffn_down_exps.weight", "layers.{}.mlp.experts.down_proj"),
];

/// Names of Mamba's mixer, which architectures keep under different modules.
macro_rules! mamba_names {
    ($module:literal) => {
        &[
            same("blk.{}.ssm_in", concat!("layers.{}.", $module, ".in_proj")),
            fixed("blk.{}.ssm_conv1d", concat!("layers.{}.", $module, ".conv1d"), Fix::Squeeze),
            same("blk.{}.ssm_x", concat!("layers.{}.", $module, ".x_proj")),
            same("blk.{}.ssm_dt", concat!("layers.{}.", $module, ".dt_proj")),
            fixed("blk.{}.ssm_a", concat!("layers.{}.", $module, ".A_log"), Fix::NegExp),
            same("blk.{}.ssm_d", concat!("layers.{}.", $module, ".D")),
            same("blk.{}.ssm_out", concat!("layers.{}.", $module, ".out_proj")),
            same("blk.{}.ssm_dt_norm", concat!("layers.{}.", $module, ".dt_layernorm")),
            same("blk.{}.ssm_b_norm", concat!("layers.{}.", $module, ".b_layernorm")),
            same("blk.{}.ssm_c_norm", concat!("layers.{}.", $module, ".c_layernorm")),
        ]
    };
}
pub(crate) use mamba_names;

/// Names of Mamba-2's mixer, likewise.
macro_rules! mamba2_names {
    ($module:literal) => {
        &[
            same("blk.{}.ssm_in", concat!("layers.{}.", $module, ".in_proj")),
            fixed("blk.{}.ssm_conv1d", concat!("layers.{}.", $module, ".conv1d"), Fix::Squeeze),
            same("blk.{}.ssm_dt.bias", concat!("layers.{}.", $module, ".dt_bias")),
            fixed("blk.{}.ssm_a", concat!("layers.{}.", $module, ".A_log"), Fix::Then(&[Fix::NegExp, Fix::Column])),
            fixed("blk.{}.ssm_d", concat!("layers.{}.", $module, ".D"), Fix::Column),
            fixed("blk.{}.ssm_norm", concat!("layers.{}.", $module, ".norm"), Fix::Groups),
            same("blk.{}.ssm_out", concat!("layers.{}.", $module, ".out_proj")),
        ]
    };
}
pub(crate) use mamba2_names;
