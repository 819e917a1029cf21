use crate::{allod, data, ids};
use serde_json::Value;

const RAW: [&str; 5] = ["--raw", "--temperature", "0", "--json", "--max-tokens"];

#[test]
fn known_models_give_their_known_answers() {
    let Some(known) = data("weights/known_answers_llama2c.json") else { return };
    let known: Value = serde_json::from_str(&std::fs::read_to_string(known).unwrap()).unwrap();
    for (file, name) in [
        ("weights/stories260K/stories260K.gguf", "stories260K"),
        ("weights/stories260K/stories260K.bin", "stories260K"),
    ] {
        let file = data(file).unwrap();
        let answer = allod(&[&["run", &file], &RAW[..], &["200", ""]].concat(), "").json();
        assert_eq!(ids(&answer["prompt_token_ids"]), [1]);
        assert_eq!(answer["token_ids"], known[name]["greedy_200"], "{file}");
        assert_eq!(answer["finish_reason"], "length");
        // The file of known answers decodes the stream as the tokenizer writes it: up to its last whole word.
        let text = answer["text"].as_str().unwrap();
        assert!(text.starts_with(" Once upon a time, there was a little girl named Lily."), "{text}");
    }
}

/// What numpy computes from the same file (scripts/default_model/check.py).
#[test]
fn the_built_in_model_gives_its_known_answer() {
    let known = include_str!("../../../../scripts/default_model/known_answer.json");
    let known: Value = serde_json::from_str(known).unwrap();
    let prompt = known["prompt"].as_str().unwrap();
    let answer = allod(&[&["run", "default"], &RAW[..], &["64", "--repeat-penalty", "1", prompt]].concat(), "").json();
    assert_eq!(answer["prompt_token_ids"], known["prompt_token_ids"]);
    assert_eq!(answer["token_ids"], known["token_ids"]);
}

#[test]
fn the_built_in_model_answers() {
    let answer = allod(&["run", "default", "--json", "--seed", "7", "a brave little fish"], "").json();
    let text = answer["text"].as_str().unwrap();
    assert!(text.split_whitespace().count() > 20, "{text}");
    let timings = answer["timings"].as_object().unwrap();
    assert!(timings["first_token_seconds"].as_f64().unwrap() < 0.3);
    assert_eq!(timings["generated_tokens"].as_u64().unwrap() as usize, ids(&answer["token_ids"]).len());
}

#[test]
fn a_seed_names_an_answer_whatever_the_threads() {
    let ask = |seed: &str, threads: &str| {
        let args = ["run", "default", "--json", "--max-tokens", "40", "--seed", seed, "--threads", threads, "a cat"];
        allod(&args, "").json()["token_ids"].clone()
    };
    let first = ask("7", "1");
    assert_eq!(first, ask("7", "2"));
    assert_eq!(first, ask("7", "3"));
    assert_ne!(first, ask("8", "1"));
}

#[test]
fn only_the_answer_goes_to_stdout() {
    let done = allod(&["run", "default", "--raw", "--temperature", "0", "--max-tokens", "12", "One day, a"], "");
    let json = allod(&[&["run", "default"], &RAW[..], &["12", "One day, a"]].concat(), "").json();
    assert_eq!(done.out.strip_suffix('\n').unwrap(), json["text"].as_str().unwrap());
    assert_eq!(done.err, "");
}

#[test]
fn stdin_is_the_prompt_or_follows_it() {
    let greedy = ["run", "default", "--temperature", "0", "--max-tokens", "8", "--json"];
    let piped = allod(&greedy, "A tiny dragon\n").json();
    let given = allod(&[&greedy[..], &["A tiny dragon"]].concat(), "").json();
    assert_eq!(piped["prompt_token_ids"], given["prompt_token_ids"]);
    let both = allod(&[&greedy[..], &["A tiny"]].concat(), "dragon").json();
    assert!(ids(&both["prompt_token_ids"]).len() > 2);
    assert_ne!(both["prompt_token_ids"], given["prompt_token_ids"]);
    let raw = allod(&[&["run", "default"], &RAW[..], &["8", "A tiny dragon"]].concat(), "ignored").json();
    assert!(raw["prompt_token_ids"].as_array().unwrap().len() < 12);
}

#[test]
fn a_stop_string_ends_the_answer() {
    let args = ["run", "default", "--raw", "--temperature", "0", "--max-tokens", "60", "--json", "One day, a"];
    let whole = allod(&args, "").json()["text"].as_str().unwrap().to_string();
    let word = whole.split_whitespace().nth(6).unwrap();
    let cut = allod(&[&args[..8], &["--stop", word, "One day, a"]].concat(), "").json();
    assert_eq!(cut["text"].as_str().unwrap(), &whole[..whole.find(word).unwrap()]);
    assert_eq!(cut["finish_reason"], "stop");
}

#[test]
fn logprobs_belong_to_the_tokens() {
    let args = ["run", "default", "--raw", "--temperature", "0", "--max-tokens", "3", "--json", "--logprobs", "2", "A"];
    let answer = allod(&args, "").json();
    let all = answer["logprobs"].as_array().unwrap();
    assert_eq!(all.len(), 3);
    for one in all {
        assert_eq!(one["id"], one["top"][0]["id"], "greedy takes the likeliest");
        assert!(one["top"][0]["logprob"].as_f64() >= one["top"][1]["logprob"].as_f64());
        assert!(one["logprob"].as_f64().unwrap() <= 0.0);
    }
}

