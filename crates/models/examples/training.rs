//! What a training step of a model costs: `training MODEL [sequences] [tokens] [threads] [recompute] [served]`. LoRA of rank 16
//! on every matrix of the layers; every token is a target. Prints seconds of the forward and the backward pass, tokens
//! per second of both, and the memory held.
#![expect(clippy::print_stdout, reason = "its purpose")]

use allod_cpu::{LearnOptions, Learner, Pool, Products};
use allod_models::open;
use allod_plan::{Adapter, AdapterInit, LinearKind, Pass, RowLimits, TrainBatch, Trainable, Tune};
use std::{ops::Range, path::Path, sync::Arc, time::Instant};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let number = |i: usize, or: usize| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(or);
    let (count, length, threads) = (number(2, 8), number(3, 512), number(4, 2));
    let m = open(Path::new(args.get(1).ok_or("name a model")?), Some(length))?;
    let adapter =
        |weight| Adapter { weight, rank: 16, scale: 2.0, dropout: 0.0, dora: false, init: AdapterInit::Kaiming };
    let linears = m.plan.linears().into_iter().filter(|l| l.kind == LinearKind::Dense);
    let tune = Tune { adapters: linears.map(|l| adapter(l.weight)).collect(), ..Tune::default() };
    let rows = count * length;
    let limits = RowLimits { tokens: rows, outputs: rows, sequences: count };
    let has = |word: &str| args.iter().any(|a| a == word);
    let products = if has("served") { Products::Served } else { Products::Exact };
    let options = LearnOptions { limits, products, recompute: has("recompute"), ..LearnOptions::default() };
    let mut l = Learner::new(&m.plan, &*m.source, Arc::new(Pool::new(threads)), &tune, &options)?;
    let tokens: Vec<u32> = (0..rows as u32).map(|i| i.wrapping_mul(2_654_435_761) % m.config.vocab as u32).collect();
    let sequences: Vec<Range<usize>> = (0..count).map(|s| s * length..(s + 1) * length).collect();
    let targets: Vec<Option<u32>> = tokens.iter().map(|&t| Some(t)).collect();
    let batch = TrainBatch { tokens: &tokens, sequences: &sequences, targets: &targets, seed: 0, embedding_noise: 0.0 };
    for _ in 0..2 {
        let start = Instant::now();
        let n = l.forward(&batch, Pass::Train)?.values.len();
        let middle = Instant::now();
        l.backward(&vec![-1.0 / n as f32; n])?;
        let (forward, both) = ((middle - start).as_secs_f64(), start.elapsed().as_secs_f64());
        println!("forward {forward:.2} s, backward {:.2} s, {:.1} tokens/s", both - forward, rows as f64 / both);
    }
    let [frozen, trained, activations] = l.bytes().map(|b| b >> 20);
    println!("frozen {frozen} MiB, trained {trained} MiB, activations {activations} MiB");
    Ok(())
}
