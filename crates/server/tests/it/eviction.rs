//! Many models in a memory that does not hold them all.

use crate::client::{Served, serve_with, settings, stories};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Names of models that are loaded.
fn loaded(served: &Served) -> Vec<String> {
    let models = served.get("/api/ps").json()["models"].as_array().unwrap().clone();
    let mut names: Vec<String> = models.iter().map(|m| m["name"].as_str().unwrap().replace(":latest", "")).collect();
    names.sort();
    names
}

/// Bytes that the loaded models were measured to hold.
fn bytes(served: &Served) -> u64 {
    let models = served.get("/api/ps").json()["models"].as_array().unwrap().clone();
    models.iter().map(|m| m["size"].as_u64().unwrap()).sum()
}

fn answer(served: &Served, model: &str, more: Value) -> (u16, Value) {
    let mut form = json!({ "model": model, "prompt": "Once upon a time", "stream": false, "raw": true,
        "options": { "num_predict": 8, "temperature": 0 } });
    form.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let response = served.post("/api/generate", &form);
    (response.status, response.json())
}

/// The built-in model under several names, each a copy of its own so that it has an engine of its own.
fn copies(folder: &std::path::Path, names: &[&str]) -> Vec<(String, PathBuf)> {
    let copy = |name: &&str| {
        let path = folder.join(format!("{name}.gguf"));
        std::fs::copy(stories(), &path).unwrap();
        (name.to_string(), path)
    };
    names.iter().map(copy).collect()
}

#[test]
fn models_make_room_by_what_they_were_measured_to_hold() {
    let folder = tempfile::tempdir().unwrap();
    let paths = copies(folder.path(), &["a", "b", "c", "pinned"]);
    std::fs::write(folder.path().join("broken.gguf"), b"GGUF and nothing more").unwrap();
    let models: Vec<(&str, PathBuf)> = paths.iter().map(|(name, path)| (name.as_str(), path.clone())).collect();
    let one = {
        let served = serve_with(settings(&models[..1]));
        assert_eq!(answer(&served, "a", json!({})).0, 200);
        bytes(&served)
    };
    assert!(one > 1 << 20, "{one}");

    // Room for three and a half: the pinned one and two others.
    let mut settings = settings(&models[..3]);
    settings.memory = Some(one * 7 / 2);
    let mut pinned = allod_server::Spec::new(allod_server::Origin::Path(models[3].1.clone()));
    (pinned.pin, pinned.sizing.context, pinned.sizing.parallel) = (true, Some(512), Some(8));
    settings.catalog.insert("pinned", pinned);
    let broken = allod_server::Spec::new(allod_server::Origin::Path(folder.path().join("broken.gguf")));
    settings.catalog.insert("broken", broken);
    let mut huge = allod_server::Spec::new(allod_server::Origin::Path(models[0].1.clone()));
    (huge.sizing.context, huge.sizing.parallel) = (Some(512), Some(4096));
    settings.catalog.insert("huge", huge);
    let served = serve_with(settings);

    let first = answer(&served, "pinned", json!({})).1["response"].clone();
    for name in ["a", "b"] {
        assert_eq!(answer(&served, name, json!({})).1["response"], first);
    }
    assert_eq!(loaded(&served), ["a", "b", "pinned"]);
    assert_eq!(bytes(&served), 3 * one);
    // The one that was unused for longest goes, the pinned one stays though it was used before.
    assert_eq!(answer(&served, "c", json!({})).0, 200);
    assert_eq!(loaded(&served), ["b", "c", "pinned"]);
    assert_eq!(served.metric("allod:model_evictions_total"), 1.0);
    // A load that fails, and one that can never fit, cost nobody a model.
    assert_eq!(answer(&served, "broken", json!({})).0, 500);
    let (status, refused) = answer(&served, "huge", json!({}));
    assert!(status == 503 && refused["error"].as_str().unwrap().contains("bytes"), "{refused}");
    assert_eq!(loaded(&served), ["b", "c", "pinned"]);
    assert!(bytes(&served) <= one * 7 / 2);
    // keep_alive 0 gives a model up behind its answer.
    assert_eq!(answer(&served, "b", json!({ "keep_alive": 0 })).1["response"], first);
    for _ in 0..100 {
        if loaded(&served) == ["c", "pinned"] {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(loaded(&served), ["c", "pinned"]);
    // And there is room again without another that goes.
    assert_eq!(answer(&served, "a", json!({})).0, 200);
    assert_eq!(loaded(&served), ["a", "c", "pinned"]);
    assert_eq!(served.metric("allod:model_evictions_total"), 1.0);
}

#[test]
fn prefixes_outlive_their_model() {
    let folder = tempfile::tempdir().unwrap();
    let paths = copies(folder.path(), &["a"]);
    let mut settings = settings(&[("a", paths[0].1.clone())]);
    settings.prefix_bytes = Some(64 << 20);
    let served = serve_with(settings);
    let story = "One day, a little fish saw a red ball. ".repeat(12);
    let form = json!({ "model": "a", "prompt": story, "max_tokens": 8, "temperature": 0 });
    let cached = |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    let cold = served.post("/v1/completions", &form).json();
    assert_eq!(cached(&cold), 0, "{cold}");
    // The model goes, its prefixes stay.
    served.post("/api/generate", &json!({ "model": "a", "keep_alive": 0 }));
    let pages = || {
        let folders = std::fs::read_dir(served.data.path().join("prefixes")).into_iter().flatten().flatten();
        folders.flat_map(|f| std::fs::read_dir(f.path()).into_iter().flatten()).count() as u64
    };
    let whole = cold["usage"]["prompt_tokens"].as_u64().unwrap() / 16;
    for _ in 0..100 {
        if pages() >= whole - 1 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(loaded(&served).is_empty());
    let warm = served.post("/v1/completions", &form).json();
    assert!(cached(&warm) >= (whole - 1) * 16, "{warm}");
    assert_eq!(warm["choices"][0]["text"], cold["choices"][0]["text"]);
    assert_eq!(served.metric("allod:model_loads_total"), 2.0);
}
