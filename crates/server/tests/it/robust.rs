//! What arrives broken, slow or too large harms nobody else.

use crate::client::{serve, serve_with, settings, stories, user};
use allod_server::{Limits, Settings};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

#[test]
fn broken_requests_get_the_right_status() {
    let served = serve();
    let json_kind = [("content-type", "application/json")];
    let post = |body: &[u8]| served.ask("POST", "/v1/chat/completions", &json_kind, body);
    let deep = "[".repeat(100_000);
    let deep_field = format!("{{\"messages\":{}1{}}}", "[".repeat(120), "]".repeat(120));
    for body in [
        &b"{"[..],
        b"[]",
        b"null",
        b"\"x\"",
        b"{\"messages\": [}",
        b"\xff\xfe{}",
        b"{\"messages\":\"\xc3\x28\"}",
        deep.as_bytes(),
        deep_field.as_bytes(),
        b"{\"n\": 1e999}",
        b"{\"n\": -1}",
        b"{\"n\": 99999999999999999999}",
        b"",
    ] {
        let response = post(body);
        assert_eq!(response.status, 400, "{:?}: {}", &body[..body.len().min(40)], response.text());
        assert!(response.json()["error"]["message"].is_string());
    }
    assert_eq!(served.get("/nowhere").status, 404);
    assert_eq!(served.get("/v1/chat/completions").status, 405);
    assert_eq!(served.ask("POST", "/v1/completions", &[("content-type", "text/xml")], b"<a/>").status, 415);
    assert_eq!(served.ask("POST", "/v1/completions", &[("content-encoding", "gzip")], b"{}").status, 415);
    assert_eq!(served.send(b"nonsense\r\n\r\n").status, 400);
    assert_eq!(served.send(b"GET / HTTP/9.9\r\n\r\n").status, 400);
    let flood: String = (0..2000).map(|i| format!("x-{i}: y\r\n")).collect();
    let status = served.send(format!("GET / HTTP/1.1\r\nhost: localhost\r\n{flood}\r\n").as_bytes()).status;
    assert!([400, 431].contains(&status), "{status}");
    let status =
        served.send(format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "a".repeat(200_000)).as_bytes()).status;
    assert!([400, 414, 431, 0].contains(&status), "{status}");
    assert_eq!(served.get("/health").status, 200);
}

