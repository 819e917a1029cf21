//! Grammars that are wrong, or meant to hurt.

use super::{Spec, VOCABULARIES, Value, json};
use allod_text::Grammar;
use std::time::Instant;

#[test]
fn mistakes_have_a_place() {
    let Some((_, vocabulary)) = VOCABULARIES.first() else { return };
    let deep = json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "strnig"}}}});
    let cases = [
        (Spec::JsonSchema(deep), "#/properties/a/items: Invalid type: strnig"),
        (
            Spec::JsonSchema(json!({"properties": {"set": {"type": "array", "uniqueItems": true}}})),
            "#/properties/set: cannot be enforced: [\"uniqueItems\"]",
        ),
        (
            Spec::JsonSchema(json!({"anyOf": [{"type": "null"}, {"type": "string", "format": "colour"}]})),
            "#/anyOf/1: Unknown format: colour",
        ),
        (Spec::JsonSchema(json!({"$defs": {"part": {"type": 1}}, "$ref": "#/$defs/part"})), "#/$defs/part: "),
        (Spec::JsonSchema(json!({"$ref": "https://example.com/schema.json"})), "#: "),
        (Spec::JsonSchema(json!({"type": "string", "pattern": "(a"})), "#: "),
        (Spec::JsonSchema(json!([1])), "#: expected an object, found an array"),
        (Spec::JsonSchema(json!(false)), "#: expected an object, found false"),
        (Spec::JsonSchema(json!({"type": "integer", "minimum": 5, "maximum": 3})), "#: "),
        (Spec::Regex("(".into()), "regex: "),
        (Spec::Regex(String::new()), "regex: "),
        (Spec::Choice(vec![]), "choice: expected at least one text"),
        (Spec::Lark("start: missing".into()), "lark: "),
        (Spec::Lark("start: <|no_such_token|>".into()), "lark: "),
        (Spec::Gbnf("root ::= other\n".into()), "gbnf: rule `root` uses `other`"),
        (Spec::Gbnf("a ::= \"b\"\n".into()), "gbnf: expected a rule named `root`"),
        (Spec::Gbnf("root ::= \"a\"\nb := \"c\"".into()), "gbnf, line 2: expected `::=`"),
        (Spec::Gbnf("root ::= (\"a\"".into()), "gbnf, line 1: expected `)`"),
    ];
    for (spec, expected) in cases {
        let found = Grammar::compile(&spec, vocabulary).expect_err("refused").to_string();
        assert!(found.starts_with(expected), "{spec:?}\nexpected {expected}\nfound    {found}");
    }
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!({"type": "null"}), |inner, _| json!({"type": "array", "items": inner}))
}

/// Each is refused or compiled, soon, and without a panic or an exhausted stack.
#[test]
fn malice() {
    let Some((tokenizer, vocabulary)) = VOCABULARIES.first() else { return };
    let doubled =
        |n: usize| (0..n).fold("A: \"a\"\n".to_string(), |t, i| format!("{t}A{i}: A{0} A{0}\n", i.wrapping_sub(1)));
    let rules = doubled(40).replace(&format!("A{}", usize::MAX), "A");
    let wide: Value =
        (0..20_000).map(|i| (format!("p{i}"), json!({"type": "string"}))).collect::<serde_json::Map<_, _>>().into();
    let refs: Value = (0..1000)
        .map(|i| {
            (
                format!("d{i}"),
                json!({"anyOf": [{"$ref": format!("#/$defs/d{}", (i + 1) % 1000)},
        {"$ref": format!("#/$defs/d{}", (i * 7) % 1000)}]}),
            )
        })
        .collect::<serde_json::Map<_, _>>()
        .into();
    let all_of: Vec<Value> = (0..300)
        .map(|i| json!({"anyOf": [{"minLength": i}, {"maxLength": 900 - i}, {"pattern": format!("a{i}")}]}))
        .collect();
    let hard = [
        Spec::JsonSchema(nested(60)),
        Spec::JsonSchema(nested(100_000 / 50)),
        Spec::JsonSchema(json!({"type": "object", "properties": wide})),
        Spec::JsonSchema(json!({"$ref": "#/$defs/d0", "$defs": refs})),
        Spec::JsonSchema(json!({"$ref": "#"})),
        Spec::JsonSchema(json!({"allOf": [{"$ref": "#"}, {"type": "string"}]})),
        Spec::JsonSchema(json!({"type": "string", "allOf": all_of})),
        Spec::JsonSchema(json!({"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"})),
        Spec::JsonSchema(json!({"type": "string", "minLength": 1_000_000_000u64})),
        Spec::JsonSchema(json!({"type": "array", "minItems": 1_000_000_000u64, "items": {"type": "null"}})),
        Spec::JsonSchema(json!({"type": "array", "maxItems": u64::MAX})),
        Spec::JsonSchema(json!({"type": "number", "multipleOf": 1e-300})),
        Spec::JsonSchema(json!({"type": "number", "multipleOf": 0})),
        Spec::JsonSchema(json!({"type": "integer", "minimum": -1e300, "maximum": 1e300})),
        Spec::JsonSchema(json!({"enum": ["x".repeat(1 << 20)]})),
        Spec::JsonSchema(json!({"enum": (0..50_000).map(|i| format!("value {i}")).collect::<Vec<_>>()})),
        Spec::JsonSchema(json!({"x-guidance": {"lenient": true}, "type": "array", "uniqueItems": true})),
        Spec::Regex("(".repeat(10_000)),
        Spec::Regex("(a|b)*".repeat(2000)),
        Spec::Regex("(x+x+)+y".into()),
        Spec::Regex(r"\w{1,5000}\p{L}{1,5000}".into()),
        Spec::Lark("start: ".to_string() + &"(".repeat(100_000)),
        Spec::Lark(format!("start: A39\n{rules}")),
        Spec::Lark("start: start start | \"a\" |\n".into()),
        Spec::Lark("start: start\n".into()),
        Spec::Lark(format!("start: %json {}1{}\n", "{\"items\":".repeat(5000), "}".repeat(5000))),
        Spec::Gbnf(format!("root ::= {}\n", "(".repeat(100_000))),
        Spec::Gbnf("root ::= root\n".into()),
        Spec::Gbnf("root ::= \"a\"{1000000000}\n".into()),
        Spec::Gbnf("root ::= [a-z]*  \"é\\".into()),
    ];
    for spec in hard {
        let start = Instant::now();
        let name: String = format!("{spec:?}").chars().take(80).collect();
        let mut bits = vec![0; tokenizer.vocab_size().div_ceil(32)];
        let compiled = Grammar::compile(&spec, vocabulary);
        if let Ok(grammar) = compiled {
            let mut matcher = grammar.matcher();
            // A few steps: what compiles may still ask too much of one.
            for _ in 0..20 {
                if matcher.mask(&mut bits).is_err() {
                    assert!(bits.iter().all(|&word| word == 0));
                    break;
                }
                let Some(id) =
                    (0..tokenizer.vocab_size() as u32).find(|&id| bits[id as usize / 32] >> (id % 32) & 1 == 1)
                else {
                    break;
                };
                if matcher.accept(id).is_err() {
                    break;
                }
            }
        }
        let took = start.elapsed();
        assert!(took.as_secs() < 20, "{name}: {took:?}");
    }
    let loosened = json!({"x-guidance": {"lenient": true}, "type": "array", "uniqueItems": true});
    let refused = Grammar::compile(&Spec::JsonSchema(loosened), vocabulary).expect_err("refused").to_string();
    assert!(refused.contains("uniqueItems"));
}
