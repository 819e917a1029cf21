//! From files to ids and masks.

use allod_text::{Role, Templates, Tokenizer};
use allod_train::Error;
use allod_train::data::{
    Encoder, Form, Item, Mask, Source, Truncation,
    encode::CHATML,
    pack,
    source::{self, Dataset, Options},
};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

/// A byte-level vocabulary with the marks of ChatML: each byte is a token, `the` and ` the` are merged.
fn tokenizer() -> Tokenizer {
    let byte = |b: u8| match b {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(b),
        _ => {
            let before = (0..b).filter(|b| !matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)).count();
            char::from_u32(256 + before as u32).unwrap()
        }
    };
    let mut vocab = serde_json::Map::new();
    for b in 0..=255u8 {
        vocab.insert(byte(b).to_string(), b.into());
    }
    for (i, merged) in ["th", "the", "Ġthe"].iter().enumerate() {
        vocab.insert((*merged).to_owned(), (256 + i).into());
    }
    let special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
    let added: Vec<_> = special.iter().enumerate().map(|(i, t)| {
        serde_json::json!({ "id": 259 + i, "content": t, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true })
    }).collect();
    let json = serde_json::json!({
        "version": "1.0", "added_tokens": added, "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
        "post_processor": null, "decoder": { "type": "ByteLevel" },
        "model": { "type": "BPE", "vocab": vocab, "merges": [["t", "h"], ["th", "e"], ["Ġ", "the"]] },
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    let config = r#"{ "eos_token": "<|endoftext|>" }"#;
    std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    Tokenizer::from_folder(folder.path()).unwrap()
}

fn template(source: &str) -> Templates {
    Templates { default: Some(source.into()), ..Templates::default() }
}

/// ChatML without marks of what the assistant writes.
fn unmarked() -> String {
    CHATML.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")
}

fn encoder(source: &str, mask: Mask, longest: usize) -> Encoder {
    Encoder::new(tokenizer(), &template(source), mask, longest, Truncation::KeepStart, 0).unwrap()
}

fn options<'a>(encoder: &'a Encoder, folder: &'a Path) -> Options<'a> {
    Options { encoder, replace: &[], held_out: 0.0, seed: 0, skip_problems: false, limit: None, companions: 0, folder }
}

struct File(tempfile::TempDir, PathBuf);

fn file(name: &str, text: &str) -> File {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    File(folder, path)
}

fn load(name: &str, text: &str, encoder: &Encoder) -> Result<Dataset, Error> {
    let file = file(name, text);
    source::load(&[Source { path: file.1.clone(), weight: 1.0 }], &[], &options(encoder, file.0.path()))
}

/// The text of a sequence with what is learned in brackets.
fn shown(data: &Dataset, sequence: u32) -> String {
    let (s, t) = (data.store.get(sequence), tokenizer());
    let (mut out, mut inside) = (Vec::new(), false);
    for (id, learned) in s.ids().zip(s.learned()) {
        if learned != inside {
            out.push(if learned { b'[' } else { b']' });
            inside = learned;
        }
        out.extend_from_slice(&t.token_bytes(id).unwrap());
    }
    if inside {
        out.push(b']');
    }
    String::from_utf8(out).unwrap()
}

fn first(data: &Dataset) -> String {
    let number = data.train[0].sequences().next().unwrap();
    shown(data, number)
}

/// Every dialect's way to write one question and one answer.
#[test]
fn forms_are_recognized() {
    let chat = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n[yo<|im_end|>]\n";
    let cases = [
        (r#"{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"yo"}]}"#, Form::Chat, chat),
        (r#"{"conversations":[{"from":"human","value":"hi"},{"from":"gpt","value":"yo"}]}"#, Form::Chat, chat),
        (
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"hi"}]},{"role":"assistant","content":[{"type":"text","value":"yo"}]}]}"#,
            Form::Chat,
            chat,
        ),
        (r#"{"instruction":"hi","input":"","output":"yo"}"#, Form::Alpaca, chat),
        (
            r#"{"prompt":[{"role":"user","content":"hi"}],"completion":[{"role":"assistant","content":"yo"}]}"#,
            Form::Completion,
            chat,
        ),
        (r#"{"prompt":"hi ","completion":"yo"}"#, Form::Completion, "hi [yo<|endoftext|>]"),
        (r#"{"question":"hi ","answer":"yo"}"#, Form::Completion, "hi [yo<|endoftext|>]"),
        (r#"{"text":"hi yo"}"#, Form::Text, "[hi yo<|endoftext|>]"),
        (r#"{"input_ids":[104,105,121],"labels":[-100,105,121]}"#, Form::Tokens, "h[iy]"),
        (r#"{"input_ids":[104,105,121],"completion_mask":[0,0,1]}"#, Form::Tokens, "hi[y]"),
        (r#"{"prompt":"hi ","chosen":"yo","rejected":"no"}"#, Form::Preference, "hi [yo<|endoftext|>]"),
        (r#"{"chosen":"hi yo","rejected":"hi no"}"#, Form::Preference, "hi[ yo<|endoftext|>]"),
        (
            r#"{"conversations":[{"from":"human","value":"hi"}],"chosen":{"from":"gpt","value":"yo"},"rejected":{"from":"gpt","value":"no"}}"#,
            Form::Preference,
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n[yo<|im_end|>\n]",
        ),
        (r#"{"prompt":"hi ","completion":"yo","label":true}"#, Form::Unpaired, "hi [yo<|endoftext|>]"),
        (
            r#"{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"yo"}],"label":0}"#,
            Form::Unpaired,
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n[yo<|im_end|>\n]",
        ),
        (r#"{"prompt_ids":[104],"chosen_ids":[105],"rejected_ids":[106]}"#, Form::TokenPairs, "h[i]"),
    ];
    let encoder = encoder(CHATML, Mask::Auto, 1000);
    for (json, form, expected) in cases {
        let data = load("a.jsonl", json, &encoder).unwrap_or_else(|e| panic!("{json}: {e}"));
        assert_eq!(data.report.files[0].form, form, "{json}");
        assert_eq!(first(&data), expected, "{json}");
    }
}

#[test]
fn the_same_records_from_every_kind_of_file() {
    let encoder = encoder(CHATML, Mask::Auto, 1000);
    let lines = load(
        "a.jsonl",
        "{\"prompt\":\"a, \\\"b\\\"\",\"completion\":\"c\"}\n\n{\"prompt\":\"d\",\"completion\":\"e\\nf\"}\n",
        &encoder,
    )
    .unwrap();
    let array = load(
        "a.json",
        "[\n{\"prompt\":\"a, \\\"b\\\"\",\n\"completion\":\"c\"},\n {\"prompt\":\"d\",\"completion\":\"e\\nf\"}\n]",
        &encoder,
    )
    .unwrap();
    let csv = load("a.csv", "prompt,completion\n\"a, \"\"b\"\"\",c\nd,\"e\nf\"\n", &encoder).unwrap();
    let tsv = load("a.tsv", "prompt\tcompletion\n\"a, \"\"b\"\"\"\tc\nd\t\"e\nf\"\n", &encoder).unwrap();
    for other in [&array, &csv, &tsv] {
        assert_eq!(lines.store.digest(), other.store.digest());
    }
    assert_eq!(lines.train.len(), 2);
}

#[test]
fn answers_are_found_without_marks() {
    let text = r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"hi"},{"role":"assistant","content":"yo"},{"role":"user","content":"hi"},{"role":"assistant","content":"the end"}]}"#;
    let (marked, found) = (
        load("a.jsonl", text, &encoder(CHATML, Mask::Assistant, 1000)).unwrap(),
        load("a.jsonl", text, &encoder(&unmarked(), Mask::Auto, 1000)).unwrap(),
    );
    assert_eq!(first(&marked), first(&found));
    assert!(first(&found).ends_with("<|im_start|>assistant\n[the end<|im_end|>]\n"), "{}", first(&found));
    let last = load("a.jsonl", text, &encoder(CHATML, Mask::Completion, 1000)).unwrap();
    assert_eq!(first(&last).matches('[').count(), 1, "{}", first(&last));
    let all = load("a.jsonl", text, &encoder(CHATML, Mask::All, 1000)).unwrap();
    assert!(first(&all).starts_with("[<|im_start|>"));
}

#[test]
fn a_message_of_weight_zero_is_not_learned() {
    let text = r#"{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"yo","weight":0},{"role":"user","content":"hi"},{"role":"assistant","content":"the end"}]}"#;
    for encoder in [encoder(CHATML, Mask::Auto, 1000), encoder(&unmarked(), Mask::Auto, 1000)] {
        let data = load("a.jsonl", text, &encoder).unwrap();
        assert!(first(&data).contains("assistant\nyo<|im_end|>"), "{}", first(&data));
        assert!(first(&data).contains("[the end<|im_end|>]"), "{}", first(&data));
    }
}

#[test]
fn a_call_of_a_tool_is_the_assistants() {
    let text = r#"{"conversations":[{"from":"human","value":"hi"},{"from":"function_call","value":"{\"name\":\"f\",\"arguments\":{\"x\":1}}"},{"from":"observation","value":"2"},{"from":"gpt","value":"yo"}],"tools":"[{\"name\":\"f\",\"parameters\":{}}]"}"#;
    let with_calls = "{%- for t in tools or [] -%}{{ t.function.name }};{%- endfor -%}{%- for m in messages -%}<|im_start|>{{ m.role }}\n{%- generation -%}{{ m.content }}{%- for c in m.tool_calls or [] -%}!{{ c.function.name }}({{ c.function.arguments.x }}){%- endfor -%}<|im_end|>{%- endgeneration -%}{%- endfor -%}";
    let data = load("a.jsonl", text, &encoder(with_calls, Mask::Auto, 1000)).unwrap();
    assert!(first(&data).starts_with("f;<|im_start|>user"), "{}", first(&data));
    assert!(first(&data).contains("!f(1)<|im_end|>"), "{}", first(&data));
}

/// The last token of a prompt may join the first of the answer: `th` + `e` becomes one token, which is then learned.
#[test]
fn the_boundary_is_where_ids_part() {
    let data = load("a.jsonl", r#"{"prompt":"of th","completion":"e x"}"#, &encoder(CHATML, Mask::Auto, 1000)).unwrap();
    assert_eq!(first(&data), "of[ the x<|endoftext|>]");
}

#[test]
fn long_texts_are_cut_into_windows_that_predict_every_id_once() {
    let text: String = "abcdefghij".repeat(10);
    let data = load("a.txt", &text, &encoder(CHATML, Mask::Auto, 17)).unwrap();
    let supervised: usize = (0..data.store.len() as u32).map(|i| data.store.get(i).supervised()).sum();
    assert_eq!(supervised, 100);
    assert!((0..data.store.len() as u32).all(|i| data.store.get(i).len() <= 17));
}

#[test]
fn what_is_cut_is_counted() {
    let long = format!(r#"{{"prompt":"p","completion":"{}"}}"#, "x".repeat(100));
    let hopeless = format!(r#"{{"prompt":"{}","completion":"x"}}"#, "p".repeat(100));
    let data = load("a.jsonl", &format!("{long}\n{hopeless}\n{long}\n"), &encoder(CHATML, Mask::Auto, 20)).unwrap();
    assert_eq!(data.train.len(), 2);
    assert_eq!(data.report.cut, (2, 2 * 82));
    assert_eq!(data.report.skipped.values().sum::<usize>(), 1);
    assert_eq!(data.report.duplicates, 1);
}

#[test]
fn weights_splits_and_placeholders() {
    let text: String =
        (0..1000).map(|i| format!("{{\"prompt\":\"{i} \",\"completion\":\"I am {{{{name}}}}\"}}\n")).collect();
    let f = file("a.jsonl", &text);
    let encoder = encoder(CHATML, Mask::Auto, 1000);
    let replace = [("name".to_owned(), "Allod".to_owned())];
    let mut o = Options { replace: &replace, held_out: 0.2, ..options(&encoder, f.0.path()) };
    let one = source::load(&[Source { path: f.1.clone(), weight: 1.0 }], &[], &o).unwrap();
    assert_eq!(one.train.len() + one.held_out.len(), 1000);
    assert!((150..250).contains(&one.held_out.len()), "{}", one.held_out.len());
    assert!(first(&one).contains("[I am Allod"));
    o.held_out = 0.0;
    for (weight, count) in [(2.0, 2000), (0.25, 250), (1.5, 1500)] {
        let data = source::load(&[Source { path: f.1.clone(), weight }], &[], &o).unwrap();
        assert_eq!(data.train.len(), count);
    }
}

#[test]
fn judged_answers_get_companions() {
    let text: String =
        (0..5).map(|i| format!("{{\"prompt\":\"p{i} \",\"completion\":\"c{i}\",\"label\":true}}\n")).collect();
    let f = file("a.jsonl", &text);
    let encoder = encoder(CHATML, Mask::Auto, 1000);
    let o = Options { companions: 2, ..options(&encoder, f.0.path()) };
    let data = source::load(&[Source { path: f.1.clone(), weight: 1.0 }], &[], &o).unwrap();
    let companions: Vec<String> = data
        .train
        .iter()
        .map(|item| match item {
            Item::Judged(_, kl, _) => shown(&data, *kl),
            _ => panic!(),
        })
        .collect();
    let expected = [
        "p0 [c1<|endoftext|>]",
        "p1 [c0<|endoftext|>]",
        "p2 [c3<|endoftext|>]",
        "p3 [c2<|endoftext|>]",
        "p4 [c4<|endoftext|>]",
    ];
    assert_eq!(companions, expected);
}

/// What is wrong, in which line, and what to do: each message says all three.
#[test]
fn problems_name_line_and_remedy() {
    let good = r#"{"prompt":"a","completion":"b"}"#;
    let cases = [
        ("a.jsonl", format!("{good}\n{{\"prompt\": \"a\",\n"), ":2: broken JSON", "bare line breaks"),
        ("a.jsonl", format!("{good}\n[1]\n"), ":2: expected an object", "each record is an object"),
        ("a.jsonl", format!("{good}\n{{\"prompt\":\"a\"}}\n"), ":2: no completion", "form of the first"),
        ("a.jsonl", r#"{"foo":1}"#.into(), "fields [foo] are of no known form", "known forms"),
        ("a.jsonl", r#"{"messages":[]}"#.into(), "no messages", "give it messages"),
        ("a.jsonl", r#"{"messages":[{"role":"wizard","content":"x"}]}"#.into(), "unknown role \"wizard\"", "known are"),
        (
            "a.jsonl",
            r#"{"messages":[{"role":"user","content":"x"}]}"#.into(),
            "no message of the assistant",
            "at least one",
        ),
        (
            "a.jsonl",
            r#"{"messages":[{"role":"user"},{"role":"assistant","content":"x"}]}"#.into(),
            "messages[0]: no content",
            "content",
        ),
        (
            "a.jsonl",
            r#"{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}"#.into(),
            "type \"image_url\"",
            "remove the part",
        ),
        (
            "a.jsonl",
            r#"{"prompt":"a","chosen":"b","rejected":"b"}"#.into(),
            "chosen and rejected are the same",
            "remove the record",
        ),
        (
            "a.jsonl",
            r#"{"prompt":"a","completion":"b","label":"maybe"}"#.into(),
            "expected true or false",
            "true or false",
        ),
        ("a.jsonl", r#"{"input_ids":[1,2],"labels":[1]}"#.into(), "labels has 1 entries", "one entry for each"),
        ("a.jsonl", r#"{"input_ids":[1,2],"labels":[1,3]}"#.into(), "labels[1] is 3", "-100"),
        ("a.jsonl", r#"{"input_ids":[1,99999]}"#.into(), "token id 99999", "another model"),
        (
            "a.json",
            format!("[\n{good},\n{{\"prompt\": 3, \"completion\": \"x\"}}\n]"),
            ":3: prompt: expected a text, found a number",
            "quotes",
        ),
        ("a.json", format!("[\n{good},\n"), "the array is not closed", "cut off"),
        ("a.csv", "prompt,completion\na,b\nc\n".into(), ":3: 1 fields under a heading of 2", "double quotes"),
    ];
    let encoder = encoder(CHATML, Mask::Auto, 1000);
    for (name, text, message, hint) in cases {
        let error = load(name, &text, &encoder).expect_err(&text).to_string();
        assert!(error.contains(message) && error.contains(hint), "{text}\n{error}");
    }
    let f = file("a.jsonl", "");
    std::fs::write(&f.1, b"{\"text\":\"\xFF\"}\n").unwrap();
    let error =
        source::load(&[Source { path: f.1.clone(), weight: 1.0 }], &[], &options(&encoder, f.0.path())).unwrap_err();
    assert!(error.to_string().contains("not UTF-8"), "{error}");
}

#[test]
fn a_template_must_do_what_the_mask_asks() {
    let error =
        Encoder::new(tokenizer(), &template(&unmarked()), Mask::Assistant, 10, Truncation::KeepStart, 0).unwrap_err();
    assert!(error.to_string().contains("mask = \"answers\""), "{error}");
    let without = Encoder::new(tokenizer(), &Templates::default(), Mask::Auto, 1000, Truncation::KeepStart, 0).unwrap();
    let chat = r#"{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"yo"}]}"#;
    let error = load("a.jsonl", chat, &without).unwrap_err().to_string();
    assert!(error.contains("no chat template") && error.contains("--template"), "{error}");
}

#[test]
fn nothing_to_learn_is_an_error() {
    let text = r#"{"input_ids":[1,2,3],"labels":[-100,-100,-100]}"#;
    let error = load("a.jsonl", text, &encoder(CHATML, Mask::Auto, 1000)).unwrap_err().to_string();
    assert!(error.contains("mask is empty"), "{error}");
}

/// Real data sets of other projects, where they are.
#[test]
fn real_data_sets() {
    let Some(folder) = allod_testkit::data() else { return };
    let encoder = encoder(CHATML, Mask::Auto, 1 << 16);
    for (name, form, count) in [
        ("lf_identity.json", Form::Alpaca, 91),
        ("fastchat_dummy_conversation.json", Form::Chat, 500),
        ("lf_glaive_toolcall_en_demo.json", Form::Chat, 300),
        ("lf_dpo_en_demo.json", Form::Preference, 300),
        ("lf_kto_en_demo.json", Form::Unpaired, 300),
        ("lf_v1_sft_demo.jsonl", Form::Chat, 500),
        ("dolly_hhrlhf_train_small.jsonl", Form::Completion, 1000),
    ] {
        let path = folder.join("train").join(name);
        let temporary = tempfile::tempdir().unwrap();
        let mut o = options(&encoder, temporary.path());
        o.skip_problems = true;
        let data = source::load(&[Source { path, weight: 1.0 }], &[], &o).unwrap();
        let report = &data.report;
        let seen = data.train.len() + report.problem_count + report.skipped.values().sum::<usize>();
        assert_eq!((report.files[0].form, seen), (form, count), "{name}: {:?}", report.problems.first());
        assert!(
            data.train.len() * 10 >= count * 9,
            "{name}: {} of {count}: {:?}",
            data.train.len(),
            report.problems.first()
        );
    }
}

proptest! {
    /// Everything once, nothing beyond the room, and no two bins that would fit into one.
    #[test]
    fn packing_is_a_packing(lengths in prop::collection::vec(1usize..40, 0..200)) {
        let bins = pack::best_fit(&lengths, 32);
        let mut all: Vec<usize> = bins.concat();
        all.sort_unstable();
        prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
        let sums: Vec<usize> = bins.iter().map(|b| b.iter().map(|&i| lengths[i].min(32)).sum()).collect();
        prop_assert!(sums.iter().all(|s| *s <= 32));
        prop_assert!(sums.iter().filter(|s| **s <= 16).count() <= 1);
    }

    /// Whatever stands in a file, reading it ends with data or a message.
    #[test]
    fn no_file_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0usize..4) {
        let f = file(["a.jsonl", "a.json", "a.csv", "a.txt"][kind], "");
        std::fs::write(&f.1, &bytes).unwrap();
        let encoder = encoder(CHATML, Mask::Auto, 100);
        let _ = source::load(&[Source { path: f.1.clone(), weight: 1.0 }], &[], &options(&encoder, f.0.path()));
    }
}

#[test]
fn the_vocabulary_of_these_tests_is_what_it_says() {
    let t = tokenizer();
    assert_eq!(t.special(Role::Eos), t.token_id("<|endoftext|>"));
    assert_eq!(t.decode(&t.encode("héllo the", allod_text::Special::NONE).unwrap(), false), "héllo the");
}