#[test]
fn mistakes_end_in_an_error_and_a_hint() {
    let cases: [(&[&str], &str, &str); 6] = [
        (&["run", "nowhere.gguf", "hi"], "there is no nowhere.gguf", "allod run default"),
        (&["run", "default", "--top-p", "2", "hi"], "top_p: expected a number from 0 to 1, found 2", "--top-p"),
        (
            &["run", "default", "--ctx", "8", "--raw", "one two three four five six seven"],
            "context holds 8",
            "--ctx 16",
        ),
        (&["run", "default", "--logit-bias", "999999=1", "hi"], "logit_bias", "--logit-bias"),
        (&["run", "Cargo.toml", "hi"], "Cargo.toml", ""),
        (&["logits", "default", "--ids", "missing.json", "-o", "x"], "missing.json", ""),
    ];
    for (args, error, hint) in cases {
        let done = allod(args, "");
        assert_eq!((done.code, done.out.as_str()), (1, ""), "{args:?}");
        assert!(done.err.starts_with("error: ") && done.err.contains(error), "{args:?}: {}", done.err);
        let hinted = done.err.lines().any(|l| l.starts_with("hint: ") && l.contains(hint));
        assert!(hint.is_empty() || hinted, "{args:?}: {}", done.err);
    }
}

#[test]
fn a_full_context_is_said_not_hidden() {
    let args = ["run", "default", "--raw", "--ignore-eos", "--ctx", "40", "--json", "Once upon a time"];
    let done = allod(&args, "");
    assert_eq!(done.json()["finish_reason"], "context_full");
    assert!(done.err.contains("context of 40 tokens is full"), "{}", done.err);
}

#[test]
fn a_chat_template_shapes_the_prompt() {
    let ask = |extra: &[&str]| {
        let args = [&["run", "default", "--temperature", "0", "--max-tokens", "4", "--json"], extra].concat();
        ids(&allod(&args, "").json()["prompt_token_ids"])
    };
    let tokens =
        |text: &str| ids(&allod(&["tokenize", "default", "--json", "--add-special", text], "").json()["token_ids"]);
    assert_eq!(ask(&["tell me a story about a red fox"]), tokens("A story about a red fox.\n\n"));
    assert_eq!(ask(&["--raw", "tell me a story about a red fox"]), tokens("tell me a story about a red fox"));
}

#[test]
fn a_folder_runs_like_a_file() {
    let Some(known) = data("weights/known_answers_tinystories656k.json") else { return };
    let known: Value = serde_json::from_str(&std::fs::read_to_string(known).unwrap()).unwrap();
    let all = ids(&known["greedy_ids"]);
    let prompt = ids(&known["prompt_ids"]);
    let folder = data("weights/tinystories656k").unwrap();
    // The two start tokens: one is written here, one is added as the model asks.
    let text = "<|start_story|>Once upon a time, ";
    let answer = allod(&[&["run", &folder], &RAW[..], &["60", text]].concat(), "").json();
    let ours = [ids(&answer["prompt_token_ids"]), ids(&answer["token_ids"])].concat();
    assert_eq!(ours[..prompt.len()], prompt, "the prompt");
    assert_eq!(ours, all[..ours.len()]);
}

#[test]
fn activations_are_chosen_and_told_in_the_receipt() {
    let dir = tempfile::tempdir().unwrap();
    let [model, receipt] =
        ["model.gguf", "receipt.json"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
    assert_eq!(allod(&["convert", "default", "--type", "BF16", "-o", &model], "").code, 0);
    let told = |flags: &[&str]| -> Value {
        let run = ["run", &model, "a brave fish", "--seed", "1", "--max-tokens", "60", "--receipt", &receipt];
        assert_eq!(allod(&[&run[..], flags].concat(), "").code, 0);
        let verified = allod(&["verify", &receipt, "--model", &model, "--json"], "").json();
        assert_eq!(verified["verified"], true, "{flags:?} {verified}");
        serde_json::from_slice(&std::fs::read(&receipt).unwrap()).unwrap()
    };
    assert_eq!(told(&["--activations", "bf16"])["model"]["activations"], "bf16");
    let usual = told(&[]);
    assert_eq!(usual["model"].get("activations"), None);
    assert_eq!(told(&["--activations", "F32"]), usual);
    // Weights of other types do not care.
    let answer = |activations| {
        let run = ["run", "default", "a brave fish", "--temperature", "0", "--json", "--activations", activations];
        ids(&allod(&run, "").json()["token_ids"])
    };
    assert_eq!(answer("bf16"), answer("f32"));
    let refused = allod(&["run", "default", "a fish", "--activations", "f8"], "");
    assert!(refused.code == 2 && refused.err.contains("f32 and bf16"), "{}", refused.err);
}

#[test]
fn a_receipt_is_verified_and_a_false_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("receipt.json");
    let path = file.to_str().unwrap();
    for flags in [&["--temperature", "0"][..], &["--seed", "4", "--stop", "."], &["--raw", "--draft", "lookup"]] {
        let run = ["run", "default", "a brave fish", "--max-tokens", "60", "--receipt", path];
        assert_eq!(allod(&[&run[..], flags].concat(), "").code, 0);
        let verified = allod(&["verify", path, "--json"], "").json();
        assert_eq!(verified["verified"], true, "{flags:?} {verified}");
    }
    let text = std::fs::read_to_string(&file).unwrap();
    let mut changed: Value = serde_json::from_str(&text).unwrap();
    changed["request"]["sampling"]["top_k"] = 3.into();
    std::fs::write(&file, changed.to_string()).unwrap();
    let told = allod(&["verify", path], "");
    assert_eq!(told.code, 1);
    assert!(told.out.contains("request.sampling.top_k"), "{}", told.out);
    let Some(other) = data("weights/stories260K/stories260K.gguf") else { return };
    std::fs::write(&file, text).unwrap();
    let told = allod(&["verify", path, "--model", &other], "");
    assert!(told.code == 1 && told.out.contains("model."), "{} {}", told.out, told.err);
}
