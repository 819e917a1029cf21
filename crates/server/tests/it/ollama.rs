//! Ollama's dialect.

use crate::client::{serve, serve_in, settings, stories, user};
use serde_json::{Value, json};
use sha2_of::sha256;

mod sha2_of {
    /// The digest as `sha256sum` prints it.
    pub(super) fn sha256(bytes: &[u8]) -> String {
        use sha2::{Digest, Sha256};
        Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
    }
}

#[test]
fn answers_stream_by_default_and_end_with_figures() {
    let served = serve();
    let options = json!({ "temperature": 0, "num_predict": 12 });
    let form = json!({ "model": "stories", "prompt": "a fish", "options": options });
    let lines = served.post("/api/generate", &form).lines();
    let text: String = lines.iter().map(|l| l["response"].as_str().unwrap()).collect();
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["done"], &last["done_reason"], &last["eval_count"]),
        (&json!(true), &json!("length"), &json!(12))
    );
    assert!(last["total_duration"].as_u64().unwrap() > 0);
    let whole = json!({ "prompt": "a fish", "options": options, "stream": false });
    assert_eq!(served.post("/api/generate", &whole).json()["response"], text);
    let chat = json!({ "model": "stories:latest", "messages": user("a fish"), "options": options });
    let chat = served.post("/api/chat", &chat).lines();
    let said: String = chat.iter().map(|l| l["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(said, text);
}

#[test]
fn models_are_loaded_and_given_up_on_request() {
    let served = serve();
    assert_eq!(served.get("/api/ps").json()["models"], json!([]));
    assert_eq!(served.post("/api/generate", &json!({ "model": "stories" })).json()["done_reason"], "load");
    assert_eq!(served.get("/api/ps").json()["models"][0]["name"], "stories:latest");
    assert_eq!(
        served.post("/api/chat", &json!({ "model": "stories", "keep_alive": 0 })).json()["done_reason"],
        "unload"
    );
    assert_eq!(served.get("/api/ps").json()["models"], json!([]));
}

#[test]
fn a_prompt_is_cut_only_on_request() {
    let served = serve();
    let long = "word ".repeat(2000);
    let form = json!({ "prompt": long, "stream": false, "options": { "num_predict": 2 } });
    let refused = served.post("/api/generate", &form);
    assert_eq!(refused.status, 400);
    assert!(refused.json()["error"].as_str().unwrap().contains("512"), "{}", refused.text());
    let mut cut = form;
    cut["truncate"] = true.into();
    assert_eq!(served.post("/api/generate", &cut).json()["truncated"], true);
    let small = json!({ "prompt": "one two three four five six", "stream": false, "options": { "num_ctx": 4 } });
    assert_eq!(served.post("/api/generate", &small).status, 400);
}

#[test]
fn models_are_made_copied_removed_and_outlive_the_server() {
    let served = serve();
    let modelfile = "FROM stories\nPARAMETER temperature 0\nPARAMETER num_predict 5\nSYSTEM \"\"\"Be kind.\"\"\"\n";
    let made = served.post("/api/create", &json!({ "model": "kind:v1", "modelfile": modelfile }));
    assert_eq!(made.lines().last().unwrap()["status"], "success");
    assert_eq!(served.post("/api/copy", &json!({ "source": "kind:v1", "destination": "kinder" })).status, 200);
    let bytes = std::fs::read(stories()).unwrap();
    let digest = format!("sha256:{}", sha256(&bytes));
    let blob = format!("/api/blobs/{digest}");
    assert_eq!(served.ask("HEAD", &blob, &[], b"").status, 404);
    assert_eq!(served.ask("POST", &blob, &[], &bytes[1..]).status, 400);
    assert_eq!(served.ask("HEAD", &blob, &[], b"").status, 404);
    assert_eq!(served.ask("POST", &blob, &[], &bytes).status, 201);
    assert_eq!(served.ask("HEAD", &blob, &[], b"").status, 200);
    let from_file =
        json!({ "model": "filed", "files": { "m.gguf": digest }, "parameters": { "temperature": 0 }, "stream": false });
    assert_eq!(served.post("/api/create", &from_file).json()["status"], "success");
    let ask = |served: &crate::client::Served, model: &str| {
        served
            .post(
                "/api/generate",
                &json!({ "model": model, "prompt": "a fish", "stream": false, "options": { "num_predict": 5 } }),
            )
            .json()
    };
    let (kind, filed) = (ask(&served, "kind:v1")["response"].clone(), ask(&served, "filed")["response"].clone());

    let served = serve_in(served.end(), settings(&[("stories", stories())]));
    let names: Vec<Value> =
        served.get("/api/tags").json()["models"].as_array().unwrap().iter().map(|m| m["name"].clone()).collect();
    assert_eq!(names, ["filed:latest", "kind:v1", "kinder:latest", "stories:latest"]);
    assert_eq!(ask(&served, "kinder")["response"], kind);
    assert_eq!(ask(&served, "filed")["response"], filed);
    assert_eq!(served.post("/api/show", &json!({ "model": "kind:v1" })).json()["system"], "Be kind.");
    assert_eq!(served.ask("DELETE", "/api/delete", &[], br#"{"model":"kind:v1"}"#).status, 200);
    assert_eq!(served.ask("DELETE", "/api/delete", &[], br#"{"model":"kind:v1"}"#).status, 404);
    assert_eq!(served.ask("DELETE", "/api/delete", &[], br#"{"model":"stories"}"#).status, 409);
}

#[test]
fn what_is_not_offered_says_so() {
    let served = serve();
    for (path, form, status) in [
        ("/api/pull", json!({ "model": "x" }), 501),
        ("/api/push", json!({ "model": "x" }), 501),
        ("/api/generate", json!({ "prompt": "x", "images": ["aGk="] }), 400),
        ("/api/generate", json!({ "prompt": "x", "options": { "num_gpu": 1 } }), 400),
        ("/api/generate", json!({ "prompt": "x", "options": { "temprature": 1 } }), 400),
        ("/api/generate", json!({ "prompt": "x", "shift": true }), 400),
        ("/api/generate", json!({ "prompt": "x", "keep_alive": "soon" }), 400),
        ("/api/create", json!({ "model": "../../etc/passwd", "from": "stories" }), 400),
        ("/api/create", json!({ "model": "x", "from": "nothing" }), 404),
        ("/api/create", json!({ "model": "x", "from": "stories", "quantize": "q4_K_M" }), 400),
        ("/api/create", json!({ "model": "stories", "from": "stories" }), 409),
        ("/api/create", json!({ "model": "x", "from": "stories", "template": "{{ for" }), 400),
        ("/api/show", json!({ "model": "nothing" }), 404),
    ] {
        let response = served.post(path, &form);
        assert_eq!(response.status, status, "{path} {form}: {}", response.text());
        assert!(response.json()["error"].is_string());
    }
    for digest in ["sha256:..%2f..%2fetc%2fpasswd", "sha256:abc", "md5:0", "sha256:../../x"] {
        assert!([400, 404].contains(&served.ask("HEAD", &format!("/api/blobs/{digest}"), &[], b"").status), "{digest}");
    }
}
