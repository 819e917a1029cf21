use crate::{allod, data, ids};
use serde_json::json;

#[test]
fn a_file_says_what_it_is() {
    let facts = allod(&["inspect", "default", "--json", "--tensors", "--metadata", "--plan"], "").json();
    assert_eq!(facts["architecture"], "llama");
    assert_eq!(facts["licence"]["license"], "MIT OR Apache-2.0");
    assert_eq!(facts["lineage"]["dataset.0.license"], "CDLA-Sharing-1.0");
    let tensors = facts["tensors"].as_array().unwrap();
    let types = facts["types"].as_array().unwrap();
    let sum = |key: &str| types.iter().map(|t| t[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("count"), tensors.len() as u64);
    assert_eq!(sum("elements"), facts["parameters"].as_u64().unwrap());
    assert_eq!(sum("bytes"), tensors.iter().map(|t| t["bytes"].as_u64().unwrap()).sum::<u64>());
    assert_eq!(types.iter().find(|t| t["type"] == "F16").unwrap()["bits_per_weight"], 16.0);
    assert!(facts["plan"]["text"].as_str().unwrap().contains("blk.0"));
    assert_eq!(facts["metadata"]["general.name"], "allod-stories");
    assert_eq!(facts["metadata"]["llama.attention.layer_norm_rms_epsilon"], 1e-5);
}

/// The built-in model's bytes are those that the second of its two runs wrote, and that run began with the first one's.
#[test]
fn the_default_model_is_what_its_runs_wrote() {
    let runs = allod(&["inspect", "default", "--json"], "").json()["runs"].clone();
    let file = include_bytes!("../../assets/allod-stories.gguf");
    assert_eq!(runs[1]["outputs"]["model.gguf"], allod_train::run::manifest::digest_bytes(file));
    assert_eq!(runs[1]["base"]["model.gguf"], runs[0]["outputs"]["model.gguf"]);
}

#[test]
fn memory_grows_with_the_context() {
    let cache = |ctx: &str| {
        allod(&["inspect", "default", "--ctx", ctx, "--json"], "").json()["memory"]["cache"].as_u64().unwrap()
    };
    assert_eq!(cache("512") * 4, cache("2048"));
}

#[test]
fn people_get_a_page() {
    let page = allod(&["inspect"], "").out;
    for part in [
        "architecture  llama",
        "\nlicence\n",
        "\nlineage\n",
        "\nruns\n",
        "\ntensors ",
        "\nplan ",
        "\nmemory at a context of",
    ] {
        assert!(page.contains(part), "{part} is missing:\n{page}");
    }
    assert!(allod(&["inspect", "default", "--tensors"], "").out.contains("token_embd.weight"));
    assert!(allod(&["inspect", "default", "--plan"], "").out.contains("return"));
}

#[test]
fn text_becomes_ids() {
    let one = allod(&["tokenize", "default", "--json", "One day"], "").json();
    let added = allod(&["tokenize", "default", "--json", "--add-special"], "One day").json();
    assert_eq!([&ids(&added["token_ids"])[..1], &ids(&one["token_ids"])].concat(), ids(&added["token_ids"]));
    assert_eq!(allod(&["tokenize", "default"], "One day").out.lines().count(), ids(&one["token_ids"]).len());
    let bad = allod(&["tokenize", "default", "--file", env!("CARGO_BIN_EXE_allod")], "");
    assert!(bad.code == 1 && bad.err.contains("is not UTF-8"), "{}", bad.err);
}

#[test]
fn a_vocabulary_alone_tokenizes() {
    let Some(file) = data("tokenizer/ggml-vocab-llama-spm.gguf") else { return };
    let text = std::env::temp_dir().join(format!("allod-tokenize-{}.txt", std::process::id()));
    std::fs::write(&text, "Hello world").unwrap();
    let done = allod(&["tokenize", &file, "--file", text.to_str().unwrap(), "--json"], "");
    std::fs::remove_file(&text).unwrap();
    assert_eq!(done.json(), json!({ "token_ids": [15043, 3186] }));
    assert!(allod(&["inspect", &file], "").out.contains("no tensors"));
}

#[test]
fn shells_complete() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = allod(&["completions", shell], "").out;
        assert!(script.contains("inspect") && script.contains("temperature"), "{shell}");
    }
}

#[test]
fn help_teaches_by_example() {
    for command in ["run", "inspect", "tokenize", "logits", "bench", "completions"] {
        let help = allod(&[command, "--help"], "").out;
        assert!(help.contains(&format!("Examples:\n  allod {command}")) || help.contains("  echo "), "{help}");
    }
}
