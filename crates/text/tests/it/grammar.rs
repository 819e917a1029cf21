//! Grammars: whatever a model chooses under a mask is what the grammar asks for, judged by a validator that knows
//! nothing of masks; and nothing that a client sends can hurt.

mod refused;
mod schemas;
pub(crate) mod walk;

use crate::gguf;
use allod_text::grammar::{Spec, Vocabulary};
use allod_text::{Grammar, Tokenizer};
use serde_json::{Value, json};
use std::sync::LazyLock;
use walk::{Walk, walk};

/// Vocabularies of every kind: byte-level, SentencePiece with byte fallback, 262,144 tokens.
pub(crate) static VOCABULARIES: LazyLock<Vec<(Tokenizer, Vocabulary)>> = LazyLock::new(|| {
    let Some(data) = allod_testkit::data() else { return Vec::new() };
    let load = |name| {
        let tokenizer = gguf(&data.join(format!("tokenizer/ggml-vocab-{name}.gguf")));
        let vocabulary = Vocabulary::new(&tokenizer).unwrap();
        (tokenizer, vocabulary)
    };
    ["qwen2", "llama-spm", "gemma-4"].map(load).into()
});

pub(crate) fn text(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id).unwrap().into_owned()).collect();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn two_hundred_schemas() {
    let schemas = schemas::all();
    assert!(schemas.len() >= 200, "{}", schemas.len());
    let mut failures = Vec::new();
    for (n, schema) in schemas.iter().enumerate() {
        let validator = jsonschema::draft202012::options().should_validate_formats(true).build(schema).unwrap();
        let Some((tokenizer, vocabulary)) = VOCABULARIES.get(n % VOCABULARIES.len().max(1)) else { return };
        let grammar = Grammar::compile(&Spec::JsonSchema(schema.clone()), vocabulary)
            .unwrap_or_else(|e| panic!("schema {n} {schema}: {e}"));
        for seed in 0..2 {
            let ids = walk(&grammar, tokenizer, Walk { seed: seed * 1000 + n as u64, ..Walk::default() });
            let written = text(tokenizer, &ids);
            let value: Value = match serde_json::from_str(&written) {
                Ok(value) => value,
                // JSON has numbers that f64 has not.
                Err(error) if error.to_string().contains("number out of range") => continue,
                Err(error) => panic!("{schema}\n{written}\n{error}"),
            };
            if let Err(error) = validator.validate(&value) {
                failures.push(format!("{schema}\n{written}\n{error}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn other_grammars() {
    for (tokenizer, vocabulary) in &*VOCABULARIES {
        let check = |spec: Spec, valid: &dyn Fn(&str) -> bool| {
            let grammar = Grammar::compile(&spec, vocabulary).unwrap();
            for seed in 0..10 {
                let written = text(tokenizer, &walk(&grammar, tokenizer, Walk { seed, ..Walk::default() }));
                assert!(valid(&written), "{spec:?}: {written:?}");
            }
        };
        let objects = |t: &str| serde_json::from_str::<Value>(t).is_ok_and(|v| v.is_object());
        check(Spec::JsonObject, &objects);
        let choices = ["yes", "no", "\"quoted\" \\ \n\u{1}🦙", "no way"].map(String::from);
        check(Spec::Choice(choices.to_vec()), &|t| choices.iter().any(|c| c == t));
        let date = |t: &str| t.len() == 10 && t.split('-').all(|part| part.bytes().all(|b| b.is_ascii_digit()));
        check(Spec::Regex(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$".into()), &date);
        check(Spec::Regex("(a/b|c\n){2}".into()), &|t| ["a/ba/b", "a/bc\n", "c\na/b", "c\nc\n"].contains(&t));
        let sum = "start: NUMBER (\"+\" NUMBER)*\nNUMBER: /[1-9][0-9]{0,3}/\n";
        check(Spec::Lark(sum.into()), &|t| t.split('+').all(|n| n.parse::<u32>().is_ok()));
        check(Spec::Gbnf(LISTS.into()), &|t| {
            t.ends_with('\n') && serde_json::from_str::<Value>(t).is_ok_and(|v| v.is_array())
        });
        check(Spec::Gbnf("root ::= [^a-zA-Z0-9] \"\\x41\\u00e9\" (\"x\"{2,3} | \"\")  # end\n".into()), &|t| {
            let mut chars = t.chars();
            !chars.next().unwrap().is_ascii_alphanumeric() && ["Aé", "Aéxx", "Aéxxx"].contains(&chars.as_str())
        });
    }
}

const LISTS: &str = r#"
# nested lists of numbers and strings
root   ::= list "\n"
list   ::= "[" ws (value ("," ws value)*)? "]" ws
value  ::= (list | number |
            string) ws
number ::= "-"? ("0" | [1-9] [0-9]*)
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" ["\\bfnrt])* "\""
ws     ::= | " " | "\n" [ \t]{0,4}
"#;

/// A mask in the middle of an answer is the one that was there before other tokens were tried.
#[test]
fn rollback_and_clones() {
    let schema = json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}, "age":
        {"type": "integer", "minimum": 3, "maximum": 88}}, "required": ["name", "age"], "additionalProperties": false});
    for (tokenizer, vocabulary) in &*VOCABULARIES {
        let grammar = Grammar::compile(&Spec::JsonSchema(schema.clone()), vocabulary).unwrap();
        let ids = walk(&grammar, tokenizer, Walk::default());
        let other = walk(&grammar, tokenizer, Walk { seed: 7, ..Walk::default() });
        let mask = |matcher: &mut allod_text::grammar::Matcher| {
            let mut bits = vec![0; tokenizer.vocab_size().div_ceil(32)];
            matcher.mask(&mut bits).unwrap();
            bits
        };
        let mut matcher = grammar.matcher();
        for (i, &id) in ids.iter().enumerate() {
            let before = mask(&mut matcher);
            let ahead = matcher.allowed(&ids[i..]).unwrap();
            assert_eq!(ahead, ids.len() - i);
            let mut clone = matcher.clone();
            for &id in &ids[i..] {
                matcher.accept(id).unwrap();
            }
            assert!(matcher.is_accepting());
            matcher.rollback(ids.len() - i).unwrap();
            let fits = matcher.allowed(&other).unwrap();
            for &id in &other[..fits] {
                matcher.accept(id).unwrap();
            }
            matcher.rollback(fits).unwrap();
            assert_eq!(mask(&mut matcher), before);
            assert_eq!(mask(&mut clone), before);
            matcher.accept(id).unwrap();
        }
        assert!(matcher.rollback(ids.len() + 1).is_err());
    }
}

/// What is forced is text that the grammar leaves no choice about, spelled as the tokenizer spells it.
#[test]
fn forced_tokens() {
    for (tokenizer, vocabulary) in &*VOCABULARIES {
        let spec = Spec::Lark("start: \"The answer is: \" /[0-9]/ \" of ten.\"\n".into());
        let mut matcher = Grammar::compile(&spec, vocabulary).unwrap().matcher();
        let forced = matcher.forced();
        assert!("The answer is: ".starts_with(&text(tokenizer, &forced)), "{forced:?}");
        assert!((2..6).contains(&forced.len()), "{}", text(tokenizer, &forced));
        for &id in &forced {
            matcher.accept(id).unwrap();
        }
        assert!(!matcher.is_accepting() && !matcher.is_finished());
    }
}
