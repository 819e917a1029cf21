use crate::{Golden, TOLERANCE, go, golden, told};
use allod_eval::{Base, Divergence, LogitsReader, Windows, kl, reference_windows, save_logits};
use std::path::Path;

/// `model` against `base` beside it.
fn beside(model: &Golden, base: &Golden, threads: usize) -> Divergence {
    let windows = Windows::halves(model.length, base.tokens.len(), None).unwrap();
    base.scorer(threads, 32, |b| {
        model.scorer(threads, 16, |m| kl(m, &mut Base::Model(b), &base.tokens, &windows, &mut go)).unwrap()
    })
}

fn saved(base: &Golden, path: &Path) {
    let windows = Windows::halves(base.length, base.tokens.len(), None).unwrap();
    base.scorer(2, 32, |s| save_logits(s, &base.tokens, &windows, path, &mut go)).unwrap();
}

fn from_file(model: &Golden, path: &Path) -> Divergence {
    let mut file = LogitsReader::open(path).unwrap();
    let windows = reference_windows(&file, None);
    let tokens = std::mem::take(&mut file.tokens);
    model.scorer(1, 32, |s| kl(s, &mut Base::File(&mut file), &tokens, &windows, &mut go)).unwrap()
}

#[test]
fn two_models_differ_by_what_their_logits_say() {
    let (base, model) = (golden("llama-linear"), golden("llama-yarn"));
    assert_eq!(base.tokens, model.tokens, "the goldens share a text");
    let d = beside(&model, &base, 2);
    let (mut divergence, mut change, mut same) = (vec![], vec![], 0);
    for (p, next) in base.counted() {
        let (before, after) = (base.log_probs(p), model.log_probs(p));
        divergence.push(before.iter().zip(&after).map(|(p, q)| p.exp() * (p - q)).sum::<f64>());
        change.push(after[next].exp() - before[next].exp());
        let top = |v: &[f64]| (0..v.len()).max_by(|&a, &b| v[a].total_cmp(&v[b])).unwrap();
        same += usize::from(top(&before) == top(&after));
    }
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let expected = mean(&divergence);
    assert!(expected > 1e-3, "the models must differ for this test to say anything: {expected}");
    assert!((d.kl.value / expected - 1.0).abs() < 5e-3, "{} against {expected}", d.kl.value);
    assert!((d.delta_p.value - mean(&change)).abs() < TOLERANCE);
    assert!((d.same_top.value - same as f64 / change.len() as f64).abs() < 1e-9);
    divergence.sort_by(f64::total_cmp);
    assert!((d.kl_percentiles.maximum / divergence.last().unwrap() - 1.0).abs() < 5e-3);
    let rms = mean(&change.iter().map(|v| v * v).collect::<Vec<_>>()).sqrt();
    assert!((d.delta_p_rms.value / rms - 1.0).abs() < 5e-3);
    assert!((d.ratio.value - d.perplexity.value / d.base_perplexity.value).abs() < 1e-9);
}

#[test]
fn a_model_does_not_differ_from_itself() {
    let g = golden("llama");
    let d = beside(&g, &g, 3);
    assert!(d.kl.value.abs() < 1e-7 && d.same_top.value == 1.0 && d.delta_p_rms.value < 1e-6, "{d:?}");
    assert_eq!(d, beside(&g, &g, 1));
}

#[test]
fn a_saved_reference_says_the_same_to_sixteen_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (base, model, path) = (golden("llama-linear"), golden("llama-yarn"), dir.path().join("base.kld"));
    saved(&base, &path);
    let (file, exact) = (from_file(&model, &path), beside(&model, &base, 2));
    // A record's steps are at most 16 / 65535 wide, and a log-probability is off by at most half of one.
    assert!((file.kl.value - exact.kl.value).abs() < 1.3e-4, "{} against {}", file.kl.value, exact.kl.value);
    assert!((file.base_perplexity.value.ln() - exact.base_perplexity.value.ln()).abs() < 1.3e-4);
    assert_eq!(file.perplexity, exact.perplexity);
    assert_eq!((file.tokens, file.windows), (exact.tokens, exact.windows));
}

#[test]
fn models_of_other_vocabularies_are_refused() {
    let (base, model) = (golden("llama-linear"), golden("llama-yarn"));
    let mut small = base;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.kld");
    saved(&small, &path);
    let mut bytes = std::fs::read(&path).unwrap();
    let (context, rows) = (small.length, small.length - 1 - small.length / 2);
    // A file over two ids with one window.
    bytes.truncate(20);
    bytes[12..16].copy_from_slice(&2i32.to_le_bytes());
    bytes[16..20].copy_from_slice(&1i32.to_le_bytes());
    bytes.extend(vec![0; 4 * context + rows * (8 + 4)]);
    std::fs::write(&path, bytes).unwrap();
    let mut file = LogitsReader::open(&path).unwrap();
    small.tokens = std::mem::take(&mut file.tokens);
    let windows = reference_windows(&file, None);
    let error = told(model.scorer(1, 32, |s| kl(s, &mut Base::File(&mut file), &small.tokens, &windows, &mut go)));
    assert!(error.contains("vocabulary of 2"), "{error}");
}
