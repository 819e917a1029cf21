//! A vocabulary that means nothing: GPT-2's 256 bytes, then numbered words, no merges, and an end of text.

use allod_formats::{Array, Metadata};

const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

pub(super) fn add(m: &mut Metadata, size: usize) {
    let end = size.saturating_sub(1);
    let tokens = (0..size).map(|i| match i {
        _ if i == end => "<|endoftext|>".into(),
        0..256 => char_of(i as u32).to_string(),
        _ => format!("Ġw{i}"),
    });
    m.set("tokenizer.ggml.model", "gpt2");
    m.set("tokenizer.ggml.pre", "gpt-2");
    m.set("tokenizer.ggml.tokens", tokens.collect::<Vec<String>>());
    let kinds = (0..size).map(|i| if i == end { CONTROL } else { NORMAL }).collect();
    m.set("tokenizer.ggml.token_type", Array::I32(kinds));
    m.set("tokenizer.ggml.merges", Vec::<String>::new());
    m.set("tokenizer.ggml.eos_token_id", end as u32);
    m.set("tokenizer.ggml.add_bos_token", allod_formats::Value::Bool(false));
}

/// GPT-2's letter for the `i`-th byte in its own order: visible ones stand for themselves, the others for letters from
/// U+0100 on.
fn char_of(i: u32) -> char {
    let visible = |b: &u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let count = (0..256).filter(visible).count() as u32;
    let code = if i < count { (0..256).filter(visible).nth(i as usize).unwrap_or(i) } else { 0x100 + i - count };
    char::from_u32(code).unwrap_or('?')
}
