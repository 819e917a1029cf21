use allod_engine::{SampleError, Sampler, SamplingParams, Stage};
use proptest::prelude::*;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    params: SamplingParams,
    logits: Vec<f32>,
    history: Vec<u32>,
    kept: Vec<(u32, f64)>,
}

/// Every filter off, temperature 1.
fn plain() -> SamplingParams {
    SamplingParams { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: Some(1), ..Default::default() }
}

fn distribution(params: &SamplingParams, logits: &[f32], history: &[u32]) -> Vec<(u32, f64)> {
    Sampler::new(params, logits.len()).unwrap().distribution(logits, history).unwrap()
}

#[test]
fn filters_keep_what_the_formulas_keep() {
    let golden: Golden = serde_json::from_str(include_str!("../goldens/sampling.json")).unwrap();
    assert!(golden.cases.len() > 40);
    for case in golden.cases {
        let ours = distribution(&case.params, &case.logits, &case.history);
        let ids = |d: &[(u32, f64)]| d.iter().map(|x| x.0).collect::<Vec<_>>();
        assert_eq!(ids(&ours), ids(&case.kept), "{}", case.name);
        for (a, b) in ours.iter().zip(&case.kept) {
            assert!((a.1 - b.1).abs() <= 1e-6 * b.1 + 1e-9, "{}: token {}: {} and {}", case.name, a.0, a.1, b.1);
        }
    }
}

/// Pearson's statistic of draws at positions 0.. against the distribution they should have.
fn chi_square(params: &SamplingParams, logits: &[f32], draws: usize) -> f64 {
    let expected = distribution(params, logits, &[]);
    let mut sampler = Sampler::new(params, logits.len()).unwrap();
    let mut counts = BTreeMap::new();
    let history = vec![0; draws];
    for position in 0..draws {
        *counts.entry(sampler.choose(logits, &history[..position]).unwrap().id).or_insert(0.0) += 1.0;
    }
    assert!(counts.keys().all(|id| expected.iter().any(|(kept, _)| kept == id)), "a filtered token was drawn");
    let terms = expected.iter().map(|&(id, p)| {
        let (seen, wanted) = (counts.get(&id).copied().unwrap_or(0.0), p * draws as f64);
        (seen - wanted) * (seen - wanted) / wanted
    });
    terms.sum()
}

#[test]
fn draws_follow_the_distribution() {
    let logits = [2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -1.5, -2.0, 0.7];
    // With 9, 4 and 9 degrees of freedom, one honest run in 10,000 exceeds 33.7, 23.5 and 33.7.
    assert!(chi_square(&plain(), &logits, 20_000) < 33.7);
    assert!(chi_square(&SamplingParams { top_k: 5, ..plain() }, &logits, 20_000) < 23.5);
    assert!(chi_square(&SamplingParams { seed: Some(99), temperature: 2.0, ..plain() }, &logits, 20_000) < 33.7);
}

#[test]
fn xtc_strikes_as_often_as_asked() {
    let logits = [3.0, 3.0, 0.0, 0.0];
    let params = SamplingParams { xtc_probability: 0.3, xtc_threshold: 0.2, ..plain() };
    let mut sampler = Sampler::new(&params, 4).unwrap();
    let history = vec![0; 10_000];
    let struck =
        (0..10_000).filter(|&p| !sampler.distribution(&logits, &history[..p]).unwrap().iter().any(|x| x.0 == 0));
    let struck = struck.count() as f64 / 10_000.0;
    assert!((struck - 0.3).abs() < 0.02, "{struck}");
}

#[test]
fn mirostat_holds_the_surprise_it_is_asked_for() {
    let logits: Vec<f32> = (0..2000).map(|i| -1.2 * (1.0 + i as f32).ln()).collect();
    let params = SamplingParams { mirostat: 2, mirostat_tau: 3.0, ..plain() };
    let mut sampler = Sampler::new(&params, logits.len()).unwrap();
    let history = vec![0; 4000];
    let mut surprise = 0.0;
    for position in 0..4000 {
        let now = sampler.distribution(&logits, &history[..position]).unwrap();
        let id = sampler.choose(&logits, &history[..position]).unwrap().id;
        surprise -= now.iter().find(|x| x.0 == id).unwrap().1.log2();
    }
    assert!((surprise / 4000.0 - 3.0).abs() < 0.1, "{}", surprise / 4000.0);
}

#[test]
fn ties_go_to_the_lower_id() {
    let logits = [1.0, 5.0, 5.0, 2.0];
    assert_eq!(Sampler::new(&SamplingParams::greedy(), 4).unwrap().choose(&logits, &[0]).unwrap().id, 1);
    let kept = distribution(&SamplingParams { top_k: 1, ..plain() }, &logits, &[]);
    assert_eq!(kept, [(1, 1.0)]);
}

