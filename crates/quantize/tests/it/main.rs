#![expect(clippy::unwrap_used, reason = "tests")]

mod collecting;
mod encoders;
mod importance;
mod mixes;
mod recipes;
mod runs;
mod synth;

use allod_formats::{Error, Metadata, TensorInfo, WeightSource};
use allod_tensor::Tensor;

/// A model in memory.
#[derive(Default)]
pub struct Memory {
    pub metadata: Metadata,
    pub tensors: Vec<(String, Tensor)>,
}

impl WeightSource for Memory {
    fn origin(&self) -> String {
        "memory".into()
    }
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
    fn names(&self) -> Vec<String> {
        self.tensors.iter().map(|t| t.0.clone()).collect()
    }
    fn info(&self, name: &str) -> Option<TensorInfo> {
        let (_, t) = self.tensors.iter().find(|t| t.0 == name)?;
        Some(TensorInfo { dtype: t.dtype, shape: t.shape.clone() })
    }
    fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        let missing = || Error::NoTensor { origin: self.origin(), name: name.into() };
        self.tensors.iter().find(|t| t.0 == name).map(|t| t.1.clone()).ok_or_else(missing)
    }
}

/// Numbers like those of weights: sums of uniform ones, now and then larger by a factor.
pub fn numbers(seed: u64, n: usize, heavy: bool) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let mut one = || {
        let bell = (0..6).map(|_| next()).sum::<f32>() - 3.0;
        0.03 * bell * if heavy && next() < 0.02 { 6.0 } else { 1.0 }
    };
    (0..n).map(|_| one()).collect()
}

/// A small Llama-like model of such numbers.
pub fn model() -> Memory {
    let mut m = Memory::default();
    for (key, n) in [("block_count", 2u32), ("attention.head_count", 8), ("attention.head_count_kv", 2)] {
        m.metadata.set(format!("llama.{key}"), n);
    }
    m.metadata.set("general.architecture", "llama");
    let mut add = |name: String, shape: &[usize]| {
        let n = shape.iter().product();
        let seed = m.tensors.len() as u64 + 1;
        m.tensors.push((name, Tensor::from_f32(shape, &numbers(seed, n, true))));
    };
    add("token_embd.weight".into(), &[300, 256]);
    add("output_norm.weight".into(), &[256]);
    for i in 0..2 {
        for (name, rows) in [("attn_q", 256), ("attn_k", 64), ("attn_v", 64), ("attn_output", 256), ("ffn_up", 512)] {
            add(format!("blk.{i}.{name}.weight"), &[rows, 256]);
        }
        add(format!("blk.{i}.ffn_down.weight"), &[256, 512]);
        add(format!("blk.{i}.ffn_up_exps.weight"), &[3, 96, 256]);
    }
    m
}
