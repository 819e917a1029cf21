//! What templates render comes back from the parser that was learned from them, however the text is cut.

use crate::grammar::walk::{Walk, walk};
use crate::grammar::{VOCABULARIES, text};
use allod_text::output::{Answer, Choice, Format, Otherwise, Parser};
use allod_text::{Conversation, Grammar, Special, Template};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

fn templates() -> BTreeMap<String, String> {
    let Some(data) = allod_testkit::data() else { return BTreeMap::new() };
    let files = std::fs::read_dir(data.join("templates")).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|e| e == "jinja"));
    files
        .map(|p| (p.file_stem().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(&p).unwrap()))
        .collect()
}

fn variables() -> Map<String, Value> {
    let tokens = json!({"bos_token": "<BOS>", "eos_token": "<EOS>"});
    tokens.as_object().unwrap().clone()
}

fn tools() -> Value {
    let weather = json!({"type": "object", "properties": {"location": {"type": "string", "description": "where"},
        "days": {"type": "integer", "description": "how many"}, "exact": {"type": "boolean", "description": "?"},
        "area": {"type": "object", "description": "area", "properties": {}}}, "required": ["location"]});
    json!([
        {"type": "function", "function": {"name": "get_weather", "description": "Weather.", "parameters": weather}},
        {"type": "function", "function": {"name": "get_time", "description": "Time.",
            "parameters": {"type": "object", "properties": {}, "required": []}}},
    ])
}

