//! GGUF files with tensors as llama.cpp once wrote them.

use crate::golden;
use allod_formats::{
    Metadata, Safetensors, TensorInfo, WeightSource,
    gguf::{Layout, Writer},
};
use allod_models::{model, open_source};
use allod_tensor::{DType, Tensor};
use std::path::Path;

/// Writes the golden `name` as GGUF, with the tensors that `old` makes of each of its own.
fn write(name: &str, file: &Path, old: impl Fn(&dyn WeightSource, &str) -> Vec<(String, Tensor)>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
    let source = open_source(&folder).unwrap();
    let tensors: Vec<(String, Tensor)> = source.names().iter().flat_map(|n| old(&*source, n)).collect();
    let infos = tensors.iter().map(|(n, t)| (n.clone(), TensorInfo { dtype: t.dtype, shape: t.shape.clone() }));
    let meta: Metadata = source.metadata().clone();
    let mut writer = Writer::create(file, &meta, infos, &Layout::default()).unwrap();
    for (n, t) in &tensors {
        writer.append(n, &t.data).unwrap();
    }
    writer.finish().unwrap();
}

fn check(name: &str, file: &Path) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
    let g = golden::read(folder);
    let m = model(open_source(file).unwrap(), Some(g.ids[0].len())).unwrap();
    let far = golden::distance(&golden::run_whole(&m, &g.ids), &g.rows);
    assert!(far <= golden::TOLERANCE, "{name}: {far:.1e}");
}

#[test]
fn keys_and_values_of_latent_attention_in_one_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("old.gguf");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/deepseek_v3");
    let files = Safetensors::open(&folder).unwrap();
    write("deepseek_v3", &file, |source, name| match name.split_once(".attn_k_b") {
        Some((layer, _)) => {
            let hf = format!("model.layers.{}.self_attn.kv_b_proj.weight", &layer["blk.".len()..]);
            vec![(format!("{layer}.attn_kv_b.weight"), files.tensor(&hf).unwrap())]
        }
        None if name.contains(".attn_v_b") => vec![],
        None => vec![(name.to_owned(), source.tensor(name).unwrap())],
    });
    check("deepseek_v3", &file);
}

#[test]
fn experts_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("old.gguf");
    write("mixtral", &file, |source, name| {
        let t = source.tensor(name).unwrap();
        let Some(stem) = name.strip_suffix("_exps.weight") else { return vec![(name.to_owned(), t)] };
        let each = t.data.len() / t.shape[0];
        let expert = |e: usize| {
            let data = t.data.slice(e * each..(e + 1) * each).unwrap();
            (format!("{stem}.{e}.weight"), Tensor { dtype: t.dtype, shape: t.shape[1..].to_vec(), data })
        };
        (0..t.shape[0]).map(expert).collect()
    });
    check("mixtral", &file);
}

#[test]
fn gate_and_up_of_experts_in_one_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fused.gguf");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/gemma4_text-moe");
    let files = Safetensors::open(&folder).unwrap();
    write("gemma4_text-moe", &file, |source, name| match name.split_once(".ffn_gate_exps") {
        Some((layer, _)) => {
            let hf = format!("model.layers.{}.experts.gate_up_proj", &layer["blk.".len()..]);
            vec![(format!("{layer}.ffn_gate_up_exps.weight"), files.tensor(&hf).unwrap())]
        }
        None if name.contains(".ffn_up_exps") => vec![],
        None => vec![(name.to_owned(), source.tensor(name).unwrap())],
    });
    check("gemma4_text-moe", &file);
}

#[test]
fn mxfp4_experts_keep_their_bits() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/gpt_oss-mxfp4");
    let source = open_source(&folder).unwrap();
    let t = source.tensor("blk.0.ffn_down_exps.weight").unwrap();
    assert_eq!(t.dtype, DType::MXFP4);
    // Read as the format says, without the block of GGUF between.
    let files = Safetensors::open(&folder).unwrap();
    let [blocks, scales] =
        ["blocks", "scales"].map(|n| files.bytes(&format!("model.layers.0.mlp.experts.down_proj_{n}")).unwrap());
    let level = |code: u8| {
        let size = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(code & 7)];
        if code < 8 { size } else { -size }
    };
    let value = |i: usize| {
        let nibble = blocks[i / 2] >> (4 * (i % 2)) & 15;
        level(nibble) * 2f32.powi(i32::from(scales[i / 32]) - 127)
    };
    let found = allod_formats::codec::to_f32(&t).unwrap();
    assert!(found.iter().enumerate().all(|(i, &v)| v == value(i)));
}
