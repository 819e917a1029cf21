//! Thousands of requests that are almost right, to every route: none may be answered with a fault of the server.

use crate::{Catalog, Limits, Origin, Server, Settings, Spec, router};
use axum::body::Body;
use axum::http::{Request, header};
use serde_json::{Value, json};
use std::time::Duration;
use tower::ServiceExt;

/// Requests of one run; `ALLOD_MUTATED` asks for more.
const COUNT: usize = 600;

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }

    fn pick<'v, T>(&mut self, of: &'v [T]) -> &'v T {
        &of[self.below(of.len())]
    }
}

/// A sound request to each route.
fn seeds() -> Vec<(&'static str, &'static str, Value)> {
    let messages = json!([{ "role": "user", "content": "hi" }]);
    let chat = json!({
        "model": "stories", "messages": messages, "max_tokens": 2, "temperature": 0.5, "n": 1, "stop": ["x"],
        "logit_bias": { "5": 1 }, "logprobs": true, "top_logprobs": 1, "seed": 3, "stream": false, "receipt": true,
        "response_format": { "type": "json_schema", "json_schema": { "name": "a", "schema": { "type": "boolean" } } },
    });
    let completion = json!({
        "model": "stories", "prompt": ["a", "b"], "max_tokens": 2, "echo": true, "logprobs": 1, "stream": true,
        "structured_outputs": { "regex": "[a-c]+" }, "top_k": 5, "min_p": 0.1, "stop_token_ids": [3],
    });
    let options = json!({ "num_predict": 2, "temperature": 0.1, "seed": 1, "top_k": 3, "stop": ["."] });
    let none = Value::Null;
    vec![
        ("POST", "/v1/chat/completions", chat.clone()),
        ("POST", "/v1/completions", completion),
        ("POST", "/v1/chat/completions/render", json!({ "model": "stories", "messages": messages })),
        ("POST", "/v1/responses", json!({ "model": "stories", "input": "hi", "max_output_tokens": 2, "store": true })),
        ("GET", "/v1/responses/resp_x?stream=true&starting_after=3", none.clone()),
        ("GET", "/v1/responses/resp_x/input_items", none.clone()),
        ("POST", "/v1/responses/resp_x/cancel", none.clone()),
        ("DELETE", "/v1/responses/resp_x", none.clone()),
        ("GET", "/v1/streams/stream_x?starting_after=1", none.clone()),
        ("DELETE", "/v1/streams/stream_x", none.clone()),
        ("POST", "/v1/messages", json!({ "model": "stories", "messages": messages, "max_tokens": 2, "top_k": 3 })),
        ("POST", "/v1/messages/count_tokens", json!({ "model": "stories", "messages": messages })),
        ("POST", "/v1/embeddings", json!({ "model": "stories", "input": ["a", "b"], "dimensions": 8 })),
        ("POST", "/v1/rerank", json!({ "model": "stories", "query": "a", "documents": ["b", "c"], "top_n": 1 })),
        ("POST", "/v1/score", json!({ "model": "stories", "text_1": "a", "text_2": ["b"] })),
        ("POST", "/v1/classify", json!({ "model": "stories", "input": "a", "labels": ["b", "c"] })),
        ("POST", "/v1/systemone", json!({ "model": "stories", "state": "a", "questions": [] })),
        ("POST", "/tokenize", json!({ "model": "stories", "prompt": "a" })),
        ("POST", "/detokenize", json!({ "model": "stories", "tokens": [5, 6] })),
        ("POST", "/api/generate", json!({ "model": "stories", "prompt": "hi", "options": options, "stream": false })),
        ("POST", "/api/chat", json!({ "model": "stories", "messages": messages, "options": options })),
        ("POST", "/api/embed", json!({ "model": "stories", "input": ["a"], "truncate": true })),
        ("POST", "/api/embeddings", json!({ "model": "stories", "prompt": "a" })),
        ("POST", "/api/show", json!({ "model": "stories", "verbose": true })),
        ("POST", "/api/create", json!({ "model": "made", "from": "stories", "system": "s", "parameters": options })),
        ("POST", "/api/copy", json!({ "source": "stories", "destination": "copied" })),
        ("DELETE", "/api/delete", json!({ "model": "made" })),
        ("POST", "/api/pull", json!({ "model": "http://169.254.169.254/latest" })),
        ("POST", "/api/blobs/sha256:0000000000000000000000000000000000000000000000000000000000000000", none.clone()),
        ("HEAD", "/api/blobs/sha256:..%2f..%2fetc", none.clone()),
        ("GET", "/v1/models/stories", none.clone()),
        ("GET", "/v1/files?limit=3&order=asc&purpose=batch", none.clone()),
        ("GET", "/v1/files/file-x/content", none.clone()),
        ("DELETE", "/v1/files/file-x", none.clone()),
        (
            "POST",
            "/v1/batches",
            json!({
                "input_file_id": "file-x", "endpoint": "/v1/completions", "completion_window": "24h", "metadata": { "a": "b" },
            }),
        ),
        ("GET", "/v1/batches?limit=3&after=x", none.clone()),
        ("POST", "/v1/batches/batch_x/cancel", none.clone()),
        ("POST", "/admin/keys", none.clone()),
        ("POST", "/admin/reload", none.clone()),
        ("GET", "/metrics", none.clone()),
        ("GET", "/load", none),
    ]
}

/// Values that programs stumble over.
fn odd(dice: &mut Dice) -> Value {
    match dice.below(14) {
        0 => Value::Null,
        1 => json!(-1),
        2 => json!(1e308),
        3 => json!(u64::MAX),
        4 => json!("x".repeat(3000)),
        5 => json!("../../etc/passwd"),
        6 => json!("\u{0}\u{202e}\u{1F600}é"),
        7 => json!([[[[[]]]]]),
        8 => json!({ "a": { "b": {} } }),
        9 => json!(true),
        10 => json!(""),
        11 => json!(vec![1; 2000]),
        12 => json!("{% for a in range(9999999) %}{% endfor %}"),
        _ => json!(0.5),
    }
}

