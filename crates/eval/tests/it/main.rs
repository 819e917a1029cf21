//! Against the logits that Transformers computed for small random models, with sums written out in f64.
#![expect(clippy::unwrap_used, reason = "a test may")]

mod divergence;
mod files;
mod perplexity;
mod plot;

use allod_cpu::{Cpu, KvType, Options, Pool};
use allod_eval::{Error, Scorer};
use allod_formats::{Safetensors, codec};
use allod_models::Model;
use std::{path::Path, sync::Arc};

/// A small model, a text for it, and Transformers' logits of every position.
pub struct Golden {
    pub model: Model,
    /// Tokens of a sequence.
    pub length: usize,
    pub tokens: Vec<u32>,
    pub logits: Vec<f32>,
    pub width: usize,
}

pub fn golden(name: &str) -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/goldens").join(name);
    let file = Safetensors::open(path.join("golden.safetensors")).unwrap();
    let ids = file.tensor("ids").unwrap();
    let tokens = ids.data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect();
    let logits = file.tensor("logits").unwrap();
    let model = allod_models::open(&path, Some(ids.shape[1])).unwrap();
    let (length, width) = (ids.shape[1], logits.shape[2]);
    Golden { model, length, tokens, logits: codec::to_f32(&logits).unwrap(), width }
}

impl Golden {
    /// Runs `f` with the model prepared for so many threads and rows at a time.
    pub fn scorer<T>(&self, threads: usize, rows: usize, f: impl FnOnce(&mut Scorer<'_>) -> T) -> T {
        let pool = Arc::new(Pool::new(threads));
        let cache_type = Some(KvType::F32);
        let options = Options { rows, outputs: rows, context: self.length, cache_type, ..Options::default() };
        let mut cpu = Cpu::new(&self.model.plan, &*self.model.source, Arc::clone(&pool), &options).unwrap();
        f(&mut Scorer::new(&mut cpu, &pool))
    }

    /// Natural logarithms of the probabilities of every id at a position of the text.
    pub fn log_probs(&self, position: usize) -> Vec<f64> {
        let row = &self.logits[position * self.width..(position + 1) * self.width];
        let sum: f64 = row.iter().map(|&v| f64::from(v).exp()).sum();
        row.iter().map(|&v| f64::from(v) - sum.ln()).collect()
    }

    /// Positions that count, with the tokens that follow them.
    pub fn counted(&self) -> Vec<(usize, usize)> {
        let of = |w: usize| (w * self.length + self.length / 2)..((w + 1) * self.length - 1);
        let windows = 0..self.tokens.len() / self.length;
        windows.flat_map(of).map(|p| (p, self.tokens[p + 1] as usize)).collect()
    }
}

pub fn go(_: allod_eval::Progress) -> std::ops::ControlFlow<()> {
    std::ops::ControlFlow::Continue(())
}

pub fn told<T>(result: Result<T, Error>) -> String {
    result.err().unwrap().to_string()
}

/// A probability read off logits that are right to 1e-4 of their spread (which is about one) is right to this share.
pub const TOLERANCE: f64 = 2e-4;
