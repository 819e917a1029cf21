//! Anthropic's dialect.

use crate::client::{serve, user};
use serde_json::{Value, json};

#[test]
fn events_come_in_the_order_that_clients_expect() {
    let served = serve();
    let form = json!({ "model": "stories", "messages": user("a fish"), "max_tokens": 20, "temperature": 0 });
    let whole = served.post("/v1/messages", &form).json();
    assert_eq!(
        (&whole["type"], &whole["role"], &whole["stop_reason"]),
        (&json!("message"), &json!("assistant"), &json!("max_tokens"))
    );
    let mut streamed = form;
    streamed["stream"] = true.into();
    let events = served.post("/v1/messages", &streamed).events();
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(&kinds[..3], ["message_start", "ping", "content_block_start"]);
    assert_eq!(&kinds[kinds.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    assert!(kinds[3..kinds.len() - 3].iter().all(|k| *k == "content_block_delta"));
    let text: String = events.iter().filter_map(|e| e["delta"]["text"].as_str()).collect();
    assert_eq!(text, whole["content"][0]["text"].as_str().unwrap());
    let usage = &events[events.len() - 2]["usage"];
    assert_eq!(usage["output_tokens"], 20);
    let counted = served.post("/v1/messages/count_tokens", &json!({ "messages": user("a fish") })).json();
    let input = usage["input_tokens"].as_u64().unwrap() + usage["cache_read_input_tokens"].as_u64().unwrap();
    assert_eq!(counted["input_tokens"], input);
}

#[test]
fn blocks_and_failures_are_in_anthropics_words() {
    let served = serve();
    let blocks = json!([{ "role": "user", "content": [{ "type": "text", "text": "a fi" }, { "type": "text", "text": "sh", "cache_control": { "type": "ephemeral" } }] }]);
    let count = |messages: &Value, system: Value| {
        served.post("/v1/messages/count_tokens", &json!({ "messages": messages, "system": system })).json()["input_tokens"].clone()
    };
    assert_eq!(count(&blocks, Value::Null), count(&user("a fish"), Value::Null));
    let system = json!([{ "type": "text", "text": "be kind" }]);
    assert_eq!(count(&blocks, system), count(&user("a fish"), json!("be kind")));
    let stopped = json!({ "messages": user("a fish"), "max_tokens": 60, "temperature": 0, "stop_sequences": ["e "] });
    let answer = served.post("/v1/messages", &stopped).json();
    assert_eq!((&answer["stop_reason"], &answer["stop_sequence"]), (&json!("stop_sequence"), &json!("e ")));
    for (form, named) in [
        (json!({ "messages": user("x") }), "max_tokens"),
        (json!({ "messages": user("x"), "max_tokens": 5, "mcp_servers": [{}] }), "mcp_servers"),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image", "source": {} }] }], "max_tokens": 5 }),
            "messages[0].content[0].type",
        ),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": "x", "colour": 1 }] }], "max_tokens": 5 }),
            "messages[0].content[0].colour",
        ),
    ] {
        let response = served.post("/v1/messages", &form);
        let error = response.json();
        assert_eq!(
            (response.status, &error["type"], &error["error"]["type"]),
            (400, &json!("error"), &json!("invalid_request_error"))
        );
        assert!(error["error"]["message"].as_str().unwrap().contains(named), "{error}");
    }
    // This model's template shows no answers, so it cannot go on with one that the client has begun.
    let begun = json!([{ "role": "user", "content": "a fish" }, { "role": "assistant", "content": "Once upon" }]);
    assert_eq!(served.post("/v1/messages", &json!({ "messages": begun, "max_tokens": 8 })).status, 400);
    let plain = "{% for m in messages %}{{ m.content }}\n{% endfor %}";
    let form = json!({ "messages": begun, "chat_template": plain, "continue_final_message": true });
    assert_eq!(served.post("/v1/chat/completions/render", &form).json()["prompt"], "a fish\nOnce upon");
}
