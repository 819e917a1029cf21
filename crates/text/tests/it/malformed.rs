//! Descriptions that are wrong end in errors that say where.

use allod_formats::{Array, Metadata, Value};
use allod_text::Tokenizer;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

/// A small vocabulary that is right.
fn sound() -> Metadata {
    let mut meta = Metadata::default();
    meta.set("tokenizer.ggml.model", "gpt2");
    meta.set("tokenizer.ggml.pre", "gpt-2");
    let tokens: Vec<String> = ["a", "b", "ab", "<s>"].map(String::from).into();
    meta.set("tokenizer.ggml.tokens", tokens);
    meta.set("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![1, 1, 1, 3])));
    meta.set("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0; 4])));
    meta.set("tokenizer.ggml.merges", vec!["a b".to_owned()]);
    meta
}

fn message(change: impl FnOnce(&mut Metadata)) -> String {
    let mut meta = sound();
    change(&mut meta);
    Tokenizer::from_gguf(&meta).expect_err("refused").to_string()
}

#[test]
fn gguf_metadata() {
    assert!(Tokenizer::from_gguf(&sound()).is_ok());
    let strings = |n: usize| vec!["x".to_owned(); n];
    let cases: Vec<(&str, String)> = vec![
        (
            "tokenizer.ggml.model: expected a string, found nothing",
            message(|m| {
                m.remove("tokenizer.ggml.model");
            }),
        ),
        (
            "tokenizer.ggml.model: expected a string, found another type",
            message(|m| m.set("tokenizer.ggml.model", 7u32)),
        ),
        ("tokenizer.ggml.model: `magic` is not supported", message(|m| m.set("tokenizer.ggml.model", "magic"))),
        (
            "`gpt-3` is not supported; the nearest known one is `gpt-2`",
            message(|m| m.set("tokenizer.ggml.pre", "gpt-3")),
        ),
        (
            "tokenizer.ggml.tokens: expected an array of strings, found nothing",
            message(|m| {
                m.remove("tokenizer.ggml.tokens");
            }),
        ),
        (
            "tokenizer.ggml.tokens: expected an array of strings",
            message(|m| m.set("tokenizer.ggml.tokens", Value::Array(Array::U8(vec![1])))),
        ),
        ("tokenizer.ggml.tokens: expected tokens, found 0", message(|m| m.set("tokenizer.ggml.tokens", strings(0)))),
        (
            "tokenizer.ggml.token_type: expected 4 numbers",
            message(|m| m.set("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![1])))),
        ),
        (
            "tokenizer.ggml.token_type: expected an array of numbers",
            message(|m| m.set("tokenizer.ggml.token_type", strings(4))),
        ),
        (
            "tokenizer.ggml.merges: expected an array of strings, found nothing",
            message(|m| {
                m.remove("tokenizer.ggml.merges");
            }),
        ),
        (
            "tokenizer.ggml.merges[0]: expected two texts",
            message(|m| m.set("tokenizer.ggml.merges", vec!["ab".to_owned()])),
        ),
        (
            "tokenizer.ggml.bos_token_id: expected an id below 4, found 4",
            message(|m| m.set("tokenizer.ggml.bos_token_id", 4u32)),
        ),
        ("tokenizer.ggml.eos_token_id: expected a token id", message(|m| m.set("tokenizer.ggml.eos_token_id", "two"))),
        (
            "tokenizer.ggml.scores: expected 4 numbers",
            message(|m| {
                m.set("tokenizer.ggml.model", "llama");
                m.set("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0])));
            }),
        ),
        (
            "tokenizer.ggml.scores: expected an array of numbers",
            message(|m| {
                m.set("tokenizer.ggml.model", "llama");
                m.remove("tokenizer.ggml.scores");
            }),
        ),
        (
            "tokenizer.ggml.scores: expected numbers, found NaN",
            message(|m| {
                m.set("tokenizer.ggml.model", "llama");
                m.set("tokenizer.ggml.scores", Value::Array(Array::F32(vec![f32::NAN; 4])));
            }),
        ),
        (
            "precompiled_charsmap: expected a trie",
            message(|m| {
                m.set("tokenizer.ggml.model", "t5");
                m.set("tokenizer.ggml.precompiled_charsmap", Value::Array(Array::U8(vec![255, 255, 255, 255, 0])));
            }),
        ),
        (
            "precompiled_charsmap: expected an array of bytes",
            message(|m| {
                m.set("tokenizer.ggml.model", "t5");
                m.set("tokenizer.ggml.precompiled_charsmap", "abc");
            }),
        ),
    ];
    for (expected, found) in cases {
        assert!(found.contains(expected), "expected {expected:?} in {found:?}");
    }
}

#[test]
fn a_lying_charsmap_is_harmless() {
    // Every unit points somewhere else: it is refused, or whatever it says stays within bounds.
    for unit in [0u32, 0x100, 0xFFFF_FFFF, 0x8000_0041, 0x7FFF_FD00, 0x161] {
        let mut bytes = 1024u32.to_le_bytes().to_vec();
        bytes.extend(std::iter::repeat_n(unit.to_le_bytes(), 256).flatten());
        bytes.extend([0xFF, 0xC3, 0x28]);
        let mut meta = sound();
        meta.set("tokenizer.ggml.model", "t5");
        meta.set("tokenizer.ggml.precompiled_charsmap", Value::Array(Array::U8(bytes)));
        match Tokenizer::from_gguf(&meta) {
            Ok(tokenizer) => {
                tokenizer.encode("ab é 一 🦙", allod_text::Special::PARSE).unwrap();
            }
            Err(e) => assert!(e.to_string().contains("precompiled_charsmap"), "{e}"),
        }
    }
}

#[test]
fn tokenizer_json() {
    let sound = json!({
        "added_tokens": [{"id": 2, "content": "<s>", "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 3}, "merges": ["a b"]},
    });
    let read = |file: &serde_json::Value| Tokenizer::from_json(&serde_json::to_vec(file).unwrap());
    assert!(read(&sound).is_ok());
    let message = |pointer: &str, value: serde_json::Value| {
        let mut file = sound.clone();
        *file.pointer_mut(pointer).unwrap() = value;
        read(&file).expect_err("refused").to_string()
    };
    let cases = [
        ("model.type: `Magic` is not supported", message("/model/type", json!("Magic"))),
        ("model.vocab: expected an object", message("/model/vocab", json!([1]))),
        ("model.vocab[\"b\"]: expected a token id", message("/model/vocab/b", json!(-1))),
        ("expected ids that are dense, found id 4294967295", message("/model/vocab/b", json!(u32::MAX))),
        ("model.merges: expected an array", message("/model/merges", json!("a b"))),
        ("model.merges[0]: expected two texts", message("/model/merges/0", json!(["a"]))),
        ("merge 0: expected texts of tokens, found `c`", message("/model/merges/0", json!("a c"))),
        ("pre_tokenizer.type: `Magic` is not supported", message("/pre_tokenizer/type", json!("Magic"))),
        (
            "pattern `(`",
            message("/pre_tokenizer", json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"})),
        ),
        (
            "pre_tokenizer: expected a Split, found unknown variant `Sideways`",
            message("/pre_tokenizer", json!({"type": "Split", "pattern": {"String": " "}, "behavior": "Sideways"})),
        ),
        (
            "pre_tokenizer: expected a Split, found unknown variant `Glob`",
            message("/pre_tokenizer", json!({"type": "Split", "pattern": {"Glob": "*"}})),
        ),
        ("added_tokens[0].id: expected a token id", message("/added_tokens/0/id", json!("two"))),
        ("added_tokens[0].content: expected a string, found nothing", message("/added_tokens/0", json!({"id": 2}))),
        ("merge 0: expected texts of tokens, found `ba`", message("/model/merges/0", json!("b a"))),
        (
            "pre_tokenizer.length: expected a length above 0",
            message("/pre_tokenizer", json!({"type": "FixedLength", "length": 0})),
        ),
        (
            "model.max_input_chars_per_word: expected at most 1000",
            message(
                "/model",
                json!({"type": "WordPiece", "vocab": {"a": 0, "u": 1}, "unk_token": "u", "max_input_chars_per_word": 1_000_000}),
            ),
        ),
        (
            "model.unk_token: expected a token, found [UNK]",
            message("/model", json!({"type": "WordPiece", "vocab": {"a": 0, "b": 1}})),
        ),
        (
            "normalizer.precompiled_charsmap: expected base64",
            message("", {
                let mut file = sound.clone();
                file["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "?"});
                file
            }),
        ),
        (
            "added token 5: expected no `lstrip` for white space beside the `rstrip` of token 2",
            message(
                "/added_tokens",
                json!([{"id": 2, "content": "<s>", "rstrip": true}, {"id": 5, "content": " ", "lstrip": true}]),
            ),
        ),
    ];
    for (expected, found) in cases {
        assert!(found.contains(expected), "expected {expected:?} in {found:?}");
    }
    for text in ["", "{", "[]", "null", "{\"model\": 1}", "{\"model\": {}}"] {
        assert!(Tokenizer::from_json(text.as_bytes()).is_err(), "{text}");
    }
    // Deeper than any parser should follow.
    let deep = format!("{{\"model\": {}", "[".repeat(100_000));
    assert!(Tokenizer::from_json(deep.as_bytes()).is_err());
}

#[test]
fn a_pattern_that_explodes_is_given_up() {
    let file = json!({
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"(?:a|a(?=a)|aa)+b"}, "behavior": "Isolated"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
    });
    let tokenizer = Tokenizer::from_json(&serde_json::to_vec(&file).unwrap()).unwrap();
    // Exponential without a limit; beyond it the library cuts no further.
    let text = "a".repeat(5000);
    assert_eq!(tokenizer.encode(&text, allod_text::Special::NONE).unwrap(), [0; 5000]);
}

#[test]
fn odd_files_that_work() {
    let encode = |change: serde_json::Value, text: &str| {
        let mut file = json!({
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 3, "": 4}, "merges": ["a b"]},
        });
        file.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        Tokenizer::from_json(file.to_string().as_bytes()).unwrap().encode(text, allod_text::Special::PARSE).unwrap()
    };
    // What a file says on truncation and padding is for batches of a fixed size.
    let sections = json!({
        "truncation": {"max_length": 1, "stride": 0, "strategy": "LongestFirst", "direction": "Right"},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "a"},
    });
    assert_eq!(encode(sections, "abab"), [3, 3]);
    // Ids are the file's, wherever they lie; of one text the first id counts.
    let added = json!({"added_tokens": [
        {"id": 90, "content": "<x>", "special": true}, {"id": 91, "content": "<x>", "special": true},
        {"id": 50, "content": "<y>"}, {"id": 51, "content": ""},
    ]});
    let mut padded = added.clone();
    padded["comment"] = "x".repeat(100).into();
    assert_eq!(encode(padded, "a<x>b<y>"), [0, 90, 1, 50]);
    // White space as a token, taken by the one before it.
    let blank = json!({"added_tokens": [
        {"id": 5, "content": "<r>", "rstrip": true}, {"id": 6, "content": " "}, {"id": 7, "content": "<l>", "lstrip": true},
    ], "comment": "x".repeat(100)});
    assert_eq!(encode(blank, "a<r>  <l>b"), [0, 5, 6, 6, 7, 1]);
}

#[test]
fn long_runs_take_time_in_proportion() {
    let Some(data) = allod_testkit::data() else { return };
    for name in ["llama-spm", "gpt-2", "bert-bge"] {
        let tokenizer = crate::gguf(&data.join(format!("tokenizer/ggml-vocab-{name}.gguf")));
        for run in ["a", " ", "\n", "é", "a ", "🦙"] {
            let text = run.repeat(100_000 / run.len());
            let ids = tokenizer.encode(&text, allod_text::Special::NONE).unwrap();
            assert!(name == "bert-bge" || tokenizer.decode(&ids, false) == text, "{name} {run:?}");
        }
    }
}

#[test]
fn sentencepiece_files() {
    for bytes in [&b""[..], &[0x0A], &[0x0A, 0xFF], &[0xFF; 64], &[0x0A, 3, 0x0A, 1, 0xFF], b"not a model at all"] {
        let error = Tokenizer::from_sentencepiece(bytes).expect_err("refused");
        assert!(error.to_string().contains("tokenizer.model"), "{error}");
    }
}

#[test]
fn tiktoken_files() {
    for (bytes, expected) in [(&b"!!! 0"[..], "line 1"), (b"YQ== 0\nYg==", "line 2"), (b"YQ== 4294967295", "dense")] {
        let error = Tokenizer::from_tiktoken(bytes, "gpt-4o", &[]).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// Bytes with a few of them changed, cut off or doubled.
fn damaged(bytes: &[u8]) -> impl Strategy<Value = Vec<u8>> + use<> {
    let bytes = bytes.to_vec();
    let length = bytes.len();
    (prop::collection::vec((0..length, any::<u8>()), 0..6), prop::option::of(0..length), any::<bool>()).prop_map(
        move |(changes, end, ascii)| {
            let mut out = bytes.clone();
            for (at, byte) in changes {
                // Damage that stays JSON for longer gets further in.
                out[at] = if ascii { b"0123456789\"[]{},:-\\ e"[byte as usize % 21] } else { byte };
            }
            out.truncate(end.unwrap_or(length));
            out
        },
    )
}

fn each(cases: u32, strategy: impl Strategy<Value = Vec<u8>>, read: impl Fn(&[u8])) {
    let config = Config { failure_persistence: None, ..Config::with_cases(cases) };
    TestRunner::new(config)
        .run(&strategy, |bytes| {
            read(&bytes);
            Ok(())
        })
        .unwrap();
}

#[test]
fn damaged_files_never_panic() {
    let text = " Hello <s> wörld\n🦙 \u{301}12345";
    let use_it = |tokenizer: Result<Tokenizer, _>| {
        if let Ok(tokenizer) = tokenizer {
            let ids = tokenizer.encode(text, allod_text::Special { parse: true, add: true }).unwrap_or_default();
            tokenizer.decode(&ids, false);
        }
    };
    let small = json!({
        "added_tokens": [{"id": 9, "content": "<s>", "special": true, "lstrip": true, "rstrip": true}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Replace", "pattern": {"Regex": "l+"}, "content": "L"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true}, {"type": "Split", "pattern": {"Regex": "\\d{1,3}(?=x|$)"}, "behavior": "MergedWithNext", "invert": false}]},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}], "special_tokens": {"<s>": {"ids": [9]}}},
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true},
        "model": {"type": "BPE", "vocab": {"▁": 0, "H": 1, "e": 2, "He": 3, "▁He": 4, "1": 5, "<unk>": 6}, "merges": ["H e", ["▁", "He"]], "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true},
    });
    each(3000, damaged(small.to_string().as_bytes()), |bytes| use_it(Tokenizer::from_json(bytes)));
    let Some(data) = allod_testkit::data() else { return };
    let model = std::fs::read(data.join("tokenizer/llama2_tokenizer.model")).unwrap();
    // The beginning has pieces, the end the specifications.
    let short = [&model[..3000], &model[model.len() - 700..]].concat();
    each(3000, damaged(&short), |bytes| use_it(Tokenizer::from_sentencepiece(bytes)));
    let ranks = std::fs::read(data.join("tokenizer/o200k_base.tiktoken")).unwrap();
    each(30, damaged(&ranks[..4000]), |bytes| use_it(Tokenizer::from_tiktoken(bytes, "gpt-4o", &[("<s>", 300)])));
}

#[test]
fn templates_of_random_pieces_never_panic() {
    let pieces = prop::sample::select(vec![
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "#}",
        "-",
        "+",
        " ",
        "\n",
        "for",
        "in",
        "if",
        "else",
        "endif",
        "endfor",
        "set",
        "macro",
        "endmacro",
        "call",
        "endcall",
        "generation",
        "endgeneration",
        "raw",
        "endraw",
        "messages",
        "m",
        ".",
        "items",
        "get",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ":",
        ",",
        "|",
        "safe",
        "map",
        "tojson",
        "indent",
        "'",
        "\"",
        "\\",
        "é",
        "1",
        "0.5",
        "1e300",
        "~",
        "*",
        "/",
        "//",
        "**",
        "%",
        "==",
        "not",
        "is",
        "none",
        "iterable",
        "namespace",
        "x",
        "=",
        "loop",
        "range",
        "-1",
        "::",
    ]);
    let source = prop::collection::vec(pieces, 0..30).prop_map(|pieces| pieces.concat().into_bytes());
    each(5000, source, |bytes| {
        let source = std::str::from_utf8(bytes).unwrap();
        if let Ok(template) = allod_text::Template::new(source) {
            let messages = json!([{"role": "user", "content": "Hi", "items": {"x": 1}}]);
            let _ = template.render(&allod_text::Conversation { messages, ..Default::default() });
        }
    });
}
