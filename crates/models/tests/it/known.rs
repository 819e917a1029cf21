//! Real trained models reproduce, token by token, what an independent float32 computation gave.

use allod_cpu::{Cpu, KvType, Options, Pool};
use allod_formats::{Gguf, WeightSource};
use allod_models::{model, open};
use allod_plan::{Backend, PAGE, SeqRows, Step};
use std::{path::Path, sync::Arc};

/// Continues `prompt` greedily until there are `total` tokens.
fn greedy(path: &Path, prompt: &[u32], total: usize) -> Vec<u32> {
    let m = open(path, None).unwrap();
    let context = total.next_multiple_of(PAGE);
    let options = Options { context, cache_type: Some(KvType::F32), ..Options::default() };
    let mut cpu = Cpu::new(&m.plan, &*m.source, Arc::new(Pool::new(2)), &options).unwrap();
    let pages: Vec<u32> = (0..(context / PAGE) as u32).collect();
    let mut ids = prompt.to_vec();
    let mut done = 0;
    while ids.len() < total {
        let sequences =
            [SeqRows { rows: 0..ids.len() - done, start: done as u32, pages: &pages, state: 0, adapter: 0 }];
        let last = [(ids.len() - done - 1) as u32];
        let logits = cpu.run(&Step { tokens: &ids[done..], sequences: &sequences, outputs: &last }).unwrap();
        done = ids.len();
        let best = logits.iter().enumerate().reduce(|a, b| if b.1 > a.1 { b } else { a }).unwrap().0;
        ids.push(best as u32);
    }
    ids
}

fn answers(file: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn numbers(v: &serde_json::Value) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect()
}

#[test]
fn llama2c_checkpoints_and_the_same_as_gguf() {
    let Some(data) = allod_testkit::data() else { return };
    let known = answers(&data.join("weights/known_answers_llama2c.json"));
    let files = [
        ("stories260K", "stories260K/stories260K.bin"),
        ("stories260K", "stories260K/stories260K.gguf"),
        ("llama2xs", "llama2xs/model.bin"),
    ];
    for (name, file) in files {
        let k = &known[name];
        let expected = numbers(&k["greedy_200"]);
        let start = k["start_token"].as_u64().unwrap() as u32;
        let found = greedy(&data.join("weights").join(file), &[start], expected.len() + 1);
        assert_eq!(found[1..], expected, "{file}");
    }
}

#[test]
fn a_safetensors_folder() {
    let Some(data) = allod_testkit::data() else { return };
    let known = answers(&data.join("weights/known_answers_tinystories656k.json"));
    let (prompt, expected) = (numbers(&known["prompt_ids"]), numbers(&known["greedy_ids"]));
    assert_eq!(greedy(&data.join("weights/tinystories656k"), &prompt, expected.len()), expected);
}

#[test]
fn a_vocabulary_file_says_what_it_lacks() {
    let Some(data) = allod_testkit::data() else { return };
    let vocabulary = Gguf::open(data.join("tokenizer/ggml-vocab-qwen2.gguf")).unwrap();
    assert!(vocabulary.names().is_empty());
    let e = model(Box::new(vocabulary), None).err().unwrap().to_string();
    assert!(e.contains("token_embd.weight") || e.contains("vocab"), "{e}");
}
