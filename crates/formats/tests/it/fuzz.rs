//! A short run of the fuzz bodies; `ALLOD_FUZZ_SECONDS=600 cargo test -p allod-formats fuzz` makes it a long one.

use crate::write::{metadata, write};
use allod_formats::{Safetensors, gguf::Layout};
use allod_tensor::DType;
use allod_testkit::fuzz::{self, drive};

const SECONDS: u64 = 2;

/// How many executions two seconds give at the very least; a driver that feeds nothing would go unnoticed otherwise.
const LEAST: u64 = 1000;

#[test]
fn gguf() {
    let folder = tempfile::TempDir::new().unwrap();
    let (whole, small) = (folder.path().join("whole.gguf"), folder.path().join("small.gguf"));
    write(&whole, &metadata(), &Layout::default());
    let empty: [(String, _); 0] = [];
    let writer = allod_formats::gguf::Writer::create(&small, &metadata(), empty, &Layout::default()).unwrap();
    writer.finish().unwrap();
    let seeds = [whole, small].map(|p| std::fs::read(p).unwrap());
    seeds.iter().for_each(|s| fuzz::gguf(s));
    assert!(drive("gguf", &seeds, SECONDS, fuzz::gguf) > LEAST);
}

#[test]
fn safetensors() {
    let entry = |d, s, b, e| format!("{{\"dtype\":\"{d}\",\"shape\":{s},\"data_offsets\":[{b},{e}]}}");
    let one = format!("{{\"a\":{},\"b\":{}}}", entry("F32", "[2,2]", 0, 16), entry("F4", "[3,2]", 16, 19));
    let two = format!("{{\"__metadata__\":{{\"a\":\"b\"}},\"\":{}}}", entry("I8", "[0]", 0, 0));
    let seeds = [(one, 19), (two, 0)]
        .map(|(header, data)| [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat());
    let body = |data: &[u8]| {
        fuzz::safetensors(data);
        // Nothing is accepted that the reference refuses.
        if Safetensors::from_bytes(data.to_vec().into(), "fuzz").is_ok() {
            ::safetensors::SafeTensors::deserialize(data).unwrap();
        }
    };
    seeds.iter().for_each(|s| body(s));
    assert!(drive("safetensors", &seeds, SECONDS, body) > LEAST);
}

#[test]
fn json_config() {
    let seeds = [
        &br#"{"architectures": ["LlamaForCausalLM"], "rope_scaling": {"factor": 8.0, "type": null}, "tie": true}"#[..],
        br#"{"time_step_limit": [0.0, Infinity], "x": [NaN, -Infinity, -1e-5, "\ud83d\ude00 \" \\"]}"#,
    ]
    .map(<[u8]>::to_vec);
    assert!(drive("json_config", &seeds, SECONDS, fuzz::json_config) > LEAST);
}

#[test]
fn codec() {
    let seed = |i: usize| (0..600).map(|j| if j == 0 { i as u8 } else { (i * 37 + j * 11) as u8 }).collect();
    let seeds: Vec<Vec<u8>> = (0..DType::ALL.len()).map(seed).collect();
    assert!(drive("codec", &seeds, SECONDS, fuzz::codec) > LEAST);
}

#[test]
fn llama2c() {
    let header = [8i32, 4, 1, 2, 1, 3, 5].into_iter().flat_map(i32::to_le_bytes);
    let seeds = [header.chain(std::iter::repeat_n(0, 4 * 356)).collect::<Vec<u8>>()];
    allod_formats::Llama2c::from_bytes(seeds[0].clone().into(), "seed").unwrap();
    assert!(drive("llama2c", &seeds, SECONDS, fuzz::llama2c) > LEAST);
}
