//! OpenAI's dialect.

use crate::client::{serve, serve_with, settings, user};
use serde_json::{Value, json};

/// Text and token ids that llama2.c's model gives when it always takes the likeliest token, computed with numpy.
fn known() -> Option<(std::path::PathBuf, String, Vec<u64>)> {
    let weights = allod_testkit::data()?.join("weights");
    let text = std::fs::read_to_string(weights.join("known_answers_llama2c.json")).unwrap();
    let known: Value = serde_json::from_str(&text).unwrap();
    let known = &known["stories260K"];
    let ids = known["greedy_200"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    Some((weights.join("stories260K/stories260K.gguf"), known["text"].as_str().unwrap().to_owned(), ids))
}

#[test]
fn greedy_text_is_the_known_answer_in_every_dialect() {
    let Some((path, text, ids)) = known() else { return };
    let served = serve_with(settings(&[("stories260K", path)]));
    let form = json!({ "prompt": "", "max_tokens": 200, "temperature": 0, "return_token_ids": true });
    let choice = served.post("/v1/completions", &form).json()["choices"][0].clone();
    assert_eq!(choice["token_ids"], json!(ids));
    assert_eq!(choice["text"], text);

    // The model has no chat template, so a chat continues the text of its messages.
    let (begin, rest) = text[1..].split_at("Once upon a time, there was a little girl named Lily.".len());
    let rest = &rest[..100];
    let openai = json!({ "messages": user(begin), "temperature": 0, "max_tokens": 60 });
    let answer = served.post("/v1/chat/completions", &openai).json();
    assert!(answer["choices"][0]["message"]["content"].as_str().unwrap().starts_with(rest), "{answer}");
    let anthropic = json!({ "messages": user(begin), "temperature": 0, "max_tokens": 60 });
    let answer = served.post("/v1/messages", &anthropic).json();
    assert!(answer["content"][0]["text"].as_str().unwrap().starts_with(rest), "{answer}");
    for path in ["/api/generate", "/api/chat"] {
        let options = json!({ "temperature": 0, "num_predict": 60 });
        let form = match path {
            "/api/generate" => json!({ "prompt": begin, "options": options, "stream": false }),
            _ => json!({ "messages": user(begin), "options": options, "stream": false }),
        };
        let answer = served.post(path, &form).json();
        let text = answer["response"].as_str().or(answer["message"]["content"].as_str()).unwrap();
        assert!(text.starts_with(rest), "{answer}");
    }
}

#[test]
fn a_stream_carries_the_same_answer() {
    let served = serve();
    let form = json!({
        "model": "stories", "messages": user("a brave fish"), "seed": 7, "max_tokens": 24, "n": 2, "logprobs": true,
        "top_logprobs": 2, "stop": ["zzzz"], "return_token_ids": true,
    });
    let whole = served.post("/v1/chat/completions", &form).json();
    let mut streamed = form.clone();
    streamed["stream"] = true.into();
    streamed["stream_options"] = json!({ "include_usage": true });
    let response = served.post("/v1/chat/completions", &streamed);
    assert!(response.text().ends_with("data: [DONE]\n\n"));
    let events = response.events();
    for index in 0..2 {
        let choices = events.iter().flat_map(|e| e["choices"].as_array().unwrap()).filter(|c| c["index"] == index);
        let choices: Vec<&Value> = choices.collect();
        let text: String = choices.iter().filter_map(|c| c["delta"]["content"].as_str()).collect();
        let expected = &whole["choices"][index];
        assert_eq!(text, expected["message"]["content"].as_str().unwrap());
        assert_eq!(choices.last().unwrap()["finish_reason"], expected["finish_reason"]);
        let logprobs = choices.iter().filter_map(|c| c["logprobs"]["content"].as_array()).flatten().cloned();
        assert_eq!(Value::from_iter(logprobs), expected["logprobs"]["content"]);
        let ids = choices.iter().filter_map(|c| c["token_ids"].as_array()).flatten().cloned();
        assert_eq!(Value::from_iter(ids), expected["token_ids"]);
    }
    let usage = &events.last().unwrap()["usage"];
    assert_eq!(usage["completion_tokens"], whole["usage"]["completion_tokens"]);
    assert_eq!(usage["total_tokens"], whole["usage"]["total_tokens"]);
    // Answer i is the one of seed + i.
    let mut second = form;
    (second["seed"], second["n"]) = (8.into(), 1.into());
    let second = served.post("/v1/chat/completions", &second).json();
    assert_eq!(second["choices"][0]["message"]["content"], whole["choices"][1]["message"]["content"]);
}

#[test]
fn stop_strings_end_one_answer_and_not_the_others() {
    let served = serve();
    let form = json!({ "prompt": ["Once upon a time", "The"], "n": 3, "seed": 3, "max_tokens": 40, "stop": ["e "] });
    let answer = served.post("/v1/completions", &form).json();
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 6);
    for (i, choice) in choices.iter().enumerate() {
        let text = choice["text"].as_str().unwrap();
        assert_eq!(choice["index"], i);
        assert!(!text.contains("e "), "{text}");
        let stopped = choice["stop_reason"] == "e ";
        assert_eq!(
            choice["finish_reason"],
            if stopped || choice["stop_reason"].is_null() && text.len() < 20 { "stop" } else { "length" }
        );
    }
    let kept = json!({ "prompt": "Once upon a time", "seed": 3, "max_tokens": 40, "stop": "e ", "include_stop_str_in_output": true });
    let kept = served.post("/v1/completions", &kept).json();
    let text = choices[0]["text"].as_str().unwrap();
    if choices[0]["stop_reason"] == "e " {
        assert_eq!(kept["choices"][0]["text"], format!("{text}e "));
    }
}

