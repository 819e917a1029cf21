//! Tools in every dialect. No small model calls tools of its own accord, so answers are either forced by `tool_choice`,
//! or written by a grammar that allows one text only: which tokens spell it differs from seed to seed.

use crate::client::{Served, serve_with, settings, stories, user};
use serde_json::{Value, json};

/// A chat template of a real model.
pub(crate) fn template(name: &str) -> Option<String> {
    let path = allod_testkit::data()?.join("templates").join(format!("{name}.jinja"));
    std::fs::read_to_string(path).ok()
}

/// A template with Hermes' calls and reasoning that can be turned off; small, so that prompts are short.
pub(crate) const HERMES: &str = "{% for tool in tools or [] %}{{ tool | tojson }}{{ '\\n' }}{% endfor %}\
{% for m in messages %}{% if m.role == 'tool' %}<tool_response>{{ m.content }}</tool_response>{{ '\\n' }}{% else %}\
{{ m.role }}: {% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content or '' }}\
{% for call in m.tool_calls or [] %}{{ '\\n' }}<tool_call>\n{\"name\": \"{{ call.function.name }}\", \"arguments\": \
{{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}{{ '\\n' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}assistant: {% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n\
{% endif %}{% endif %}";

/// A server whose model has that template, and room for some text.
pub(crate) fn hermes() -> Served {
    let mut settings = settings(&[("stories", stories())]);
    let mut catalog = allod_server::Catalog::default();
    let mut spec = allod_server::Spec::new(allod_server::Origin::Path(stories()));
    (spec.sizing.context, spec.sizing.parallel, spec.template) = (Some(4096), Some(4), Some(HERMES.into()));
    catalog.insert("stories", spec);
    settings.catalog = catalog;
    serve_with(settings)
}

pub(crate) fn tools() -> Value {
    let weather = json!({"type": "object", "properties": {"unit": {"type": "string", "enum": ["celsius", "kelvin"]},
        "exact": {"type": "boolean"}}, "required": ["unit", "exact"], "additionalProperties": false});
    let time = json!({"type": "object", "properties": {}, "additionalProperties": false});
    json!([
        {"type": "function", "function": {"name": "get_weather", "description": "Weather.", "parameters": weather}},
        {"type": "function", "function": {"name": "get_time", "parameters": time}},
    ])
}

/// Whether a call keeps to the schema of its tool.
fn fits(name: &str, arguments: &Value) -> bool {
    let fields = arguments.as_object().unwrap();
    match name {
        "get_weather" => {
            fields.len() == 2
                && ["celsius", "kelvin"].map(Value::from).contains(&fields["unit"])
                && fields["exact"].is_boolean()
        }
        "get_time" => fields.is_empty(),
        _ => false,
    }
}

/// The message and finish reason of a streamed chat.
pub(crate) fn assembled(served: &Served, form: &Value) -> (Value, Value) {
    let mut form = form.clone();
    form["stream"] = true.into();
    let response = served.post("/v1/chat/completions", &form);
    assert_eq!(response.status, 200, "{}", response.text());
    let mut message = json!({ "content": "", "tool_calls": [] });
    let mut reason = Value::Null;
    for event in response.events() {
        let choice = &event["choices"][0];
        for field in ["content", "reasoning_content", "reasoning"] {
            if let Some(text) = choice["delta"][field].as_str() {
                message[field] = format!("{}{text}", message[field].as_str().unwrap_or_default()).into();
            }
        }
        for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().unwrap() as usize;
            let calls = message["tool_calls"].as_array_mut().unwrap();
            if call["id"].is_string() {
                assert_eq!(index, calls.len());
                calls.push(call.clone());
            } else {
                let more = call["function"]["arguments"].as_str().unwrap();
                let arguments = &mut calls[index]["function"]["arguments"];
                *arguments = format!("{}{more}", arguments.as_str().unwrap()).into();
            }
        }
        if !choice["finish_reason"].is_null() {
            reason = choice["finish_reason"].clone();
        }
    }
    (message, reason)
}

