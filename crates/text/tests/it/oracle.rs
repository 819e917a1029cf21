//! `tokenizer.json` against Hugging Face's own library, on text made to be awkward.

use allod_text::{Special, Tokenizer};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use std::path::Path;

/// Both implementations of one file.
struct Pair {
    ours: Tokenizer,
    theirs: tokenizers::Tokenizer,
    label: String,
}

impl Pair {
    fn new(file: &Value, label: impl Into<String>) -> Pair {
        let (label, bytes) = (label.into(), serde_json::to_vec(file).unwrap());
        let ours = Tokenizer::from_json(&bytes).unwrap_or_else(|e| panic!("{label}: {e}"));
        let theirs = tokenizers::Tokenizer::from_bytes(&bytes).unwrap_or_else(|e| panic!("{label}: {e}"));
        Pair { ours, theirs, label }
    }

    fn check(&self, text: &str) {
        let ours = self.ours.encode(text, Special { parse: true, add: true }).unwrap();
        let theirs = self.theirs.encode_fast(text, true).unwrap();
        assert_eq!(ours, theirs.get_ids(), "{} on {text:?}", self.label);
    }
}

/// Text with words, white space of all kinds, digits, marks, other scripts, emoji, special tokens.
fn awkward() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-zA-Z]{1,8}",
        2 => " {1,3}",
        1 => "[ \t\r\n\u{a0}\u{3000}]{1,4}",
        2 => "[0-9]{1,7}",
        2 => "[.,!?'\"()_-]{1,3}",
        1 => "'(s|t|re|ve|m|ll|d|S|LL)",
        1 => "[éÅñßİǅº²½Ⅷ一龥あ한ไ]{1,3}",
        1 => "[e\u{301}\u{300}\u{ad}\u{200b}\u{fffd}]{1,3}",
        1 => "[🦙👩🏽‍💻\u{10ffff}]{1,3}",
        1 => prop_oneof![Just("<s>"), Just("</s>"), Just("<unk>"), Just("<|endoftext|>"), Just("▁"), Just("<0x41>"), Just("<|end_story|>")].prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn check_all(pairs: &[Pair], cases: u32) {
    let config = Config { failure_persistence: None, ..Config::with_cases(cases) };
    TestRunner::new_with_rng(config.clone(), proptest::test_runner::TestRng::deterministic_rng(config.rng_algorithm))
        .run(&awkward(), |text| {
            for pair in pairs {
                pair.check(&text);
            }
            Ok(())
        })
        .unwrap();
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn real_files() {
    let Some(data) = allod_testkit::data() else { return };
    let gpt2 = read(&data.join("tokenizer/reftests/models/gpt2/tokenizer.json"));
    let stories = read(&data.join("weights/tinystories656k/tokenizer.json"));
    let pairs = [Pair::new(&gpt2, "gpt2"), Pair::new(&stories, "tinystories656k")];
    check_all(&pairs, 2000);
    let book = std::fs::read_to_string(data.join("tokenizer/war-and-peace.txt")).unwrap();
    for pair in &pairs {
        pair.check(&book[..book.floor_char_boundary(400_000)]);
    }
}

#[test]
fn every_pre_tokenizer() {
    let Some(data) = allod_testkit::data() else { return };
    let mut file = read(&data.join("tokenizer/reftests/models/gpt2/tokenizer.json"));
    // Without the printable stand-ins most characters have no token: let them show as unknown.
    file["model"]["unk_token"] = json!("<|endoftext|>");
    let split = |pattern: Value, behavior: &str, invert: bool| json!({"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert});
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let llama3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let mut steps = vec![
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true}),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": false}),
        json!({"type": "Metaspace", "replacement": "Ġ", "prepend_scheme": "never", "split": true}),
        json!({"type": "Digits", "individual_digits": true}),
        json!({"type": "Digits", "individual_digits": false}),
        json!({"type": "BertPreTokenizer"}),
        json!({"type": "Whitespace"}),
        json!({"type": "WhitespaceSplit"}),
        json!({"type": "CharDelimiterSplit", "delimiter": "e"}),
        json!({"type": "FixedLength", "length": 3}),
        json!({"type": "Sequence", "pretokenizers": [split(json!({"Regex": llama3}), "Isolated", false), bytes]}),
        json!({"type": "Sequence", "pretokenizers": [{"type": "Punctuation", "behavior": "Contiguous"}, {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}, {"type": "Digits", "individual_digits": false}, split(json!({"Regex": "[0-9][0-9][0-9]"}), "Isolated", false)]}),
        json!({"type": "Sequence", "pretokenizers": [split(json!({"Regex": r"(?=(\d{3})+(?!\d))"}), "Isolated", false), bytes]}),
    ];
    for behavior in ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"] {
        steps.push(json!({"type": "Punctuation", "behavior": behavior}));
        steps.push(split(json!({"Regex": r"\s+|\d"}), behavior, false));
        steps.push(split(json!({"Regex": r"\w+"}), behavior, true));
        steps.push(split(json!({"String": " "}), behavior, false));
    }
    let pairs: Vec<Pair> = steps
        .into_iter()
        .map(|step| {
            file["pre_tokenizer"] = step.clone();
            Pair::new(&file, step.to_string())
        })
        .collect();
    check_all(&pairs, 150);
}

