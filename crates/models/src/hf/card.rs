//! The head of a model card, `README.md`, as llama.cpp's converter carries it over: licence, what the model was made
//! from, languages, tags. Of YAML, as much as such heads use: scalars, and lists of scalars in either notation.

use allod_formats::{Array, Metadata, Value};
use std::collections::BTreeMap;

/// A head longer than this is none.
const MOST: usize = 1 << 20;

/// Adds what `text` says to `meta`.
pub(super) fn read(text: &str, meta: &mut Metadata) {
    let card = front_matter(text);
    let list =
        |names: &[&str]| -> Vec<String> { names.iter().filter_map(|n| card.get(*n)).flatten().cloned().collect() };
    for (key, name) in [("general.license.name", "license_name"), ("general.license.link", "license_link")] {
        if let [one] = &list(&[name])[..] {
            meta.set(key, one.as_str());
        }
    }
    let licenses = list(&["license"]);
    if !licenses.is_empty() {
        meta.set("general.license", licenses.join(","));
    }
    sources(meta, "base_model", &list(&["base_model", "base_models"]));
    sources(meta, "dataset", &list(&["datasets", "dataset"]));
    for (key, names) in [("general.tags", ["tags", "pipeline_tag"]), ("general.languages", ["languages", "language"])] {
        let all = list(&names);
        if !all.is_empty() {
            meta.set(key, Value::Array(Array::String(all)));
        }
    }
}

/// Models or data sets that this one was made from.
fn sources(meta: &mut Metadata, kind: &str, ids: &[String]) {
    if ids.is_empty() {
        return;
    }
    meta.set(format!("general.{kind}.count"), ids.len() as u32);
    for (i, id) in ids.iter().enumerate() {
        let mut set = |field: &str, value: String| meta.set(format!("general.{kind}.{i}.{field}"), value);
        let is_url = ["http://", "https://", "ssh://"].iter().any(|p| id.starts_with(p));
        let parts: Vec<&str> = id.strip_prefix("https://huggingface.co/").unwrap_or(id).split('/').collect();
        match parts[..] {
            [name] if !is_url => set("name", title(name)),
            [organization, name] => {
                set("name", title(name));
                set("organization", title(organization));
                set("repo_url", format!("https://huggingface.co/{organization}/{name}"));
            }
            _ => set("repo_url", id.clone()),
        }
    }
}

/// Words of an id with great first letters, except acronyms and numbers.
fn title(id: &str) -> String {
    let word = |w: &str| {
        let mut letters = w.chars();
        let is_version = w.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit());
        match letters.next() {
            Some(first) if !is_version && !w.chars().any(char::is_uppercase) => {
                first.to_uppercase().chain(letters).collect()
            }
            _ => w.to_owned(),
        }
    };
    id.replace('-', " ").split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

/// Keys and their values between the two lines of dashes at the start.
fn front_matter(text: &str) -> BTreeMap<String, Vec<String>> {
    let text = text.trim_start_matches('\u{feff}');
    let mut card: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let Some(head) = text.strip_prefix("---").and_then(|t| t.split_once("\n---")).map(|t| t.0) else { return card };
    let mut current = String::new();
    for line in head.get(..MOST.min(head.len())).unwrap_or_default().lines() {
        let inner = line.trim();
        if let Some(item) = inner.strip_prefix("- ") {
            if !is_pair(item) {
                card.entry(current.clone()).or_default().push(plain(item));
            }
        } else if line.starts_with(|c: char| c.is_alphanumeric())
            && let Some((key, value)) = inner.split_once(':')
        {
            current = key.trim().to_owned();
            let value = value.trim();
            let items: Vec<String> = match value.strip_prefix('[').and_then(|v| v.strip_suffix(']')) {
                Some(list) => list.split(',').map(plain).collect(),
                None => vec![plain(value)],
            };
            card.entry(current.clone()).or_default().extend(items.into_iter().filter(|v| !v.is_empty()));
        }
    }
    card
}

/// True for an item that is itself a mapping, as results of evaluations are.
fn is_pair(item: &str) -> bool {
    item.contains(": ") || item.ends_with(':')
}

/// A scalar without its quotes and comment.
fn plain(text: &str) -> String {
    let text = text.trim();
    for quote in ['"', '\''] {
        if let Some((inner, _)) = text.strip_prefix(quote).and_then(|t| t.split_once(quote)) {
            return inner.to_owned();
        }
    }
    text.split(" #").next().unwrap_or_default().trim().to_owned()
}