#[test]
fn echo_scores_the_prompt() {
    let served = serve();
    let ids = served.post("/tokenize", &json!({ "prompt": "Once upon a time" })).json()["tokens"].clone();
    let form = json!({ "prompt": ids, "echo": true, "logprobs": 1, "max_tokens": 0 });
    let scored = served.post("/v1/completions", &form).json();
    let logprobs = &scored["choices"][0]["logprobs"];
    let values = logprobs["token_logprobs"].as_array().unwrap();
    assert_eq!(values.len(), ids.as_array().unwrap().len());
    assert!(values[0].is_null() && values[1..].iter().all(|v| v.as_f64().unwrap() <= 0.0));
    assert_eq!(scored["usage"]["completion_tokens"], 0);
    // What follows is scored the same as a prompt and as an answer.
    let form = json!({ "prompt": ids, "logprobs": 1, "max_tokens": 5, "temperature": 0, "return_token_ids": true });
    let answer = served.post("/v1/completions", &form).json();
    let answered = &answer["choices"][0];
    let whole: Vec<Value> =
        ids.as_array().unwrap().iter().chain(answered["token_ids"].as_array().unwrap()).cloned().collect();
    let form = json!({ "prompt": whole, "echo": true, "logprobs": 1, "max_tokens": 0 });
    let again = served.post("/v1/completions", &form).json();
    let tail = &again["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap()[ids.as_array().unwrap().len()..];
    assert_eq!(tail, answered["logprobs"]["token_logprobs"].as_array().unwrap());
}

#[test]
fn every_field_is_honoured_or_refused() {
    let served = serve();
    let chat = |extra: Value| {
        let mut form = json!({ "messages": user("hi"), "max_tokens": 4 });
        form.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        served.post("/v1/chat/completions", &form)
    };
    for (extra, param) in [
        (json!({ "temprature": 1 }), "temprature"),
        (json!({ "temperature": "hot" }), "temperature"),
        (json!({ "temperature": -1 }), "temperature"),
        (json!({ "audio": { "voice": "x" } }), "audio"),
        (json!({ "best_of": 2 }), "best_of"),
        (json!({ "n": 0 }), "n"),
        (json!({ "n": 1_000_000 }), "n"),
        (json!({ "top_logprobs": 2 }), "top_logprobs"),
        (json!({ "logit_bias": { "x": 1 } }), "logit_bias"),
        (json!({ "logit_bias": { "99999999": 1 } }), "logit_bias"),
        (json!({ "stop": ["a", ""] }), "stop[1]"),
        (json!({ "modalities": ["audio"] }), "modalities"),
        (json!({ "service_tier": "flex" }), "service_tier"),
        (json!({ "stream_options": {} }), "stream_options"),
        (json!({ "messages": [] }), "messages"),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "http://169.254.169.254/" } }] }] }),
            "messages[0].content[0].type",
        ),
        (json!({ "messages": [{ "role": "king", "content": "x" }] }), "messages[0].role"),
        (json!({ "messages": [{ "role": "user", "content": "x", "colour": 1 }] }), "messages[0].colour"),
        (json!({ "max_tokens": 0 }), "max_tokens"),
        (json!({ "seed": 0.5 }), "seed"),
    ] {
        let response = chat(extra.clone());
        assert_eq!(response.status, 400, "{extra}: {}", response.text());
        let error = response.json()["error"].clone();
        assert_eq!(error["param"], param, "{error}");
        assert!(error["message"].as_str().unwrap().len() > 10);
    }
    assert_eq!(
        chat(json!({ "audio": null, "temperature": null, "seed": -1, "user": "u", "logit_bias": { "5": -100 } }))
            .status,
        200
    );
    assert_eq!(chat(json!({ "model": "gpt-nothing" })).status, 404);
    let long = "word ".repeat(3000);
    let response = chat(json!({ "messages": user(&long) }));
    assert_eq!((response.status, &response.json()["error"]["code"]), (400, &json!("context_length_exceeded")));
}

