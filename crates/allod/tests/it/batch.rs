//! Requests from a file.

use crate::allod;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

fn answers(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn by_id(path: &Path) -> BTreeMap<String, Value> {
    let all = answers(path);
    let map: BTreeMap<_, _> = all.iter().map(|a| (a["custom_id"].as_str().unwrap().to_owned(), a.clone())).collect();
    assert_eq!(map.len(), all.len(), "a line is answered once");
    map
}

fn line(id: &str, url: &str, body: &str) -> String {
    format!(r#"{{"custom_id": "{id}", "method": "POST", "url": "{url}", "body": {body}}}"#)
}

fn text(answer: &Value) -> &str {
    answer["response"]["body"]["choices"][0]["text"].as_str().unwrap()
}

#[test]
fn lines_are_answered_and_bad_ones_told() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.jsonl"), dir.path().join("out.jsonl"));
    let body = r#"{"model": "any", "prompt": "a brave little fish", "max_tokens": 8, "temperature": 0}"#;
    let lines = [
        line("good", "/v1/completions", body),
        line("vectors", "/v1/embeddings", r#"{"input": "fish"}"#),
        line("path", "/v1/models", body),
        line("field", "/v1/completions", r#"{"max_tokens": 8}"#),
        line("good", "/v1/completions", body),
        "{broken".into(),
        String::new(),
        r#"{"method": "POST"}"#.into(),
    ];
    std::fs::write(&input, lines.join("\n")).unwrap();
    let arguments = ["batch", input.to_str().unwrap(), output.to_str().unwrap(), "--json"];
    let done = allod(&arguments, "");
    assert_eq!(done.code, 1, "five requests make no sense: {}", done.err);
    let summary: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((summary["total"].as_u64(), summary["completed"].as_u64()), (Some(7), Some(2)), "{summary}");
    assert_eq!((summary["failed"].as_u64(), summary["completion_tokens"].as_u64()), (Some(5), Some(8)), "{summary}");
    let all = answers(&output);
    assert_eq!(all.len(), 7);
    let of = |id: &str| all.iter().find(|a| a["custom_id"] == id).unwrap();
    assert!(!text(of("good")).is_empty(), "{}", of("good"));
    assert!(of("vectors")["response"]["body"]["data"][0]["embedding"].is_array());
    assert_eq!(of("path")["error"]["code"], "invalid_url");
    assert_eq!(of("field")["response"]["status_code"], 400);
    let nameless: BTreeMap<_, _> = all
        .iter()
        .filter(|a| a["custom_id"].is_null())
        .map(|a| (a["error"]["line"].as_u64().unwrap(), a["error"]["code"].as_str().unwrap()))
        .collect();
    let expected = [(5, "duplicate_custom_id"), (6, "invalid_json_line"), (8, "missing_required_parameter")];
    assert_eq!(nameless, BTreeMap::from(expected));
    // All of that is done; nothing is asked again.
    let again: Value = serde_json::from_str(&allod(&arguments, "").out).unwrap();
    assert_eq!((again["resumed"].as_u64(), again["failed"].as_u64()), (Some(7), Some(5)), "{again}");
    assert_eq!(answers(&output).len(), 7);
    std::fs::write(&output, "something else\n").unwrap();
    let other = allod(&arguments, "");
    assert!(other.code != 0 && other.err.contains("out.jsonl:1"), "{}", other.err);
    assert_eq!(std::fs::read_to_string(&output).unwrap(), "something else\n");
}

#[test]
fn a_batch_that_was_killed_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let body = |i: usize| format!(r#"{{"prompt": "fish {i}", "max_tokens": 24, "seed": {i}, "ignore_eos": true}}"#);
    let lines: Vec<String> = (0..40).map(|i| line(&format!("r{i}"), "/v1/completions", &body(i))).collect();
    std::fs::write(path("in.jsonl"), lines.join("\n")).unwrap();
    let arguments = |out: &Path| {
        let (input, out) = (path("in.jsonl"), out.to_str().unwrap().to_owned());
        ["batch", input.to_str().unwrap(), &out, "--parallel", "4"].map(str::to_owned)
    };
    let whole = allod(&arguments(&path("whole.jsonl")).each_ref().map(String::as_str), "");
    assert_eq!(whole.code, 0, "{}", whole.err);

    let killed = path("killed.jsonl");
    let mut child =
        Command::new(env!("CARGO_BIN_EXE_allod")).args(arguments(&killed)).stderr(Stdio::null()).spawn().unwrap();
    let written = || std::fs::read_to_string(&killed).map_or(0, |text| text.lines().count());
    while written() < 5 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // The last line may have been cut as by a power failure.
    let bytes = std::fs::read(&killed).unwrap();
    std::fs::write(&killed, &bytes[..bytes.len() - 20]).unwrap();
    let resumed = allod(&arguments(&killed).each_ref().map(String::as_str), "");
    assert_eq!(resumed.code, 0, "{}", resumed.err);
    assert!(resumed.err.contains("are answered already"), "{}", resumed.err);
    let (whole, killed) = (by_id(&path("whole.jsonl")), by_id(&killed));
    assert_eq!(killed.len(), 40);
    assert!(killed.iter().all(|(id, answer)| text(answer) == text(&whole[id])));
}
