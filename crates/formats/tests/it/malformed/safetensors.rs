//! Safetensors files and indexes with one thing wrong.

use super::{Says, check, malformed, unsupported};
use allod_formats::Safetensors;
use std::{fs, path::Path};
use tempfile::TempDir;

/// Two tensors in 24 bytes.
const HEADER: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"I8","shape":[8],"data_offsets":[16,24]}}"#;

fn file(header: &[u8], data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, &vec![0; data]].concat()
}

fn open(path: &Path, bytes: Vec<u8>) -> Result<Safetensors, allod_formats::Error> {
    Safetensors::from_bytes(bytes.into(), path)
}

/// A piece of the sound header, what stands there instead, and what the error says.
type Kind = (&'static str, &'static str, &'static str, Says);

#[rustfmt::skip]
const HEADERS: &[Kind] = &[
    ("not an object", HEADER, "[1]", malformed("header", "starts with '{'", "[")),
    ("no header", HEADER, "", malformed("header", "starts with '{'", "nothing")),
    ("spaces before it", HEADER, " {}", malformed("header", "starts with '{'", "\" \"")),
    ("JSON with a comma too many", "24]}}", "24]},}", malformed("JSON, line 1 column", "valid JSON", "trailing comma")),
    ("JSON that stops", "24]}}", "24]}", malformed("JSON, line 1 column", "valid JSON", "EOF")),
    ("something behind the JSON", "24]}}", "24]}}x", malformed("JSON, line 1 column", "valid JSON", "trailing characters")),
    ("tensor twice", "\"b\":", "\"a\":", malformed("JSON, line 1 column", "valid JSON", "the key \"a\" twice")),
    ("key twice in an entry", "\"dtype\":\"I8\"", "\"dtype\":\"I8\",\"dtype\":\"U8\"", malformed("JSON", "valid JSON", "the key \"dtype\" twice")),
    ("metadata twice", "\"a\":{", "\"__metadata__\":{", malformed("JSON", "valid JSON", "the key \"__metadata__\" twice")),
    ("metadata that are a list", "{\"format\":\"pt\"}", "[]", malformed("__metadata__", "strings only", "an array")),
    ("number in the metadata", "\"pt\"", "3", malformed("__metadata__ \"format\"", "strings only", "a number")),
    ("entry that is a list", "{\"dtype\":\"I8\",\"shape\":[8],\"data_offsets\":[16,24]}", "[]", malformed("tensor \"b\": entry", "dtype, shape and data_offsets", "an array")),
    ("no dtype", "\"dtype\":\"I8\",", "", malformed("tensor \"b\": dtype", "to be there", "nothing")),
    ("no shape", "\"shape\":[8],", "", malformed("tensor \"b\": shape", "to be there", "nothing")),
    ("no offsets", ",\"data_offsets\":[16,24]", "", malformed("tensor \"b\": data_offsets", "to be there", "nothing")),
    ("something extra in an entry", "\"shape\":[8]", "\"shape\":[8],\"order\":1", malformed("tensor \"b\": entry", "alone", "\"order\" as well")),
    ("unknown dtype", "\"I8\"", "\"I7\"", unsupported("tensor \"b\": dtype", "a type of the safetensors format", "I7")),
    ("dtype that is a number", "\"I8\"", "8", unsupported("tensor \"b\": dtype", "a type", "8")),
    ("negative size", "[8]", "[-8]", malformed("tensor \"b\": shape", "a list of sizes", "[-8]")),
    ("broken size", "[8]", "[8.5]", malformed("tensor \"b\": shape", "a list of sizes", "[8.5]")),
    ("size beyond 64 bits", "[8]", "[18446744073709551616]", malformed("tensor \"b\": shape", "a list of sizes", "1.8446744")),
    ("elements that overflow", "[8]", "[4294967296,4294967296]", malformed("tensor \"b\": data_offsets", "below 2^64, which shape [4294967296, 4294967296] is not", "8 bytes")),
    ("shape and offsets disagree", "[8]", "[9]", malformed("tensor \"b\": data_offsets", "9 bytes for I8 of shape [9]", "8 bytes")),
    ("dtype and offsets disagree", "\"I8\"", "\"I16\"", malformed("tensor \"b\": data_offsets", "16 bytes for I16", "8 bytes")),
    ("half a byte", "\"I8\",\"shape\":[8]", "\"F4\",\"shape\":[15]", malformed("tensor \"b\": data_offsets", "F4 in whole bytes", "8 bytes")),
    ("three offsets", "[16,24]", "[16,20,24]", malformed("tensor \"b\": data_offsets", "begin and end", "[16, 20, 24]")),
    ("end before begin", "[16,24]", "[24,16]", malformed("tensor \"b\": data_offsets", "an end after the begin", "[24, 16]")),
    ("end behind the file", "[16,24]", "[16,9999]", malformed("tensor \"b\": data_offsets", "within the 24 bytes", "9999")),
    ("offsets of 2^64 - 1", "[16,24]", "[18446744073709551607,18446744073709551615]", malformed("tensor \"b\": data_offsets", "within the 24 bytes", "18446744073709551615")),
    ("hole at the start", "[0,16]", "[1,17]", malformed("tensor \"a\": data_offsets", "a begin at 0", "a hole: 1")),
    ("hole in the middle", "[2,2],\"data_offsets\":[0,16]", "[3],\"data_offsets\":[0,12]", malformed("tensor \"b\": data_offsets", "a begin at 12", "a hole: 16")),
    ("overlap", "[16,24]", "[8,16]", malformed("tensor \"b\": data_offsets", "a begin at 16", "an overlap: 8")),
    ("nobody's bytes at the end", "\"shape\":[8],\"data_offsets\":[16,24]", "\"shape\":[4],\"data_offsets\":[16,20]", malformed("end of the file", "the file to end at", "bytes")),
];

#[test]
fn every_kind_of_header_is_refused_with_a_reason() {
    let path = Path::new("m/model.safetensors");
    open(path, file(HEADER.as_bytes(), 24)).unwrap();
    for (kind, piece, instead, says) in HEADERS {
        let header = HEADER.replacen(piece, instead, 1);
        assert_ne!(header, HEADER, "{kind}: nothing was changed");
        check(kind, path, open(path, file(header.as_bytes(), 24)), says);
    }
}

#[test]
fn false_lengths_are_refused_with_a_reason() {
    let path = Path::new("m/model.safetensors");
    let with_length = |n: u64| [&n.to_le_bytes()[..], HEADER.as_bytes(), &[0; 24]].concat();
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    let mut latin = HEADER.as_bytes().to_vec();
    latin[20] = 0xe9;
    let kinds: Vec<(&str, Vec<u8>, Says)> = vec![
        ("empty file", vec![], malformed("header length", "8 bytes at offset 0", "0 bytes")),
        ("seven bytes", vec![1; 7], malformed("header length", "8 bytes", "7 bytes")),
        ("header beyond the file", with_length(1000), malformed("header", "1000 bytes at offset 8", "before the end")),
        (
            "header beyond 100 MB",
            with_length(100_000_001),
            malformed("header length", "at most 100000000", "100000001"),
        ),
        (
            "header of 2^64 - 1",
            with_length(u64::MAX),
            malformed("header length", "at most 100000000", "18446744073709551615"),
        ),
        ("header that stops early", with_length(50), malformed("JSON", "valid JSON", "EOF")),
        ("header not in UTF-8", file(&latin, 24), malformed("header", "UTF-8", "position 20")),
        ("JSON of 100,000 levels", file(deep.as_bytes(), 0), malformed("JSON", "valid JSON", "recursion limit")),
        (
            "data cut off",
            file(HEADER.as_bytes(), 23),
            malformed("tensor \"b\": data_offsets", "within the 23 bytes", "24"),
        ),
        (
            "something appended",
            file(HEADER.as_bytes(), 25),
            malformed("end of the file", "the file to end at", "bytes"),
        ),
    ];
    for (kind, bytes, says) in kinds {
        check(kind, path, open(path, bytes), &says);
    }
}

const INDEX: &str = r#"{"metadata":{"total_size":24},"weight_map":{"a":"one.safetensors","b":"one.safetensors"}}"#;

#[rustfmt::skip]
const INDEXES: &[Kind] = &[
    ("no JSON", "{", "", malformed("JSON, line 1", "valid JSON", "trailing characters")),
    ("tensor twice", "\"b\":", "\"a\":", malformed("JSON", "valid JSON", "the key \"a\" twice")),
    ("no map", "weight_map", "weights", malformed("weight_map", "an object", "none")),
    ("map that is a list", "{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\"}", "[]", malformed("weight_map", "an object", "none")),
    ("file above the folder", "\"one.", "\"../one.", malformed("weight_map \"a\"", "a file in the same folder", "../one.safetensors")),
    ("file two levels above", "\"one.safetensors\"", "\"x/../../etc\"", malformed("weight_map \"a\"", "a file in the same folder", "x/../../etc")),
    ("file at the root", "\"one.", "\"/etc/one.", malformed("weight_map \"a\"", "a file in the same folder", "/etc/one.safetensors")),
    ("file on another system's root", "\"one.", "\"C:\\\\one.", malformed("weight_map \"a\"", "a file in the same folder", "C:")),
    ("the folder itself", "\"one.safetensors\"", "\".\"", malformed("weight_map \"a\"", "a file in the same folder", ".")),
    ("number for a file", "\"one.safetensors\"", "1", malformed("weight_map \"a\"", "a file in the same folder", "1")),
    ("shard missing", "\"one.", "\"two.", malformed("weight_map \"a\"", "two.safetensors", "none of that name")),
    ("tensor missing", "\"b\":", "\"c\":", malformed("weight_map \"c\"", "the tensor in one.safetensors", "no such tensor")),
];

#[test]
fn every_kind_of_index_is_refused_with_a_reason() {
    let folder = TempDir::new().unwrap();
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(folder.path().join("one.safetensors"), file(HEADER.as_bytes(), 24)).unwrap();
    fs::write(&index, INDEX).unwrap();
    assert_eq!(Safetensors::open(folder.path()).unwrap().entries().count(), 2);
    for (kind, piece, instead, says) in INDEXES {
        let text = INDEX.replacen(piece, instead, 1);
        assert_ne!(text, INDEX, "{kind}: nothing was changed");
        fs::write(&index, text).unwrap();
        check(kind, &index, Safetensors::open(folder.path()), says);
    }
}

#[test]
fn a_folder_without_weights_is_told_what_is_missing() {
    let folder = TempDir::new().unwrap();
    let says = malformed("folder", "model.safetensors or model.safetensors.index.json", "0 other");
    check("empty folder", folder.path(), Safetensors::open(folder.path()), &says);
}

#[test]
fn a_type_that_gguf_lacks_is_named_but_its_bytes_are_there() {
    let header = HEADER.replacen("\"I8\"", "\"F8_E4M3\"", 1);
    let path = Path::new("m/model.safetensors");
    let model = open(path, file(header.as_bytes(), 24)).unwrap();
    check("eight-bit floats", path, model.tensor("b"), &unsupported("tensor \"b\": dtype", "BF16", "F8_E4M3"));
    assert_eq!(model.bytes("b").unwrap().len(), 8);
}