#[test]
fn logit_bias_and_penalties_reach_the_sampler() {
    let served = serve();
    let ask = |extra: Value| {
        let mut form =
            json!({ "prompt": "Once upon a time", "max_tokens": 1, "temperature": 0, "return_token_ids": true });
        form.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        served.post("/v1/completions", &form).json()["choices"][0]["token_ids"][0].as_u64().unwrap()
    };
    let first = ask(json!({}));
    assert_ne!(ask(json!({ "logit_bias": { first.to_string(): -100 } })), first);
    assert_eq!(ask(json!({ "logit_bias": { "40": 100 } })), 40);
    assert_eq!(ask(json!({ "allowed_token_ids": [41] })), 41);
}

#[test]
fn models_are_listed_for_both_clients() {
    let served = serve();
    let list = served.get("/v1/models").json();
    assert_eq!(list["data"][0]["id"], "stories");
    assert_eq!(list["data"][0]["object"], "model");
    assert_eq!(list["first_id"], "stories");
    assert_eq!(served.get("/v1/models/stories").json()["id"], "stories");
    assert_eq!(served.get("/v1/models/none").status, 404);
}

#[test]
fn a_text_survives_tokens_and_back() {
    let served = serve();
    let text = "Once upon a time, there was a cat.";
    let tokens = served.post("/tokenize", &json!({ "prompt": text, "add_special_tokens": false })).json();
    assert_eq!(tokens["count"], tokens["tokens"].as_array().unwrap().len());
    let back = served.post("/detokenize", &json!({ "tokens": tokens["tokens"] })).json();
    assert_eq!(back["prompt"], text);
    let rendered = served.post("/v1/chat/completions/render", &json!({ "messages": user("hello there") })).json();
    assert!(rendered["prompt"].as_str().unwrap().contains("hello there"));
    let same = served.post("/tokenize", &json!({ "messages": user("hello there") })).json();
    assert_eq!(same["tokens"], rendered["token_ids"]);
}

