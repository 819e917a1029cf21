//! Commands that write models: what they write runs, and says the same.

use super::allod;
use allod_formats::{Gguf, WeightSource};
use std::path::Path;

fn text(model: &Path) -> String {
    let model = model.to_str().unwrap();
    let args = ["run", model, "--raw", "--temperature", "0", "--max-tokens", "40", "--json", "Once upon a time"];
    allod(&args, "").json()["text"].as_str().unwrap().to_owned()
}

#[test]
fn a_folder_becomes_a_file_and_a_folder_again() {
    let Some(data) = allod_testkit::data() else { return };
    let folder = data.join("weights/tinystories656k");
    let place = tempfile::tempdir().unwrap();
    let (file, back) = (place.path().join("model.gguf"), place.path().join("back"));
    let (file_arg, back_arg) = (file.to_str().unwrap(), back.to_str().unwrap());
    let done = allod(&["convert", folder.to_str().unwrap(), "-o", file_arg], "");
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(text(&file), text(&folder));
    let done = allod(&["convert", file_arg, "-o", back_arg, "--type", "F32"], "");
    assert_eq!(done.code, 0, "{}", done.err);
    let again = allod(&["convert", file_arg, "-o", back_arg], "");
    assert!(again.code != 0 && again.err.contains("--force"), "{}", again.err);
}

#[test]
fn conversion_writes_the_metadata_that_are_asked_for() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("model.gguf");
    let convert = |to: &str, meta: &str| allod(&["convert", "default", "-o", to, "--force", "--meta", meta], "");
    let arg = file.to_str().unwrap();
    assert_eq!(convert(arg, "general.version=9").code, 0);
    assert_eq!(Gguf::open(&file).unwrap().metadata().str("general.version"), Some("9"));
    for (to, meta, told) in [(arg, "general.version", "KEY=VALUE"), ("folder", "a=b", "ends in .gguf")] {
        let done = convert(to, meta);
        assert!(done.code != 0 && done.err.contains(told), "{}", done.err);
    }
}

#[test]
fn quantizing_says_what_it_wrote_and_gives_the_same_bytes_again() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let write = |name: &str, threads: &str| {
        allod(&["quantize", "default", "--to", "Q8_0", "-o", &path(name), "-t", threads, "--json"], "").json()
    };
    let (one, two) = (write("one.gguf", "1"), write("two.gguf", "2"));
    assert!(one["bits_per_weight"].as_f64().unwrap() < 9.0, "{one}");
    assert_eq!(one["bytes"], two["bytes"]);
    assert_eq!(std::fs::read(path("one.gguf")).unwrap(), std::fs::read(path("two.gguf")).unwrap());
    assert!(!text(Path::new(&path("one.gguf"))).is_empty());
    let wrong = allod(&["quantize", "default", "--to", "Q9", "-o", &path("x.gguf")], "");
    assert!(wrong.code != 0 && wrong.err.contains("Q4_K_M"), "{}", wrong.err);
}

#[test]
fn architectures_are_listed() {
    let list = allod(&["architectures", "--json"], "").json();
    let names: Vec<&str> = list.as_array().unwrap().iter().map(|a| a["name"].as_str().unwrap()).collect();
    assert!(["llama", "deepseek_v3", "mamba2", "bert"].iter().all(|n| names.contains(n)), "{names:?}");
    let can = |row: &serde_json::Value| ["run", "gguf", "safetensors", "embed", "tune"].map(|k| row[k] == true);
    assert!(list.as_array().unwrap().iter().all(|row| can(row) == [true; 5]), "{list}");
    let table = allod(&["architectures"], "").out;
    assert!(table.lines().next().is_some_and(|l| l.ends_with("run  gguf  safetensors  embed  tune")), "{table}");
}
