//! Who is let in.

use crate::client::{serve, serve_in, serve_with, settings, stories};
use allod_server::{KeyLimits, Scope, Settings, create_key};
use serde_json::json;

#[test]
fn keys_open_what_their_scope_says() {
    let data = tempfile::tempdir().unwrap();
    let key = |scope| create_key(data.path(), "test", scope, KeyLimits::default()).unwrap().0;
    let (infer, manage, admin) = (key(Scope::Infer), key(Scope::Manage), key(Scope::Admin));
    let on_disk: String = std::fs::read_dir(data.path().join("keys"))
        .unwrap()
        .map(|f| std::fs::read_to_string(f.unwrap().path()).unwrap())
        .collect();
    assert!(!on_disk.contains(&infer), "keys are hashed at rest");
    let served = serve_in(data, settings(&[("stories", stories())]));
    let ask = |method: &str, path: &str, key: Option<&str>, body: &str| {
        let bearer = key.map(|k| format!("Bearer {k}")).unwrap_or_default();
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        served.ask(method, path, &headers[usize::from(key.is_none())..], body.as_bytes())
    };
    assert_eq!(ask("GET", "/health", None, "").status, 200);
    for path in ["/v1/models", "/api/tags", "/metrics", "/admin/keys"] {
        let refused = ask("GET", path, None, "");
        assert_eq!(refused.status, 401, "{path}");
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
        assert_eq!(ask("GET", path, Some("allod-wrong"), "").status, 401);
    }
    assert_eq!(ask("GET", "/v1/models", Some(&infer), "").status, 200);
    assert_eq!(served.ask("GET", "/v1/models", &[("x-api-key", &infer)], b"").status, 200);
    let copy = r#"{"source":"stories","destination":"again"}"#;
    assert_eq!(ask("POST", "/api/copy", Some(&infer), copy).status, 403);
    assert_eq!(ask("POST", "/api/copy", Some(&manage), copy).status, 200);
    assert_eq!(ask("GET", "/admin/keys", Some(&manage), "").status, 403);
    let made = ask("POST", "/admin/keys", Some(&admin), r#"{"name":"guest","scope":"infer"}"#).json();
    let guest = made["key"].as_str().unwrap();
    assert_eq!(ask("GET", "/v1/models", Some(guest), "").status, 200);
    let path = format!("/admin/keys/{}", made["id"].as_str().unwrap());
    assert_eq!(ask("DELETE", &path, Some(&admin), "").status, 200);
    assert_eq!(ask("GET", "/v1/models", Some(guest), "").status, 401);
    // Usage is booked, and outlives the server.
    let form = json!({ "prompt": "Once", "max_tokens": 3, "temperature": 0 }).to_string();
    let used = ask("POST", "/v1/completions", Some(&infer), &form).json()["usage"]["total_tokens"].as_u64().unwrap();
    let served = serve_in(served.end(), settings(&[("stories", stories())]));
    let bearer = format!("Bearer {admin}");
    let keys = served.ask("GET", "/admin/keys", &[("authorization", &bearer)], b"").json();
    let spent = keys["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|k| k["usage"]["prompt_tokens"].as_u64().unwrap() + k["usage"]["completion_tokens"].as_u64().unwrap());
    assert_eq!(spent.sum::<u64>(), used);
}

#[test]
fn limits_hold_for_each_key() {
    let data = tempfile::tempdir().unwrap();
    let key = |limits| create_key(data.path(), "test", Scope::Infer, limits).unwrap().0;
    let few = key(KeyLimits { requests_per_minute: Some(2), ..KeyLimits::default() });
    let short = key(KeyLimits { tokens_per_minute: Some(5), ..KeyLimits::default() });
    let served = serve_in(data, settings(&[("stories", stories())]));
    let ask = |key: &str| {
        let bearer = format!("Bearer {key}");
        let form = json!({ "prompt": "Once", "max_tokens": 8, "ignore_eos": true }).to_string();
        served.ask("POST", "/v1/completions", &[("authorization", &bearer)], form.as_bytes())
    };
    assert_eq!([ask(&few).status, ask(&few).status], [200, 200]);
    let refused = ask(&few);
    assert_eq!(refused.status, 429);
    assert!((1..=60).contains(&refused.header("retry-after").unwrap().parse::<u64>().unwrap()));
    // The other key has its own limit: an answer may overdraw it once.
    assert_eq!([ask(&short).status, ask(&short).status], [200, 429]);
}

#[test]
fn foreign_hosts_and_pages_are_refused() {
    let served = serve();
    assert_eq!(served.ask("GET", "/api/tags", &[("host", "evil.example")], b"").status, 403);
    let foreign = served.ask("GET", "/api/tags", &[("origin", "https://evil.example")], b"");
    assert_eq!(foreign.status, 403);
    assert_eq!(foreign.header("access-control-allow-origin"), None);
    let local = served.ask("GET", "/api/tags", &[("origin", "http://localhost:3000")], b"");
    assert_eq!((local.status, local.header("access-control-allow-origin")), (200, Some("http://localhost:3000")));
    let asks = [("origin", "http://localhost:3000"), ("access-control-request-method", "POST")];
    let preflight = served.ask("OPTIONS", "/v1/chat/completions", &asks, b"");
    assert_eq!(preflight.status, 204);
    assert!(preflight.header("access-control-allow-headers").unwrap().contains("authorization"));
    // A form of a foreign page needs no permission to be sent, so what it can send is not read.
    let form = served.ask("POST", "/api/generate", &[("content-type", "text/plain")], b"{\"prompt\":\"x\"}");
    assert_eq!(form.status, 415);
}

#[test]
fn templates_cannot_hang_or_reach_out() {
    let served = serve_with(Settings { ..settings(&[("stories", stories())]) });
    for template in [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}x{% endfor %}{% endfor %}{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{{ ''.__class__.__mro__ }}{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ] {
        let started = std::time::Instant::now();
        let form =
            json!({ "messages": [{ "role": "user", "content": "x" }], "chat_template": template, "max_tokens": 1 });
        let response = served.post("/v1/chat/completions", &form);
        assert_eq!(response.status, 400, "{template}: {}", response.text());
        assert!(!response.text().contains("root:"));
        assert!(started.elapsed().as_secs() < 20, "{template}");
    }
}
