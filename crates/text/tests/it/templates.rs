//! Chat templates against Transformers' renderer (goldens made by `scripts/goldens/templates.py`).

use allod_text::template::Error;
use allod_text::{Conversation, Template, Templates};
use serde_json::Value;

/// The goldens: a first line with the conversations, then one a template.
fn goldens() -> (Value, Vec<Value>) {
    let mut lines = include_str!("goldens/templates.jsonl").lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    (lines.next().unwrap(), lines.collect())
}

fn fnv1a(text: &str) -> String {
    let hash = text.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
    format!("{hash:016x}")
}

fn conversation(head: &Value, label: &str, prompt: bool) -> Conversation {
    let case = &head["conversations"][label];
    let mut variables = head["tokens"].as_object().unwrap().clone();
    for (key, value) in case.get("kwargs").and_then(Value::as_object).into_iter().flatten() {
        variables.insert(key.clone(), value.clone());
    }
    Conversation {
        messages: case["messages"].clone(),
        tools: case.get("tools").cloned().unwrap_or_default(),
        documents: case.get("documents").cloned().unwrap_or_default(),
        add_generation_prompt: prompt,
        variables,
        now: head["unix_seconds"].as_u64(),
    }
}

/// Compares one rendering with its golden; what differs, if anything.
fn difference(template: &Template, conversation: &Conversation, golden: &Value) -> Option<String> {
    let rendered = template.render(conversation);
    if let Some(message) = golden.get("raise") {
        return match rendered {
            Err(Error::Refused(found)) if message == found.as_str() => None,
            found => Some(format!("expected to be refused with {message}, found {found:?}")),
        };
    }
    if let Some(kind) = golden.get("error") {
        return match rendered {
            Err(Error::Render { .. }) => None,
            Err(Error::Limit(_)) if kind == "RecursionError" => None,
            found => Some(format!("expected an error ({kind}), found {found:?}")),
        };
    }
    let rendered = match rendered {
        Ok(rendered) => rendered,
        Err(error) => return Some(format!("{error:?}")),
    };
    let text = &rendered.text;
    if golden["hash"] != fnv1a(text).as_str() {
        let expected = golden.get("text").map_or_else(String::new, |t| format!("\n{t}"));
        return Some(format!(
            "expected {} characters, found {}: {text:?}{expected}",
            golden["chars"],
            text.chars().count()
        ));
    }
    let chars = |byte: usize| text[..byte].chars().count();
    let spans: Vec<[usize; 2]> = rendered.generated.iter().map(|r| [chars(r.start), chars(r.end)]).collect();
    let expected: Vec<[usize; 2]> =
        golden.get("spans").map_or_else(Vec::new, |s| serde_json::from_value(s.clone()).unwrap());
    (spans != expected).then(|| format!("expected spans {expected:?}, found {spans:?}"))
}

#[test]
fn every_template_as_transformers() {
    let Some(data) = allod_testkit::data() else { return };
    let (head, lines) = goldens();
    assert_eq!(lines.len(), 70);
    let (mut checked, mut failures) = (0, Vec::new());
    for line in &lines {
        let name = line["template"].as_str().unwrap();
        let source = std::fs::read_to_string(data.join("templates").join(name)).unwrap();
        let template = match Template::new(&source) {
            Ok(template) => template,
            Err(error) => {
                failures.push(format!("{name}: {error}"));
                continue;
            }
        };
        for (label, goldens) in line["cases"].as_object().unwrap() {
            let goldens = goldens.as_array().unwrap();
            for prompt in [false, true] {
                let golden = goldens.get(usize::from(prompt)).unwrap_or(&goldens[0]);
                if let Some(message) = difference(&template, &conversation(&head, label, prompt), golden) {
                    failures.push(format!("{name} {label} {prompt}: {message}"));
                }
                checked += 1;
            }
        }
    }
    let shown: Vec<String> = failures.iter().map(|f| f.chars().take(600).collect()).collect();
    assert!(failures.is_empty(), "{} of {checked}\n{}", failures.len(), shown.join("\n"));
}

