//! llama2.c checkpoints and tokenizers with one thing wrong.

use super::{Says, check, malformed};
use allod_formats::{Llama2c, WeightSource, llama2c};
use std::{fs, path::Path};
use tempfile::TempDir;

/// Width 8, feed-forward width 4, 1 layer, 2 heads, 1 KV head, 3 tokens, context 5.
const SIZES: [i32; 7] = [8, 4, 1, 2, 1, 3, 5];
const FLOATS: usize = 3 * 8 + (8 + 64 + 32 + 32 + 64 + 8 + 3 * 32) + 8 + 5 * 4;

fn file(sizes: [i32; 7], floats: usize) -> Vec<u8> {
    let header = sizes.iter().flat_map(|n| n.to_le_bytes());
    header.chain((0..floats).flat_map(|i| (i as f32).to_le_bytes())).collect()
}

fn with(at: usize, n: i32) -> Vec<u8> {
    let mut sizes = SIZES;
    sizes[at] = n;
    file(sizes, FLOATS)
}

#[test]
fn every_kind_is_refused_with_a_reason() {
    let path = Path::new("m/model.bin");
    assert!(Llama2c::from_bytes(file(SIZES, FLOATS).into(), path).unwrap().info("output.weight").is_none());
    let untied = Llama2c::from_bytes(file([8, 4, 1, 2, 1, -3, 5], FLOATS + 24).into(), path).unwrap();
    assert_eq!(untied.info("output.weight").unwrap().shape, [3, 8]);
    let kinds: [(&str, Vec<u8>, Says); 10] = [
        ("empty file", vec![], malformed("dim", "4 bytes at offset 0", "0 bytes")),
        ("another header", b"ak42".repeat(7), malformed("dim", "a size from 1 to 2^24", "842296161")),
        ("negative width", with(0, -8), malformed("dim", "a size from 1 to 2^24", "-8")),
        ("no layers", with(2, 0), malformed("n_layers", "a size from 1 to 2^24", "0")),
        ("heads that do not divide", with(3, 3), malformed("dim", "each of 3 heads", "8")),
        ("heads of odd width", with(3, 8), malformed("dim", "an even number", "8")),
        ("KV heads that do not divide", with(4, 3), malformed("n_kv_heads", "a divisor of 2", "3")),
        ("least vocabulary there is", with(5, i32::MIN), malformed("vocab_size", "a size", "-2147483648")),
        ("weights cut off", file(SIZES, FLOATS - 1), malformed("RoPE tables", "80 bytes", "76 bytes")),
        ("something appended", file(SIZES, FLOATS + 1), malformed("end of the file", "the file to end at", "bytes")),
    ];
    for (kind, bytes, says) in kinds {
        check(kind, path, Llama2c::from_bytes(bytes.into(), path), &says);
    }
}

fn tokenizer(longest: u32, tokens: &[&[u8]]) -> Vec<u8> {
    let entries = tokens.iter().flat_map(|t| [&0f32.to_le_bytes()[..], &(t.len() as u32).to_le_bytes(), t].concat());
    longest.to_le_bytes().into_iter().chain(entries).collect()
}

#[test]
fn every_kind_of_tokenizer_is_refused_with_a_reason() {
    let folder = TempDir::new().unwrap();
    let (model, path) = (folder.path().join("model.bin"), folder.path().join("tok3.bin"));
    fs::write(&model, file(SIZES, FLOATS)).unwrap();
    fs::write(&path, tokenizer(9, &[b"<unk>", b"\n<s>\n", b" a"])).unwrap();
    let found = llama2c::open(&model).unwrap();
    assert_eq!(found.metadata().strings("tokenizer.ggml.tokens").unwrap(), ["<unk>", "<s>", "a"]);
    let kinds: [(&str, Vec<u8>, Says); 5] = [
        ("empty file", vec![], malformed("length of the longest token", "4 bytes", "0 bytes")),
        ("too few tokens", tokenizer(9, &[b"a"]), malformed("tokens", "3 tokens", "too few")),
        (
            "too many tokens",
            tokenizer(9, &[b"a", b"b", b"c", b"d"]),
            malformed("tokens", "3, as the weights have", "9 bytes behind"),
        ),
        (
            "token longer than the longest",
            tokenizer(2, &[b"a", b"b", b"ccc"]),
            malformed("length of token 2", "at most 2", "3"),
        ),
        ("token not in UTF-8", tokenizer(9, &[b"a", b"\xff", b"c"]), malformed("token 1", "UTF-8", "\\xff")),
    ];
    for (kind, bytes, says) in kinds {
        fs::write(&path, bytes).unwrap();
        check(kind, &path, llama2c::open(&model), &says);
    }
}
