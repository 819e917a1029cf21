//! Every published vocabulary with known answers.

use crate::gguf;
use allod_text::{Role, Special, Tokenizer};
use std::path::Path;

/// All vocabulary-only GGUF files.
fn files(data: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(data.join("tokenizer")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "gguf")).collect();
    files.sort();
    assert_eq!(files.len(), 10);
    files
}

#[test]
fn known_answers() {
    let Some(data) = allod_testkit::data() else { return };
    let mut failures = Vec::new();
    let mut lines = 0;
    for path in files(&data) {
        let read = |suffix: &str| std::fs::read_to_string(format!("{}.{suffix}", path.display())).unwrap();
        let (inputs, answers) = (read("inp"), read("out"));
        // Some files have the separator after the last text too.
        let inputs = inputs.strip_suffix("\n__ggml_vocab_test__\n").unwrap_or(&inputs);
        let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
        let answers: Vec<&str> = answers.lines().collect();
        assert_eq!(inputs.len(), answers.len(), "{}", path.display());
        let tokenizer = gguf(&path);
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

#[test]
fn a_book_survives() {
    let Some(data) = allod_testkit::data() else { return };
    let book = std::fs::read_to_string(data.join("tokenizer/war-and-peace.txt")).unwrap();
    // The example `encode_speed` does this with all of it.
    let book = &book[..book.floor_char_boundary(200_000)];
    for path in files(&data) {
        let tokenizer = gguf(&path);
        let ids = tokenizer.encode(book, Special::NONE).unwrap();
        let text = tokenizer.decode(&ids, false);
        let bert = path.to_string_lossy().contains("bert");
        assert!(bert || text == book, "{}: decoding gives the text back", path.display());
        assert_eq!(tokenizer.encode(&text, Special::NONE).unwrap(), ids, "{}", path.display());
    }
}

#[test]
fn special_tokens_are_text_unless_parsed() {
    let Some(data) = allod_testkit::data() else { return };
    let tokenizer = gguf(&data.join("tokenizer/ggml-vocab-llama-bpe.gguf"));
    let eot = tokenizer.token_id("<|eot_id|>").unwrap();
    assert_eq!(tokenizer.encode("<|eot_id|>", Special::PARSE).unwrap(), [eot]);
    let typed = tokenizer.encode("<|eot_id|>", Special::NONE).unwrap();
    assert!(!typed.contains(&eot) && typed.len() > 1);
    assert_eq!(tokenizer.decode(&typed, true), "<|eot_id|>");
    assert_eq!(tokenizer.decode(&[eot], true), "");
    for path in files(&data) {
        let tokenizer = gguf(&path);
        for id in 0..tokenizer.vocab_size() as u32 {
            if tokenizer.is_special(id) {
                let written = tokenizer.token_text(id).unwrap();
                let typed = tokenizer.encode(written, Special::NONE).unwrap();
                assert!(!typed.contains(&id) || tokenizer.special(Role::Unk) == Some(id), "{written}");
            }
        }
    }
}

#[test]
fn roles_and_stops() {
    let Some(data) = allod_testkit::data() else { return };
    let llama = gguf(&data.join("tokenizer/ggml-vocab-llama-bpe.gguf"));
    assert_eq!(llama.special(Role::Bos), Some(128_000));
    assert_eq!(llama.special(Role::Eot), llama.token_id("<|eot_id|>"));
    assert!(llama.add_bos() && !llama.add_eos());
    assert_eq!(llama.encode("Hello", Special::ADD).unwrap(), [128_000, 9906]);
    for text in ["<|end_of_text|>", "<|eot_id|>"] {
        assert!(llama.stop_tokens().contains(&llama.token_id(text).unwrap()), "{text}");
    }
    let qwen = gguf(&data.join("tokenizer/ggml-vocab-qwen2.gguf"));
    assert_eq!(qwen.special(Role::Eot), qwen.token_id("<|im_end|>"));
    assert!(!qwen.add_bos());
    assert_eq!(qwen.token_bytes(qwen.token_id("Ġthe").unwrap()).unwrap().as_ref(), b" the");
    assert!(qwen.token_bytes(u32::MAX).is_none());
    let bert = gguf(&data.join("tokenizer/ggml-vocab-bert-bge.gguf"));
    let ids = bert.encode("Hello, world!", Special::ADD).unwrap();
    assert_eq!((ids.first(), ids.last()), (Some(&101), Some(&102)));
    assert_eq!(bert.decode(&ids, true), "hello, world!");
}

#[test]
fn reference_ids() {
    let Some(data) = allod_testkit::data() else { return };
    let folder = data.join("tokenizer/reftests");
    let mut checked = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let answer: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let model = answer["model_name"].as_str().unwrap();
        let text = folder.join(answer["input_file"].as_str().unwrap().trim_start_matches("reftests/"));
        let text = std::fs::read_to_string(text).unwrap();
        let expected: Vec<u32> =
            answer["token_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let tokenizer = Tokenizer::from_folder(&folder.join("models").join(model)).unwrap();
        let ids = tokenizer.encode(&text, Special { parse: true, add: true }).unwrap();
        assert_eq!(ids, expected, "{}", path.display());
        checked += 1;
    }
    assert_eq!(checked, 5);
}

#[test]
fn plain_files_equal_tokenizer_json() {
    let Some(data) = allod_testkit::data() else { return };
    let folder = data.join("tokenizer/reftests/models/gpt2");
    let copy = std::env::temp_dir().join(format!("allod-text-plain-{}", std::process::id()));
    std::fs::create_dir_all(&copy).unwrap();
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(folder.join(name), copy.join(name)).unwrap();
    }
    let (plain, json) = (Tokenizer::from_folder(&copy), Tokenizer::from_folder(&folder).unwrap());
    std::fs::remove_dir_all(&copy).unwrap();
    let gguf = gguf(&data.join("tokenizer/ggml-vocab-gpt-2.gguf"));
    let book = std::fs::read_to_string(data.join("tokenizer/war-and-peace.txt")).unwrap();
    let ids = json.encode(&book, Special::NONE).unwrap();
    assert_eq!(plain.unwrap().encode(&book, Special::NONE).unwrap(), ids);
    assert_eq!(gguf.encode(&book, Special::NONE).unwrap(), ids);
}

#[test]
fn sentencepiece_file_equals_gguf() {
    let Some(data) = allod_testkit::data() else { return };
    let file = std::fs::read(data.join("tokenizer/llama2_tokenizer.model")).unwrap();
    let (ours, gguf) =
        (Tokenizer::from_sentencepiece(&file).unwrap(), gguf(&data.join("tokenizer/ggml-vocab-llama-spm.gguf")));
    assert_eq!(ours.vocab_size(), gguf.vocab_size());
    for text in ["Hello world", " two  spaces ", "🦙 é\n\tx", "<s>not special</s>", ""] {
        for special in [Special::NONE, Special::ADD] {
            assert_eq!(ours.encode(text, special).unwrap(), gguf.encode(text, special).unwrap(), "{text:?}");
        }
    }
    assert_eq!(ours.special(Role::Pad), None);
}

#[test]
fn tiktoken_file() {
    let Some(data) = allod_testkit::data() else { return };
    let ranks = std::fs::read(data.join("tokenizer/o200k_base.tiktoken")).unwrap();
    let special = [("<|endoftext|>", 199_999)];
    let tokenizer = Tokenizer::from_tiktoken(&ranks, "gpt-4o", &special).unwrap();
    // From tiktoken 0.14.0: `get_encoding("o200k_base").encode(text)`.
    let known: [(&str, &[u32]); 3] = [
        ("Hello, world!", &[13225, 11, 2375, 0]),
        ("The cat's 12345 naïve  émigrés\n\n  said: 你好", KNOWN_MIXED),
        ("<|endoftext|>", &[199_999]),
    ];
    for (text, ids) in known {
        assert_eq!(tokenizer.encode(text, Special::PARSE).unwrap(), ids, "{text:?}");
    }
    let book = std::fs::read_to_string(data.join("tokenizer/war-and-peace.txt")).unwrap();
    let ids = tokenizer.encode(&book, Special::NONE).unwrap();
    assert_eq!(tokenizer.decode(&ids, false), book);
    assert_eq!(ids.len(), KNOWN_BOOK.0);
    let digest = ids.iter().fold(0u64, |h, &id| h.wrapping_mul(1_000_003).wrapping_add(u64::from(id)));
    assert_eq!(digest, KNOWN_BOOK.1);
}

const KNOWN_MIXED: &[u32] =
    &[976, 9059, 885, 220, 7633, 2548, 153475, 737, 220, 128223, 5213, 1756, 279, 220, 2059, 25, 220, 177519];
/// Number of tokens of the book and a polynomial hash of them.
const KNOWN_BOOK: (usize, u64) = (752798, 17184505450635430317);
