//! Receipts: made whatever else is served, verified by making the answers again, and not to be tampered with.

use crate::client::{Served, serve, serve_with, settings, stories, user};
use allod_cpu::Activations;
use allod_formats::{Gguf, WeightSource};
use allod_models::convert::{GgufOptions, to_gguf};
use allod_server::{Difference, Origin, Settings, Sizing, Spec, Verified, VerifyError, verify};
use allod_tensor::DType;
use serde_json::{Value, json};
use std::path::PathBuf;

fn check(receipt: &Value) -> Result<Verified, VerifyError> {
    check_with(receipt, stories())
}

fn check_with(receipt: &Value, model: PathBuf) -> Result<Verified, VerifyError> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(verify(receipt, Origin::Path(model), 2))
}

/// A receipt with a seal that fits what it says.
fn sealed(mut changed: Value) -> Value {
    changed.as_object_mut().unwrap().remove("seal");
    let receipt: allod_server::Receipt = serde_json::from_value(changed).unwrap();
    receipt.sealed()
}

fn difference(receipt: &Value) -> Difference {
    match check(receipt) {
        Err(VerifyError::Differs(difference)) => difference,
        other => panic!("{other:?}"),
    }
}

/// Requests whose answers are chosen in different ways.
fn requests() -> Vec<(&'static str, Value)> {
    let schema = json!({
        "type": "object", "properties": { "name": { "type": "string", "maxLength": 12 } }, "required": ["name"],
        "additionalProperties": false,
    });
    vec![
        ("/v1/completions", json!({ "prompt": "Once", "max_tokens": 20, "temperature": 0 })),
        (
            "/v1/completions",
            json!({ "prompt": ["Once", "The dog"], "n": 2, "seed": 5, "max_tokens": 12, "stop": ["."] }),
        ),
        (
            "/v1/chat/completions",
            json!({
                "messages": user("a fish"), "max_tokens": 24, "logit_bias": { "300": -100, "17": 1.5 }, "top_p": 0.9,
                "frequency_penalty": 0.3,
            }),
        ),
        (
            "/v1/chat/completions",
            json!({
                "messages": user("a name"), "max_tokens": 40, "seed": 9,
                "response_format": { "type": "json_schema", "json_schema": { "name": "n", "schema": schema } },
            }),
        ),
    ]
}

/// A server with one model that is run in this way.
fn serve_sized(model: PathBuf, sizing: Sizing) -> Served {
    let mut settings = settings(&[]);
    settings.catalog.insert("stories", Spec { sizing, ..Spec::new(Origin::Path(model)) });
    serve_with(settings)
}

fn receipts(served: &Served) -> Vec<Value> {
    requests().into_iter().map(|(path, form)| receipt_of(served, path, form)).collect()
}

fn receipt_of(served: &Served, path: &str, mut form: Value) -> Value {
    form["receipt"] = true.into();
    form["seed"] = form.get("seed").cloned().unwrap_or_else(|| 3.into());
    let answer = served.post(path, &form).json();
    assert!(answer["receipt"].is_object(), "{answer}");
    answer["receipt"].clone()
}

#[test]
fn receipts_hold_and_do_not_depend_on_the_load() {
    let served = serve();
    let alone = receipts(&served);
    for receipt in &alone {
        let verified = check(receipt).unwrap();
        let answers = receipt["answers"].as_array().unwrap();
        let tokens = answers.iter().map(|a| a["tokens"]["token_ids"].as_array().unwrap().len()).sum::<usize>();
        assert_eq!(verified, Verified { answers: answers.len(), tokens });
    }
    let together: Vec<Vec<Value>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| receipts(&served))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(together.iter().all(|receipts| *receipts == alone));
    // Drafts change nothing.
    let drafting = Sizing { context: Some(512), draft: Some(6), ..Sizing::default() };
    assert_eq!(receipts(&serve_sized(stories(), drafting)), alone);
}

