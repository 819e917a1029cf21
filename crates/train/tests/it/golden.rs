//! Values made by scripts/goldens/training.py.

use allod_kernels::pool::Pool;
use allod_train::objective::*;
use allod_train::optim::*;
use serde::Deserialize;
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/training.json")).unwrap()
}

fn get<T: for<'de> Deserialize<'de>>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

type Rows = Vec<Vec<f32>>;

/// Holds a loss and its derivatives to torch's, which are sums of some ten terms in single precision: 1e-6 of their size.
fn compare(name: &str, outcome: &Outcome, loss: f64, gradients: &Rows) {
    let (found, terms) = (outcome.loss / outcome.terms, outcome.terms as f32);
    assert!((found - loss).abs() <= 1e-6 * loss.abs().max(1.0), "{name}: loss {found}, TRL {loss}");
    let given: Vec<&Vec<f32>> = outcome.gradients.iter().filter(|g| !g.is_empty()).collect();
    assert_eq!(given.len(), gradients.len(), "{name}");
    for (i, (a, b)) in given.iter().zip(gradients).enumerate() {
        assert_eq!(a.len(), b.len(), "{name}: sequence {i}");
        let size = b.iter().fold(1e-2f32, |m, v| m.max(v.abs()));
        let close = a.iter().zip(b).all(|(a, b)| (a / terms - b).abs() <= 2e-6 * size);
        assert!(close, "{name}: sequence {i}: {a:?} / {terms}, TRL {b:?}");
    }
}

/// Interleaves `[chosen…, rejected…]` to pairs' order.
fn by_pairs<T: Clone>(rows: &[T]) -> Vec<T> {
    let n = rows.len() / 2;
    (0..n).flat_map(|i| [rows[i].clone(), rows[n + i].clone()]).collect()
}

fn scored<'a>(logps: &'a [f32], reference: &'a [f32], learned: &'a [bool]) -> Scored<'a> {
    Scored { logps, reference, collisions: &[], learned }
}

#[test]
fn dpo_is_trls() {
    let g = &golden()["dpo"];
    let (logps, reference): (Rows, Rows) =
        (by_pairs(&get::<Rows>(&g["logps"])), by_pairs(&get::<Rows>(&g["reference"])));
    let all = [true; 16];
    let side = |i: usize| scored(&logps[i], &reference[i], &all[..logps[i].len()]);
    let samples: Vec<Sample<'_>> =
        (0..logps.len() / 2).map(|i| Sample::Pair(side(2 * i), side(2 * i + 1), None)).collect();
    for case in g["cases"].as_array().unwrap() {
        let dpo = Dpo {
            losses: get(&case["losses"]),
            beta: get(&g["beta"]),
            label_smoothing: get(&case["label_smoothing"]),
            divergence: get(&case["divergence"]),
            ld_alpha: get(&case["ld_alpha"]),
            ..Dpo::default()
        };
        let name = format!("{case}").chars().take(120).collect::<String>();
        let outcome = Objective::Dpo(dpo).loss(&samples);
        compare(&name, &outcome, get(&case["loss"]), &by_pairs(&get::<Rows>(&case["gradients"])));
    }
}

#[test]
fn orpo_is_trls() {
    let g = &golden()["orpo"];
    let (logps, prompts): (Rows, Vec<usize>) =
        (by_pairs(&get::<Rows>(&g["logps"])), by_pairs(&get::<Vec<usize>>(&g["prompts"])));
    let learned: Vec<Vec<bool>> =
        logps.iter().zip(&prompts).map(|(l, p)| (0..l.len()).map(|i| i >= *p).collect()).collect();
    let side = |i: usize| scored(&logps[i], &[], &learned[i]);
    let samples: Vec<Sample<'_>> =
        (0..logps.len() / 2).map(|i| Sample::Pair(side(2 * i), side(2 * i + 1), None)).collect();
    let outcome = Objective::Orpo(Orpo { beta: get(&g["beta"]) }).loss(&samples);
    compare("orpo", &outcome, get(&g["loss"]), &by_pairs(&get::<Rows>(&g["gradients"])));
}

