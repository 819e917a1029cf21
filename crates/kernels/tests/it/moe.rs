//! Routing against the steps of Transformers' routers, done plainly in f64.

use allod_kernels::isa::Isa;
use allod_kernels::moe::{GroupScore, Groups, Router, Score, route};

use crate::rng::{Rng, bits, wide};

/// Indices of the `k` largest, the first among equals.
fn top(x: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| x[b].total_cmp(&x[a]));
    order.truncate(k);
    order
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let total: f64 = x.iter().map(|v| v.exp()).sum();
    x.iter().map(|v| v.exp() / total).collect()
}

fn expected(r: &Router<'_>, logits: &[f32]) -> Vec<(u32, f64)> {
    let logits: Vec<f64> = logits.iter().map(|v| f64::from(*v)).collect();
    let scores = match r.score {
        Score::Softmax => softmax(&logits),
        Score::Sigmoid => logits.iter().map(|v| 1.0 / (1.0 + (-v).exp())).collect(),
        Score::SoftmaxOfChosen => logits.clone(),
    };
    let mut choice = scores.clone();
    if let Some(bias) = r.bias {
        choice.iter_mut().zip(bias).for_each(|(c, b)| *c += f64::from(*b));
    }
    if let Some(g) = r.groups {
        let size = choice.len() / g.count;
        let by: Vec<f64> = choice
            .chunks(size)
            .map(|c| top(c, if g.by == GroupScore::Best { 1 } else { 2 }).iter().map(|&i| c[i]).sum())
            .collect();
        let kept = top(&by, g.keep);
        for (i, c) in choice.iter_mut().enumerate() {
            if !kept.contains(&(i / size)) {
                *c = f64::NEG_INFINITY;
            }
        }
    }
    let chosen = top(&choice, r.top_k);
    let mut weights: Vec<f64> = chosen.iter().map(|&i| scores[i]).collect();
    if r.score == Score::SoftmaxOfChosen {
        weights = softmax(&weights);
    }
    if let Some(eps) = r.normalize {
        let total = weights.iter().sum::<f64>() + f64::from(eps);
        weights.iter_mut().for_each(|w| *w /= total);
    }
    chosen.iter().map(|&i| i as u32).zip(weights.iter().map(|w| w * f64::from(r.scale))).collect()
}

#[test]
fn routers_of_all_families() {
    for seed in 0..200 {
        let mut rng = Rng(seed);
        let (n, rows) = (rng.pick(&[8, 16, 60, 64, 128]), 1 + rng.below(5));
        let bias = rng.vec(n, 0.2);
        let k = 1 + rng.below(4);
        let base = Router::softmax(k);
        let groups = |by| Some(Groups { count: 4, keep: 2, by });
        let router = match seed % 8 {
            0 => base,                                                                              // Mixtral, Qwen3-MoE
            1 => Router { normalize: None, ..base },                                                // OLMoE, Qwen2-MoE
            2 => Router { score: Score::SoftmaxOfChosen, normalize: None, ..base },                 // gpt-oss, Granite
            3 => Router { score: Score::Sigmoid, normalize: None, top_k: 1, ..base },               // Llama 4
            4 => Router { normalize: None, scale: 16.0, groups: groups(GroupScore::Best), ..base }, // DeepSeek V2
            5 => Router {
                // DeepSeek V3
                score: Score::Sigmoid,
                normalize: Some(1e-20),
                scale: 2.5,
                bias: Some(&bias),
                groups: groups(GroupScore::BestTwo),
                ..base
            },
            6 => Router { score: Score::Sigmoid, normalize: Some(1e-20), scale: 2.8, bias: Some(&bias), ..base }, // AFMoE
            _ => Router { normalize: None, scale: 1.0, ..base }, // DeepSeek V2 Lite
        };
        let logits = rng.vec(rows * n, 2.0);
        let run = |isa: Isa, logits: &[f32]| {
            let rows = logits.len() / n;
            let (mut chosen, mut weights) = (vec![u32::MAX; rows * router.top_k], vec![f32::NAN; rows * router.top_k]);
            route(isa, &router, logits, n, &mut chosen, &mut weights);
            (chosen, weights)
        };
        let (chosen, weights) = run(Isa::Scalar, &logits);
        for isa in wide() {
            let got = run(isa, &logits);
            assert_eq!((&got.0, bits(&got.1)), (&chosen, bits(&weights)), "{isa}");
        }
        for (t, row) in logits.chunks(n).enumerate() {
            let at = t * router.top_k..(t + 1) * router.top_k;
            let alone = run(Isa::best(), row);
            assert_eq!((&alone.0[..], bits(&alone.1)), (&chosen[at.clone()], bits(&weights[at.clone()])));
            for ((e, w), (we, ww)) in chosen[at.clone()].iter().zip(&weights[at]).zip(expected(&router, row)) {
                assert_eq!(*e, we, "seed {seed}, row {t}, {router:?}");
                assert!((f64::from(*w) - ww).abs() <= 2e-6 * ww.abs(), "seed {seed}: {w} instead of {ww}");
            }
        }
    }
}

#[test]
fn equal_logits_go_to_the_first_experts() {
    let (mut chosen, mut weights) = ([0; 3], [0.0; 3]);
    route(Isa::best(), &Router::softmax(3), &[1.0; 8], 8, &mut chosen, &mut weights);
    assert_eq!(chosen, [0, 1, 2]);
    assert!(weights.iter().all(|w| (w - 1.0 / 3.0).abs() < 1e-7));
    // Sigmoids that round to 1 still differ as logits.
    let router = Router { score: Score::Sigmoid, normalize: None, ..Router::softmax(1) };
    route(Isa::best(), &router, &[30.0, 40.0, 35.0], 3, &mut chosen[..1], &mut weights[..1]);
    assert_eq!((chosen[0], weights[0]), (1, 1.0));
}
