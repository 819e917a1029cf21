//! Chat templates against Transformers' renderer (goldens made by `scripts/goldens/templates.py`).

use allod_text::template::Error;
use allod_text::{Conversation, Template};
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