fn calls(message: &Value) -> Vec<(String, Value)> {
    let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
    let call = |call: Value| {
        assert!(call["id"].as_str().is_some_and(|id| !id.is_empty()) && call["type"] == "function", "{call}");
        let arguments = call["function"]["arguments"].as_str().unwrap();
        (call["function"]["name"].as_str().unwrap().to_owned(), serde_json::from_str(arguments).unwrap())
    };
    calls.into_iter().map(call).collect()
}

#[test]
fn required_calls_are_valid_with_the_templates_of_real_models() {
    let served = serve_with(settings(&[("stories", stories())]));
    let names = [
        "Qwen-Qwen3-0.6B",
        "Qwen3-Coder",
        "openai-gpt-oss-120b",
        "meta-llama-Llama-3.1-8B-Instruct",
        "mistralai-Mistral-Nemo-Instruct-2407",
        "GLM-4.6",
        "deepseek-ai-DeepSeek-V3.1",
        "moonshotai-Kimi-K2",
        "ibm-granite-granite-4.0",
        "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
        "meetkai-functionary-medium-v3.2",
    ];
    for (seed, name) in names.into_iter().enumerate() {
        let Some(source) = template(name) else { return };
        let named = json!({ "type": "function", "function": { "name": "get_weather" } });
        for choice in [json!("required"), named].into_iter().take(if seed < 3 { 2 } else { 1 }) {
            let form = json!({ "messages": user("hi"), "tools": tools(), "tool_choice": choice, "chat_template": source,
                "seed": seed, "temperature": 0, "truncate_prompt_tokens": 40, "max_tokens": 400, "parallel_tool_calls": false });
            let response = served.post("/v1/chat/completions", &form);
            assert_eq!(response.status, 200, "{name}: {}", response.text());
            let choice = &response.json()["choices"][0];
            let found = calls(&choice["message"]);
            assert_eq!(choice["finish_reason"], "tool_calls", "{name}: {choice}");
            assert!(
                found.len() == 1 && found.iter().all(|(name, arguments)| fits(name, arguments)),
                "{name}: {choice}"
            );
            assert!(choice["message"]["content"].is_null(), "{name}: {choice}");
            let (streamed, reason) = assembled(&served, &form);
            assert_eq!((calls(&streamed), reason), (found, json!("tool_calls")), "{name}");
        }
    }
}

