//! Statistics against llama.cpp's own tool, and against values of the plan read another way.

use allod_cpu::{Cpu, KvType, Options, Pool};
use allod_eval::{Scorer, Windows};
use allod_formats::TensorInfo;
use allod_models::Model;
use allod_quantize::imatrix::{Collect, CollectError, Imatrix, collect};
use allod_tensor::DType;
use allod_text::{Special, Tokenizer};
use std::{ops::ControlFlow, path::Path, sync::Arc};

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

fn cpu(model: &Model, context: usize, taps: &[&str]) -> (Cpu, Arc<Pool>) {
    let pool = Arc::new(Pool::new(2));
    let taps = taps.iter().map(ToString::to_string).collect();
    let cache_type = Some(KvType::F32);
    let options = Options { context, rows: context, outputs: context, cache_type, taps, ..Options::default() };
    (Cpu::new(&model.plan, &*model.source, Arc::clone(&pool), &options).unwrap(), pool)
}

fn run(model: &Model, tokens: &[u32], windows: &Windows, first: usize, into: &mut Imatrix) -> Result<(), CollectError> {
    let (mut cpu, pool) = cpu(model, windows.context, &[]);
    let what = Collect { tokens, windows, first, output: false };
    collect(&mut cpu, &pool, &what, into, &mut |_, _| ControlFlow::Continue(()))
}

/// Sums in f32 over 192 tokens, in another order, with keys and values in f16 there: 2e-3 of a matrix's sum.
const TOLERANCE: f64 = 2e-3;

#[test]
fn a_text_gives_the_statistics_that_llama_cpp_collects() {
    let Some(data) = allod_testkit::data() else { return };
    let model = allod_models::open(&data.join("weights/stories260K/stories260K.gguf"), Some(64)).unwrap();
    let tokenizer = Tokenizer::from_gguf(model.source.metadata()).unwrap();
    let text = std::fs::read_to_string(golden("imatrix.txt")).unwrap();
    let tokens = tokenizer.encode(&text, Special { parse: false, add: true }).unwrap();
    let windows = Windows::whole(64, tokens.len(), Some(1)).unwrap().at_most(Some(3));
    let mut found = Imatrix::default();
    run(&model, &tokens, &windows, 0, &mut found).unwrap();
    let expected = Imatrix::open(golden("imatrix.gguf")).unwrap();
    assert_eq!(found.chunks, expected.chunks);
    assert!(found.entries.keys().eq(expected.entries.keys()));
    for (name, e) in &expected.entries {
        let f = &found.entries[name];
        assert_eq!(f.counts, e.counts, "{name}");
        let difference: f64 = f.sums.iter().zip(&e.sums).map(|(a, b)| f64::from((a - b).abs())).sum();
        let whole: f64 = e.sums.iter().map(|&v| f64::from(v)).sum();
        assert!(difference < TOLERANCE * whole, "{name}: {difference} of {whole}");
    }
}

#[test]
fn llama_cpps_older_files_say_the_same() {
    let (old, new) = (Imatrix::open(golden("imatrix.dat")).unwrap(), Imatrix::open(golden("imatrix.gguf")).unwrap());
    assert_eq!((old.chunks, &old.datasets), (3, &vec!["imatrix.txt".to_owned()]));
    assert!(old.entries.keys().eq(new.entries.keys()));
    for name in new.entries.keys() {
        let info = TensorInfo { dtype: DType::F32, shape: vec![1, new.entries[name].sums.len()] };
        let weights = |m: &Imatrix| m.weights(name, &info).unwrap().unwrap();
        let same = |(a, b): (f32, f32)| (a - b).abs() <= 1e-6 * b.abs();
        assert!(weights(&old).into_iter().zip(weights(&new)).all(same), "{name}");
    }
}

#[test]
fn damaged_older_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("i.dat");
    let whole = std::fs::read(golden("imatrix.dat")).unwrap();
    let with = |at: usize, value: i32| {
        let mut b = whole.clone();
        b[at..at + 4].copy_from_slice(&value.to_le_bytes());
        b
    };
    let ends = (0..whole.len()).step_by(97).map(|n| whole[..n].to_vec());
    let cases = ends.chain([with(0, -1), with(0, i32::MAX), with(4, i32::MAX), with(4, -3), vec![]]);
    for (i, bytes) in cases.enumerate() {
        std::fs::write(&path, bytes).unwrap();
        let error = Imatrix::open(&path).unwrap_err().to_string();
        assert!(error.contains("i.dat"), "case {i}: {error}");
    }
}

