//! Files and batches.

use crate::client::{Response, Served, serve, serve_in, settings, stories};
use allod_server::{KeyLimits, Limits, Scope, Settings, create_key};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Uploads a file with a form of these further fields.
fn upload(served: &Served, fields: &[(&str, &str)], content: &[u8], key: Option<&str>) -> Response {
    let mut body = Vec::new();
    for (name, value) in fields {
        body.extend(format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").bytes());
    }
    body.extend(b"--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\r\n");
    body.extend(content);
    body.extend(b"\r\n--b--\r\n");
    let bearer = format!("Bearer {}", key.unwrap_or_default());
    let headers = [("content-type", "multipart/form-data; boundary=b"), ("authorization", bearer.as_str())];
    served.ask("POST", "/v1/files", &headers[..1 + usize::from(key.is_some())], &body)
}

fn lines(count: usize, tokens: usize) -> String {
    let line = |i: usize| {
        let body = json!({ "prompt": format!("fish {i}"), "max_tokens": tokens, "seed": i, "ignore_eos": true });
        json!({ "custom_id": format!("r{i}"), "method": "POST", "url": "/v1/completions", "body": body }).to_string()
    };
    (0..count).map(|i| line(i) + "\n").collect()
}

fn begin(served: &Served, content: &str) -> String {
    let file = upload(served, &[("purpose", "batch")], content.as_bytes(), None).json();
    let form = json!({
        "input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "24h",
        "metadata": { "for": "a test" },
    });
    let batch = served.post("/v1/batches", &form).json();
    assert_eq!(batch["status"], "validating", "{batch}");
    batch["id"].as_str().unwrap().to_owned()
}

fn wait(served: &Served, id: &str, until: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let batch = served.get(&format!("/v1/batches/{id}")).json();
        if until(&batch) {
            return batch;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{batch}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn over(batch: &Value) -> bool {
    ["completed", "failed", "cancelled", "expired"].iter().any(|status| batch["status"] == *status)
}

fn content(served: &Served, file: &Value) -> Vec<Value> {
    let response = served.get(&format!("/v1/files/{}/content", file.as_str().unwrap()));
    assert_eq!(response.status, 200, "{}", response.text());
    response.lines()
}

#[test]
fn files_come_and_go() {
    let served = serve_in(
        tempfile::tempdir().unwrap(),
        Settings { limits: Limits { upload: 5000, ..Limits::default() }, ..settings(&[("stories", stories())]) },
    );
    let bytes: Vec<u8> = (0..=255).cycle().take(4000).collect();
    let file = upload(&served, &[("purpose", "user_data")], &bytes, None).json();
    assert_eq!((file["object"].as_str(), file["bytes"].as_u64()), (Some("file"), Some(4000)), "{file}");
    assert_eq!(file["filename"], "in.jsonl");
    let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
    assert_eq!(served.get(&path).json(), file);
    assert_eq!(served.get(&format!("{path}/content")).body, bytes);
    let other = upload(
        &served,
        &[("purpose", "batch"), ("expires_after[anchor]", "created_at"), ("expires_after[seconds]", "3600")],
        b"{}",
        None,
    )
    .json();
    assert_eq!(other["expires_at"].as_u64().unwrap() - other["created_at"].as_u64().unwrap(), 3600);
    let ids = |query: &str| {
        let list = served.get(&format!("/v1/files{query}")).json();
        let data = list["data"].as_array().unwrap().clone();
        (data.iter().map(|f| f["id"].clone()).collect::<Vec<_>>(), list["has_more"].as_bool().unwrap())
    };
    let (all, more) = ids("");
    assert_eq!((all.len(), more), (2, false));
    let (first, more) = ids("?limit=1");
    assert_eq!((&first[..], more), (&all[..1], true));
    assert_eq!(ids(&format!("?after={}", all[0].as_str().unwrap())), (all[1..].to_vec(), false));
    assert_eq!(ids("?purpose=batch").0, [other["id"].clone()]);
    for (query, param) in [("?limit=0", "limit"), ("?order=up", "order"), ("?after=x", "after"), ("?x=1", "x")] {
        let refused = served.get(&format!("/v1/files{query}"));
        assert_eq!((refused.status, refused.json()["error"]["param"].as_str()), (400, Some(param)));
    }
    // They outlive the server.
    let served = serve_in(served.end(), settings(&[("stories", stories())]));
    assert_eq!(served.get(&format!("{path}/content")).body, bytes);
    assert_eq!(served.ask("DELETE", &path, &[], b"").json()["deleted"], true);
    for path in [path.clone(), format!("{path}/content"), "/v1/files/..%2Fkeys".into()] {
        assert_eq!(served.get(&path).status, 404, "{path}");
    }
    assert_eq!(std::fs::read_dir(served.data.path().join("file-content")).unwrap().count(), 1);
}

#[test]
fn uploads_that_make_no_sense_leave_nothing() {
    let served = serve_in(
        tempfile::tempdir().unwrap(),
        Settings { limits: Limits { upload: 5000, ..Limits::default() }, ..settings(&[("stories", stories())]) },
    );
    assert_eq!(upload(&served, &[("purpose", "batch")], &[0; 6000], None).status, 413);
    for fields in [&[][..], &[("purpose", "war")], &[("purpose", "batch"), ("color", "red")]] {
        assert_eq!(upload(&served, fields, b"x", None).status, 400, "{fields:?}");
    }
    assert_eq!(upload(&served, &[("purpose", "batch"), ("expires_after[seconds]", "9")], b"", None).status, 400);
    let multipart = [("content-type", "multipart/form-data; boundary=b")];
    for (headers, body) in [
        (&multipart[..], &b"--b\r\ncontent-disposition: form-data; name=\"file\"\r\n\r\nhalf"[..]),
        (&multipart[..], b"\xff\xfe"),
        (&[("content-type", "multipart/form-data")], b""),
        (&[("content-type", "application/json")], b"{}"),
    ] {
        assert_eq!(served.ask("POST", "/v1/files", headers, body).status, 400, "{body:?}");
    }
    assert_eq!(served.get("/v1/files").json()["data"], json!([]));
    let left = std::fs::read_dir(served.data.path().join("file-content")).into_iter().flatten().count();
    assert_eq!(left, 0);
}

#[test]
fn a_batch_is_answered_in_files() {
    let served = serve();
    let bad = json!({ "custom_id": "bad", "method": "POST", "url": "/v1/completions", "body": { "max_tokens": 1 } });
    let id = begin(&served, &format!("{}{bad}\n", lines(12, 6)));
    let batch = wait(&served, &id, over);
    assert_eq!(batch["status"], "completed", "{batch}");
    assert_eq!(batch["request_counts"], json!({ "total": 13, "completed": 12, "failed": 1 }));
    assert_eq!(batch["metadata"]["for"], "a test");
    let answers = content(&served, &batch["output_file_id"]);
    assert_eq!(answers.len(), 12);
    for answer in &answers {
        let i: u64 = answer["custom_id"].as_str().unwrap()[1..].parse().unwrap();
        let form = json!({ "prompt": format!("fish {i}"), "max_tokens": 6, "seed": i, "ignore_eos": true });
        let alone = served.post("/v1/completions", &form).json();
        assert_eq!(answer["response"]["body"]["choices"], alone["choices"]);
        assert_eq!(answer["response"]["status_code"], 200);
    }
    let errors = content(&served, &batch["error_file_id"]);
    assert_eq!((errors.len(), errors[0]["custom_id"].as_str()), (1, Some("bad")));
    assert_eq!(served.get("/v1/batches?limit=1").json()["data"], json!([batch]));
    assert_eq!(served.ask("POST", &format!("/v1/batches/{id}/cancel"), &[], b"").status, 409);
    // What makes no sense is not begun.
    let id = begin(&served, "{\n{\"custom_id\": \"x\", \"method\": \"GET\"}\n");
    let failed = wait(&served, &id, over);
    assert_eq!(failed["status"], "failed");
    let codes: Vec<_> = failed["errors"]["data"].as_array().unwrap().iter().map(|e| &e["code"]).collect();
    assert_eq!(codes, ["invalid_json_line", "invalid_method"]);
    let form = |name: &str, value: &str| {
        let mut form = json!({ "input_file_id": "file-x", "endpoint": "/v1/completions", "completion_window": "24h" });
        form[name] = value.into();
        served.post("/v1/batches", &form).status
    };
    assert_eq!(form("input_file_id", "../keys"), 404);
    assert_eq!([form("endpoint", "/admin/keys"), form("completion_window", "soon")], [400, 400]);
}

#[test]
fn a_batch_survives_the_server_and_can_be_cancelled() {
    let served = serve();
    let id = begin(&served, &lines(200, 40));
    let done = |batch: &Value| batch["request_counts"]["completed"].as_u64().unwrap();
    wait(&served, &id, |batch| done(batch) > 3);
    let data = served.end();
    // As after a power failure: the last answer is cut.
    let output = std::fs::read_dir(data.path().join("file-content")).unwrap().map(|f| f.unwrap().path());
    let output = output.filter(|f| std::fs::read_to_string(f).unwrap().contains("batch_req_")).collect::<Vec<_>>();
    let before = std::fs::read(&output[0]).unwrap();
    let answered = before.iter().filter(|&&b| b == b'\n').count();
    assert!(answered < 200, "it ended before the server");
    std::fs::write(&output[0], &before[..before.len() - 9]).unwrap();

    let served = serve_in(data, settings(&[("stories", stories())]));
    let going = wait(&served, &id, |batch| done(batch) as usize > answered);
    assert_eq!(going["status"], "in_progress");
    assert_eq!(served.ask("POST", &format!("/v1/batches/{id}/cancel"), &[], b"").json()["status"], "cancelling");
    let cancelled = wait(&served, &id, over);
    assert_eq!(cancelled["status"], "cancelled");
    let answers = content(&served, &cancelled["output_file_id"]);
    let mut ids: Vec<&str> = answers.iter().map(|a| a["custom_id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), answers.len(), "each is answered once");
    assert_eq!(ids.len(), done(&cancelled) as usize);
}

#[test]
fn a_key_sees_its_own_files_and_batches() {
    let data = tempfile::tempdir().unwrap();
    let key = |scope| create_key(data.path(), "test", scope, KeyLimits::default()).unwrap().0;
    let (one, two, admin) = (key(Scope::Infer), key(Scope::Infer), key(Scope::Admin));
    let served = serve_in(data, settings(&[("stories", stories())]));
    let ask = |method: &str, path: &str, key: &str, body: &str| {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        served.ask(method, path, &headers, body.as_bytes())
    };
    let file = upload(&served, &[("purpose", "batch")], lines(2, 2).as_bytes(), Some(&one)).json();
    let id = file["id"].as_str().unwrap();
    let form = json!({ "input_file_id": id, "endpoint": "/v1/completions", "completion_window": "1d" }).to_string();
    assert_eq!(ask("POST", "/v1/batches", &two, &form).status, 404);
    let batch = ask("POST", "/v1/batches", &one, &form).json();
    for path in [format!("/v1/files/{id}"), format!("/v1/batches/{}", batch["id"].as_str().unwrap())] {
        let status = |key: &str| ask("GET", &path, key, "").status;
        assert_eq!([status(&one), status(&two), status(&admin)], [200, 404, 200], "{path}");
    }
    assert_eq!(ask("DELETE", &format!("/v1/files/{id}"), &two, "").status, 404);
    assert_eq!(ask("GET", "/v1/files", &two, "").json()["data"], json!([]));
    // The key pays for the answers.
    let started = Instant::now();
    let used = || {
        let keys = ask("GET", "/admin/keys", &admin, "").json();
        let of = |k: &Value| k["usage"]["completion_tokens"].as_u64().unwrap();
        keys["data"].as_array().unwrap().iter().map(of).sum::<u64>()
    };
    while used() != 4 {
        assert!(started.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(5));
    }
}