#[test]
fn greedy_hears_bias_and_penalties_but_no_filter() {
    let logits = [4.0, 3.9, 1.0];
    let choose = |params: SamplingParams, history: &[u32]| {
        Sampler::new(&params, 3).unwrap().choose(&logits, history).unwrap().id
    };
    let filters = SamplingParams { typical_p: 0.1, xtc_probability: 1.0, ..SamplingParams::greedy() };
    assert_eq!(choose(filters, &[]), 0);
    assert_eq!(choose(SamplingParams { presence_penalty: 0.5, ..SamplingParams::greedy() }, &[0]), 1);
    let bias = BTreeMap::from([(0, f32::NEG_INFINITY), (1, -5.0)]);
    assert_eq!(choose(SamplingParams { logit_bias: bias, ..SamplingParams::greedy() }, &[]), 2);
}

#[test]
fn logprobs_are_the_models_own() {
    let logits = [1.0f32, 2.0, 3.0, 0.0];
    let params = SamplingParams { logprobs: Some(2), temperature: 0.3, top_k: 1, ..plain() };
    let token = Sampler::new(&params, 4).unwrap().choose(&logits, &[]).unwrap();
    // log-softmax of 3, 2, 1, 0: the logarithm of the sum of exponentials is 3.4401897.
    assert!((token.logprob.unwrap() + 0.440_189_7).abs() < 1e-6);
    assert_eq!(token.top.iter().map(|t| t.0).collect::<Vec<_>>(), [2, 1]);
    assert!((token.top[1].1 + 1.440_189_7).abs() < 1e-6);
    assert_eq!(Sampler::new(&plain(), 4).unwrap().choose(&logits, &[]).unwrap().logprob, None);
}

#[test]
fn broken_logits_are_an_error() {
    let mut sampler = Sampler::new(&plain(), 3).unwrap();
    let error = sampler.choose(&[0.0, f32::NAN, f32::INFINITY], &[]).unwrap_err();
    assert!(matches!(error, SampleError::NotFinite { id: 1, .. }), "{error}");
    assert!(sampler.choose(&[0.0, 0.0, f32::NEG_INFINITY], &[]).is_err());
    assert_eq!(sampler.choose(&[0.0], &[]), Err(SampleError::Width { expected: 3, found: 1 }));
    let all = (0..3).map(|id| (id, f32::NEG_INFINITY)).collect();
    let mut none = Sampler::new(&SamplingParams { logit_bias: all, ..plain() }, 3).unwrap();
    assert_eq!(none.choose(&[0.0; 3], &[]), Err(SampleError::NothingLeft));
}

