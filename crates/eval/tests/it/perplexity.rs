use crate::{TOLERANCE, go, golden, told};
use allod_eval::{Windows, perplexity};

#[test]
fn the_second_half_of_every_window_counts() {
    for name in ["llama", "qwen3_moe", "mamba2", "gpt2"] {
        let g = golden(name);
        let windows = Windows::halves(g.length, g.tokens.len(), None).unwrap();
        let found = g.scorer(2, 32, |s| perplexity(s, &g.tokens, &windows, None, &mut go)).unwrap();
        let nll: Vec<f64> = g.counted().iter().map(|&(p, next)| -g.log_probs(p)[next]).collect();
        let mean = nll.iter().sum::<f64>() / nll.len() as f64;
        let deviation = nll.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / nll.len() as f64;
        assert_eq!(found.tokens, nll.len(), "{name}");
        assert!((found.nll.value - mean).abs() < TOLERANCE, "{name}: {} against {mean}", found.nll.value);
        assert!((found.perplexity.value.ln() - mean).abs() < TOLERANCE, "{name}");
        let error = (deviation / (nll.len() - 1) as f64).sqrt();
        assert!((found.nll.error / error - 1.0).abs() < 0.01, "{name}: {} against {error}", found.nll.error);
    }
}

#[test]
fn threads_and_steps_change_no_bit() {
    let g = golden("llama");
    let windows = Windows::halves(g.length, g.tokens.len(), Some(1)).unwrap();
    let runs = [(1, 32), (2, 32), (3, 16), (2, 17)];
    let found = runs.map(|(t, rows)| g.scorer(t, rows, |s| perplexity(s, &g.tokens, &windows, None, &mut go)).unwrap());
    assert!(found.iter().all(|f| f.nll.value.to_bits() == found[0].nll.value.to_bits()), "{found:?}");
    let plain = Windows { bos: None, ..windows };
    let plain = g.scorer(1, 32, |s| perplexity(s, &g.tokens, &plain, None, &mut go)).unwrap();
    assert_ne!(plain.nll.value, found[0].nll.value, "the first token is another one under BOS");
}

#[test]
fn strides_count_every_token_behind_the_first_window_once() {
    let tokens = 1000;
    let w = Windows::strided(128, 32, tokens).unwrap();
    assert_eq!((w.context, w.step, w.counted()), (144, 32, 32));
    let counted = (0..w.count).flat_map(|i| (w.first..w.context - 1).map(move |p| i * w.step + p + 1));
    let counted: Vec<usize> = counted.collect();
    assert!(counted.windows(2).all(|p| p[1] == p[0] + 1) && counted[0] == w.context - w.step);
    assert!(*counted.last().unwrap() < tokens);

    let g = golden("llama");
    let one = Windows { context: g.length, step: 3, first: g.length - 4, count: 1, bos: None };
    let found = g.scorer(1, 16, |s| perplexity(s, &g.tokens, &one, None, &mut go)).unwrap();
    let expected = (g.length - 4..g.length - 1).map(|p| -g.log_probs(p)[g.tokens[p + 1] as usize]).sum::<f64>() / 3.0;
    assert!((found.nll.value - expected).abs() < TOLERANCE);
}

#[test]
fn what_cannot_be_measured_says_why() {
    assert!(told(Windows::halves(512, 600, None)).contains("at least 1024"));
    assert!(told(Windows::strided(64, 64, 9999)).contains("smaller than the context"));
    let g = golden("llama");
    let mut tokens = g.tokens.clone();
    tokens[3] = 1 << 20;
    let windows = Windows::halves(g.length, tokens.len(), None).unwrap();
    let error = told(g.scorer(1, 16, |s| perplexity(s, &tokens, &windows, None, &mut go)));
    assert!(error.contains("token 1048576 at position 3"), "{error}");
}