#[test]
fn cpo_and_simpo_are_trls() {
    let g = &golden()["cpo"];
    let logps: Rows = by_pairs(&get::<Rows>(&g["logps"]));
    let all = [true; 16];
    let side = |i: usize| scored(&logps[i], &[], &all[..logps[i].len()]);
    let samples: Vec<Sample<'_>> =
        (0..logps.len() / 2).map(|i| Sample::Pair(side(2 * i), side(2 * i + 1), None)).collect();
    for case in g["cases"].as_array().unwrap() {
        let cpo = Cpo {
            loss: get(&case["name"]),
            beta: get(&g["beta"]),
            gamma: get(&g["gamma"]),
            alpha: get(&case["alpha"]),
            label_smoothing: get(&case["label_smoothing"]),
        };
        let name = format!("{cpo:?}");
        compare(
            &name,
            &Objective::Cpo(cpo).loss(&samples),
            get(&case["loss"]),
            &by_pairs(&get::<Rows>(&case["gradients"])),
        );
    }
}

#[test]
fn kto_is_trls() {
    let g = &golden()["kto"];
    let (logps, reference, other): (Rows, Rows, Rows) =
        (get(&g["logps"]), get(&g["reference"]), get(&g["companion_reference"]));
    let labels: Vec<bool> = get(&g["labels"]);
    let all = [true; 16];
    for case in g["cases"].as_array().unwrap() {
        let companions: Rows = get(&case["companions"]);
        let side = |i: usize| scored(&logps[i], &reference[i], &all[..logps[i].len()]);
        let companion = |i: usize| Some(scored(&companions[i], &other[i], &all[..1]));
        let samples: Vec<Sample<'_>> = (0..5).map(|i| Sample::Judged(side(i), companion(i), labels[i])).collect();
        let weights: [f64; 2] = get(&case["weights"]);
        let kto = Kto {
            loss: get(&case["name"]),
            beta: get(&g["beta"]),
            desirable_weight: weights[0],
            undesirable_weight: weights[1],
        };
        compare(&format!("{kto:?}"), &Objective::Kto(kto).loss(&samples), get(&case["loss"]), &get(&case["gradients"]));
    }
}

#[test]
fn reward_is_bradley_and_terrys() {
    let g = &golden()["reward"];
    let (scores, margins): (Vec<f32>, Vec<f32>) = (get(&g["scores"]), get(&g["margins"]));
    for case in g["cases"].as_array().unwrap() {
        let with_margin: bool = get(&case["margin"]);
        let side = |i: usize| scored(&scores[i..=i], &[], &[true]);
        let samples: Vec<Sample<'_>> =
            (0..4).map(|i| Sample::Pair(side(i), side(4 + i), with_margin.then_some(margins[i]))).collect();
        let outcome = Objective::Reward(Reward { center: get(&case["center"]) }).loss(&samples);
        let gradients: Rows = get::<Vec<f32>>(&case["gradients"]).into_iter().map(|g| vec![g]).collect();
        compare("reward", &outcome, get(&case["loss"]), &by_pairs(&gradients));
    }
}

/// The values that TRL's own functions gave in the shared kit; nothing is checked where it is absent.
#[test]
fn dpo_is_the_kits() {
    let Some(data) = allod_testkit::data() else { return };
    let path = data.parent().unwrap().join("parity/golden/trl_1.16.0_losses.json");
    let Ok(text) = std::fs::read(&path) else {
        eprintln!("skipped: no {}", path.display());
        return;
    };
    let kit: Value = serde_json::from_slice(&text).unwrap();
    let g = &kit["dpo"];
    let (logps, reference): (Rows, Rows) = (get(&g["policy_token_logps"]), get(&g["ref_token_logps"]));
    let mask: Vec<Vec<u8>> = get(&g["completion_mask_shifted"]);
    let learned: Vec<Vec<bool>> = mask.iter().map(|m| m.iter().map(|m| *m != 0).collect()).collect();
    let side = |i: usize| scored(&logps[i], &reference[i], &learned[i]);
    let samples: Vec<Sample<'_>> = (0..3).map(|i| Sample::Pair(side(i), side(3 + i), None)).collect();
    let mut checked = 0;
    for (name, loss) in g["loss"].as_object().unwrap() {
        let (plain, options) = name.split_once(['+', '(', '[']).unwrap_or((name, ""));
        let mut dpo = Dpo::default();
        match options {
            _ if plain == "MPO" => {
                dpo.losses = get(&serde_json::json!([
                    { "loss": "sigmoid", "weight": 0.8 }, { "loss": "bco_pair", "weight": 0.2 }, { "loss": "sft", "weight": 1.0 }
                ]));
            }
            // Weighted by what only the model's whole distribution tells.
            "wpo" => continue,
            _ => dpo.losses = get(&serde_json::json!([{ "loss": plain, "weight": 1.0 }])),
        }
        match options {
            "ls=1e-3)" => dpo.label_smoothing = 1e-3,
            "ls=0.1)" => dpo.label_smoothing = 0.1,
            "f=forward_kl" => dpo.divergence = Divergence::ForwardKl,
            "f=js_divergence" => dpo.divergence = Divergence::JsDivergence,
            "f=alpha_divergence" => dpo.divergence = Divergence::AlphaDivergence(0.5),
            "ld_alpha=0.5" => dpo.ld_alpha = Some(0.5),
            _ => {}
        }
        let outcome = Objective::Dpo(dpo).loss(&samples);
        let (found, expected) = (outcome.loss / outcome.terms, loss.as_f64().unwrap());
        assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{name}: {found}, TRL {expected}");
        checked += 1;
    }
    assert_eq!(checked, 21);
}

