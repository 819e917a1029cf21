//! Training against TRL and PEFT: the reference run's own start, batches, losses and gradients (see the script that
//! made them, which drives the installed packages).

use allod_codec as codec;
use allod_cpu::{LearnOptions, Learner, Pool};
use allod_formats::Safetensors;
use allod_models::open;
use allod_plan::{Adapter, AdapterInit, LinearKind, Pass, RowLimits, TrainBatch, Trainable, Tune};
use std::{ops::Range, path::Path, sync::Arc};

/// A batch of the reference run, packed: padding left out, labels shifted.
#[derive(Default)]
struct Packed {
    tokens: Vec<u32>,
    sequences: Vec<Range<usize>>,
    targets: Vec<Option<u32>>,
}

fn integers(file: &Safetensors, name: &str) -> Vec<i64> {
    file.bytes(name).unwrap().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
}

fn batch(path: &Path) -> Packed {
    let file = Safetensors::open(path).unwrap();
    let width = file.entry("input_ids").unwrap().shape[1];
    let [ids, mask, labels] = ["input_ids", "attention_mask", "labels"].map(|n| integers(&file, n));
    let mut p = Packed::default();
    for ((ids, mask), labels) in ids.chunks(width).zip(mask.chunks(width)).zip(labels.chunks(width)) {
        let n = mask.iter().sum::<i64>() as usize;
        assert!(mask[..n].iter().all(|&m| m == 1), "padding is on the right");
        p.sequences.push(p.tokens.len()..p.tokens.len() + n);
        p.tokens.extend(ids[..n].iter().map(|&i| i as u32));
        p.targets.extend((1..=n).map(|t| labels.get(t).filter(|&&l| l >= 0 && t < n).map(|&l| l as u32)));
    }
    p
}

/// Where a tensor of PEFT's goes.
fn ours(name: &str) -> String {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    let parts: Vec<&str> = name.split('.').collect();
    let stem = match parts[4] {
        "q_proj" => "attn_q",
        "k_proj" => "attn_k",
        "v_proj" => "attn_v",
        "o_proj" => "attn_output",
        "gate_proj" => "ffn_gate",
        "up_proj" => "ffn_up",
        "down_proj" => "ffn_down",
        other => panic!("{other}"),
    };
    let kind = match parts[5] {
        "lora_A" => "lora_a",
        "lora_B" => "lora_b",
        "lora_magnitude_vector" => "lora_magnitude",
        other => panic!("{other}"),
    };
    format!("blk.{}.{stem}.weight.{kind}", parts[2])
}

fn numbers(file: &Safetensors, name: &str) -> Vec<f32> {
    codec::to_f32(&file.tensor(name).unwrap()).unwrap()
}

/// The model with the reference run's adapter as it began.
fn learner(fixture: &Path, reference: &str, threads: usize, recompute: bool) -> Learner {
    let m = open(&fixture.join("model"), None).unwrap();
    let folder = fixture.join(reference).join("init_adapter");
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json")).unwrap()).unwrap();
    let (rank, alpha) = (config["r"].as_u64().unwrap() as usize, config["lora_alpha"].as_f64().unwrap() as f32);
    let rs = config["use_rslora"].as_bool().unwrap();
    let adapter = |weight: String| Adapter {
        weight,
        rank,
        scale: alpha / if rs { (rank as f32).sqrt() } else { rank as f32 },
        dropout: 0.0,
        dora: config["use_dora"].as_bool().unwrap(),
        init: AdapterInit::Kaiming,
    };
    let linears = m.plan.linears().into_iter().filter(|l| l.kind == LinearKind::Dense);
    let tune = Tune { adapters: linears.map(|l| adapter(l.weight)).collect(), ..Tune::default() };
    let limits = RowLimits { tokens: 512, outputs: 512, sequences: 4 };
    let options = LearnOptions { limits, recompute, ..LearnOptions::default() };
    let mut l = Learner::new(&m.plan, &*m.source, Arc::new(Pool::new(threads)), &tune, &options).unwrap();
    let file = Safetensors::open(folder.join("adapter_model.safetensors")).unwrap();
    let mut loaded = 0;
    for (name, _) in file.entries() {
        let t = l.tensors_mut().iter_mut().find(|t| t.name == ours(name)).unwrap();
        let data = numbers(&file, name);
        if t.name.ends_with("magnitude") {
            // PEFT's first magnitudes are the lengths of W's rows, as ours.
            assert!(t.data.iter().zip(&data).all(|(a, b)| (a - b).abs() <= 1e-6 * b), "{name}");
        }
        t.data.copy_from_slice(&data);
        loaded += 1;
    }
    assert_eq!(loaded, l.tensors().len());
    l
}

/// Loss and gradients of one step.
fn step(l: &mut Learner, b: &Packed) -> f32 {
    let batch =
        TrainBatch { tokens: &b.tokens, sequences: &b.sequences, targets: &b.targets, seed: 0, embedding_noise: 0.0 };
    l.zero_gradients();
    let values = l.forward(&batch, Pass::Train).unwrap().values.to_vec();
    let n = values.len();
    l.backward(&vec![-1.0 / n as f32; n]).unwrap();
    (-values.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64) as f32
}

fn length<'a>(v: impl IntoIterator<Item = &'a f32>) -> f64 {
    v.into_iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt()
}

