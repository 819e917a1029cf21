//! Filling in the middle, and choosing the best of several answers.

use crate::client::{serve, serve_with, settings, stories};
use allod_formats::gguf::{Layout, save};
use allod_formats::{Error, Gguf, Metadata, TensorInfo, WeightSource};
use allod_tensor::Tensor;
use serde_json::{Value, json};

/// The built-in model with four of its tokens as marks for filling in.
struct Marked(Gguf, Metadata);

const MARKS: [(&str, u32); 4] = [("fim_pre", 301), ("fim_suf", 302), ("fim_mid", 303), ("fim_sep", 304)];

impl Marked {
    fn new() -> Marked {
        let source = Gguf::open(stories()).unwrap();
        let mut meta = source.metadata().clone();
        for (name, id) in MARKS {
            meta.set(format!("tokenizer.ggml.{name}_token_id"), id);
        }
        Marked(source, meta)
    }
}

impl WeightSource for Marked {
    fn metadata(&self) -> &Metadata {
        &self.1
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.0.info(name)
    }

    fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        self.0.tensor(name)
    }

    fn names(&self) -> Vec<String> {
        self.0.names()
    }

    fn origin(&self) -> String {
        self.0.origin()
    }
}

#[test]
fn gaps_are_filled_between_the_vocabularys_marks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("marked.gguf");
    save(&Marked::new(), &path, &Layout::default()).unwrap();
    let served = serve_with(settings(&[("marked", path), ("plain", stories())]));
    let ids = |text: &str| {
        let form = json!({ "model": "marked", "prompt": text, "add_special_tokens": false });
        served.post("/tokenize", &form).json()["tokens"].as_array().unwrap().clone()
    };
    let bos = served.post("/tokenize", &json!({ "model": "marked", "prompt": "" })).json()["tokens"].clone();
    let mark = |i: usize| vec![json!(MARKS[i].1)];
    let expected = |extra: Vec<Value>, begun: &str| {
        let parts = [
            bos.as_array().unwrap().clone(),
            extra,
            mark(0),
            ids("Once"),
            mark(1),
            ids("the end."),
            mark(2),
            ids(begun),
        ];
        let prompt: Vec<Value> = parts.concat();
        let form = json!({ "model": "marked", "prompt": prompt, "max_tokens": 12, "temperature": 0 });
        served.post("/v1/completions", &form).json()["choices"][0]["text"].clone()
    };
    let suffix =
        json!({ "model": "marked", "prompt": "Once", "suffix": "the end.", "max_tokens": 12, "temperature": 0 });
    assert_eq!(served.post("/v1/completions", &suffix).json()["choices"][0]["text"], expected(vec![], ""));
    let ollama = json!({ "model": "marked", "prompt": "Once", "suffix": "the end.", "stream": false,
        "options": { "num_predict": 12, "temperature": 0 } });
    assert_eq!(served.post("/api/generate", &ollama).json()["response"], expected(vec![], ""));
    let infill = |more: Value| {
        let mut form = json!({ "model": "marked", "input_prefix": "Once", "input_suffix": "the end.", "n_predict": 12, "temperature": 0 });
        form.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        served.post("/infill", &form)
    };
    let whole = infill(json!({})).json();
    assert_eq!(
        (&whole["content"], &whole["stop"], &whole["tokens_predicted"]),
        (&expected(vec![], ""), &json!(true), &json!(12))
    );
    assert_eq!(infill(json!({ "prompt": " upon" })).json()["content"], expected(vec![], " upon"));
    let pieces = infill(json!({ "stream": true })).events();
    let text: String = pieces.iter().map(|p| p["content"].as_str().unwrap()).collect();
    assert_eq!((json!(text), &pieces.last().unwrap()["stop"]), (whole["content"].clone(), &json!(true)));
    let extra = [mark(3), ids("a.txt\nA dog."), mark(3), ids("\n")].concat();
    let helped = infill(json!({ "input_extra": [{ "filename": "a.txt", "text": "A dog." }] })).json();
    assert_eq!(helped["content"], expected(extra, ""));

    // A model without the marks says so in each dialect.
    for (path, form, field) in [
        ("/infill", json!({ "model": "plain", "input_prefix": "a", "input_suffix": "b" }), "input_suffix"),
        ("/v1/completions", json!({ "model": "plain", "prompt": "a", "suffix": "b" }), "suffix"),
        ("/api/generate", json!({ "model": "plain", "prompt": "a", "suffix": "b" }), "suffix"),
    ] {
        let response = served.post(path, &form);
        assert!(response.status == 400 && response.text().contains("cannot fill in"), "{}", response.text());
        assert!(response.text().contains(field));
    }
}

#[test]
fn the_best_of_several_are_given() {
    let served = serve();
    let form = |n: u32, best_of: u32| json!({ "prompt": ["Once", "The dog"], "n": n, "best_of": best_of, "seed": 3, "max_tokens": 8, "logprobs": 0 });
    let all = served.post("/v1/completions", &form(5, 5)).json();
    let best = served.post("/v1/completions", &form(2, 5)).json();
    let mean = |choice: &Value| {
        let logprobs = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        logprobs.iter().map(|l| l.as_f64().unwrap()).sum::<f64>() / logprobs.len() as f64
    };
    for prompt in 0..2 {
        let mut made: Vec<&Value> = all["choices"].as_array().unwrap()[prompt * 5..][..5].iter().collect();
        made.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
        for i in 0..2 {
            let given = &best["choices"][prompt * 2 + i];
            assert_eq!((&given["text"], &given["index"]), (&made[i]["text"], &json!(prompt * 2 + i)));
        }
    }
    assert_eq!(best["choices"].as_array().unwrap().len(), 4);
    // What was made and not given was computed all the same.
    assert_eq!(best["usage"]["completion_tokens"], all["usage"]["completion_tokens"]);
    let plain = json!({ "prompt": "Once", "best_of": 3, "seed": 3, "max_tokens": 4 });
    assert!(served.post("/v1/completions", &plain).json()["choices"][0]["logprobs"].is_null());
    let streamed = json!({ "prompt": "Once", "best_of": 3, "stream": true });
    assert_eq!(served.post("/v1/completions", &streamed).json()["error"]["param"], "best_of");
    assert_eq!(served.post("/v1/completions", &form(3, 2)).json()["error"]["param"], "best_of");
}