#[test]
fn every_dialect_and_stream_carries_the_receipt() {
    let served = serve_with(Settings { receipts: true, ..settings(&[("stories", stories())]) });
    let form = json!({ "messages": user("a fish"), "max_tokens": 8, "temperature": 0 });
    let expected = served.post("/v1/chat/completions", &form).json()["receipt"]["answers"].clone();
    assert_eq!(expected.as_array().unwrap().len(), 1);
    let options = json!({ "temperature": 0, "num_predict": 8 });
    for (path, stream, whole) in [
        ("/v1/chat/completions", true, form.clone()),
        ("/v1/messages", false, form.clone()),
        ("/v1/messages", true, form.clone()),
        ("/api/chat", false, json!({ "messages": user("a fish"), "options": options, "stream": false })),
        ("/api/chat", true, json!({ "messages": user("a fish"), "options": options })),
        ("/v1/responses", false, json!({ "input": "a fish", "max_output_tokens": 8, "temperature": 0 })),
        ("/v1/responses", true, json!({ "input": "a fish", "max_output_tokens": 8, "temperature": 0 })),
    ] {
        let mut form = whole;
        form["stream"] = stream.into();
        let response = served.post(path, &form);
        let last = match (stream, path.starts_with("/api")) {
            (false, _) => response.json(),
            (true, true) => response.lines().pop().unwrap(),
            (true, false) => response.events().pop().unwrap(),
        };
        let tokens = |answers: &Value| answers[0]["tokens"]["token_ids"].clone();
        assert_eq!(tokens(&last["receipt"]["answers"]), tokens(&expected), "{path} {last}");
        check(&last["receipt"]).unwrap();
    }
    // On request, by a header.
    let served = serve();
    let headers = [("content-type", "application/json"), ("x-allod-receipt", "true")];
    let body = form.to_string();
    assert!(served.ask("POST", "/v1/messages", &headers, body.as_bytes()).json()["receipt"].is_object());
    assert!(served.post("/v1/messages", &form).json().get("receipt").is_none());
}

/// Changes each field of a value in turn, and gives its path.
fn tampered(value: &Value, path: &str) -> Vec<(String, Value)> {
    let changed = match value {
        Value::Object(map) => {
            let one = |(name, inner): (&String, &Value)| {
                let put = |(at, inner): (String, Value)| {
                    let mut map = map.clone();
                    map[name] = inner;
                    (at, Value::from(map))
                };
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                tampered(inner, &below).into_iter().map(put).collect::<Vec<_>>()
            };
            return map.iter().flat_map(one).collect();
        }
        Value::Array(list) if list.iter().any(Value::is_object) => {
            let mut list = list.clone();
            let (at, first) = tampered(&list[0], &format!("{path}[0]")).pop().unwrap();
            list[0] = first;
            return vec![(at, list.into())];
        }
        Value::Array(list) => list.iter().cloned().chain([7.into()]).collect(),
        Value::Number(n) => (n.as_f64().unwrap() + 1.0).into(),
        Value::String(text) => format!("{text}0").into(),
        Value::Bool(flag) => (!flag).into(),
        Value::Null => 1.into(),
    };
    vec![(path.to_owned(), changed)]
}

#[test]
fn a_receipt_that_was_changed_names_the_field() {
    let served = serve();
    let receipt = receipts(&served).pop().unwrap();
    let mut plain = receipt.clone();
    plain.as_object_mut().unwrap().remove("seal");
    let all = tampered(&plain, "");
    assert!(all.len() > 40, "{}", all.len());
    for (path, mut changed) in all {
        changed["seal"] = receipt["seal"].clone();
        assert_eq!(difference(&changed).field, path);
    }
    let mut extra = receipt.clone();
    extra["request"]["more"] = 1.into();
    assert_eq!(difference(&extra).field, "request.more");
    let mut gone = receipt.clone();
    gone["request"].as_object_mut().unwrap().remove("stop");
    assert_eq!(difference(&gone).field, "request.stop");
    assert!(matches!(check(&json!({ "id": 1 })), Err(VerifyError::Form(_))));
}