#[expect(clippy::print_stderr, reason = "a test says why it does nothing")]
fn fixture() -> Option<std::path::PathBuf> {
    let folder = allod_testkit::data()?.parent()?.join("parity/fixture_warm");
    if !folder.exists() {
        eprintln!("skipped: there is no {}", folder.display());
        return None;
    }
    Some(folder)
}

#[test]
fn gradients_of_the_first_step() {
    let Some(fixture) = fixture() else { return };
    for recompute in [false, true] {
        let mut l = learner(&fixture, "ref", 2, recompute);
        step(&mut l, &batch(&fixture.join("ref/batch_0000.safetensors")));
        let file = Safetensors::open(fixture.join("ref/grad_step0.safetensors")).unwrap();
        let mut worst = 0f64;
        for (name, _) in file.entries() {
            let expected = numbers(&file, name);
            let t = l.tensors().iter().find(|t| t.name == ours(name)).unwrap();
            let d: Vec<f32> = t.gradient.iter().zip(&expected).map(|(a, b)| a - b).collect();
            let far = length(&d) / length(&expected).max(f64::from(f32::MIN_POSITIVE));
            // A's gradient is 0 while B is.
            worst = worst.max(if length(&expected) == 0.0 { length(&t.gradient) } else { far });
        }
        println!("gradients of the first step: worst relative distance {worst:.1e}");
        assert!(worst <= 1e-5, "{worst:.2e}");
    }
}

/// AdamW as torch has it, the cosine schedule with 5 steps of warm-up, clipping to 1: losses and norms of every step.
#[test]
fn every_step_of_the_reference_runs() {
    let Some(fixture) = fixture() else { return };
    for (reference, most) in [("ref", 100), ("ref_dora", 30), ("ref_rslora", 30)] {
        let text = std::fs::read_to_string(fixture.join(reference).join("ref.jsonl")).unwrap();
        let expected: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let meta: serde_json::Value =
            serde_json::from_slice(&std::fs::read(fixture.join(reference).join("meta.json")).unwrap()).unwrap();
        let mut l = learner(&fixture, reference, 2, false);
        let mut moments: Vec<[Vec<f32>; 2]> =
            l.tensors().iter().map(|t| [vec![0.0; t.data.len()], vec![0.0; t.data.len()]]).collect();
        let (mut worst_loss, mut worst_norm) = (0f64, 0f64);
        for (i, e) in expected.iter().enumerate().take(most) {
            let b = batch(&fixture.join(format!("ref/batch_{i:04}.safetensors")));
            let loss = step(&mut l, &b);
            let log = &meta["log"][i];
            let norm = length(l.tensors().iter().flat_map(|t| &t.gradient));
            worst_loss = worst_loss.max((f64::from(loss) - e["loss"].as_f64().unwrap()).abs());
            worst_norm = worst_norm.max((norm / log["grad_norm"].as_f64().unwrap() - 1.0).abs());
            let (lr, clip) = (log["learning_rate"].as_f64().unwrap(), (1.0 / (norm + 1e-6)).min(1.0) as f32);
            let (c1, c2) = (1.0 - 0.9f64.powi(i as i32 + 1), 1.0 - 0.999f64.powi(i as i32 + 1));
            for (t, [m, v]) in l.tensors_mut().iter_mut().zip(&mut moments) {
                for (((p, g), m), v) in t.data.iter_mut().zip(&t.gradient).zip(m).zip(v) {
                    let g = g * clip;
                    *m = 0.9 * *m + 0.1 * g;
                    *v = 0.999 * *v + 0.001 * g * g;
                    *p -= (lr / c1) as f32 * *m / (v.sqrt() / c2.sqrt() as f32 + 1e-8);
                }
            }
        }
        println!("{reference}: worst loss {worst_loss:.1e}, worst norm {worst_norm:.1e}");
        assert!(worst_loss <= 2e-5, "{reference}: {worst_loss:.2e}");
        assert!(worst_norm <= 2e-5, "{reference}: {worst_norm:.2e}");
        if let Ok(file) = Safetensors::open(fixture.join(reference).join("final_adapter/adapter_model.safetensors")) {
            let (mut far, mut all) = (0f64, 0f64);
            for (name, _) in file.entries() {
                let end = numbers(&file, name);
                let t = l.tensors().iter().find(|t| t.name == ours(name)).unwrap();
                let d: Vec<f32> = t.data.iter().zip(&end).map(|(a, b)| a - b).collect();
                (far, all) = (far + length(&d).powi(2), all + length(&end).powi(2));
            }
            println!("{reference}: final adapter {:.1e}", (far / all).sqrt());
            assert!((far / all).sqrt() <= 1e-5, "{reference}: {:.2e}", (far / all).sqrt());
        }
    }
}

#[test]
fn the_bytes_do_not_depend_on_threads_or_on_recomputing() {
    let Some(fixture) = fixture() else { return };
    let run = |threads, recompute| {
        let mut l = learner(&fixture, "ref", threads, recompute);
        // B is 0 at first, which hides half of the gradients.
        for t in l.tensors_mut() {
            t.data.iter_mut().enumerate().for_each(|(i, v)| *v += (i % 7) as f32 * 1e-3);
        }
        let loss = step(&mut l, &batch(&fixture.join("ref/batch_0000.safetensors")));
        let gradients: Vec<u32> = l.tensors().iter().flat_map(|t| &t.gradient).map(|g| g.to_bits()).collect();
        (loss.to_bits(), gradients)
    };
    let one = run(1, false);
    assert!(one == run(2, false) && one == run(3, false) && one == run(2, true));
}