#[test]
fn slow_and_large_requests_are_cut_off() {
    let limits = Limits {
        body: 10_000,
        body_time: Duration::from_millis(300),
        header_time: Duration::from_millis(300),
        ..Limits::default()
    };
    let served = serve_with(Settings { limits, ..settings(&[("stories", stories())]) });
    let large = json!({ "prompt": "x".repeat(20_000) });
    assert_eq!(served.post("/v1/completions", &large).status, 413);
    let started = Instant::now();
    let slow_body =
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\nconnection: close\r\n\r\n{\"a";
    assert_eq!(served.send(slow_body).status, 408);
    let slow_head = served.send(b"GET /health HTTP/1.1\r\nhost: loc");
    assert!([0, 408].contains(&slow_head.status));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_client_that_goes_ends_its_request_and_no_other() {
    let served = serve();
    let whole = json!({ "prompt": "Once", "seed": 1, "max_tokens": 30, "ignore_eos": true });
    let expected = served.post("/v1/completions", &whole).json()["choices"][0]["text"].clone();
    let mut stream = served.connect();
    // Far more than sockets hold, so that it cannot be complete before the client goes.
    let form = json!({ "prompt": "Once", "max_tokens": 480, "ignore_eos": true, "stream": true, "n": 64 }).to_string();
    write!(stream, "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{form}", form.len())
        .unwrap();
    // The head comes before the engine has begun; a token shows that it has.
    let (mut seen, mut piece) = (Vec::<u8>::new(), [0; 512]);
    while !seen.windows(6).any(|w| w == b"data: ") {
        let n = stream.read(&mut piece).unwrap();
        assert!(n > 0);
        seen.extend(&piece[..n]);
    }
    assert!(served.metric("vllm:num_requests_running") > 0.0);
    drop(stream);
    let gone = Instant::now();
    while served.metric("vllm:num_requests_running") > 0.0 {
        assert!(gone.elapsed() < Duration::from_secs(5));
    }
    assert!(served.metric("vllm:request_success_total{") > 0.0);
    assert_eq!(served.post("/v1/completions", &whole).json()["choices"][0]["text"], expected);
    // Pages are free again.
    assert_eq!(served.metric("vllm:kv_cache_usage_perc"), 0.0);
}

#[test]
fn many_clients_get_what_each_gets_alone() {
    let served = serve();
    let form = |i: u64| json!({ "messages": user(&format!("story {i}")), "seed": i, "max_tokens": 12 });
    let said = |answer: Value| answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let alone: Vec<String> = (0..6).map(|i| said(served.post("/v1/chat/completions", &form(i)).json())).collect();
    let together: Vec<String> = std::thread::scope(|scope| {
        let served = &served;
        let threads: Vec<_> =
            (0..6).map(|i| scope.spawn(move || said(served.post("/v1/chat/completions", &form(i)).json()))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(alone, together);
    let generated = served.metric("vllm:generation_tokens_total");
    assert!((12.0..=144.0).contains(&generated), "{generated}");
}

#[test]
fn mutated_requests_never_panic() {
    let served = serve();
    let seed = json!({
        "model": "stories", "messages": user("hi"), "max_tokens": 2, "temperature": 0.5, "n": 1, "stop": ["x"],
        "logit_bias": { "5": 1 }, "logprobs": true, "top_logprobs": 1, "seed": 3, "stream": false,
    })
    .to_string()
    .into_bytes();
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for _ in 0..300 {
        let mut body = seed.clone();
        for _ in 0..=next(3) {
            let at = next(body.len());
            match next(3) {
                0 => body[at] = next(256) as u8,
                1 => drop(body.remove(at)),
                _ => body.insert(at, b"{}[]\",:0-e\\\x00\xff"[next(13)]),
            }
        }
        let status = served.ask("POST", "/v1/chat/completions", &[("content-type", "application/json")], &body).status;
        assert!([200, 400, 404].contains(&status), "{status}: {}", String::from_utf8_lossy(&body));
    }
}

/// The events of a stream with their numbers.
fn numbered(text: &str) -> Vec<(u64, String)> {
    let event = |event: &str| {
        let (id, data) = event.strip_prefix("id: ")?.split_once('\n')?;
        Some((id.parse().ok()?, data.to_owned()))
    };
    text.split("\n\n").filter_map(event).collect()
}

#[test]
fn a_stream_that_was_cut_goes_on_where_it_was() {
    let limits = Limits { replay_time: Duration::from_millis(700), ..Limits::default() };
    let served = serve_with(Settings { limits, ..settings(&[("stories", stories())]) });
    let form = json!({
        "prompt": "Once", "max_tokens": 300, "seed": 2, "ignore_eos": true, "stream": true, "request_id": "same",
    })
    .to_string();
    let ask = [("content-type", "application/json"), ("x-allod-resume", "true")];
    let whole = served.ask("POST", "/v1/completions", &ask, form.as_bytes());
    let id = whole.header("x-stream-id").unwrap().to_owned();
    let events = numbered(&whole.text());
    assert_eq!(events.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (0..events.len() as u64).collect::<Vec<_>>());
    assert_eq!(events.last().unwrap().1, "data: [DONE]");
    let path = format!("/v1/streams/{id}");
    assert_eq!(numbered(&served.get(&path).text()), events);
    let rest = served.ask("GET", &path, &[("last-event-id", "4")], b"");
    assert_eq!(numbered(&rest.text()), events[5..]);
    assert_eq!(numbered(&served.get(&format!("{path}?starting_after=9")).text()), events[10..]);
    assert_eq!(served.get(&format!("{path}?starting_after=100000")).status, 404);
    assert_eq!(served.ask("GET", &path, &[("last-event-id", "x")], b"").status, 400);
    // It is forgotten after a while.
    std::thread::sleep(Duration::from_millis(2200));
    assert_eq!(served.get(&path).status, 404);

    // A client that is cut off in the middle, and comes back.
    let cut = |read: usize| {
        let mut stream = served.connect();
        let head = "x-allod-resume: true\r\ncontent-type: application/json";
        let length = form.len();
        write!(
            stream,
            "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n{head}\r\ncontent-length: {length}\r\n\r\n{form}"
        )
        .unwrap();
        let mut seen = Vec::new();
        let mut piece = [0; 256];
        while seen.len() < read {
            let n = stream.read(&mut piece).unwrap();
            assert!(n > 0);
            seen.extend(&piece[..n]);
        }
        let text = String::from_utf8_lossy(&seen).into_owned();
        let line = text.lines().find_map(|l| l.strip_prefix("x-stream-id: ")).unwrap();
        let last = text.lines().filter_map(|l| l.strip_prefix("id: ")?.parse::<u64>().ok()).max().unwrap_or(0);
        (line.to_owned(), last.saturating_sub(1))
    };
    let (id, last) = cut(2000);
    let rest = served.get(&format!("/v1/streams/{id}?starting_after={last}"));
    let without_time = |events: Vec<(u64, String)>| {
        let plain = |(n, data): (u64, String)| {
            let mut value: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap_or_default();
            value["created"] = 0.into();
            (n, value)
        };
        events.into_iter().map(plain).collect::<Vec<_>>()
    };
    let tail = events[last as usize + 1..].to_vec();
    assert_eq!(without_time(numbered(&rest.text())), without_time(tail));

    // Ended by its name; and given up when nobody comes back.
    let idle = || served.metric("vllm:num_requests_running") == 0.0;
    for (end, bound) in [(true, 400), (false, 3000)] {
        let long = form.replace("\"max_tokens\":300", "\"max_tokens\":480,\"n\":32");
        let mut stream = served.connect();
        let length = long.len();
        write!(stream, "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nx-allod-resume: true\r\ncontent-length: {length}\r\n\r\n{long}")
            .unwrap();
        let mut piece = vec![0; 2048];
        let mut text = String::new();
        while !text.contains("data: ") {
            let n = stream.read(&mut piece).unwrap();
            text.push_str(&String::from_utf8_lossy(&piece[..n]));
        }
        let id = text.lines().find_map(|l| l.strip_prefix("x-stream-id: ")).unwrap().to_owned();
        assert!(!idle());
        drop(stream);
        let gone = Instant::now();
        if end {
            assert_eq!(served.ask("DELETE", &format!("/v1/streams/{id}"), &[], b"").status, 200);
        }
        while !idle() {
            assert!(gone.elapsed() < Duration::from_millis(bound), "{end}");
        }
    }
}

#[test]
fn a_response_in_the_background_is_streamed_and_resumed() {
    let served = serve();
    let form = json!({ "input": "a fish", "max_output_tokens": 60, "background": true, "stream": true });
    let whole = served.post("/v1/responses", &form);
    let events = whole.events();
    let id = events[0]["response"]["id"].as_str().unwrap();
    assert_eq!(events.last().unwrap()["type"], "response.incomplete");
    let rest = served.get(&format!("/v1/responses/{id}?stream=true&starting_after=6")).events();
    assert_eq!(rest, events[7..]);
    assert_eq!(served.get(&format!("/v1/responses/{id}")).json()["status"], "incomplete");
}
