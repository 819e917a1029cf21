//! Adapters against PEFT: run beside the base, merged into it, over a folder and over its GGUF file.

use crate::golden::{Golden, TOLERANCE, read};
use allod_cpu::{Cpu, KvType, Options, Pool};
use allod_formats::{
    Metadata, WeightSource,
    safetensors::{Dtype, Writer},
};
use allod_models::{
    Error, adapter,
    convert::{self, GgufOptions},
    model, open_source,
};
use allod_plan::{Backend, Lora, PAGE, SeqRows, Step};
use allod_tensor::DType;
use std::{path::PathBuf, sync::Arc};

fn folder(kind: &str, name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests").join(kind).join(name)
}

fn base(adapter: &str) -> PathBuf {
    folder("goldens", adapter.split('-').next().unwrap())
}

/// Results of all sequences, each through the adapter that `through` names, `chunk` rows at a time.
fn run(
    source: Box<dyn WeightSource>,
    ids: &[Vec<u32>],
    adapters: &[&Lora],
    through: &[u32],
    chunk: usize,
) -> Vec<Vec<f32>> {
    let length = ids[0].len();
    let m = model(source, Some(length)).unwrap();
    let pages = length.div_ceil(PAGE);
    let rows = ids.len() * length;
    let options = Options {
        rows,
        outputs: rows,
        sequences: ids.len(),
        context: length,
        pages: Some(pages * ids.len()),
        cache_type: Some(KvType::F32),
        ..Options::default()
    };
    let mut cpu = Cpu::new(&m.plan, &*m.source, Arc::new(Pool::new(2)), &options).unwrap();
    for (id, adapter) in (1..).zip(adapters) {
        cpu.load_adapter(id, adapter).unwrap();
    }
    let tables: Vec<Vec<u32>> =
        (0..ids.len()).map(|s| (s * pages..(s + 1) * pages).map(|p| p as u32).collect()).collect();
    let width = cpu.capacity().width;
    let mut results = vec![Vec::new(); ids.len()];
    for start in (0..length).step_by(chunk) {
        let n = chunk.min(length - start);
        let tokens: Vec<u32> = ids.iter().flat_map(|ids| &ids[start..start + n]).copied().collect();
        let sequence = |s: usize| SeqRows {
            rows: s * n..(s + 1) * n,
            start: start as u32,
            pages: &tables[s],
            state: s as u32,
            adapter: through[s],
        };
        let sequences: Vec<_> = (0..ids.len()).map(sequence).collect();
        let outputs: Vec<u32> = (0..tokens.len() as u32).collect();
        let out = cpu.run(&Step { tokens: &tokens, sequences: &sequences, outputs: &outputs }).unwrap();
        results.iter_mut().zip(out.chunks(n * width)).for_each(|(all, new)| all.extend_from_slice(new));
    }
    results
}

/// The largest difference, as a share of the standard deviation of what was expected.
fn distance(found: &[Vec<f32>], expected: &[f32]) -> f32 {
    let n = expected.len() as f32;
    let mean = expected.iter().sum::<f32>() / n;
    let deviation = (expected.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n).sqrt();
    let found = found.concat();
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / deviation
}

const NAMES: [&str; 6] = ["llama-lora", "llama-rslora", "qwen3-dora", "phi3-lora", "gpt2-lora", "gpt_neox-dora"];

#[test]
fn logits_are_those_of_peft() {
    for name in NAMES {
        let Golden { ids, rows, .. } = read(folder("adapters", name));
        let open = || open_source(&base(name)).unwrap();
        let adapter = adapter::open(&folder("adapters", name), &*open()).unwrap();
        let through = vec![1; ids.len()];
        let all = run(open(), &ids, &[&adapter], &through, 32);
        let far = distance(&all, &rows);
        assert!(far <= TOLERANCE, "{name}: {far:e}");
        let plain = run(open(), &ids, &[], &vec![0; ids.len()], 32);
        assert!(distance(&plain, &rows) > 0.05, "{name} changes too little to see a difference");

        // Beside one that goes through none, and in pieces: the same bytes.
        let mixed = run(open(), &ids, &[&Lora::default(), &adapter], &[0, 2], 7);
        assert!(mixed[0] == plain[0] && mixed[1] == all[1], "{name}: bytes depend on the batch");

        let merged = adapter::merged(open(), vec![adapter.clone()]).unwrap();
        let is_f32 = open().names().iter().all(|n| open().info(n).unwrap().dtype == DType::F32);
        // A BF16 base stays BF16: each changed weight is rounded by up to 1 in 512, the plain weights are not.
        let allowed = if is_f32 { TOLERANCE } else { 0.15 };
        let far = distance(&run(Box::new(merged), &ids, &[], &vec![0; ids.len()], 32), &rows);
        assert!(far <= allowed, "{name}, merged: {far:e}");

        // The base as a GGUF file is another layout of the same weights.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("base.gguf");
        convert::to_gguf(&*open(), &Metadata::default(), &path, &Default::default()).unwrap();
        let gguf = || open_source(&path).unwrap();
        assert_eq!(adapter::open(&folder("adapters", name), &*gguf()).unwrap(), adapter, "{name}");
        assert_eq!(run(gguf(), &ids, &[&adapter], &through, 32), all, "{name}");
    }
}

