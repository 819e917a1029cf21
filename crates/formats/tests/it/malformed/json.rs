//! Configuration files with something wrong, and with what only looks wrong.

use super::{Says, check, malformed};
use allod_formats::json;
use std::path::Path;

#[test]
fn every_kind_is_refused_with_a_reason() {
    let deep = "[".repeat(100_000);
    let kinds: [(&str, &[u8], Says); 6] = [
        ("empty file", b"", malformed("JSON, line 1 column 0", "valid JSON", "EOF")),
        ("JSON that stops", b"{\n \"a\": 1,", malformed("JSON, line 2", "valid JSON", "EOF")),
        ("comment", b"{ // no\n}", malformed("JSON, line 1", "valid JSON", "key must be a string")),
        ("string not in UTF-8", b"{\"a\": \"\xff\"}", malformed("JSON, line 1", "valid JSON", "invalid unicode")),
        ("JSON of 100,000 levels", deep.as_bytes(), malformed("JSON", "valid JSON", "recursion limit")),
        ("word that is none", b"{\"a\": Infinite}", malformed("JSON, line 1", "valid JSON", "expected value")),
    ];
    for (kind, text, says) in &kinds {
        let path = Path::new("m/config.json");
        check(kind, path, json::config(path, text), says);
    }
}

#[test]
fn what_python_writes_is_read() {
    let read = |text: &str| json::config(Path::new("m/config.json"), text.as_bytes()).unwrap();
    let limits = read(r#"{"limit": [0.0, Infinity, -Infinity], "x": NaN, "text": "NaN \" Infinity"}"#);
    assert_eq!(limits["limit"][1]["__float__"], "Infinity");
    assert_eq!(limits["limit"][2]["__float__"], "-Infinity");
    assert_eq!(limits["x"]["__float__"], "NaN");
    assert_eq!(limits["text"], "NaN \" Infinity");
    assert_eq!(read(r#"{"a": 1, "a": 2}"#)["a"], 2);
    assert_eq!(read("\u{feff}{}"), serde_json::json!({}));
}