#[test]
fn what_a_model_writes_is_told_apart_however_it_is_cut() {
    let served = serve_with(settings(&[("stories", stories())]));
    let both =
        vec![("get_weather".to_owned(), json!({ "unit": "kelvin", "exact": true })), ("get_time".into(), json!({}))];
    let written = [
        (
            "Qwen-Qwen3-0.6B",
            "<think>\nThey ask. Tools?\n</think>\n\nLet me see.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"unit\": \"kelvin\", \"exact\": true}}\n</tool_call>\n<tool_call>\n{\"name\": \"get_time\", \"arguments\": {}}\n</tool_call>",
            true,
        ),
        (
            "Qwen3-Coder",
            "Let me see.\n<tool_call>\n<function=get_weather>\n<parameter=unit>\nkelvin\n</parameter>\n<parameter=exact>\ntrue\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=get_time>\n</function>\n</tool_call>",
            false,
        ),
        (
            "openai-gpt-oss-120b",
            "<|channel|>analysis<|message|>They ask. Tools?<|end|><|start|>assistant<|channel|>commentary<|message|>Let me see.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"unit\": \"kelvin\", \"exact\": true}<|call|><|start|>assistant<|channel|>commentary to=functions.get_time <|constrain|>json<|message|>{}<|call|>",
            true,
        ),
        (
            "deepseek-ai-DeepSeek-V3.1",
            "Let me see.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{\"unit\": \"kelvin\", \"exact\": true}<｜tool▁call▁end｜><｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            false,
        ),
    ];
    for (name, text, reasons) in written {
        let Some(source) = template(name) else { return };
        for seed in 0..2 {
            let mut form = json!({ "messages": user("hi"), "tools": tools(), "chat_template": source, "seed": seed,
                "temperature": 1.5, "truncate_prompt_tokens": 40, "max_tokens": 450,
                "structured_outputs": { "choice": [text] } });
            let whole = served.post("/v1/chat/completions", &form).json();
            let choice = &whole["choices"][0];
            assert_eq!(choice["finish_reason"], "tool_calls", "{name}: {whole}");
            let (streamed, _) = assembled(&served, &form);
            for message in [&choice["message"], &streamed] {
                assert_eq!(calls(message), both, "{name}: {message}");
                assert_eq!(message["content"].as_str().unwrap().trim(), "Let me see.", "{name}: {message}");
                let reasoning = message["reasoning_content"].as_str().unwrap_or_default().trim();
                assert_eq!(reasoning, if reasons { "They ask. Tools?" } else { "" }, "{name}");
            }
            let thought = whole["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
            assert_eq!(thought > 0, reasons, "{whole}");
            // Only one call: the answer ends with it.
            form["parallel_tool_calls"] = false.into();
            let alone = served.post("/v1/chat/completions", &form).json();
            assert_eq!(calls(&alone["choices"][0]["message"]), both[..1], "{name}");
            assert_eq!(alone["choices"][0]["finish_reason"], "tool_calls");
            // Without tools the same text calls nothing.
            form.as_object_mut().unwrap().remove("tools");
            form.as_object_mut().unwrap().remove("parallel_tool_calls");
            let untold = served.post("/v1/chat/completions", &form).json();
            assert!(untold["choices"][0]["message"]["tool_calls"].is_null(), "{name}: {untold}");
        }
    }
}

#[test]
fn choices_are_kept_to_and_wrong_ones_refused() {
    let served = hermes();
    let render =
        |form: Value| served.post("/v1/chat/completions/render", &form).json()["prompt"].as_str().unwrap().to_owned();
    let shown = |choice: Value| render(json!({ "messages": user("hi"), "tools": tools(), "tool_choice": choice }));
    assert!(shown(json!("auto")).contains("get_weather") && !shown(json!("none")).contains("get_weather"));
    let allowed = json!({ "type": "allowed_tools", "allowed_tools": { "mode": "required",
        "tools": [{ "type": "function", "function": { "name": "get_time" } }] } });
    assert!(!shown(allowed.clone()).contains("get_weather"));
    let form = json!({ "messages": user("hi"), "tools": tools(), "tool_choice": allowed, "parallel_tool_calls": false, "max_tokens": 60 });
    let answer = served.post("/v1/chat/completions", &form).json();
    assert!(calls(&answer["choices"][0]["message"]).iter().all(|(name, _)| name == "get_time"), "{answer}");

    // What begins like a call is a valid one where a tool is strict, and an answer in JSON may be one too.
    let mut strict = tools();
    strict[0]["function"]["strict"] = true.into();
    let schema = json!({ "type": "object", "properties": { "ok": { "type": "boolean" } }, "required": ["ok"], "additionalProperties": false });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "ok", "schema": schema } });
    let mut seen = [0, 0];
    for seed in 0..12 {
        let form = json!({ "messages": user("hi"), "tools": strict, "response_format": format, "parallel_tool_calls": false, "seed": seed, "max_tokens": 90, "temperature": 2 });
        let message = served.post("/v1/chat/completions", &form).json()["choices"][0]["message"].clone();
        let found = calls(&message);
        seen[usize::from(found.is_empty())] += 1;
        match message["content"].as_str() {
            None => assert!(found.iter().all(|(name, arguments)| fits(name, arguments)), "{message}"),
            Some(text) => assert!(serde_json::from_str::<Value>(text).unwrap()["ok"].is_boolean(), "{message}"),
        }
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");

    // A call, its result, and what the model is shown of them.
    let talk = json!([
        { "role": "user", "content": "hi" },
        { "role": "assistant", "content": null, "tool_calls": [{ "id": "a1", "type": "function", "function": { "name": "get_time", "arguments": "{}" } }] },
        { "role": "tool", "tool_call_id": "a1", "content": "noon" },
    ]);
    let prompt = render(json!({ "messages": talk, "tools": tools() }));
    assert!(prompt.contains("<tool_call>\n{\"name\": \"get_time\", \"arguments\": {}}\n</tool_call>\n<tool_response>noon</tool_response>"), "{prompt}");

    let tool = |name: &str| json!([{ "type": "function", "function": { "name": name } }]);
    for (field, value, named) in [
        ("tool_choice", json!("required"), "tool_choice"),
        ("tool_choice", json!("sometimes"), "tool_choice"),
        ("tool_choice", json!({ "type": "function", "function": { "name": "nobody" } }), "tool_choice"),
        ("tools", json!([{ "type": "custom", "function": { "name": "x" } }]), "tools[0].type"),
        ("tools", tool("no spaces"), "tools[0].function.name"),
        ("tools", json!([tool("x")[0], tool("x")[0]]), "tools"),
        (
            "tools",
            json!([{ "type": "function", "function": { "name": "x", "parameters": 1 } }]),
            "tools[0].function.parameters",
        ),
        (
            "tools",
            json!([{ "type": "function", "function": { "name": "x", "colour": 1 } }]),
            "tools[0].function.colour",
        ),
        ("functions", json!([]), "functions"),
        ("function_call", json!("auto"), "function_call"),
    ] {
        let mut form = json!({ "messages": user("hi"), "max_tokens": 4 });
        form[field] = value;
        let response = served.post("/v1/chat/completions", &form);
        assert_eq!((response.status, &response.json()["error"]["param"]), (400, &json!(named)), "{}", response.text());
    }
}

