//! Requests from a file.

use crate::allod;
use serde_json::Value;
use std::path::Path;

fn answers(path: &Path) -> Vec<Value> {
    let mut all: Vec<Value> =
        std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    all.sort_by_key(|answer| answer["custom_id"].as_str().unwrap().to_owned());
    all
}

#[test]
fn a_batch_is_answered_once_and_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.jsonl"), dir.path().join("out.jsonl"));
    let line = |id: usize, url: &str, body: &str| {
        format!(r#"{{"custom_id": "r{id}", "method": "POST", "url": "{url}", "body": {body}}}"#)
    };
    let body = r#"{"model": "any", "prompt": "a brave little fish", "max_tokens": 8, "temperature": 0}"#;
    let mut lines: Vec<String> = (0..6).map(|id| line(id, "/v1/completions", body)).collect();
    lines.push(line(6, "/v1/models", body));
    lines.push(line(7, "/v1/completions", r#"{"max_tokens": 8}"#));
    std::fs::write(&input, lines.join("\n")).unwrap();
    let arguments = ["batch", input.to_str().unwrap(), output.to_str().unwrap()];
    let done = allod(&arguments, "");
    assert_eq!(done.code, 1, "two requests make no sense: {}", done.err);
    let first = answers(&output);
    assert_eq!(first.len(), 8);
    let text = |answer: &Value| answer["response"]["body"]["choices"][0]["text"].as_str().unwrap().to_owned();
    for answer in &first[..6] {
        assert_eq!(answer["response"]["status_code"], 200, "{answer}");
        assert_eq!(text(answer), text(&first[0]));
    }
    assert!(first[6]["error"]["message"].as_str().unwrap().contains("url"), "{}", first[6]);
    assert_eq!(first[7]["response"]["status_code"], 400, "{}", first[7]);

    // Cut in the middle of a line, as by a power failure.
    let whole = std::fs::read(&output).unwrap();
    std::fs::write(&output, &whole[..whole.len() / 2]).unwrap();
    allod(&arguments, "");
    let again = answers(&output);
    assert_eq!(again.len(), 8);
    assert!(again[..6].iter().zip(&first).all(|(a, b)| text(a) == text(b)));
    std::fs::write(&input, format!("{0}\n{0}\n", lines[0])).unwrap();
    let twice = allod(&arguments, "");
    assert!(twice.code != 0 && twice.err.contains("custom_id came before"), "{}", twice.err);
}