/// The text of a golden model and the model.
fn small(name: &str) -> (Model, Vec<u32>, usize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/goldens").join(name);
    let file = allod_formats::Safetensors::open(path.join("golden.safetensors")).unwrap();
    let ids = file.tensor("ids").unwrap();
    let tokens = ids.data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect();
    (allod_models::open(&path, Some(ids.shape[1])).unwrap(), tokens, ids.shape[1])
}

#[test]
fn sums_are_those_of_the_values_that_the_plan_names() {
    for (name, value, dense, experts) in [
        ("llama", "blk.1.attn_norm", "blk.1.attn_q.weight", None),
        ("gpt2", "blk.0.ffn_norm", "blk.0.ffn_up.weight", None),
        ("mixtral", "blk.1.ffn_norm", "blk.1.ffn_gate_inp.weight", Some("blk.1.ffn_gate_exps.weight")),
        ("qwen3_moe", "blk.0.ffn_norm", "blk.0.ffn_gate_inp.weight", Some("blk.0.ffn_up_exps.weight")),
    ] {
        let (model, tokens, length) = small(name);
        let windows = Windows::whole(length, tokens.len(), None).unwrap();
        let mut found = Imatrix::default();
        run(&model, &tokens, &windows, 0, &mut found).unwrap();
        let (mut cpu, pool) = cpu(&model, length, &[value]);
        let mut expected: Vec<f64> = Vec::new();
        for ids in tokens.chunks_exact(length) {
            Scorer::new(&mut cpu, &pool).run(ids, length..length, |_, _, _| Ok(())).unwrap();
            let rows = cpu.tap(value).unwrap();
            let width = rows.len() / length;
            expected.resize(width, 0.0);
            for row in rows.chunks_exact(width) {
                expected.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v) * f64::from(v));
            }
        }
        let near = |found: &[f64], factor: f64| {
            found.iter().zip(&expected).all(|(f, e)| (f - factor * e).abs() <= 1e-5 * factor * e)
        };
        let wide = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        let e = &found.entries[dense];
        assert!(near(&wide(&e.sums), 1.0) && e.counts == [tokens.len() as f32], "{name}");
        let Some(experts) = experts else { continue };
        // Every token goes to as many experts, so together they see it as often.
        let e = &found.entries[experts];
        let top = e.counts.iter().sum::<f32>() / tokens.len() as f32;
        assert!(top >= 2.0 && top.fract() == 0.0 && e.counts.len() > 2, "{name}: {:?}", e.counts);
        let mut together = vec![0.0; expected.len()];
        for part in e.sums.chunks_exact(expected.len()) {
            together.iter_mut().zip(part).for_each(|(sum, &v)| *sum += f64::from(v));
        }
        assert!(near(&together, f64::from(top)), "{name}");
        let down = experts.replace("_gate_", "_down_").replace("_up_", "_down_");
        assert_eq!(found.entries[&down].counts, e.counts, "{name}");
    }
}

#[test]
fn work_taken_up_again_ends_in_the_same_file() {
    let (model, tokens, length) = small("mixtral");
    let windows = Windows::whole(length / 4, tokens.len(), None).unwrap();
    let (dir, mut whole) = (tempfile::tempdir().unwrap(), Imatrix::default());
    run(&model, &tokens, &windows, 0, &mut whole).unwrap();
    let half = dir.path().join("half.gguf");
    let mut part = Imatrix { unfinished: Some("x".into()), ..Imatrix::default() };
    run(&model, &tokens, &windows.clone().at_most(Some(3)), 0, &mut part).unwrap();
    part.save(&half).unwrap();
    let mut part = Imatrix::open(&half).unwrap();
    assert_eq!(part.unfinished.take().as_deref(), Some("x"));
    run(&model, &tokens, &windows, 3, &mut part).unwrap();
    assert_eq!(part, whole);
}

#[test]
fn stopping_keeps_what_is_there() {
    let (model, tokens, length) = small("llama");
    let windows = Windows::whole(length / 2, tokens.len(), None).unwrap();
    let (mut cpu, pool) = cpu(&model, length, &[]);
    let what = Collect { tokens: &tokens, windows: &windows, first: 0, output: true };
    let mut found = Imatrix::default();
    let stop = &mut |_: allod_eval::Progress, _: &Imatrix| ControlFlow::Break(());
    let error = collect(&mut cpu, &pool, &what, &mut found, stop).unwrap_err();
    assert_eq!((error.to_string().as_str(), found.chunks), ("stopped", 1));
    assert!(found.entries.contains_key("output.weight"), "{:?}", found.entries.keys());
}
