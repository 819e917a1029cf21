//! Adapters in training: dropout, noise, experts, PiSSA. Draws are made by hashes of a seed, so that a pass can be repeated
//! with other weights, and slopes be held against differences.

use allod_codec as codec;
use allod_cpu::{LearnOptions, Learner, Pool};
use allod_models::{Model, open};
use allod_plan::{Adapter, AdapterInit, LinearKind, Pass, RowLimits, TrainBatch, Trainable, Tune};
use std::{ops::Range, path::Path, sync::Arc};

const LENGTHS: [usize; 2] = [11, 7];

fn model(name: &str) -> Model {
    open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name), None).unwrap()
}

fn learner(m: &Model, tune: &Tune) -> Learner {
    let n = LENGTHS.iter().sum();
    let limits = RowLimits { tokens: n, outputs: n, sequences: 2 };
    let options = LearnOptions { limits, ..LearnOptions::default() };
    Learner::new(&m.plan, &*m.source, Arc::new(Pool::new(2)), tune, &options).unwrap()
}

fn adapters(m: &Model, wanted: impl Fn(&str, LinearKind) -> bool, like: &Adapter) -> Vec<Adapter> {
    let linears = m.plan.linears().into_iter().filter(|l| wanted(&l.weight, l.kind));
    linears.map(|l| Adapter { weight: l.weight, ..like.clone() }).collect()
}

fn adapter(dropout: f32, dora: bool) -> Adapter {
    Adapter { weight: String::new(), rank: 4, scale: 2.0, dropout, dora, init: AdapterInit::Kaiming }
}

/// The loss of a pass, and with `back` its gradients.
fn loss(l: &mut Learner, pass: Pass, noise: f32, back: bool) -> f64 {
    let n: usize = LENGTHS.iter().sum();
    let tokens: Vec<u32> = (0..n as u32).map(|i| 3 + (i * 7 + i * i) % 40).collect();
    let mut next = 0;
    let sequences: Vec<Range<usize>> = LENGTHS.iter().map(|s| (next, next += s).0..next).collect();
    let mut targets: Vec<Option<u32>> = tokens[1..].iter().map(|&t| Some(t)).chain([None]).collect();
    targets[LENGTHS[0] - 1] = None;
    let batch =
        TrainBatch { tokens: &tokens, sequences: &sequences, targets: &targets, seed: 9, embedding_noise: noise };
    let values = l.forward(&batch, pass).unwrap().values.to_vec();
    if back {
        l.zero_gradients();
        l.backward(&vec![-1.0; values.len()]).unwrap();
    }
    -values.iter().map(|&v| f64::from(v)).sum::<f64>()
}

/// A way from what adapters begin with, where B is 0 and hides half of the gradients.
fn nudge(l: &mut Learner) {
    for t in l.tensors_mut() {
        let by = |i: usize| 0.02 * ((i * 31 % 17) as f32 / 8.0 - 1.0);
        if t.name.ends_with("lora_b") {
            t.data.iter_mut().enumerate().for_each(|(i, v)| *v += by(i));
        } else if t.name.ends_with("magnitude") {
            t.data.iter_mut().enumerate().for_each(|(i, v)| *v *= 1.2 + by(i));
        }
    }
}

/// Walks along the gradient of the tensors whose names end with `ending` and compares the slope. The loss is some 50 nats
/// in f32, good to 1e-5, which over a way of twice 3e-3 is 2e-3 of a slope of 1; the rest is for its curvature.
fn slope(name: &str, l: &mut Learner, noise: f32, ending: &str) {
    const WAY: f32 = 3e-3;
    loss(l, Pass::Train, noise, true);
    let gradients: Vec<Vec<f32>> = l.tensors().iter().map(|t| t.gradient.clone()).collect();
    let chosen: Vec<bool> = l.tensors().iter().map(|t| t.name.ends_with(ending)).collect();
    let all = gradients.iter().zip(&chosen).filter(|(_, c)| **c).flat_map(|(g, _)| g);
    let length = all.map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
    let start: Vec<Vec<f32>> = l.tensors().iter().map(|t| t.data.clone()).collect();
    let mut ends = [1.0, -1.0].map(|sign| {
        for (((t, g), s), c) in l.tensors_mut().iter_mut().zip(&gradients).zip(&start).zip(&chosen) {
            let way = if *c { sign * WAY / length as f32 } else { 0.0 };
            t.data.iter_mut().zip(g).zip(s).for_each(|((v, g), s)| *v = s + way * g);
        }
        loss(l, Pass::Train, noise, false)
    });
    l.tensors_mut().iter_mut().zip(start).for_each(|(t, s)| t.data = s);
    ends[0] = (ends[0] - ends[1]) / f64::from(2.0 * WAY);
    let off = (ends[0] / length - 1.0).abs();
    assert!(
        length > 1.0 && off < 2e-3 / length + 1.5e-3,
        "{name} {ending}: slope {length}, by differences {}",
        ends[0]
    );
}

