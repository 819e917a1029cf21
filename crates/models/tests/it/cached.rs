//! Real trained models with keys and values cached in fewer bits: how far their predictions stray.

use allod_cpu::{Cpu, KvType, Options, Pool};
use allod_models::open;
use allod_plan::{Backend, PAGE, SeqRows, Step};
use std::{path::Path, sync::Arc};

/// Logits at every position of `ids`, read `chunk` at a time.
fn logits(path: &Path, ids: &[u32], cache: KvType, chunk: usize) -> Vec<Vec<f32>> {
    let m = open(path, None).unwrap();
    let context = ids.len().next_multiple_of(PAGE);
    let options =
        Options { context, rows: ids.len(), outputs: ids.len(), cache_type: Some(cache), ..Options::default() };
    let mut cpu = Cpu::new(&m.plan, &*m.source, Arc::new(Pool::new(2)), &options).unwrap();
    let pages: Vec<u32> = (0..(context / PAGE) as u32).collect();
    let mut all = Vec::new();
    for (i, ids) in ids.chunks(chunk).enumerate() {
        let start = (i * chunk) as u32;
        let sequences = [SeqRows { rows: 0..ids.len(), start, pages: &pages, state: 0, adapter: 0 }];
        let outputs: Vec<u32> = (0..ids.len() as u32).collect();
        let found = cpu.run(&Step { tokens: ids, sequences: &sequences, outputs: &outputs }).unwrap();
        all.extend(found.chunks(found.len() / ids.len()).map(<[f32]>::to_vec));
    }
    all
}

fn probabilities(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x));
    let e: Vec<f64> = logits.iter().map(|&x| f64::from(x - top).exp()).collect();
    let total: f64 = e.iter().sum();
    e.iter().map(|x| x / total).collect()
}

/// Mean Kullback-Leibler divergence of `found` from `truth`.
fn divergence(truth: &[Vec<f32>], found: &[Vec<f32>]) -> f64 {
    let of_row = |(t, f): (&Vec<f32>, &Vec<f32>)| -> f64 {
        probabilities(t).iter().zip(probabilities(f)).map(|(p, q)| if *p > 0.0 { p * (p / q).ln() } else { 0.0 }).sum()
    };
    truth.iter().zip(found).map(of_row).sum::<f64>() / truth.len() as f64
}

#[test]
fn fewer_bits_cost_what_their_rounding_does() {
    let Some(data) = allod_testkit::data() else { return };
    let known = std::fs::read(data.join("weights/known_answers_llama2c.json")).unwrap();
    let known: serde_json::Value = serde_json::from_slice(&known).unwrap();
    for (name, file) in [("stories260K", "stories260K/stories260K.bin"), ("llama2xs", "llama2xs/model.bin")] {
        let path = data.join("weights").join(file);
        let start = known[name]["start_token"].as_u64().unwrap() as u32;
        let answer = known[name]["greedy_200"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32);
        let ids: Vec<u32> = std::iter::once(start).chain(answer).collect();
        let truth = logits(&path, &ids, KvType::F32, ids.len());
        let [i16, f16, q8, q4] = [KvType::I16, KvType::F16, KvType::Q8_0, KvType::Q4_0].map(|cache| {
            let whole = logits(&path, &ids, cache, ids.len());
            assert_eq!(whole, logits(&path, &ids, cache, 7), "{name}, {cache:?}: chunks leave a trace");
            divergence(&truth, &whole)
        });
        println!("{name}: i16 {i16:.2e}, f16 {f16:.2e}, q8_0 {q8:.2e}, q4_0 {q4:.2e}");
        // Divergence grows with the square of the error, and a step of q4_0 is sixteen of q8_0: 256 times, give or take
        // what a small model makes of it. Heads of 8 have a step of at most 1/32,767 of their norm, f16 one of 1/2,048 to 1/1,024 of
        // each number.
        assert!(i16 < f16 && f16 < q8, "{name}: i16 {i16:e}, f16 {f16:e}, q8_0 {q8:e}");
        assert!(q8 < q4 && q4 < 1000.0 * q8, "{name}: q8_0 {q8:e}, q4_0 {q4:e}");
    }
}
