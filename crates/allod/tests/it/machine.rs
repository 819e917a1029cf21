use crate::{allod, data, ids};
use allod_formats::Safetensors;
use serde_json::{Value, json};
use std::path::PathBuf;

/// A path for this test in the folder for temporary files.
fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("allod-{}-{name}", std::process::id()))
}

/// Runs `allod logits` and reads one tensor back: its shape and numbers.
fn logits(model: &str, sequences: &Value, extra: &[&str], name: &str) -> (Vec<usize>, Vec<f32>) {
    let (input, output) = (scratch(&format!("{name}.json")), scratch(&format!("{name}.safetensors")));
    std::fs::write(&input, sequences.to_string()).unwrap();
    let files = ["--ids", input.to_str().unwrap(), "-o", output.to_str().unwrap()];
    let done = allod(&[&["logits", model], &files[..], extra].concat(), "");
    assert_eq!((done.code, done.out.as_str()), (0, ""), "{}", done.err);
    let tensor = Safetensors::open(&output).unwrap().tensor(name).unwrap();
    let numbers = tensor.data.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    std::fs::remove_file(input).unwrap();
    std::fs::remove_file(output).unwrap();
    (tensor.shape.to_vec(), numbers)
}

#[test]
fn logits_choose_the_known_tokens() {
    let Some(known) = data("weights/known_answers_llama2c.json") else { return };
    let known: Value = serde_json::from_str(&std::fs::read_to_string(known).unwrap()).unwrap();
    for (file, name) in
        [("weights/stories260K/stories260K.gguf", "stories260K"), ("weights/llama2xs/model.bin", "llama2xs")]
    {
        let greedy = ids(&known[name]["greedy_200"]);
        let prompt = [&[1], &greedy[..199]].concat();
        let (shape, numbers) = logits(&data(file).unwrap(), &json!([prompt, prompt]), &[], "logits");
        assert_eq!(shape, [2, 200, 512]);
        let best = |row: &[f32]| (0..512).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32;
        let chosen: Vec<u32> = numbers.chunks(512).map(best).collect();
        assert_eq!(chosen, [&greedy[..], &greedy].concat(), "{name}");
    }
}

/// Whatever the last operation is called: a soft cap, a scale, a product.
#[test]
fn decoders_write_logits_and_encoders_hidden_states() {
    let goldens = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tests/goldens/");
    for (golden, name, width) in [
        ("gemma2", "logits", 128),
        ("gemma4_text", "logits", 128),
        ("granite", "logits", 128),
        ("llama", "logits", 128),
        ("bert", "hidden", 48),
    ] {
        let (shape, _) = logits(&format!("{goldens}{golden}"), &json!([[5, 6, 7], [9, 8, 7]]), &[], name);
        assert_eq!(shape, [2, 3, width], "{golden}");
    }
}

#[test]
fn named_values_can_be_tapped() {
    let (shape, numbers) = logits("default", &json!([5, 6, 7]), &["--tap", "blk.0.attn_norm"], "blk.0.attn_norm");
    assert_eq!(shape[..2], [1, 3]);
    assert!(numbers.iter().any(|&x| x != 0.0));
    let missing = allod(&["logits", "default", "--ids", "Cargo.toml", "-o", "x"], "");
    assert!(missing.err.contains("hint: write a JSON list"), "{}", missing.err);
}

#[test]
fn speed_is_a_list_of_tests() {
    let sizes = ["-p", "16", "-n", "4", "-d", "0,8", "-b", "1,2", "-t", "1", "--repeat", "2", "--json"];
    let list = allod(&[&["bench", "default"], &sizes[..]].concat(), "").json();
    let rows = list.as_array().unwrap();
    assert_eq!(rows.len(), 2 * 2 * 2);
    for row in rows {
        let keys: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
        let wanted = ["test", "prompt", "generate", "depth", "batch", "threads", "tokens_per_second", "samples"];
        assert_eq!(keys, wanted);
        assert_eq!(row["samples"].as_array().unwrap().len(), 2);
        assert!(row["tokens_per_second"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(rows.iter().filter(|r| r["depth"] == 8 && r["batch"] == 2 && r["generate"] == 4).count(), 1);
    assert_eq!(allod(&["bench", "default", "-b", "0"], "").code, 1);
}
