//! Two hundred schemas: building blocks, and the ways people put them together.

use serde_json::{Map, Value, json};

/// Scalars with every keyword that scalars have.
fn scalars() -> Vec<Value> {
    vec![
        json!({"type": "null"}),
        json!({"type": "boolean"}),
        json!({"type": "integer"}),
        json!({"type": "number"}),
        json!({"type": "integer", "minimum": 0}),
        json!({"type": "integer", "minimum": -5, "maximum": 7}),
        json!({"type": "integer", "exclusiveMinimum": 10, "exclusiveMaximum": 1000}),
        json!({"type": "integer", "multipleOf": 7, "minimum": -7000000, "maximum": 7000000}),
        json!({"type": "integer", "minimum": 1900, "maximum": 2100, "multipleOf": 4}),
        json!({"type": "number", "minimum": 0, "maximum": 1}),
        json!({"type": "number", "exclusiveMinimum": 0.5, "maximum": 99.75}),
        json!({"type": "number", "minimum": -273.15}),
        json!({"type": "string"}),
        json!({"type": "string", "minLength": 1}),
        json!({"type": "string", "maxLength": 5}),
        json!({"type": "string", "minLength": 3, "maxLength": 20}),
        json!({"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,5}$"}),
        json!({"type": "string", "pattern": "^(\\([0-9]{3}\\))?[0-9]{3}-[0-9]{4}$"}),
        json!({"type": "string", "pattern": "^#[0-9a-fA-F]{6}$"}),
        json!({"type": "string", "pattern": "[b-d]"}),
        json!({"type": "string", "pattern": "^\\w+( \\w+){0,3}$"}),
        json!({"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 6}),
        json!({"type": "string", "format": "date"}),
        json!({"type": "string", "format": "time"}),
        json!({"type": "string", "format": "date-time"}),
        json!({"type": "string", "format": "uuid"}),
        json!({"type": "string", "format": "ipv4"}),
        json!({"type": "string", "format": "ipv6"}),
        json!({"type": "string", "format": "email"}),
        json!({"type": "string", "enum": ["red", "green", "blue"]}),
        json!({"enum": ["a", 1, null, true, 2.5, "ü \"q\" \\ \n", ["x", 1], {"k": "v"}]}),
        json!({"enum": ["ab", "abc", "abcd", "b"]}),
        json!({"const": "fixed"}),
        json!({"const": 42}),
        json!({"const": {"a": [1, 2, {"b": null}]}}),
        json!({"type": ["string", "null"]}),
        json!({"type": ["integer", "boolean", "null"]}),
        json!({"anyOf": [{"type": "string", "maxLength": 3}, {"type": "integer", "minimum": 100}]}),
        json!({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9}]}),
        json!({"oneOf": [{"const": "x"}, {"const": "y"}]}),
    ]
}

/// Lists and objects around `inner`.
fn containers(inner: &Value, n: usize) -> Vec<Value> {
    let closed = |properties: Value, required: Value| json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    let all = [
        json!({"type": "array", "items": inner}),
        json!({"type": "array", "items": inner, "minItems": 1, "maxItems": 3}),
        json!({"type": "array", "prefixItems": [inner, {"type": "boolean"}], "items": false, "minItems": 2}),
        closed(json!({"value": inner}), json!(["value"])),
        closed(json!({"id": {"type": "integer"}, "value": inner, "note": {"type": "string"}}), json!(["id"])),
        closed(json!({"a": inner, "b": inner, "c": inner}), json!([])),
        json!({"type": "object", "additionalProperties": inner}),
        json!({"type": "object", "properties": {"k": inner}, "required": ["k"]}),
        json!({"type": "object", "patternProperties": {"^x-[a-z]+$": inner}, "additionalProperties": false}),
        closed(json!({"list": {"type": "array", "items": closed(json!({"v": inner}), json!(["v"]))}}), json!(["list"])),
        json!({"anyOf": [{"type": "null"}, closed(json!({"some": inner}), json!(["some"]))]}),
        json!({"$defs": {"part": inner}, "type": "array", "items": {"$ref": "#/$defs/part"}, "maxItems": 4}),
    ];
    (0..4).map(|i| all[(n * 5 + i * 3) % all.len()].clone()).collect()
}

/// Schemas that contain themselves, and whole ones from practice.
fn whole() -> Vec<Value> {
    let tree = json!({"type": "object", "properties": {"value": {"type": "integer"}, "children": {"type": "array",
        "items": {"$ref": "#/$defs/tree"}, "maxItems": 3}}, "required": ["value"], "additionalProperties": false});
    let expression = json!({"anyOf": [{"type": "number"}, {"type": "object", "properties": {"op": {"enum": ["+", "*"]},
        "left": {"$ref": "#/$defs/expression"}, "right": {"$ref": "#/$defs/expression"}},
        "required": ["op", "left", "right"], "additionalProperties": false}]});
    let list = json!({"type": ["object", "null"], "properties": {"head": {"type": "string", "maxLength": 4}, "tail":
        {"$ref": "#"}}, "required": ["head", "tail"], "additionalProperties": false});
    let step = json!({"type": "object", "properties": {"explanation": {"type": "string"}, "output": {"type": "string"}},
        "required": ["explanation", "output"], "additionalProperties": false});
    let even = json!({"type": "array", "items": {"$ref": "#/$defs/odd"}, "maxItems": 2});
    let odd = json!({"type": "array", "items": {"$ref": "#/$defs/even"}, "minItems": 1, "maxItems": 1});
    vec![
        json!({"$ref": "#/$defs/tree", "$defs": {"tree": tree}}),
        json!({"$ref": "#/$defs/expression", "$defs": {"expression": expression}}),
        list,
        json!({"type": "object", "properties": {"steps": {"type": "array", "items": step}, "final_answer":
            {"type": "string"}}, "required": ["steps", "final_answer"], "additionalProperties": false}),
        json!({"$ref": "#/$defs/even", "$defs": {"even": even, "odd": odd}}),
        json!({"title": "Person", "description": "Who", "type": "object", "properties": {"name": {"title": "Name",
            "type": "string", "default": "?"}, "age": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 150},
            {"type": "null"}]}, "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{1,8}$"},
            "minItems": 1, "maxItems": 3}}, "required": ["name", "age", "tags"], "additionalProperties": false}),
        json!({"type": "object", "properties": {"kind": {"const": "circle"}, "radius": {"type": "number",
            "exclusiveMinimum": 0}}, "required": ["kind", "radius"], "additionalProperties": false}),
        json!({"anyOf": [{"type": "object", "properties": {"kind": {"const": "a"}, "x": {"type": "integer"}}, "required":
            ["kind", "x"], "additionalProperties": false}, {"type": "object", "properties": {"kind": {"const": "b"}, "y":
            {"type": "boolean"}}, "required": ["kind", "y"], "additionalProperties": false}]}),
        json!({"type": "object"}),
        json!({"type": "array"}),
        json!(true),
        json!({}),
        json!({"type": "array", "items": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9},
            "minItems": 3, "maxItems": 3}, "minItems": 3, "maxItems": 3}),
    ]
}

/// Forty scalars, four containers around each, and what is whole already.
pub(super) fn all() -> Vec<Value> {
    let scalars = scalars();
    let around: Vec<Value> = scalars.iter().zip(0..).flat_map(|(inner, n)| containers(inner, n)).collect();
    let wide: Map<String, Value> = scalars.iter().zip(0..).map(|(s, n)| (format!("field_{n}"), s.clone())).collect();
    let wide = json!({"type": "object", "properties": wide, "additionalProperties": false});
    [scalars, around, whole(), vec![wide]].concat()
}