#[test]
fn absurd_parameters_are_refused_by_name() {
    let refused = |json: &str| {
        let params: SamplingParams = serde_json::from_str(json).unwrap();
        params.validate(100).unwrap_err().to_string()
    };
    assert_eq!(refused(r#"{"temperature": -1}"#), "temperature: expected a number from 0 to 1000, found -1");
    assert_eq!(refused(r#"{"top_p": 1.5}"#), "top_p: expected a number from 0 to 1, found 1.5");
    assert_eq!(
        refused(r#"{"mirostat": 1}"#),
        "mirostat: expected 0 (off) or 2 (version 1 is superseded by 2), found 1"
    );
    assert_eq!(refused(r#"{"max_tokens": 0}"#), "max_tokens: expected at least 1, found 0");
    assert_eq!(refused(r#"{"logit_bias": {"100": 1}}"#), "logit_bias: expected token ids below 100, found 100");
    for json in [
        r#"{"min_p": -0.1}"#,
        r#"{"repeat_penalty": 0}"#,
        r#"{"repeat_last_n": -2}"#,
        r#"{"dry_base": 0.5}"#,
        r#"{"dry_sequence_breakers": [[]]}"#,
        r#"{"logit_bias": {"1": 1e30}}"#,
        r#"{"stop_token_ids": [100]}"#,
        r#"{"logprobs": 101}"#,
        r#"{"samplers": ["top_k", "top_k"]}"#,
        r#"{"frequency_penalty": 1e9}"#,
    ] {
        refused(json);
    }
    for nan in [
        SamplingParams { temperature: f32::NAN, ..plain() },
        SamplingParams { min_p: f32::NAN, ..plain() },
        SamplingParams { mirostat_tau: f32::INFINITY, ..plain() },
        SamplingParams { logit_bias: BTreeMap::from([(1, f32::NAN)]), ..plain() },
    ] {
        assert!(nan.validate(100).is_err());
    }
    assert!(serde_json::from_str::<SamplingParams>(r#"{"temprature": 1}"#).is_err());
}

#[test]
fn parameters_survive_json() {
    let params = SamplingParams {
        logit_bias: BTreeMap::from([(5, 1.25)]),
        samplers: vec![Stage::TopK, Stage::Temperature],
        seed: Some(u64::MAX),
        ..plain()
    };
    let json = serde_json::to_string(&params).unwrap();
    assert!(json.contains(r#""samplers":["top_k","temperature"]"#), "{json}");
    assert_eq!(serde_json::from_str::<SamplingParams>(&json).unwrap(), params);
}

fn logits() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(-20.0f32..20.0, 2..300)
}

fn filters() -> impl Strategy<Value = SamplingParams> {
    (0u32..60, 0.05f32..1.0, 0.0f32..0.5, 0.1f32..1.0, 0.1f32..3.0).prop_map(|(top_k, top_p, min_p, typical_p, t)| {
        SamplingParams { top_k, top_p, min_p, typical_p, temperature: t, ..plain() }
    })
}

proptest! {
    #[test]
    fn probabilities_sum_to_one_and_something_is_kept(params in filters(), logits in logits()) {
        let kept = distribution(&params, &logits, &[]);
        prop_assert!(!kept.is_empty());
        prop_assert!((kept.iter().map(|x| x.1).sum::<f64>() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn renaming_tokens_renames_what_is_kept(params in filters(), mut logits in logits(), by in any::<prop::sample::Index>()) {
        // Distinct logits: ties are broken by id, which renaming changes.
        for (i, l) in logits.iter_mut().enumerate() {
            *l += i as f32 * 0.01;
        }
        logits.sort_by(f32::total_cmp);
        logits.dedup();
        let by = by.index(logits.len());
        let mut turned = logits.clone();
        turned.rotate_left(by);
        let mut kept = distribution(&params, &logits, &[]);
        let renamed = |id: u32| (id + (logits.len() - by) as u32) % logits.len() as u32;
        kept.iter_mut().for_each(|x| x.0 = renamed(x.0));
        let other = distribution(&params, &turned, &[]);
        prop_assert_eq!(kept.len(), other.len());
        for (a, b) in kept.iter().zip(&other) {
            prop_assert_eq!(a.0, b.0);
            prop_assert!((a.1 - b.1).abs() < 1e-9);
        }
    }

    #[test]
    fn penalties_do_not_depend_on_where_the_candidates_lie(logits in logits(), history in prop::collection::vec(0u32..2, 1..20)) {
        // A cut that removes nothing shuffles the candidates before the penalties see them.
        let params = SamplingParams { presence_penalty: 1.5, repeat_penalty: 1.3, dry_multiplier: 0.7, ..plain() };
        let straight = SamplingParams { samplers: vec![Stage::Penalties, Stage::Dry], ..params.clone() };
        let samplers = vec![Stage::TopK, Stage::Penalties, Stage::Dry];
        let shuffled = SamplingParams { samplers, top_k: logits.len() as u32 - 1, ..params };
        let (all, most) = (distribution(&straight, &logits, &history), distribution(&shuffled, &logits, &history));
        prop_assert_eq!(all.len(), most.len() + 1);
        let order: Vec<u32> = all.iter().map(|x| x.0).filter(|id| most.iter().any(|m| m.0 == *id)).collect();
        prop_assert_eq!(order, most.iter().map(|x| x.0).collect::<Vec<_>>());
    }

    #[test]
    fn a_larger_nucleus_contains_the_smaller(logits in logits(), a in 0.0f32..1.0, b in 0.0f32..1.0) {
        let kept = |p| distribution(&SamplingParams { top_p: p, ..plain() }, &logits, &[]).len();
        prop_assert!(kept(a.min(b)) <= kept(a.max(b)));
    }

    #[test]
    fn a_choice_depends_on_seed_and_position_alone(params in filters(), logits in logits(), seed in any::<u64>()) {
        let params = SamplingParams { seed: Some(seed), ..params };
        let history = [0u32; 20];
        let mut forwards = Sampler::new(&params, logits.len()).unwrap();
        let first: Vec<_> = (0..20).map(|p| forwards.choose(&logits, &history[..p]).unwrap()).collect();
        let mut backwards = Sampler::new(&params, logits.len()).unwrap();
        for p in (0..20).rev() {
            prop_assert_eq!(&backwards.choose(&logits, &history[..p]).unwrap(), &first[p]);
        }
    }

    #[test]
    fn a_chosen_token_was_among_the_kept(params in filters(), logits in logits(), seed in any::<u64>()) {
        let params = SamplingParams { seed: Some(seed), ..params };
        let kept = distribution(&params, &logits, &[]);
        let chosen = Sampler::new(&params, logits.len()).unwrap().choose(&logits, &[]).unwrap().id;
        prop_assert!(kept.iter().any(|x| x.0 == chosen));
    }
}
