//! `allod embed`, on the model that is built in.

use crate::allod;
use serde_json::Value;

fn vectors(text: &str) -> Vec<Vec<f64>> {
    let of = |line: &str| serde_json::from_str::<Value>(line).unwrap()["embedding"].as_array().unwrap().clone();
    text.lines().map(|line| of(line).iter().map(|v| v.as_f64().unwrap()).collect()).collect()
}

fn length(vector: &[f64]) -> f64 {
    vector.iter().map(|v| v * v).sum::<f64>().sqrt()
}

#[test]
fn pooling_is_as_the_caller_says() {
    let lines = "one day\n\n{\"text\": \"a cat\", \"id\": 7}\n";
    let mean = allod(&["embed", "default", "--pooling", "mean"], lines);
    assert!(mean.err.contains("1 empty lines are left out, the first is line 2"), "{}", mean.err);
    assert!(mean.out.lines().nth(1).unwrap().contains("\"id\":7"));
    let mean = vectors(&mean.out);
    assert_eq!(mean.len(), 2);
    assert!(mean.iter().all(|v| (length(v) - 1.0).abs() < 1e-5));
    let (own, last) = (allod(&["embed", "default"], lines), allod(&["embed", "default", "--pooling", "last"], lines));
    assert_eq!(own.out, last.out);
    assert_ne!(vectors(&last.out), mean);
    let long = vectors(&allod(&["embed", "default", "--pooling", "mean", "--no-normalize"], lines).out);
    assert!((length(&long[0]) - 1.0).abs() > 1e-3);
    let along = |i: usize| (long[0][i] / length(&long[0]) - mean[0][i]).abs() < 1e-5;
    assert!((0..mean[0].len()).all(along));
}

#[test]
fn a_text_that_is_too_long_is_an_error_or_cut() {
    let lines = format!("short\n{}\n", "a very long day ".repeat(1000));
    let refused = allod(&["embed", "default"], &lines);
    assert!(
        refused.code != 0 && refused.err.contains("line 2") && refused.err.contains("--truncate"),
        "{}",
        refused.err
    );
    let cut = vectors(&allod(&["embed", "default", "--truncate"], &lines).out);
    let longer =
        vectors(&allod(&["embed", "default", "--truncate"], &format!("{}tail\n", &lines[6..lines.len() - 1])).out);
    assert_eq!((cut.len(), &cut[1]), (2, &longer[0]));
}