#[test]
fn changes_of_experts_are_those_of_peft() {
    for name in ["qwen3_moe-experts", "gpt_oss-experts"] {
        let Golden { ids, rows, .. } = read(folder("adapters", name));
        let from_folder = open_source(&base(name)).unwrap();
        // Wide enough for what is added to it.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("base.gguf");
        let wide = GgufOptions { matrices: Some(DType::F32), ..Default::default() };
        convert::to_gguf(&*from_folder, &Metadata::default(), &path, &wide).unwrap();
        let gguf = || open_source(&path).unwrap();
        let adapter = adapter::open(&folder("adapters", name), &*gguf()).unwrap();
        assert_eq!(adapter::open(&folder("adapters", name), &*from_folder).unwrap(), adapter, "{name}");

        let through = vec![0; ids.len()];
        assert!(distance(&run(gguf(), &ids, &[], &through, 32), &rows) > 0.05, "{name} changes too little");
        let merged = adapter::merged(gguf(), vec![adapter.clone()]).unwrap();
        let far = distance(&run(Box::new(merged), &ids, &[], &through, 32), &rows);
        assert!(far <= TOLERANCE, "{name}: {far:e}");

        let m = model(gguf(), Some(8)).unwrap();
        let mut cpu = Cpu::new(&m.plan, &*m.source, Arc::new(Pool::new(1)), &Options::default()).unwrap();
        let error = cpu.load_adapter(1, &adapter).unwrap_err().to_string();
        assert!(error.contains("ffn_down_exps") && error.contains("must be merged"), "{error}");
    }
}

#[test]
fn odd_changes_of_experts_are_named() {
    let from = folder("adapters", "gpt_oss-experts");
    let base = open_source(&base("gpt_oss-experts")).unwrap();
    let config = std::fs::read_to_string(from.join("adapter_config.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let open = |config: &str| {
        std::fs::write(dir.path().join("adapter_config.json"), config).unwrap();
        adapter::open(dir.path(), &*base).unwrap_err().to_string()
    };
    std::fs::copy(from.join("adapter_model.safetensors"), dir.path().join("adapter_model.safetensors")).unwrap();
    // Two wrappers, of which one has no parameter; a vector for each expert; no name.
    let error = open(&config.replace("mlp.experts.down_proj", "mlp.experts.other"));
    assert!(error.contains("experts.base_layer"), "{error}");
    let error = open(&config.replace("mlp.experts.down_proj", "mlp.experts.down_proj_bias"));
    assert!(error.contains("stacks of experts") && error.contains("down_proj_bias"), "{error}");
    let error = open(&config.replace(r#""mlp.experts.down_proj""#, "7"));
    assert!(error.contains("target_parameters"), "{error}");

    // Ranks that are no multiple of the experts.
    let at = "base_model.model.model.layers.0.mlp.experts";
    let values = [0u8; 4 * 64 * 6];
    let shapes = [(format!("{at}.lora_A.weight"), vec![6, 32]), (format!("{at}.lora_B.weight"), vec![64, 6])];
    let tensors = shapes.iter().map(|(name, shape)| (name.clone(), Dtype::F32, shape.clone()));
    let mut writer =
        Writer::create(dir.path().join("adapter_model.safetensors"), tensors, &Default::default(), None).unwrap();
    for (name, shape) in &shapes {
        writer.append(name, &values[..4 * shape.iter().product::<usize>()]).unwrap();
    }
    writer.finish().unwrap();
    let error = open(&config);
    assert!(error.contains("4 · rank × in") && error.contains("[6, 32]"), "{error}");
}

#[test]
fn a_gguf_adapter_is_that_of_the_folder() {
    let base = open_source(&base("llama")).unwrap();
    let file = adapter::open(&folder("adapters", "llama-lora").join("adapter.gguf"), &*base).unwrap();
    let folder = adapter::open(&folder("adapters", "llama-lora"), &*base).unwrap();
    assert_eq!(file.deltas.len(), 3 * 4);
    for (name, delta) in &file.deltas {
        let same = &folder.deltas[name];
        assert!(delta.a == same.a && delta.b == same.b && delta.rank == same.rank, "{name}");
        // The file has one alpha for all.
        assert_eq!(delta.scale, if name.contains("attn_q") { same.scale / 2.0 } else { same.scale }, "{name}");
    }
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let llama = || open_source(&base("llama")).unwrap();
    let error = adapter::open(&folder("adapters", "gpt2-lora"), &*llama()).unwrap_err();
    assert!(matches!(error, Error::UnknownTensor { .. }), "{error}");
    // Qwen's has names that a Llama knows, and other widths.
    let adapter = adapter::open(&folder("adapters", "qwen3-dora"), &*llama());
    let refused = adapter.and_then(|adapter| adapter::merged(llama(), vec![adapter]).map(drop));
    assert!(refused.unwrap_err().to_string().contains("another base model"));
    let error = adapter::open(&folder("goldens", "llama"), &*llama()).unwrap_err();
    assert!(error.to_string().contains("adapter_config.json"), "{error}");
}

#[test]
fn what_cannot_be_applied_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let from = folder("adapters", "llama-lora");
    std::fs::copy(from.join("adapter_model.safetensors"), dir.path().join("adapter_model.safetensors")).unwrap();
    let config = std::fs::read_to_string(from.join("adapter_config.json")).unwrap();
    let base = open_source(&base("llama")).unwrap();
    let tries = [
        (r#""peft_type": "LORA""#, r#""peft_type": "IA3""#, "peft_type"),
        (r#""trainable_token_indices": null"#, r#""trainable_token_indices": [3]"#, "trainable_token_indices"),
        (r#""lora_alpha": 8"#, r#""lora_alpha": "x""#, "lora_alpha"),
        (r#""q_proj": 16"#, r#""q_(proj": 16"#, "alpha_pattern"),
    ];
    for (was, is, field) in tries {
        assert!(config.contains(was));
        std::fs::write(dir.path().join("adapter_config.json"), config.replace(was, is)).unwrap();
        let error = adapter::open(dir.path(), &*base).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}
