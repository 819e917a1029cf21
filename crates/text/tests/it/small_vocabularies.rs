//! Small vocabularies of every kind against what Hugging Face's library makes of difficult texts.
//!
//! The goldens are made by `scripts/goldens/vocabularies.py`.

use allod_text::tokenizer::to_gguf;
use allod_text::{Role, Special, Tokenizer};
use serde::Deserialize;
use std::path::PathBuf;

/// What GGUF has no keys for: how names begin, and what the refusal says.
const NO_GGUF: &[(&str, &str)] = &[
    ("byte-prefix-space", "the step"),
    ("byte-normalizer", "a way of cutting by"),
    ("split-isolated", ""),
    ("split-", "the step"),
    ("unigram-nfkc", "as this one does"),
    ("wordlevel", "a model of whole words"),
    ("word-end", "the step"),
    ("continuing", "the step"),
];
/// Tokens that swallow or want white space or stand in the normalized text, which GGUF has no keys for either.
const ODD_TOKENS: &[&str] = &["<|left|>", "<|right|>", "<|both|>", "word", "Normal", "Raw Token"];
/// Kinds whose decoder puts nothing after the last word of a text, which a stream cannot know to be the last.
const NOT_DECODED: &[&str] = &["word-end"];

#[derive(Deserialize)]
struct Golden {
    file: serde_json::Value,
    /// Text, ids with special tokens parsed and added, ids of plain text, text of the former without special tokens.
    answers: Vec<(String, Vec<u32>, Vec<u32>, String)>,
}

fn goldens() -> Vec<(String, Golden)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/goldens/tokenizers");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: PathBuf| {
        let golden = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        (path.file_stem().unwrap().to_string_lossy().into_owned(), golden)
    };
    let mut goldens: Vec<_> = entries.map(read).collect();
    goldens.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(goldens.len() > 30);
    goldens
}

/// True where GGUF's keys say all that counts for this text.
fn is_expressible(name: &str, text: &str) -> bool {
    if ODD_TOKENS.iter().any(|token| text.contains(token)) {
        return false;
    }
    match name {
        "nfc-digits" => !text.contains('\u{301}'),
        // There a space goes before every text, even one that begins with a space, and after every special token.
        _ if name.starts_with("metaspace-first") || name.starts_with("metaspace-always") || name.starts_with("uni") => {
            let special = ["<|end|>", "<s>", "</s>", "<unk>"];
            !special.iter().any(|token| text.contains(token))
                && text.trim_matches([' ', '▁', '\u{3000}', '\u{ad}']) == text
        }
        _ => true,
    }
}

/// The texts on which `tokenizer` differs from the golden.
fn differences(
    tokenizer: &Tokenizer,
    golden: &Golden,
    name: &str,
    decode: bool,
    counts: impl Fn(&str) -> bool,
) -> Vec<String> {
    let mut out = Vec::new();
    for (text, ids, plain, decoded) in golden.answers.iter().filter(|(text, ..)| counts(text)) {
        let ours = tokenizer.encode(text, Special { parse: true, add: true }).unwrap();
        let typed = tokenizer.encode(text, Special::NONE).unwrap();
        if ours != *ids {
            out.push(format!("{name} {text:?}\n  expected {ids:?}\n  found    {ours:?}"));
        }
        // The library's Unigram finds structure in plain text; here nothing does.
        let structure = |id: &u32| tokenizer.is_special(*id) && tokenizer.special(Role::Unk) != Some(*id);
        let hidden = name.starts_with("unigram") && plain.iter().any(structure);
        if typed.iter().any(structure) || typed != *plain && !hidden {
            out.push(format!("{name} {text:?}, plain\n  expected {plain:?}\n  found    {typed:?}"));
        }
        let back = tokenizer.decode(ids, true);
        // The library decodes `Normal` to its normalized form; here it stays as it was added.
        let compared = decode && !NOT_DECODED.contains(&name) && !text.contains("Normal");
        if compared && back != *decoded {
            out.push(format!("{name} {ids:?}\n  expected {decoded:?}\n  found    {back:?}"));
        }
    }
    out
}

#[test]
fn tokenizer_json_as_the_library_reads_it() {
    let mut failures = Vec::new();
    for (name, golden) in goldens() {
        let tokenizer = Tokenizer::from_json(golden.file.to_string().as_bytes());
        failures.extend(differences(
            &tokenizer.unwrap_or_else(|e| panic!("{name}: {e}")),
            &golden,
            &name,
            true,
            |_| true,
        ));
    }
    assert!(failures.is_empty(), "{}\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn through_gguf() {
    let folder = std::env::temp_dir().join(format!("allod-text-small-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut failures = Vec::new();
    for (name, golden) in goldens() {
        let mut file = golden.file.clone();
        let added = file["added_tokens"].as_array_mut().unwrap();
        added.retain(|token| !ODD_TOKENS.contains(&token["content"].as_str().unwrap()));
        std::fs::write(folder.join("tokenizer.json"), file.to_string()).unwrap();
        let refusal = NO_GGUF.iter().find(|(refused, _)| name.starts_with(refused)).map(|(_, says)| *says);
        match (to_gguf(&folder), refusal) {
            (Ok(meta), None) => {
                let tokenizer = Tokenizer::from_gguf(&meta).unwrap();
                // Metaspace drops the spaces within a first token, GGUF's readers one before it.
                let decode = !name.ends_with("-whole");
                failures.extend(differences(&tokenizer, &golden, &name, decode, |text| is_expressible(&name, text)));
            }
            (Err(e), Some(says)) if e.to_string().contains(says) => {}
            (Ok(_), Some(_)) => failures.push(format!("{name} is not refused")),
            (Err(e), _) => failures.push(format!("{name}: {e}")),
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(failures.is_empty(), "{}\n{}", failures.len(), failures.join("\n"));
}