#[test]
fn dropout_noise_and_experts_have_the_slopes_they_say() {
    let m = model("llama");
    let dense = |_: &str, kind: LinearKind| kind == LinearKind::Dense;
    let weights = vec!["token_embd.weight".to_owned()];
    let tune =
        Tune { adapters: adapters(&m, dense, &adapter(0.3, false)), weights: weights.clone(), ..Tune::default() };
    let mut l = learner(&m, &tune);
    nudge(&mut l);
    for ending in ["lora_a", "lora_b", "token_embd.weight"] {
        slope("dropout", &mut l, 0.0, ending);
    }
    slope("noise", &mut l, 5.0, "lora_a");
    let (with, without) = (loss(&mut l, Pass::Train, 0.0, false), loss(&mut l, Pass::Evaluate, 0.0, false));
    assert!((with - without).abs() > 1e-3, "dropout changes what is computed");
    assert_eq!(loss(&mut l, Pass::Evaluate, 5.0, false), without, "an evaluation has no noise");
    // The lengths of changed rows are held fast, so that A and B of DoRA have no slope to compare with.
    let tune = Tune { adapters: adapters(&m, dense, &adapter(0.3, true)), weights, ..Tune::default() };
    let mut l = learner(&m, &tune);
    nudge(&mut l);
    for ending in ["lora_magnitude", "token_embd.weight"] {
        slope("DoRA with dropout", &mut l, 0.0, ending);
    }
    let m = model("mixtral");
    let experts = adapters(&m, |_, kind| kind == LinearKind::Experts, &adapter(0.0, false));
    assert!(!experts.is_empty());
    let mut l = learner(&m, &Tune { adapters: experts, ..Tune::default() });
    nudge(&mut l);
    for ending in ["lora_a", "lora_b"] {
        slope("experts", &mut l, 0.0, ending);
    }
}

/// PEFT's DoRA puts what it adds through dropout and leaves the base's part whole: with B = 0 and doubled magnitudes the
/// result is `W x + W x'`. So is that of LoRA with A = 1 and B = W, whose dropout is beyond doubt; both drop the same.
#[test]
fn dora_drops_what_it_adds() {
    let m = model("llama");
    let queries = |name: &str, _: LinearKind| name.ends_with("attn_q.weight");
    let dora = adapters(&m, queries, &adapter(0.4, true));
    let mut dora = learner(&m, &Tune { adapters: dora, ..Tune::default() });
    for t in dora.tensors_mut().iter_mut().filter(|t| t.name.ends_with("magnitude")) {
        t.data.iter_mut().for_each(|v| *v *= 2.0);
    }
    let width = m.source.info("blk.0.attn_q.weight").unwrap().shape[1];
    let whole = Adapter { rank: width, scale: 1.0, ..adapter(0.4, false) };
    let mut lora = learner(&m, &Tune { adapters: adapters(&m, queries, &whole), ..Tune::default() });
    for t in lora.tensors_mut() {
        let (weight, part) = t.name.rsplit_once('.').unwrap();
        t.data = match part {
            "lora_a" => (0..width * width).map(|i| if i % (width + 1) == 0 { 1.0 } else { 0.0 }).collect(),
            _ => codec::to_f32(&m.source.tensor(weight).unwrap()).unwrap(),
        };
    }
    let [a, b] = [&mut dora, &mut lora].map(|l| loss(l, Pass::Train, 0.0, false));
    let whole = loss(&mut dora, Pass::Evaluate, 0.0, false);
    assert!((a - b).abs() <= 1e-5 * b && (a - whole).abs() > 1e-3, "DoRA {a}, LoRA {b}, without dropout {whole}");
}

/// PiSSA begins with what the base computes, split into two parts that are orthogonal to each other.
#[test]
fn pissa_begins_where_the_base_is() {
    let m = model("llama");
    let dense = |_: &str, kind: LinearKind| kind == LinearKind::Dense;
    let plain = adapters(&m, dense, &adapter(0.0, false));
    let pissa = adapters(&m, dense, &Adapter { init: AdapterInit::Pissa, ..adapter(0.0, false) });
    let [mut plain, mut pissa] = [plain, pissa].map(|adapters| learner(&m, &Tune { adapters, ..Tune::default() }));
    let [a, b] = [&mut plain, &mut pissa].map(|l| loss(l, Pass::Evaluate, 0.0, false));
    assert!((a - b).abs() <= 1e-5 * a, "{a} and {b}");
    let find = |name: &str| pissa.tensors().iter().find(|t| t.name == name).unwrap();
    for t in pissa.tensors().iter().filter(|t| t.name.ends_with("lora_a")) {
        let weight = t.name.strip_suffix(".lora_a").unwrap();
        let b = find(&format!("{weight}.lora_b"));
        let (rank, width) = (t.shape[0], t.shape[1]);
        let w = codec::to_f32(&m.source.tensor(weight).unwrap()).unwrap();
        let (mut kept, mut rest, mut all) = (0.0, 0.0, 0.0);
        for (w, b) in w.chunks(width).zip(b.data.chunks(rank)) {
            for (i, w) in w.iter().enumerate() {
                let low: f64 = (0..rank).map(|r| 2.0 * f64::from(b[r]) * f64::from(t.data[r * width + i])).sum();
                kept += low * low;
                rest += (f64::from(*w) - low).powi(2);
                all += f64::from(*w).powi(2);
            }
        }
        assert!((kept + rest - all).abs() < 1e-3 * all, "{weight}: {kept} and {rest} of {all}");
        assert!(kept / all > rank as f64 / width.min(w.len() / width) as f64, "{weight}: no better than by chance");
    }
}