/// A hundred thousandth of the largest weight: six steps in single precision, roots and quotients among them.
#[test]
fn optimizers_are_torchs() {
    let g = &golden()["optimizers"];
    let shapes: Vec<Vec<usize>> = get(&g["shapes"]);
    let (start, rates, steps): (Rows, Vec<f64>, Vec<Rows>) = (get(&g["start"]), get(&g["rates"]), get(&g["gradients"]));
    for case in g["cases"].as_array().unwrap() {
        let kind: Kind = get(&case["optimizer"]);
        let end: Rows = get(&case["end"]);
        for threads in [1, 3] {
            let found = train(kind, get(&case["weight_decay"]), &shapes, &start, &rates, &steps, threads);
            for (a, b) in found.iter().zip(&end) {
                let close = a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5);
                assert!(close, "{kind:?}: {a:?}, torch {b:?}");
            }
        }
    }
}

fn train(
    kind: Kind,
    weight_decay: f64,
    shapes: &[Vec<usize>],
    start: &Rows,
    rates: &[f64],
    steps: &[Rows],
    threads: usize,
) -> Rows {
    let named: Vec<(String, Vec<usize>)> = shapes.iter().enumerate().map(|(i, s)| (i.to_string(), s.clone())).collect();
    let groups = vec![Group { rate: 1.0, weight_decay, hidden_matrix: true }; shapes.len()];
    let mut optimizer = Optimizer::new(kind, &named, groups);
    let (mut data, pool) = (start.clone(), Pool::new(threads));
    for (gradients, rate) in steps.iter().zip(rates) {
        let mut grads = gradients.clone();
        let mut parameters: Vec<Parameter<'_>> = named
            .iter()
            .zip(data.iter_mut().zip(&mut grads))
            .map(|((name, shape), (data, grad))| Parameter { name, shape, data, grad })
            .collect();
        optimizer.step(&mut parameters, *rate, &pool);
    }
    data
}

/// Vectors go to AdamW, whose rate is so many times Muon's.
#[test]
fn what_muon_leaves_has_a_rate_of_its_own() {
    let (start, gradients): (Rows, Rows) = (vec![vec![1.0, -2.0, 0.5]], vec![vec![0.3, 0.1, -0.7]]);
    let moved =
        |kind, rate| train(kind, 0.1, &[vec![3]], &start, &[rate; 2], &[gradients.clone(), gradients.clone()], 1);
    let muon = Kind::Muon(Muon { adam_rate: 0.25, ..Muon::default() });
    assert_eq!(moved(muon, 0.02), moved(Kind::Adamw(Adam::default()), 0.005));
}