/// Puts something odd somewhere into a value.
fn twist(value: &mut Value, dice: &mut Dice) {
    match value {
        Value::Object(map) if !map.is_empty() && dice.below(5) > 0 => {
            let keys: Vec<String> = map.keys().cloned().collect();
            let key = dice.pick(&keys).clone();
            match dice.below(6) {
                0 => drop(map.remove(&key)),
                1 => drop(map.insert(format!("{key}x"), odd(dice))),
                _ => twist(&mut map[&key], dice),
            }
        }
        Value::Array(list) if !list.is_empty() && dice.below(5) > 0 => {
            let at = dice.below(list.len());
            match dice.below(4) {
                0 => drop(list.remove(at)),
                1 => list.push(odd(dice)),
                _ => twist(&mut list[at], dice),
            }
        }
        other => *other = odd(dice),
    }
}

/// Changes bytes.
fn scratch(bytes: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..=dice.below(3) {
        let at = dice.below(bytes.len() + 1).min(bytes.len().saturating_sub(1));
        match dice.below(4) {
            _ if bytes.is_empty() => bytes.extend(b"{\""),
            0 => bytes[at] = dice.below(256) as u8,
            1 => drop(bytes.remove(at)),
            2 => bytes.truncate(at),
            _ => bytes.insert(at, *dice.pick(b"{}[]\",:0-e\\\x00\xff%/.")),
        }
    }
}

fn request(dice: &mut Dice) -> Option<Request<Body>> {
    let seeds = seeds();
    let (method, path, mut value) = dice.pick(&seeds).clone();
    let (mut method, mut path) = (method.to_owned(), path.as_bytes().to_vec());
    if dice.below(3) > 0 {
        twist(&mut value, dice);
    }
    let mut body = if value.is_null() { Vec::new() } else { value.to_string().into_bytes() };
    if dice.below(3) == 0 {
        scratch(&mut body, dice);
    }
    if dice.below(6) == 0 {
        scratch(&mut path, dice);
    }
    if dice.below(12) == 0 {
        method = dice.pick(&["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE"]).to_string();
    }
    let mut builder = Request::builder().method(method.as_str()).uri(path.as_slice());
    builder = builder.header(header::HOST, *dice.pick(&["localhost", "127.0.0.1:1", "localhost", "evil.example"]));
    let kinds =
        ["application/json", "application/json; charset=utf-8", "text/plain", "multipart/form-data; boundary=b", ""];
    let kind = if dice.below(6) == 0 { *dice.pick(&kinds) } else { kinds[0] };
    builder = builder.header(header::CONTENT_TYPE, kind);
    for (name, value) in [
        ("x-allod-resume", "true"),
        ("x-allod-receipt", "true"),
        ("origin", "null"),
        ("content-encoding", "gzip"),
        ("last-event-id", "-1"),
        ("x-request-id", "a b"),
        ("authorization", "Bearer \t x"),
        ("range", "bytes=9-1"),
    ] {
        if dice.below(15) == 0 {
            builder = builder.header(name, value);
        }
    }
    // What is no request of HTTP does not reach the router.
    builder.body(Body::from(body)).ok()
}

/// Statuses that say what is wrong with a request, or that it went well.
const RIGHT: &[u16] = &[200, 201, 204, 400, 403, 404, 405, 408, 409, 413, 415, 429, 501, 503];

#[test]
fn requests_that_are_almost_right_are_no_faults_of_the_server() {
    let data = tempfile::tempdir().unwrap();
    let mut catalog = Catalog::default();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../allod/assets/allod-stories.gguf");
    let mut spec = Spec::new(Origin::Path(file.into()));
    (spec.sizing.context, spec.sizing.parallel) = (Some(64), Some(8));
    catalog.insert("stories", spec);
    let limits = Limits { replay_time: Duration::from_secs(1), ..Limits::default() };
    let settings = Settings { catalog, threads: 2, limits, data: Some(data.path().into()), ..Settings::default() };
    let count = std::env::var("ALLOD_MUTATED").ok().and_then(|n| n.parse().ok()).unwrap_or(COUNT);
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Server::new(settings);
        let router = router::router(&server.app);
        let mut answered = 0;
        for number in 0..count {
            let Some(request) = request(&mut dice) else { continue };
            let told = format!("{number}: {request:?}");
            let response = tokio::time::timeout(Duration::from_secs(60), router.clone().oneshot(request)).await;
            let Ok(response) = response.expect(&told);
            let status = response.status().as_u16();
            let head = response.headers().clone();
            let body = axum::body::to_bytes(response.into_body(), usize::MAX);
            let body = tokio::time::timeout(Duration::from_secs(60), body).await.expect(&told).unwrap();
            let text = String::from_utf8_lossy(&body);
            answered += usize::from(status == 200);
            assert!(RIGHT.contains(&status), "{told}: {status} {text}");
            assert!(head.contains_key("x-request-id"), "{told}");
            if status >= 400 && !told.contains("method: HEAD") {
                let error: Value = serde_json::from_slice(&body).expect(&told);
                assert!(error["error"].is_string() || error["error"]["message"].is_string(), "{told}: {text}");
            }
        }
        assert!(answered * 10 > count, "only {answered} of {count} came as far as an answer");
        let health = Request::get("/health").header(header::HOST, "localhost").body(Body::empty()).unwrap();
        assert_eq!(router.oneshot(health).await.unwrap().status().as_u16(), 200);
    });
}
