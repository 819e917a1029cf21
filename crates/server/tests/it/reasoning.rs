//! Reasoning in every dialect.

use crate::client::{Served, serve_with, settings, stories, user};
use crate::tools::{HERMES, assembled, hermes, template};
use serde_json::{Value, json};

/// A server whose model's template begins the reasoning.
fn thinker() -> Served {
    let mut settings = settings(&[]);
    let mut spec = allod_server::Spec::new(allod_server::Origin::Path(stories()));
    (spec.sizing.context, spec.sizing.parallel) = (Some(4096), Some(4));
    spec.template = Some(
        HERMES
            .replace("assistant: {% if enable", "assistant: <think>\n{% if enable")
            .replace("enable_thinking", "nothing"),
    );
    // A story that ends in the middle of its reasoning would show less.
    spec.sampling.insert("ignore_eos".into(), true.into());
    settings.catalog.insert("stories", spec);
    settings.reasoning_field = allod_server::ReasoningField::Reasoning;
    serve_with(settings)
}

#[test]
fn reasoning_is_told_apart_and_ends_in_time() {
    let served = thinker();
    let form = json!({ "messages": user("hi"), "max_tokens": 60, "thinking_token_budget": 20, "seed": 4 });
    let whole = served.post("/v1/chat/completions", &form).json();
    let message = &whole["choices"][0]["message"];
    let reasoning = message["reasoning"].as_str().unwrap();
    let count = whole["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
    assert!(!reasoning.is_empty() && (15..=20).contains(&count), "{whole}");
    assert!(!message["content"].as_str().unwrap().is_empty() && !whole.to_string().contains("think>"), "{whole}");
    let (streamed, _) = assembled(&served, &form);
    assert_eq!((&streamed["reasoning"], &streamed["content"]), (&message["reasoning"], &message["content"]));
    let hidden = json!({ "messages": user("hi"), "max_tokens": 60, "thinking_token_budget": 20, "seed": 4, "include_reasoning": false });
    let hidden = served.post("/v1/chat/completions", &hidden).json();
    assert!(hidden["choices"][0]["message"]["reasoning"].is_null());
    assert_eq!(hidden["choices"][0]["message"]["content"], message["content"]);
    // A grammar holds what comes behind the reasoning.
    let held = json!({ "messages": user("hi"), "max_tokens": 90, "thinking_token_budget": 10, "response_format": { "type": "json_object" } });
    let held = served.post("/v1/chat/completions", &held).json();
    assert!(held["choices"][0]["message"]["content"].as_str().unwrap().trim_start().starts_with('{'), "{held}");
    assert!(!held["choices"][0]["message"]["reasoning"].as_str().unwrap().is_empty());
    // This template cannot be told not to reason, so the reasoning ends at once.
    let none = json!({ "messages": user("hi"), "max_tokens": 30, "reasoning_effort": "none" });
    let none = served.post("/v1/chat/completions", &none).json();
    assert!(
        none["choices"][0]["message"]["reasoning"].is_null() && none["choices"][0]["message"]["content"] != "",
        "{none}"
    );
}

#[test]
fn the_other_dialects_tell_reasoning_too() {
    let served = thinker();
    // Anthropic's least budget is long, so this answer is.
    let mut form = json!({ "messages": user("hi"), "max_tokens": 1100, "thinking": { "type": "enabled", "budget_tokens": 1024 }, "temperature": 1.0 });
    form["stream"] = true.into();
    let events = served.post("/v1/messages", &form).events();
    let starts: Vec<&str> = events.iter().filter_map(|e| e["content_block"]["type"].as_str()).collect();
    assert_eq!(starts, ["thinking", "text"]);
    let deltas: Vec<&str> = events.iter().filter_map(|e| e["delta"]["type"].as_str()).collect();
    let signed = deltas.iter().position(|d| *d == "signature_delta").unwrap();
    assert!(
        deltas[..signed].iter().all(|d| *d == "thinking_delta")
            && deltas[signed + 1..].iter().all(|d| *d == "text_delta")
    );
    let thinking: String = events.iter().filter_map(|e| e["delta"]["thinking"].as_str()).collect();
    let signature = events.iter().find_map(|e| e["delta"]["signature"].as_str()).unwrap();
    // Blocks come back in, and one more turn reads them.
    let talk = json!([{ "role": "user", "content": "hi" },
        { "role": "assistant", "content": [{ "type": "thinking", "thinking": &thinking[..20], "signature": signature }, { "type": "text", "text": "a" }] },
        { "role": "user", "content": "b" }]);
    let next = json!({ "messages": talk, "max_tokens": 40, "thinking": { "type": "disabled" } });
    let next = served.post("/v1/messages", &next).json();
    assert_eq!(next["content"][0]["type"], "text", "{next}");

    let options = json!({ "num_predict": 300, "seed": 3 });
    let chat = json!({ "messages": user("hi"), "think": "minimal", "stream": false, "options": options });
    let chat = served.post("/api/chat", &chat).json();
    assert!(!chat["message"]["thinking"].as_str().unwrap().is_empty() && chat["message"]["content"] != "", "{chat}");
    let generate = json!({ "prompt": "hi", "think": false, "options": options });
    let lines = served.post("/api/generate", &generate).lines();
    assert!(lines.iter().all(|l| l["thinking"].is_null()) && lines.iter().any(|l| l["response"] != ""));

    let form = json!({ "input": "hi", "reasoning": { "effort": "minimal" }, "max_output_tokens": 300 });
    let answer = served.post("/v1/responses", &form).json();
    let kinds: Vec<&str> = answer["output"].as_array().unwrap().iter().map(|o| o["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["reasoning", "message"], "{answer}");
    assert!(answer["usage"]["output_tokens_details"]["reasoning_tokens"].as_u64().unwrap() > 200);
}

#[test]
fn templates_are_told_what_they_can_read() {
    let served = hermes();
    let prompt = |more: Value| {
        let mut form = json!({ "messages": user("hi") });
        form.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        served.post("/v1/chat/completions/render", &form)
    };
    let closed = |more: Value| prompt(more).json()["prompt"].as_str().unwrap().ends_with("</think>\n\n");
    assert!(closed(json!({ "chat_template_kwargs": { "enable_thinking": false } })));
    assert!(closed(json!({ "reasoning_effort": "none" })) && !closed(json!({})));
    for (more, named) in [
        (json!({ "chat_template_kwargs": { "colour": 1 } }), "chat_template_kwargs.colour"),
        (json!({ "reasoning_effort": "enormous" }), "reasoning_effort"),
        (json!({ "chat_template": "{{ messages[0].content }}", "reasoning_effort": "low" }), "reasoning_effort"),
        (json!({ "chat_template": "{{ messages[0].content }}", "thinking_token_budget": 9 }), "thinking_token_budget"),
    ] {
        let response = prompt(more);
        assert_eq!((response.status, &response.json()["error"]["param"]), (400, &json!(named)), "{}", response.text());
    }
    let Some(gpt_oss) = template("openai-gpt-oss-120b") else { return };
    let effort = prompt(json!({ "chat_template": gpt_oss, "reasoning_effort": "high" })).json();
    assert!(effort["prompt"].as_str().unwrap().contains("Reasoning: high"));
    // Its reasoning is a message of its own, whose end tokens do not tell.
    let response = prompt(json!({ "chat_template": gpt_oss, "thinking_token_budget": 100 }));
    assert_eq!(response.status, 400, "{}", response.text());
}