/// What a template renders for an answer, after the prompt, and the prompt.
fn rendered(template: &Template, answer: &Value) -> Option<(String, String)> {
    let user = json!({"role": "user", "content": "How is it there?"});
    let render = |messages: Value, prompt: bool| {
        let conversation = Conversation {
            messages,
            tools: tools(),
            add_generation_prompt: prompt,
            variables: variables(),
            now: Some(1_772_892_309),
            ..Conversation::default()
        };
        template.render(&conversation).ok().map(|r| r.text)
    };
    let whole = render(json!([user, answer]), false)?;
    let prompt = render(json!([user]), true)?;
    let shared: usize = whole.chars().zip(prompt.chars()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum();
    // Where the prompt says that there is no reasoning, the rendered turn may still have some.
    let mut cut = shared;
    while cut < whole.len() && cut < prompt.len() && !prompt[..cut].ends_with(['>', '\n', ']']) {
        cut -= whole[..cut].chars().next_back().map_or(0, char::len_utf8);
    }
    // Tokens that end an answer never reach the parser.
    let ends = ["<|eom_id|>", "<|tool_response>", "<｜hy_eos:opensource｜>", "<SPECIAL_12>\n\n"];
    let turn = ends.iter().fold(&whole[cut..], |turn, end| turn.strip_suffix(end).unwrap_or(turn));
    Some((prompt[..cut].to_owned(), turn.to_owned()))
}

fn calls(as_text: bool, telling_id: bool, count: usize) -> Value {
    let arguments =
        [json!({"location": "Zür\"ich\n<b>&", "days": 3, "exact": true, "area": {"r": [1, "x"]}}), json!({})];
    let call = |(i, name): (usize, &str)| {
        let arguments = if as_text { arguments[i].to_string().into() } else { arguments[i].clone() };
        let id = if telling_id { format!("functions.{name}:{i}") } else { format!("callid00{i}") };
        json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
    };
    ["get_weather", "get_time"].into_iter().enumerate().take(count).map(call).collect()
}

/// The same answer, in pieces of every size.
fn parse(format: &Format, prompt: &str, text: &str) -> Answer {
    let whole = Parser::new(format, prompt, &tools()).whole(text);
    let chars: Vec<char> = text.chars().collect();
    for size in [1, 2, 3, 7, 30] {
        let mut parser = Parser::new(format, prompt, &tools());
        let mut answer = Answer::default();
        for piece in chars.chunks(size) {
            parser.push(&piece.iter().collect::<String>()).into_iter().for_each(|event| answer.take(event));
        }
        parser.finish().into_iter().for_each(|event| answer.take(event));
        assert_eq!(answer, whole, "pieces of {size} of {text:?}");
    }
    whole
}

fn arguments(answer: &Answer) -> Vec<(String, Value)> {
    let value = |call: &allod_text::output::Call| {
        serde_json::from_str(&call.arguments).unwrap_or(Value::String(call.arguments.clone()))
    };
    answer.calls.iter().map(|call| (call.name.clone(), value(call))).collect()
}

/// Answers with calls: what the template renders of them comes back. True when it renders calls.
fn check_calls(name: &str, template: &Template, format: &Format, failures: &mut Vec<String>) -> bool {
    for (as_text, telling_id) in [(false, false), (true, false), (false, true), (true, true)] {
        for count in [2, 1] {
            let expected = calls(false, false, count);
            let expected = expected.as_array().unwrap().iter().map(|c| &c["function"]);
            let expected: Vec<(String, Value)> =
                expected.map(|f| (f["name"].as_str().unwrap().to_owned(), f["arguments"].clone())).collect();
            let mut shown = false;
            for (content, reasoning) in [("", ""), ("Let me see.", ""), ("", "They ask\nme.")] {
                let calls = calls(as_text, telling_id, count);
                let mut answer = json!({"role": "assistant", "content": content, "tool_calls": calls});
                if !reasoning.is_empty() {
                    answer["reasoning_content"] = reasoning.into();
                }
                let Some((prompt, text)) = rendered(template, &answer) else { continue };
                if !text.contains("get_weather") || !text.contains("ich") || text.contains("\\\"days\\\"") {
                    continue;
                }
                // Some templates render the first call only.
                let expected = &expected[..if text.contains("get_time") { count } else { 1 }];
                shown = true;
                let parsed = parse(format, &prompt, &text);
                let shows_content = text.contains(content) && text.find(content) <= text.find("get_weather");
                let content = if shows_content { content } else { "" };
                let reasoning = if text.contains("They ask") { reasoning } else { "" };
                let after = text.contains("Let me") && content.is_empty();
                // Content beside calls that the template writes as reasoning, or where reasoning has begun.
                let thought = !content.is_empty() && parsed.content.is_empty() && parsed.reasoning.starts_with(content);
                let same =
                    thought || (after || parsed.content.trim() == content) && parsed.reasoning.trim() == reasoning;
                if arguments(&parsed) != expected || !same {
                    let prompt =
                        prompt.chars().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect::<String>();
                    failures.push(format!("{name}\n  {prompt:?}\n  {text:?}\n  {parsed:?}\n  {format:?}"));
                    return true;
                }
            }
            if shown {
                return true;
            }
        }
    }
    false
}

fn check_content(name: &str, template: &Template, format: &Format, failures: &mut Vec<String>) {
    let answers = [("It is *fine*.\n\nReally <b>so</b>.", ""), ("Fine.", "They ask\nme."), ("{\"a\": 1}", "")];
    for (content, reasoning) in answers {
        let mut answer = json!({"role": "assistant", "content": content});
        if !reasoning.is_empty() {
            answer["reasoning_content"] = reasoning.into();
        }
        let Some((prompt, text)) = rendered(template, &answer) else { continue };
        let parsed = parse(format, &prompt, &text);
        let expected = if text.contains("They ask") { reasoning } else { "" };
        // Some templates write an answer without reasoning where reasoning has begun; no model does.
        let unended = parsed.content.is_empty() && parsed.reasoning.starts_with(content);
        if unended {
            continue;
        }
        if parsed.content.trim() != content || parsed.reasoning.trim() != expected || !parsed.calls.is_empty() {
            let prompt = prompt.chars().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect::<String>();
            failures.push(format!("{name} content\n  {prompt:?}\n  {text:?}\n  {parsed:?}\n  {format:?}"));
        }
    }
}

#[test]
fn templates_come_back() {
    let mut failures = Vec::new();
    let mut with_calls = 0;
    for (name, source) in templates() {
        let checked = std::panic::catch_unwind(|| {
            let mut failures = Vec::new();
            let template = Template::new(&source).unwrap();
            let format = Format::learn(&template, &variables());
            let shown = check_calls(&name, &template, &format, &mut failures);
            if shown != format.has_calls() {
                println!("{name}: shows calls {shown}, learned {}", format.has_calls());
            }
            check_content(&name, &template, &format, &mut failures);
            (shown, failures)
        });
        match checked {
            Ok((shown, found)) => {
                with_calls += usize::from(shown);
                failures.extend(found);
            }
            Err(_) => failures.push(format!("{name}: panicked")),
        }
    }
    if !templates().is_empty() {
        assert!(with_calls >= 56, "{with_calls} templates render calls");
    }
    assert!(failures.is_empty(), "{} failures, {with_calls} with calls\n{}", failures.len(), failures.join("\n\n"));
}

/// Tools with schemas that leave little, and the schemas.
fn held_tools() -> (Value, Value, Value) {
    let weather = json!({"type": "object", "properties": {"unit": {"type": "string", "enum": ["celsius", "kelvin"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9}, "exact": {"type": "boolean"}},
        "required": ["unit", "exact"], "additionalProperties": false});
    let time = json!({"type": "object", "properties": {}, "additionalProperties": false});
    let tools = json!([
        {"type": "function", "function": {"name": "get_weather", "description": "Weather.", "parameters": weather}},
        {"type": "function", "function": {"name": "get_time", "description": "Time.", "parameters": time}},
    ]);
    (tools, weather, time)
}

/// Where calls are offered, text and calls may come, and what begins like a call has to be a valid one.
#[test]
fn offered_calls() {
    let Some((tokenizer, vocabulary)) = VOCABULARIES.first() else { return };
    let (tools, weather, _) = held_tools();
    let (mut enforced, mut failures) = (0, Vec::new());
    for (name, source) in templates() {
        let format = Format::learn(&Template::new(&source).unwrap(), &variables());
        let Ok(spec) = format.offered(&tools, true, &Otherwise::Text, tokenizer) else { continue };
        enforced += 1;
        let grammar = match Grammar::compile(&spec, vocabulary) {
            Ok(grammar) => grammar,
            Err(error) => {
                failures.push(format!("{name}: {spec:?}\n  {error}"));
                continue;
            }
        };
        let forced = format.forced(&tools, Choice::Named("get_weather"), tokenizer).unwrap();
        let forced = Grammar::compile(&forced, vocabulary).unwrap();
        let call = text(tokenizer, &walk(&forced, tokenizer, Walk { seed: 7, patience: 100 }));
        let takes = |text: &str| {
            let ids = tokenizer.encode(text, Special::PARSE).unwrap();
            let mut matcher = grammar.matcher();
            let whole = matcher.allowed(&ids).unwrap() == ids.len();
            whole && ids.iter().all(|&id| matcher.accept(id).is_ok()) && matcher.is_accepting()
        };
        let bare = call.trim_start().starts_with(['{', '[']);
        let led = if bare { call.trim().to_owned() } else { format!("Let me see: a < b.\n{}", call.trim_start()) };
        let broken = led.replacen("exact", "exakt", 1);
        let found = [takes("It is warm, as a < b shows."), takes(&led), !takes(&broken)];
        if found != [true; 3] {
            failures.push(format!("{name}: {found:?} {led:?}\n  {spec:?}"));
        }
    }
    assert!(failures.is_empty(), "{} of {enforced}\n{}", failures.len(), failures.join("\n\n"));
    if !templates().is_empty() {
        assert!(enforced >= 45, "{enforced}");
    }
    // Calls or an answer in JSON.
    let Some(source) = templates().remove("Qwen-Qwen3-0.6B") else { return };
    let format = Format::learn(&Template::new(&source).unwrap(), &variables());
    let spec = format.offered(&tools, false, &Otherwise::Json(weather), tokenizer).unwrap();
    let grammar = Grammar::compile(&spec, vocabulary).unwrap();
    for (text, whole) in [
        ("{\"unit\": \"kelvin\", \"exact\": true}", true),
        ("<tool_call>\n{\"name\": \"get_time\", \"arguments\": {}}\n</tool_call>", true),
        ("It is warm.", false),
    ] {
        let ids = tokenizer.encode(text, Special::PARSE).unwrap();
        assert_eq!(grammar.matcher().allowed(&ids).unwrap() == ids.len(), whole, "{text} {spec:?}");
    }
}

/// Under the grammar for forced calls every answer is calls, and every call keeps to its tool's schema.
#[test]
fn forced_calls() {
    let Some((tokenizer, vocabulary)) = VOCABULARIES.first() else { return };
    let (tools, weather, time) = held_tools();
    let validators = [&weather, &time].map(|schema| jsonschema::validator_for(schema).unwrap());
    let (mut enforced, mut failures) = (0, Vec::new());
    for (name, source) in templates() {
        let format = Format::learn(&Template::new(&source).unwrap(), &variables());
        if !format.has_calls() {
            continue;
        }
        for choice in [Choice::Required { parallel: true }, Choice::Named("get_weather")] {
            let Ok(spec) = format.forced(&tools, choice, tokenizer) else {
                println!("{name}: calls cannot be enforced");
                break;
            };
            enforced += 1;
            let grammar = match Grammar::compile(&spec, vocabulary) {
                Ok(grammar) => grammar,
                Err(error) => {
                    failures.push(format!("{name}: {spec:?}\n  {error}"));
                    continue;
                }
            };
            for seed in 0..3 {
                let written = text(tokenizer, &walk(&grammar, tokenizer, Walk { seed, patience: 100 }));
                let answer = Parser::new(&format, "", &tools).whole(&written);
                let fits = |call: &(String, Value)| match call.0.as_str() {
                    "get_weather" => validators[0].is_valid(&call.1),
                    "get_time" => choice != Choice::Named("get_weather") && validators[1].is_valid(&call.1),
                    _ => false,
                };
                let calls = arguments(&answer);
                if calls.is_empty() || !calls.iter().all(fits) || !answer.content.trim().is_empty() {
                    failures.push(format!("{name}: {written:?}\n  {answer:?}\n  {spec:?}"));
                    break;
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} of {enforced}\n{}", failures.len(), failures.join("\n\n"));
    assert!(enforced >= 100, "{enforced}");
}

/// Free text in an argument may hold anything but its own end.
#[test]
fn forced_free_text() {
    let Some((tokenizer, vocabulary)) = VOCABULARIES.first() else { return };
    let Some(source) = templates().remove("Qwen3-Coder") else { return };
    let format = Format::learn(&Template::new(&source).unwrap(), &variables());
    let spec = format.forced(&tools(), Choice::Named("get_weather"), tokenizer).unwrap();
    let grammar = Grammar::compile(&spec, vocabulary).unwrap();
    let call = "<tool_call>\n<function=get_weather>\n<parameter=location>\na < b[0] </p>\n\n</parameter>\n<parameter=days>\n3\n\
                </parameter>\n</function>\n</tool_call>";
    let ids = tokenizer.encode(call, Special::PARSE).unwrap();
    let mut matcher = grammar.matcher();
    let allowed = matcher.allowed(&ids).unwrap();
    assert_eq!(allowed, ids.len(), "{:?} {spec:?}", tokenizer.decode(&ids[..allowed], false));
    let other = tokenizer.encode("<tool_call>\n<function=get_time>", Special::PARSE).unwrap();
    assert!(matcher.allowed(&other).unwrap() < other.len());
}
