//! Gradients of whole models against autograd, for every family that has a golden of them. The golden is a model whose
//! weights are gradients, so that names and layouts are translated as weights are.

use crate::golden::{Golden, goldens};
use allod_codec as codec;
use allod_cpu::{LearnOptions, Learner, Pool};
use allod_formats::{Safetensors, WeightSource};
use allod_models::{Output, hf::Fix, model_for, open_source};
use allod_plan::{Head, LinearKind, Pass, RowLimits, TrainBatch, Trainable, Tune};
use std::{ops::Range, sync::Arc};

/// f32 on both sides, summed in different orders, through up to four layers and back; relative to the length of a
/// tensor's gradient.
const TOLERANCE: f64 = 2e-5;
/// Gradients shorter than this, relative to the model's longest, are compared as if they were as long: a key's bias
/// moves all scores of a row alike, so that its derivative is 0 but for rounding.
const SHORT: f64 = 1e-3;

/// Loss and gradients as the script defines them.
fn learn(g: &Golden, recompute: bool) -> (f64, Learner) {
    let source = open_source(&g.path).unwrap();
    let m = model_for(source, Some(g.ids[0].len()), Output::Own).unwrap();
    let head = if m.plan.linears().iter().any(|l| l.kind == LinearKind::Head) { Head::LogProbs } else { Head::Value };
    let weights = m.plan.params().iter().map(|p| p.name.clone()).collect();
    let tune = Tune { weights, head, ..Tune::default() };
    let (tokens, mut next) = (g.ids.concat(), 0);
    let sequences: Vec<Range<usize>> = g.ids.iter().map(|s| (next, next += s.len()).0..next).collect();
    let limits = RowLimits { tokens: tokens.len(), outputs: tokens.len(), sequences: sequences.len() };
    let options = LearnOptions { limits, recompute, ..LearnOptions::default() };
    let mut l = Learner::new(&m.plan, &*m.source, Arc::new(Pool::new(2)), &tune, &options).unwrap();
    if let Some(t) = l.tensors_mut().iter_mut().find(|t| t.name == "value_head.weight") {
        t.data.iter_mut().enumerate().for_each(|(i, v)| *v = (i * 7 % 11) as f32 / 5.0 - 0.9);
    }
    let targets: Vec<Option<u32>> = g.ids.iter().flat_map(|s| s[1..].iter().map(|&t| Some(t)).chain([None])).collect();
    let batch = TrainBatch { tokens: &tokens, sequences: &sequences, targets: &targets, seed: 0, embedding_noise: 0.0 };
    let values: Vec<f64> = l.forward(&batch, Pass::Train).unwrap().values.iter().map(|&v| f64::from(v)).collect();
    let share = if head == Head::Value { 1.0 } else { -1.0 / values.len() as f64 };
    l.backward(&vec![share as f32; values.len()]).unwrap();
    (share * values.iter().sum::<f64>(), l)
}

/// The golden's gradients in GGUF's names and layouts.
fn expected(g: &Golden) -> Option<(f64, Box<dyn WeightSource>, tempfile::TempDir)> {
    let file = g.path.join("gradients.safetensors");
    let loss = Safetensors::open(&file).ok()?.metadata().get("loss")?.parse().ok()?;
    let folder = tempfile::tempdir().unwrap();
    // Gradients of a value have none for the head.
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(g.path.join("config.json")).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("tie_word_embeddings");
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    std::fs::copy(file, folder.path().join("model.safetensors")).unwrap();
    Some((loss, open_source(folder.path()).unwrap(), folder))
}

fn length(v: &[f32]) -> f64 {
    v.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn gradients_are_those_of_autograd() {
    let (mut wrong, mut seen) = (vec![], 0);
    for g in goldens() {
        let Some((loss, source, _folder)) = expected(&g) else { continue };
        let (found, l) = learn(&g, true);
        if (found - loss).abs() > 1e-5 * (1.0 + loss.abs()) {
            wrong.push(format!("{}: loss {found}, expected {loss}", g.name));
        }
        let arch = allod_models::arch::by_gguf(source.metadata().str("general.architecture").unwrap()).unwrap();
        let fix = |name: &str| {
            let kind: String = name
                .split('.')
                .map(|p| if p.parse::<usize>().is_ok() { "{}" } else { p })
                .collect::<Vec<_>>()
                .join(".");
            let found = arch.names().find(|n| kind == n.gguf || kind == format!("{}.weight", n.gguf));
            found.map_or(Fix::None, |n| n.fix)
        };
        let mut worst = (0f64, String::new());
        let longest = l.tensors().iter().map(|t| length(&t.gradient)).fold(0.0, f64::max);
        for t in l.tensors() {
            let Ok(tensor) = source.tensor(&t.name) else { continue };
            let offset = match fix(&t.name) {
                Fix::PlusOne => 1.0,
                // Not linear: the gradient by the logarithm is another.
                Fix::NegExp => continue,
                Fix::Then(all) if all.contains(&Fix::NegExp) => continue,
                _ => 0.0,
            };
            let expected: Vec<f32> = codec::to_f32(&tensor).unwrap().iter().map(|v| v - offset).collect();
            let difference: Vec<f32> = t.gradient.iter().zip(&expected).map(|(a, b)| a - b).collect();
            let off = length(&difference) / length(&expected).max(SHORT * longest);
            if t.gradient.len() != expected.len() || off > worst.0 || off.is_nan() {
                worst = (if off.is_nan() { f64::INFINITY } else { off }, t.name.clone());
            }
            seen += 1;
        }
        println!("{}: worst {:.1e} ({})", g.name, worst.0, worst.1);
        if worst.0 > TOLERANCE {
            wrong.push(format!("{}: {}: {:.2e}", g.name, worst.1, worst.0));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let all = std::env::var_os("ALLOD_GOLDEN").is_none();
    assert!(!all || seen > 300, "only {seen} tensors were compared");
}
