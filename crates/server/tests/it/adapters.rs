//! Adapters as models.

use crate::client::{serve_with, settings, stories};
use allod_formats::{Gguf, WeightSource};
use serde_json::{Value, json};
use std::path::Path;

/// Writes a PEFT folder that changes the first layer's query projection by random numbers of that seed.
fn adapter(folder: &Path, seed: u32, dim: usize) {
    std::fs::create_dir_all(folder).unwrap();
    let config = json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 64, "target_modules": ["q_proj"], "bias": "none",
        "task_type": "CAUSAL_LM", "fan_in_fan_out": false, "inference_mode": true, "lora_dropout": 0.0 });
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    let mut state = seed;
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    let bytes: Vec<u8> = (0..4 * dim).flat_map(|_| number().to_le_bytes()).collect();
    let half = bytes.len() / 2;
    let name = |part: &str| format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{part}.weight");
    let mut head = json!({});
    head[name("A")] = json!({ "dtype": "F32", "shape": [2, dim], "data_offsets": [0, half] });
    head[name("B")] = json!({ "dtype": "F32", "shape": [dim, 2], "data_offsets": [half, bytes.len()] });
    let head = head.to_string();
    let file = [&(head.len() as u64).to_le_bytes()[..], head.as_bytes(), &bytes].concat();
    std::fs::write(folder.join("adapter_model.safetensors"), file).unwrap();
}

#[test]
fn adapters_are_models_that_share_their_bases_engine() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let source = Gguf::open(stories()).unwrap();
    let dim = source.info("blk.0.attn_q.weight").unwrap().shape[0];
    for (seed, name) in [(1, "one"), (2, "two"), (1, "again")] {
        adapter(&path(name), seed, dim);
    }
    adapter(&path("foreign"), 1, dim * 2);
    let mut settings = settings(&[("stories", stories())]);
    settings.catalog.insert_adapter("one", path("one")).unwrap();
    let served = serve_with(settings);

    let load = |name: &str, from: &str| {
        served.post("/v1/load_lora_adapter", &json!({ "lora_name": name, "lora_path": path(from) }))
    };
    assert_eq!(load("two", "two").status, 200);
    assert_eq!(load("two", "two").status, 400, "loaded already");
    assert_eq!(load("stories", "two").status, 409, "a model already");
    let foreign = load("other", "foreign");
    assert!(foreign.status == 400 && foreign.text().contains("another base model"), "{}", foreign.text());
    assert_eq!(load("none", "nowhere").status, 400);
    let listed = served.get("/v1/models").json();
    let parent = |name: &str| {
        let data = listed["data"].as_array().unwrap();
        data.iter().find(|m| m["id"] == name).map(|m| m["parent"].clone())
    };
    assert_eq!((parent("one"), parent("two")), (Some(json!("stories")), Some(json!("stories"))));
    assert_eq!((parent("stories"), parent("none")), (Some(Value::Null), None));

    let form =
        |model: &str| json!({ "model": model, "prompt": "Once upon a time", "max_tokens": 40, "temperature": 0 });
    let text = |model: &str| {
        let answer = served.post("/v1/completions", &form(model)).json();
        answer["choices"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    };
    let alone = ["stories", "one", "two"].map(text);
    assert!(alone[0] != alone[1] && alone[1] != alone[2] && alone[0] != alone[2], "{alone:?}");
    // In one batch each is what it is alone, whatever prefixes the others have computed.
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..9).map(|i| scope.spawn(move || text(["stories", "one", "two"][i % 3]))).collect();
        for (i, answer) in asked.into_iter().enumerate() {
            assert_eq!(answer.join().unwrap(), alone[i % 3]);
        }
    });
    assert_eq!(served.metric("allod:model_loads_total"), 1.0, "one engine");

    // What an adapter says does not depend on its name, and a name that was given up is free again.
    assert_eq!(load("again", "again").status, 200);
    assert_eq!(text("again"), alone[1]);
    let unload = |name: &str| served.post("/v1/unload_lora_adapter", &json!({ "lora_name": name })).status;
    assert_eq!((unload("two"), unload("two"), unload("stories")), (200, 404, 404));
    assert_eq!(served.post("/v1/completions", &form("two")).status, 404);
    assert_eq!(load("two", "one").status, 200);
    assert_eq!(text("two"), alone[1]);
    let replaced = json!({ "lora_name": "two", "lora_path": path("two"), "load_inplace": true });
    assert_eq!(served.post("/v1/load_lora_adapter", &replaced).status, 200);
    assert_eq!(text("two"), alone[2]);
}

#[test]
fn conversations_go_through_the_template_that_an_adapter_was_trained_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuned");
    let source = Gguf::open(stories()).unwrap();
    adapter(&path, 1, source.info("blk.0.attn_q.weight").unwrap().shape[0]);
    std::fs::write(path.join("chat_template.jinja"), "{% for m in messages %}<{{ m.content }}>{% endfor %}").unwrap();
    let mut settings = settings(&[("stories", stories())]);
    settings.catalog.insert_adapter("tuned", path).unwrap();
    let served = serve_with(settings);
    let rendered = |model: &str| {
        let form = json!({ "model": model, "messages": [{ "role": "user", "content": "Once" }] });
        served.post("/v1/chat/completions/render", &form).json()
    };
    let (base, tuned) = (rendered("stories"), rendered("tuned"));
    assert_eq!(tuned["prompt"], "<Once>");
    assert_eq!(base["prompt"], "<|endoftext|>A story about Once.\n\n");
}