#[test]
fn structure_is_enforced_in_every_dialect() {
    let served = serve();
    let schema = json!({
        "type": "object",
        "properties": { "colour": { "enum": ["red", "green"] }, "count": { "type": "integer", "minimum": 0, "maximum": 9 } },
        "required": ["colour", "count"], "additionalProperties": false,
    });
    let fits = |text: &str| {
        let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert!(["red", "green"].contains(&value["colour"].as_str().unwrap()), "{text}");
        assert!((0..=9).contains(&value["count"].as_i64().unwrap()), "{text}");
    };
    for seed in 0..3 {
        let format = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema } });
        let form = json!({ "messages": user("a fish"), "seed": seed, "max_tokens": 100, "response_format": format });
        let answer = served.post("/v1/chat/completions", &form).json();
        fits(answer["choices"][0]["message"]["content"].as_str().unwrap());
        let options = json!({ "seed": seed, "num_predict": 100 });
        let form = json!({ "messages": user("a fish"), "format": schema, "stream": false, "options": options });
        fits(served.post("/api/chat", &form).json()["message"]["content"].as_str().unwrap());
    }
    let choice = json!({ "prompt": "Once", "structured_outputs": { "choice": ["alpha", "beta"] }, "max_tokens": 20 });
    let text = served.post("/v1/completions", &choice).json()["choices"][0]["text"].clone();
    assert!(["alpha", "beta"].contains(&text.as_str().unwrap()), "{text}");
    let regex = json!({ "prompt": "Once", "structured_outputs": { "regex": "[0-9]{3}-[a-z]{2}" }, "max_tokens": 20 });
    let text = served.post("/v1/completions", &regex).json()["choices"][0]["text"].as_str().unwrap().to_owned();
    assert!(text.len() == 6 && text.as_bytes()[3] == b'-', "{text}");
    for wrong in [json!({}), json!({ "regex": "(" }), json!({ "choice": ["a"], "regex": "a" }), json!({ "json": "{" })]
    {
        let form = json!({ "prompt": "Once", "structured_outputs": wrong });
        assert_eq!(served.post("/v1/completions", &form).status, 400, "{form}");
    }
}

#[test]
fn responses_are_remembered_continued_cancelled_and_forgotten() {
    let served = serve();
    let form = json!({ "input": "a fish", "max_output_tokens": 12, "temperature": 0, "metadata": { "k": "v" } });
    let first = served.post("/v1/responses", &form).json();
    assert_eq!((&first["object"], &first["status"]), (&json!("response"), &json!("incomplete")));
    let id = first["id"].as_str().unwrap();
    assert_eq!(served.get(&format!("/v1/responses/{id}")).json(), first);
    let items = served.get(&format!("/v1/responses/{id}/input_items")).json();
    assert_eq!(items["data"][0]["content"], "a fish");
    let mut streamed = form.clone();
    streamed["stream"] = true.into();
    let events = served.post("/v1/responses", &streamed).events();
    let text: String = events
        .iter()
        .filter(|e| e["type"] == "response.output_text.delta")
        .map(|e| e["delta"].as_str().unwrap())
        .collect();
    assert_eq!(text, first["output"][0]["content"][0]["text"]);
    assert!((0..).zip(&events).all(|(i, e)| e["sequence_number"] == i));
    assert_eq!(events.last().unwrap()["type"], "response.incomplete");
    let next = json!({ "input": "and a dog", "previous_response_id": id, "max_output_tokens": 4 });
    assert_eq!(served.post("/v1/responses", &next).json()["previous_response_id"], id);
    // In the background, to the end and not.
    let back = json!({ "input": "a fish", "max_output_tokens": 12, "temperature": 0, "background": true });
    let queued = served.post("/v1/responses", &back).json();
    assert_eq!(queued["status"], "queued");
    let path = format!("/v1/responses/{}", queued["id"].as_str().unwrap());
    let done = (0..600).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        Some(served.get(&path).json()).filter(|r| r["status"] != "queued" && r["status"] != "in_progress")
    });
    assert_eq!(done.unwrap()["output"][0]["content"], first["output"][0]["content"]);
    assert_eq!(served.post(&format!("{path}/cancel"), &json!({})).status, 409);
    assert_eq!(served.ask("DELETE", &path, &[], b"").json()["deleted"], true);
    assert_eq!(served.get(&path).status, 404);
    let forgotten = json!({ "input": "x", "store": false, "max_output_tokens": 2 });
    let id = served.post("/v1/responses", &forgotten).json()["id"].as_str().unwrap().to_owned();
    assert_eq!(served.get(&format!("/v1/responses/{id}")).status, 404);
    for wrong in [
        json!({ "input": [] }),
        json!({ "input": 5 }),
        json!({ "input": "x", "truncation": "auto" }),
        json!({ "input": "x", "tools": [{}] }),
        json!({ "input": [{ "type": "item_reference", "id": "x" }] }),
        json!({ "input": "x", "background": true, "store": false }),
    ] {
        assert_eq!(served.post("/v1/responses", &wrong).status, 400, "{wrong}");
    }
    let lost = json!({ "input": "x", "previous_response_id": "../../x" });
    assert_eq!(served.post("/v1/responses", &lost).status, 404);
}