fn render(source: &str) -> Result<String, Error> {
    let messages = serde_json::json!([{"role": "user", "content": "Hi"}]);
    Ok(Template::new(source)?.render(&Conversation { messages, ..Conversation::default() })?.text)
}

#[test]
fn hostile_templates_are_given_up() {
    let doubling = format!("{{% set ns = namespace(x='xx') %}}{}", "{% set ns.x = ns.x ~ ns.x %}".repeat(60));
    let limits = [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}x{% endfor %}{% endfor %}{% endfor %}",
        "{{ 'x' * 90000000 }}",
        &doubling,
        "{% for a in range(100000) %}{{ messages[0].content * 100000 }}{% endfor %}",
    ];
    for source in limits {
        let error = render(source).expect_err("given up");
        assert!(matches!(error, Error::Limit(_) | Error::Render { .. }), "{source:.60}: {error:?}");
    }
    for source in ["{{ '", "{% if %}", "{% for x in %}", "{{ }}", "{% endfor %}", "{{ x | nothing }}", "{% unknown %}"]
    {
        assert!(render(source).is_err(), "{source}");
    }
    for open in ["{{ (", "{% if 1 %}", "{{ [", "{{ not ", "{{ -", "{{ {1:", "{{ f(", "{% for x in y %}", "{{ 1 ~ "] {
        assert!(render(&open.repeat(20_000)).is_err(), "{open}");
    }
    assert!(matches!(Template::new(&" ".repeat(5 << 20)), Err(Error::Limit(_))));
}

#[test]
fn nothing_outside_is_reachable() {
    for source in [
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{% extends 'x' %}",
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__() }}",
        "{% do messages.append(1) %}",
        "{{ messages.append(1) }}",
        "{{ messages[0].pop('role') }}",
        "{{ self.x() }}",
    ] {
        assert!(render(source).is_err(), "{source}");
    }
}