#[test]
fn a_false_receipt_with_a_true_seal_is_told_by_the_model() {
    let served = serve();
    let receipt = receipts(&served).remove(0);
    assert_eq!(sealed(receipt.clone()), receipt);
    let tokens = "answers[0].tokens.token_ids";
    let mut changed = receipt.clone();
    let ids = changed["answers"][0]["tokens"]["token_ids"].as_array_mut().unwrap();
    let (was, count) = (ids[7].clone(), ids.len());
    ids[7] = 5.into();
    let found = difference(&sealed(changed.clone()));
    assert_eq!((found.field, found.expected, found.found), (format!("{tokens}[7]"), "5".into(), was.to_string()));
    changed = receipt.clone();
    changed["answers"][0]["tokens"]["token_ids"].as_array_mut().unwrap().pop();
    assert_eq!(difference(&sealed(changed)).field, format!("{tokens}[{}]", count - 1));
    for (path, pointer, value) in [
        ("model.digest", "/model/digest", json!("blake3:00")),
        ("model.tokenizer", "/model/tokenizer", json!("blake3:00")),
        ("model.plan", "/model/plan", json!("blake3:00")),
        ("model.template", "/model/template", json!("blake3:00")),
        ("made_by.kernels", "/made_by/kernels", json!("cpu-0")),
        ("request.prompts[0].digest", "/request/prompts/0/digest", json!("blake3:00")),
        ("answers[0].text", "/answers/0/text", json!("blake3:00")),
        ("answers[0].seed", "/answers/0/seed", json!(1)),
        ("answers[0].finish", "/answers/0/finish", json!("end")),
    ] {
        let mut changed = receipt.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        assert_eq!(difference(&sealed(changed)).field, path);
    }
    // Another seed, temperature or prompt gives another answer.
    let mut changed = receipt;
    changed["request"]["sampling"]["temperature"] = 2.0.into();
    assert!(difference(&sealed(changed)).field.starts_with(tokens));
}

#[test]
fn rounded_activations_are_told_and_kept_to() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("stories.gguf");
    let source = Gguf::open(stories()).unwrap();
    let options = GgufOptions { matrices: Some(DType::BF16), ..GgufOptions::default() };
    to_gguf(&source, source.metadata(), &model, &options).unwrap();
    // Long and nearly by chance, so that a small difference shows.
    let form = json!({ "prompt": "Once", "n": 4, "max_tokens": 300, "temperature": 2, "ignore_eos": true });
    let [plain, rounded] = Activations::ALL.map(|activations| {
        let sizing = Sizing { context: Some(512), activations, ..Sizing::default() };
        receipt_of(&serve_sized(model.clone(), sizing), "/v1/completions", form.clone())
    });
    assert_ne!(plain["answers"], rounded["answers"]);
    // As receipts were before there was a choice.
    assert_eq!(plain["model"].get("activations"), None);
    assert_eq!(rounded["model"]["activations"], "bf16");
    let (mut more, mut less) = (plain.clone(), rounded.clone());
    more["model"]["activations"] = "bf16".into();
    less["model"].as_object_mut().unwrap().remove("activations");
    for (receipt, changed) in [(plain, more), (rounded.clone(), less)] {
        check_with(&receipt, model.clone()).unwrap();
        assert_eq!(difference(&changed).field, "model.activations");
        match check_with(&sealed(changed), model.clone()) {
            Err(VerifyError::Differs(found)) => assert!(found.field.starts_with("answers["), "{found}"),
            other => panic!("{other:?}"),
        }
    }
    let mut unknown = rounded;
    unknown["model"]["activations"] = "f8".into();
    unknown.as_object_mut().unwrap().remove("seal");
    let told = serde_json::from_value::<allod_server::Receipt>(unknown).unwrap_err().to_string();
    assert!(told.contains("unknown variant `f8`, expected `f32` or `bf16`"), "{told}");
}