#[test]
fn vectors_and_judgements() {
    let served = serve();
    let made = served.post("/v1/embeddings", &json!({ "input": ["a fish", "a dog", "a fish"] })).json();
    let vector = |i: usize| made["data"][i]["embedding"].clone();
    assert_eq!(vector(0), vector(2));
    assert_ne!(vector(0), vector(1));
    assert_eq!(served.post("/api/embed", &json!({ "input": "a fish" })).json()["embeddings"][0], vector(0));
    let order = json!({ "query": "a fish", "documents": ["a red house", "a fish"], "return_documents": true });
    let ranked = served.post("/v1/rerank", &order).json();
    assert_eq!(ranked["results"][0]["index"], 1);
    assert!((ranked["results"][0]["relevance_score"].as_f64().unwrap() - 1.0).abs() < 1e-6);
    let classes = served.post("/v1/classify", &json!({ "input": "a fish", "labels": ["red", "green"] })).json();
    let sum: f64 = classes["data"][0]["probs"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-9);
}

#[test]
fn decisions_are_calibrated() {
    let served = serve();
    let asked = |state: Value| {
        let questions = json!({
            "q": { "type": "choice", "instructions": "which?", "criteria": { "a": null, "b": "the other one" } },
            "s": { "type": "score", "instructions": "how much?", "criteria": ["little", "some", "much"] },
            "n": { "type": "noul", "instructions": "is it so?" },
        });
        served.post("/v1/systemone", &json!({ "state": state, "questions": questions })).json()
    };
    let decided = asked(json!({ "x": 1 }));
    let answers = &decided["answers"];
    let sum = |answer: &Value| {
        answer["probabilities"].as_object().unwrap().values().map(|p| p.as_f64().unwrap()).sum::<f64>()
    };
    assert!((sum(&answers["q"]) - 1.0).abs() < 1e-9 && (sum(&answers["s"]) - 1.0).abs() < 1e-9, "{decided}");
    let chosen = answers["q"]["choice"].as_str().unwrap();
    assert_eq!(answers["q"]["probabilities"][chosen], answers["q"]["confidence"]);
    let expected: f64 =
        (0..3).map(|i| f64::from(i) * answers["s"]["probabilities"][i.to_string()].as_f64().unwrap()).sum();
    assert!((answers["s"]["score"].as_f64().unwrap() - expected).abs() < 1e-9);
    assert_eq!(answers["s"]["legend"]["2"], "much");
    // Where nothing is known nothing is likelier, however much the model prefers a word.
    let blank = asked(json!(""));
    let near = |found: &Value, expected: f64| (found.as_f64().unwrap() - expected).abs() < 1e-6;
    assert!(near(&blank["answers"]["n"]["noul"], 0.5) && near(&blank["answers"]["s"]["score"], 1.0), "{blank}");

    let asked = json!({ "input": [{ "role": "user", "content": "a fish" }], "questions": [
        { "type": "choice", "name": "q", "instructions": "which?", "choices": [{ "value": true }, { "value": "maybe", "description": "who knows" }] },
        { "type": "predicate", "instructions": "It is a fish." },
        { "type": "score", "instructions": [{ "type": "input_text", "text": "how much?" }], "levels": [{ "label": "low" }, { "label": "high" }] },
    ] });
    let decided = served.post("/v1/decisions", &asked).json();
    let kinds: Vec<&str> = decided["answers"].as_array().unwrap().iter().map(|a| a["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["choice", "predicate", "score"], "{decided}");
    assert!([json!(true), json!("maybe")].contains(&decided["answers"][0]["choice"]));
    assert!((0.0..=1.0).contains(&decided["answers"][1]["probability"].as_f64().unwrap()));
    let twice = json!({ "input": "x", "questions": [{ "type": "choice", "instructions": "?", "choices": [{ "value": "a" }, { "value": "a" }] }] });
    assert_eq!(served.post("/v1/decisions", &twice).json()["error"]["param"], "questions[0]");
}