/// The state in eight bits is bitsandbytes' (scripts/goldens/adamw8.py): blocks of 256 with its tables, each number the
/// value as near as the one that it takes, or nearer. A step is AdamW's on what the state stands for, to the two last bits
/// of a weight: bitsandbytes computes its tables in single precision, so that theirs are off by a rounding.
#[test]
fn adamw_in_eight_bits_is_bitsandbytes() {
    let golden: Value = serde_json::from_str(include_str!("golden/adamw8.json")).unwrap();
    let n = 4096usize;
    let mut seed = 1u32;
    let mut noise = move || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let first: Vec<f32> = (0..n).map(|_| noise()).collect();
    let second: Vec<f32> = (0..n).map(|_| noise()).collect();
    let named = [("w".to_owned(), vec![32, 128])];
    let pool = Pool::new(2);
    let optimizer =
        |kind: Kind| Optimizer::new(kind, &named, vec![Group { rate: 1.0, weight_decay: 0.1, hidden_matrix: true }]);
    let step = |optimizer: &mut Optimizer, w: &mut Vec<f32>, gradient: &[f32]| {
        let mut grad = gradient.to_vec();
        optimizer.step(&mut [Parameter { name: "w", shape: &[32, 128], data: w, grad: &mut grad }], 2e-3, &pool);
    };
    let (mut eight, mut full) = (optimizer(Kind::Adamw8bit(Adam::default())), optimizer(Kind::Adamw(Adam::default())));
    let (mut w, mut exact) = (vec![0.25f32; n], vec![0.25f32; n]);
    step(&mut eight, &mut w, &first);
    step(&mut full, &mut exact, &first);
    assert!(w == exact, "the first step has no state");
    let state: std::collections::BTreeMap<String, State> = eight.state().map(|(n, s)| (n, s.clone())).collect();
    let bytes: usize = state.values().map(|s| if let State::U8(v) = s { v.len() } else { 0 }).sum();
    assert_eq!(bytes, 2 * n, "a byte for each moment");
    let mut stands_for = std::collections::BTreeMap::new();
    for (i, name) in ["w.exp_avg", "w.exp_avg_sq"].into_iter().enumerate() {
        let (State::U8(codes), State::F32(scales)) = (&state[name], &state[&format!("{name}.scale")]) else {
            panic!("{name} is kept otherwise")
        };
        let (table, theirs) = (get::<Vec<f32>>(&golden["tables"][i]), get::<String>(&golden["codes"][i]));
        let theirs =
            theirs.as_bytes().chunks(2).map(|h| u8::from_str_radix(std::str::from_utf8(h).unwrap(), 16).unwrap());
        let exact = full.state().find(|s| s.0 == name).map(|s| s.1.clone());
        let Some(State::F32(exact)) = exact else { panic!("{name} is kept otherwise") };
        for (k, (code, theirs)) in codes.iter().zip(theirs).enumerate() {
            let apart = |code: u8| (table[usize::from(code)] * scales[k / 256] - exact[k]).abs();
            let rounding = 2.0 * f32::EPSILON * scales[k / 256];
            assert!(apart(*code) <= apart(theirs) + rounding, "{name} {k}: {code}, bitsandbytes {theirs}");
        }
        let values = codes.iter().enumerate().map(|(k, c)| table[usize::from(*c)] * scales[k / 256]).collect();
        stands_for.insert(name.to_owned(), State::F32(values));
    }
    full.restore(1, |name| stands_for.get(name).cloned()).unwrap();
    exact.copy_from_slice(&w);
    step(&mut eight, &mut w, &second);
    step(&mut full, &mut exact, &second);
    let apart = w.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart <= 2.0 * 0.25 * f32::EPSILON, "{apart}");
}

#[test]
fn schedules_are_transformers() {
    for case in golden()["schedules"].as_array().unwrap() {
        let schedule =
            Schedule { shape: get(&case["shape"]), warmup: get(&case["warmup"]), steps: get(&case["steps"]) };
        for (t, factor) in get::<Vec<f64>>(&case["factors"]).into_iter().enumerate() {
            assert!(
                (schedule.factor(t) - factor).abs() < 1e-12,
                "{schedule:?} at {t}: {}, {factor}",
                schedule.factor(t)
            );
        }
    }
}

#[test]
fn state_comes_back() {
    let named = [("w".to_owned(), vec![64, 128])];
    let group = vec![Group { rate: 1.0, weight_decay: 0.0, hidden_matrix: true }];
    let kind = Kind::Adamw8bit(Adam::default());
    let (mut a, pool) = (Optimizer::new(kind, &named, group.clone()), Pool::new(1));
    let (mut w, mut g) = (vec![0.5f32; 8192], vec![0.1f32; 8192]);
    a.step(&mut [Parameter { name: "w", shape: &[64, 128], data: &mut w, grad: &mut g }], 1e-3, &pool);
    let kept: Vec<(String, State)> = a.state().map(|(n, s)| (n, s.clone())).collect();
    let find = |name: &str| kept.iter().find(|(n, _)| n == name).map(|(_, s)| s.clone());
    let mut b = Optimizer::new(kind, &named, group.clone());
    b.restore(1, find).unwrap();
    assert_eq!(b.steps(), 1);
    assert!(a.state().eq(b.state()));
    let mut other = Optimizer::new(Kind::Adamw(Adam::default()), &named, group);
    let error = other.restore(1, find).unwrap_err().to_string();
    assert!(error.contains("w.exp_avg"), "{error}");
}