#[test]
fn anthropics_tools() {
    let served = hermes();
    let tools: Vec<Value> = tools()
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| json!({ "name": tool["function"]["name"], "input_schema": tool["function"]["parameters"] }))
        .collect();
    for (choice, named) in [
        (json!({ "type": "any", "disable_parallel_tool_use": true }), None),
        (json!({ "type": "tool", "name": "get_weather" }), Some("get_weather")),
    ] {
        let mut form = json!({ "messages": user("hi"), "max_tokens": 120, "tools": tools, "tool_choice": choice, "temperature": 0 });
        let whole = served.post("/v1/messages", &form).json();
        let blocks = whole["content"].as_array().unwrap();
        assert_eq!((blocks.len(), &whole["stop_reason"]), (1, &json!("tool_use")), "{whole}");
        let (name, input) = (blocks[0]["name"].as_str().unwrap(), &blocks[0]["input"]);
        assert!(fits(name, input) && named.is_none_or(|n| n == name), "{whole}");
        form["stream"] = true.into();
        let events = served.post("/v1/messages", &form).events();
        let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
        assert_eq!(&kinds[..3], ["message_start", "ping", "content_block_start"]);
        assert_eq!(&kinds[kinds.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
        assert_eq!(events[2]["content_block"]["type"], "tool_use");
        let json: String = events.iter().filter_map(|e| e["delta"]["partial_json"].as_str()).collect();
        assert_eq!(&serde_json::from_str::<Value>(&json).unwrap(), input);
        assert_eq!(events[events.len() - 2]["delta"]["stop_reason"], "tool_use");
        // Back with the result.
        let result = json!([{ "role": "user", "content": "hi" }, { "role": "assistant", "content": blocks },
            { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": blocks[0]["id"], "content": "warm", "is_error": true }] }]);
        let next = json!({ "messages": result, "max_tokens": 8, "tools": tools, "tool_choice": { "type": "none" } });
        let answer = served.post("/v1/messages", &next);
        assert_eq!(answer.json()["content"][0]["type"], "text", "{}", answer.text());
    }
    for (field, value, named) in [
        ("tool_choice", json!({ "type": "any" }), "tool_choice"),
        ("tools", json!([{ "type": "web_search_20250305", "name": "web_search" }]), "tools[0].type"),
        ("thinking", json!({ "type": "enabled", "budget_tokens": 1000 }), "thinking.budget_tokens"),
        ("thinking", json!({ "type": "enabled", "budget_tokens": 2000 }), "thinking.budget_tokens"),
    ] {
        let mut form = json!({ "messages": user("hi"), "max_tokens": 1500 });
        form[field] = value;
        let response = served.post("/v1/messages", &form);
        assert!(response.status == 400 && response.text().contains(named), "{named} {}", response.text());
    }
}

#[test]
fn ollamas_tools() {
    let served = hermes();
    // Ollama's clients cannot ask for a call, so seeds are tried until the grammar of an answer in JSON writes one.
    let form = |seed: u64, stream: bool| {
        json!({ "messages": user("hi"), "tools": tools(), "stream": stream, "options": { "seed": seed, "num_predict": 90, "temperature": 2 },
            "format": { "type": "object", "properties": { "ok": { "type": "boolean" } }, "required": ["ok"], "additionalProperties": false } })
    };
    let found = (0..30).find_map(|seed| {
        let answer = served.post("/api/chat", &form(seed, false)).json();
        answer["message"]["tool_calls"].is_array().then_some((seed, answer))
    });
    let (seed, answer) = found.unwrap();
    let call = &answer["message"]["tool_calls"][0]["function"];
    assert!(fits(call["name"].as_str().unwrap(), &call["arguments"]), "{answer}");
    assert_eq!(answer["message"]["content"], "");
    let lines = served.post("/api/chat", &form(seed, true)).lines();
    let streamed: Vec<&Value> = lines.iter().filter_map(|l| l["message"]["tool_calls"].as_array()).flatten().collect();
    assert_eq!(streamed[0]["function"], *call);
    let back = json!([{ "role": "user", "content": "hi" }, { "role": "assistant", "content": "", "tool_calls": answer["message"]["tool_calls"] },
        { "role": "tool", "content": "warm", "tool_name": "get_weather" }]);
    let next = json!({ "messages": back, "tools": tools(), "stream": false, "options": { "num_predict": 4 } });
    assert_eq!(served.post("/api/chat", &next).status, 200);
    assert_eq!(served.post("/api/chat", &json!({ "messages": user("hi"), "tool_choice": "required" })).status, 400);
    let shown = served.post("/api/show", &json!({ "model": "stories" })).json();
    assert!(!shown["capabilities"].as_array().unwrap().contains(&json!("tools")), "the file's own template has none");
}

#[test]
fn responses_call_functions() {
    let served = hermes();
    let tools: Vec<Value> = tools().as_array().unwrap().iter().map(|tool| {
        json!({ "type": "function", "name": tool["function"]["name"], "parameters": tool["function"]["parameters"], "strict": null })
    }).collect();
    let mut form = json!({ "input": "hi", "tools": tools, "tool_choice": { "type": "function", "name": "get_weather" }, "max_output_tokens": 120, "temperature": 0 });
    let whole = served.post("/v1/responses", &form).json();
    let call = &whole["output"][0];
    assert_eq!((&call["type"], &whole["status"]), (&json!("function_call"), &json!("completed")), "{whole}");
    assert!(fits(call["name"].as_str().unwrap(), &serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap()));
    form["stream"] = true.into();
    let events = served.post("/v1/responses", &form).events();
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(&kinds[..3], ["response.created", "response.in_progress", "response.output_item.added"]);
    assert_eq!(
        &kinds[kinds.len() - 3..],
        ["response.function_call_arguments.done", "response.output_item.done", "response.completed"]
    );
    let arguments: String = events
        .iter()
        .filter(|e| e["type"] == "response.function_call_arguments.delta")
        .filter_map(|e| e["delta"].as_str())
        .collect();
    assert_eq!(arguments, call["arguments"].as_str().unwrap());
    let numbers: Vec<u64> = events.iter().map(|e| e["sequence_number"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|w| w[0] + 1 == w[1]));
    // The result goes on from what the server remembers.
    let result = json!([{ "type": "function_call_output", "call_id": call["call_id"], "output": "warm" }]);
    let next = json!({ "input": result, "previous_response_id": whole["id"], "max_output_tokens": 6, "tools": tools });
    let answer = served.post("/v1/responses", &next).json();
    assert!(answer["usage"]["input_tokens"].as_u64() > whole["usage"]["input_tokens"].as_u64(), "{answer}");
    assert_eq!(answer["output"][0]["type"], "message");
    let structured = json!({ "input": "hi", "max_output_tokens": 60, "text": { "format": { "type": "json_schema", "name": "n",
        "schema": { "type": "object", "properties": { "n": { "enum": [1, 2] } }, "required": ["n"], "additionalProperties": false } } } });
    let text = served.post("/v1/responses", &structured).json()["output"][0]["content"][0]["text"].clone();
    assert!(serde_json::from_str::<Value>(text.as_str().unwrap()).unwrap()["n"].is_u64(), "{text}");
    let hosted = json!({ "input": "hi", "tools": [{ "type": "web_search" }] });
    assert_eq!(served.post("/v1/responses", &hosted).status, 400);
}