#[test]
fn messages_must_be_messages() {
    let template = Template::new("{{ messages }}").unwrap();
    for (messages, expected) in [
        (serde_json::json!("hello"), "messages: expected an array"),
        (serde_json::json!([{}, 1]), "messages[1]: expected an object"),
        (Value::Null, "messages: expected an array"),
    ] {
        let error = template.render(&Conversation { messages, ..Conversation::default() }).expect_err("refused");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn errors_name_the_line() {
    let found = [render("a\nb\n{{ x.y.z }}"), render("a\n\n\n{% if %}")].map(|r| r.expect_err("refused").to_string());
    assert!(found[0].starts_with("chat template, line 3: "), "{}", found[0]);
    assert!(found[1].starts_with("chat template, line 4: "), "{}", found[1]);
    let refused = render("{{ raise_exception('Roles must alternate.') }}").expect_err("refused").to_string();
    assert_eq!(refused, "the chat template refuses: Roles must alternate.");
}

/// Small differences between the engine and Python's, each with what Jinja2 3.1.6 gives.
#[test]
fn as_python_prints() {
    let cases = [
        ("{{ {'a': [1, true, none, 1.0, 'it\\'s']} }}", "{'a': [1, True, None, 1.0, \"it's\"]}"),
        ("{{ 1e16 }} {{ 0.00001 }} {{ [1e22] }} {{ 1e16|string + 'x' }}", "1e+16 1e-05 [1e+22] 1e+16x"),
        ("{{ {'b': 1, 'a': '<é>'}|tojson }}", "{\"b\": 1, \"a\": \"<é>\"}"),
        (
            "{{ {'b': 1, 'a': 'é🦙'}|tojson(ensure_ascii=true, sort_keys=true) }}",
            "{\"a\": \"\\u00e9\\ud83e\\udd99\", \"b\": 1}",
        ),
        ("{{ {'a': [1, {}], 'b': []}|tojson(indent=2) }}", "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}"),
        ("{{ [1, 2]|tojson(separators=(',', ':')) }}", "[1,2]"),
        (
            "{{ 'a-b-c'.split('-', 1) }}{{ ' x '.strip() }}{{ 'abc'[::-1] }}{{ 'x'.join(['a', 'b']) }}",
            "['a', 'b-c']xcbaaxb",
        ),
        ("{{ 'prefix-x'.removeprefix('prefix-') }}{{ 'x.y'.partition('.')[2] }}{{ [3, 4].index(4) }}", "xy1"),
        (
            "{{ none is iterable }} {{ undefined is iterable }} {{ 'a' is iterable }} {{ 1 is iterable }}",
            "False True True False",
        ),
        ("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{{ loop.last }}{% endfor %}", "a1True"),
        ("{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m['content'] }}{% break %}{% endfor %}", "1Hi"),
        ("  {% if true %}\n  x\n  {% endif %}\ny\n", "  x\ny"),
        ("{% set ns = namespace(a=1) %}{% for i in [1, 2] %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}", "4"),
        (
            "{{ 'a\\n\\nb\\n'|indent(2) }}|{{ '{\\n'|indent(1, first=true) }}|{{ 'a\\n\\nb'|indent('-', true, true) }}",
            "a\n\n  b\n| {\n|-a\n-\n-b",
        ),
        ("{{ '%s is %d'|format('x', 3) }} {{ 'a {} {b}'.format(1, b=2) }}", "x is 3 a 1 2"),
        (
            "{{ messages|map(attribute='role')|list }}{{ messages|selectattr('role', 'equalto', 'x')|list|length }}",
            "['user']0",
        ),
    ];
    for (source, expected) in cases {
        assert_eq!(render(source).unwrap_or_else(|e| panic!("{source}: {e}")), expected, "{source}");
    }
}

#[test]
fn generation_blocks_are_recorded() {
    let source =
        "{% for m in messages %}<{{ m.role }}>{% generation %}{{ m.content }}é{% endgeneration %}\n{% endfor %}";
    let template = Template::new(source).unwrap();
    assert!(template.marks_generation());
    // The first marks the renderer would choose stand in the text.
    let messages = serde_json::json!([{"role": "a", "content": "\u{F0000}x\u{F0001}"}, {"role": "b", "content": ""}]);
    let rendered = template.render(&Conversation { messages, ..Conversation::default() }).unwrap();
    assert_eq!(rendered.text, "<a>\u{F0000}x\u{F0001}é<b>é");
    let parts: Vec<&str> = rendered.generated.iter().map(|r| &rendered.text[r.clone()]).collect();
    assert_eq!(parts, ["\u{F0000}x\u{F0001}é", "é"]);
}

#[test]
fn a_model_s_templates_are_found() {
    let folder = std::env::temp_dir().join(format!("allod-text-templates-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("additional_chat_templates")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    let load = || Templates::from_folder(&folder);
    assert_eq!(load().unwrap(), Templates::default());
    write("tokenizer_config.json", r#"{"chat_template": "one"}"#);
    assert_eq!(load().unwrap().choose(true), Some("one"));
    write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]}"#,
    );
    let templates = load().unwrap();
    assert_eq!((templates.choose(false), templates.choose(true)), (Some("a"), Some("b")));
    write("chat_template.jinja", "c");
    write("additional_chat_templates/rag.jinja", "d");
    let templates = load().unwrap();
    assert_eq!((templates.choose(true), templates.named["rag"].as_str()), (Some("c"), "d"));
    write("tokenizer_config.json", r#"{"chat_template": 1}"#);
    assert!(load().unwrap_err().to_string().contains("expected a string or a list"));
    std::fs::remove_dir_all(&folder).unwrap();

    let mut meta = allod_formats::Metadata::default();
    meta.set("tokenizer.chat_template", "x");
    meta.set("tokenizer.chat_template.tool_use", "y");
    meta.set("tokenizer.chat_templates", vec!["tool_use".to_owned()]);
    let templates = Templates::from_gguf(&meta);
    assert_eq!((templates.choose(false), templates.choose(true)), (Some("x"), Some("y")));
}
