//! Every published vocabulary with known answers.

use allod_formats::{Gguf, WeightSource};
use allod_text::{Special, Tokenizer};
use std::path::Path;

fn load(path: &Path) -> Tokenizer {
    let gguf = Gguf::open(path).unwrap();
    Tokenizer::from_gguf(gguf.metadata()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn known_answers() {
    let Some(data) = allod_testkit::data() else { return };
    let mut failures = Vec::new();
    let mut lines = 0;
    for entry in std::fs::read_dir(data.join("tokenizer")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "gguf") {
            continue;
        }
        let read = |suffix: &str| std::fs::read_to_string(format!("{}.{suffix}", path.display())).unwrap();
        let (inputs, answers) = (read("inp"), read("out"));
        // Some files have the separator after the last text too.
        let inputs = inputs.strip_suffix("\n__ggml_vocab_test__\n").unwrap_or(&inputs);
        let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
        let answers: Vec<&str> = answers.lines().collect();
        assert_eq!(inputs.len(), answers.len(), "{}", path.display());
        let tokenizer = load(&path);
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        for (input, answer) in inputs.iter().zip(answers) {
            let expected: Vec<u32> = answer.split_whitespace().map(|id| id.parse().unwrap()).collect();
            let ids = tokenizer.encode(input, Special::PARSE).unwrap();
            lines += 1;
            if ids != expected {
                failures.push(format!("{name} {input:?}\n  expected {expected:?}\n  found    {ids:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {lines}\n{}", failures.len(), failures.join("\n"));
    assert!(lines > 400);
}