#[test]
fn every_normalizer_and_model() {
    let Some(data) = allod_testkit::data() else { return };
    let mut file = read(&data.join("weights/tinystories656k/tokenizer.json"));
    let normalizers = [
        json!(null),
        json!({"type": "NFC"}),
        json!({"type": "NFD"}),
        json!({"type": "NFKC"}),
        json!({"type": "NFKD"}),
        json!({"type": "Lowercase"}),
        json!({"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]}),
        json!({"type": "Strip", "strip_left": true, "strip_right": true}),
        json!({"type": "Prepend", "prepend": "▁"}),
        json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}),
        json!({"type": "Replace", "pattern": {"String": "a"}, "content": "bb"}),
        json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}),
        json!({"type": "BertNormalizer", "clean_text": false, "handle_chinese_chars": false, "strip_accents": true, "lowercase": false}),
        json!({"type": "ByteLevel"}),
    ];
    let mut pairs = Vec::new();
    for normalizer in normalizers {
        file["normalizer"] = normalizer.clone();
        pairs.push(Pair::new(&file, normalizer.to_string()));
    }
    let words = ["[UNK]", "the", "a", "##b", "##c", "he", "##llo", ".", "##e", "e", "一", "1", "##1"];
    let vocab: serde_json::Map<String, Value> =
        words.iter().enumerate().map(|(i, w)| (w.to_string(), json!(i))).collect();
    for model in [
        json!({"type": "WordPiece", "vocab": vocab, "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 5}),
        json!({"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}),
        json!({"type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab": [["<unk>", 0.0], ["▁", -2.0], ["▁the", -3.5], ["t", -4.0], ["h", -4.1], ["e", -3.0], ["he", -5.0], ["▁a", -3.0], ["a", -4.0], ["11", -6.0], ["1", -5.5], ["▁▁", -3.9]]}),
        json!({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "b</w>": 3, "ab</w>": 4, "<unk>": 5, "e</w>": 6}, "merges": ["a b</w>", "a b"], "unk_token": "<unk>", "fuse_unk": false, "end_of_word_suffix": "</w>"}),
    ] {
        let unigram = model["type"] == "Unigram";
        let pre = if unigram {
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": false})
        } else {
            json!({"type": "BertPreTokenizer"})
        };
        let file = json!({"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": pre, "post_processor": null, "decoder": null, "model": model});
        pairs.push(Pair::new(&file, file["model"].to_string()));
    }
    check_all(&pairs, 300);
}
