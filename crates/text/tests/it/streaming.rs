//! The streaming detokenizer gives what decoding at once gives.

use allod_text::Tokenizer;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[test]
fn streaming_equals_one_shot() {
    let Some(data) = allod_testkit::data() else { return };
    let folder = data.join("tokenizer");
    for name in ["gpt-2", "llama-spm", "gemma-4", "bert-bge", "qwen2"] {
        let tokenizer = crate::gguf(&folder.join(format!("ggml-vocab-{name}.gguf")));
        let size = tokenizer.vocab_size() as u32;
        // Byte tokens lie at the beginning of most vocabularies: half the ids come from there.
        let id = prop_oneof![0..size.min(400), 0..size + 10];
        let ids = prop::collection::vec(id, 0..40);
        let config = Config { failure_persistence: None, ..Config::with_cases(400) };
        TestRunner::new(config)
            .run(&(ids, any::<bool>()), |(ids, skip)| {
                check(&tokenizer, &ids, skip);
                Ok(())
            })
            .unwrap();
    }
}

fn check(tokenizer: &Tokenizer, ids: &[u32], skip: bool) {
    let mut stream = tokenizer.detokenizer(skip);
    let mut streamed = String::new();
    for &id in ids {
        streamed.push_str(stream.push(id));
    }
    streamed.push_str(&stream.finish());

    // Independently of the stream: all bytes at once.
    let kept = ids.iter().filter(|&&id| !(skip && tokenizer.is_special(id)));
    let kept: Vec<u32> = kept.copied().filter(|&id| tokenizer.token_bytes(id).is_some()).collect();
    let mut bytes: Vec<u8> = kept.iter().flat_map(|&id| tokenizer.token_bytes(id).unwrap().into_owned()).collect();
    let text_first = kept.first().is_some_and(|&id| !tokenizer.is_special(id));
    let strips = tokenizer.decode(&[tokenizer.token_id("▁the").unwrap_or(0)], true) == "the";
    if strips && text_first && bytes.first() == Some(&b' ') {
        bytes.remove(0);
    }
    assert_eq!(streamed, String::from_utf8_lossy(&bytes), "{ids:?}");
    assert_eq!(streamed, tokenizer.decode(ids, skip));
}

#[test]
fn half_characters_wait() {
    let Some(data) = allod_testkit::data() else { return };
    let tokenizer = crate::gguf(&data.join("tokenizer/ggml-vocab-llama-spm.gguf"));
    let byte = |b: u8| tokenizer.token_id(&format!("<0x{b:02X}>")).unwrap();
    let mut stream = tokenizer.detokenizer(true);
    let llama: Vec<String> = "🦙".bytes().map(|b| stream.push(byte(b)).to_owned()).collect();
    assert_eq!(llama, ["", "", "", "🦙"]);
    assert_eq!(stream.push(byte(0xF0)), "");
    assert_eq!(stream.push(byte(b'a')), "\u{FFFD}a");
    assert_eq!(stream.push(byte(0xE2)), "");
    assert_eq!(stream.finish(), "\u{FFFD}");
}

#[test]
fn a_leading_space_belongs_to_the_text_only_when_it_continues() {
    let Some(data) = allod_testkit::data() else { return };
    let tokenizer = crate::gguf(&data.join("tokenizer/ggml-vocab-llama-spm.gguf"));
    let hello = tokenizer.token_id("▁Hello").unwrap();
    assert_eq!(tokenizer.detokenizer(true).push(hello), "Hello");
    assert_eq!(tokenizer.detokenizer(true).continuing().push(hello), " Hello");
}
