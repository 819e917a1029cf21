//! Folders whose weights are 8-bit floats. The golden `deepseek_v3-fp8` has blocks; here are the other forms, and what
//! is refused.

use allod_formats::{codec, safetensors::Dtype};
use allod_models::{model, open_source};
use indexmap::IndexMap;
use serde_json::{Value as Json, json};
use std::path::Path;

const NAME: &str = "model.layers.1.mlp.up_proj.weight";
const OURS: &str = "blk.1.ffn_up.weight";
/// Rows and columns of that tensor.
const SHAPE: [usize; 2] = [80, 48];

/// The golden `arcee` with one matrix of `bytes`, further tensors, and a `quantization_config`.
fn folder(dtype: Dtype, bytes: &[u8], more: &[(&str, &[usize], &[f32])], quantization: Json) -> tempfile::TempDir {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/arcee");
    let out = tempfile::tempdir().unwrap();
    let source = allod_formats::Safetensors::open(&golden).unwrap();
    let mut config: Json = serde_json::from_slice(&std::fs::read(golden.join("config.json")).unwrap()).unwrap();
    config["quantization_config"] = quantization;
    std::fs::write(out.path().join("config.json"), config.to_string()).unwrap();
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = vec![];
    for (name, entry) in source.entries() {
        match name == NAME {
            true => tensors.push((name.into(), dtype, SHAPE.to_vec(), bytes.to_vec())),
            false => {
                tensors.push((name.into(), entry.dtype, entry.shape.clone(), source.bytes(name).unwrap().to_vec()))
            }
        }
    }
    for (name, shape, values) in more {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        tensors.push((name.to_string(), Dtype::F32, shape.to_vec(), bytes));
    }
    let announced = tensors.iter().map(|(n, d, s, _)| (n.clone(), *d, s.clone()));
    let path = out.path().join("model.safetensors");
    let mut writer = allod_formats::safetensors::Writer::create(path, announced, &IndexMap::new(), None).unwrap();
    tensors.iter().for_each(|(n, .., b)| writer.append(n, b).unwrap());
    writer.finish().unwrap();
    out
}

fn read(folder: &tempfile::TempDir) -> Result<Vec<f32>, String> {
    let source = open_source(folder.path()).map_err(|e| e.to_string())?;
    let tensor = source.tensor(OURS).map_err(|e| e.to_string())?;
    model(source, None).map_err(|e| e.to_string())?;
    Ok(codec::to_f32(&tensor).unwrap())
}

/// Bytes and the numbers that the OCP specification gives for them, each in turn.
fn turns(known: &[(u8, f32)]) -> (Vec<u8>, Vec<f32>) {
    (0..SHAPE[0] * SHAPE[1]).map(|i| known[i % known.len()]).unzip()
}

const E4M3: &[(u8, f32)] = &[
    (0x00, 0.0),
    (0x01, 0.001_953_125),
    (0x07, 0.013_671_875),
    (0x08, 0.015_625),
    (0x38, 1.0),
    (0xb9, -1.125),
    (0x7e, 448.0),
    (0xfe, -448.0),
];
const E5M2: &[(u8, f32)] =
    &[(0x00, 0.0), (0x01, 1.525_878_9e-5), (0x04, 6.103_515_6e-5), (0x3c, 1.0), (0xbd, -1.25), (0x7b, 57_344.0)];

#[test]
fn one_scale_for_all_for_each_row_or_none() {
    let (bytes, numbers) = turns(E4M3);
    let scale = format!("{NAME}_scale");
    let fp8 = || json!({ "quant_method": "fp8" });
    assert_eq!(read(&folder(Dtype::F8_E4M3, &bytes, &[], fp8())).unwrap(), numbers);
    let one: (&str, &[usize], &[f32]) = (&scale, &[], &[0.3]);
    let found = read(&folder(Dtype::F8_E4M3, &bytes, &[one], fp8())).unwrap();
    assert!(found.iter().zip(&numbers).all(|(a, b)| *a == b * 0.3));
    let rows: Vec<f32> = (0..80).map(|r| 0.01 + r as f32).collect();
    for shape in [&[80_usize][..], &[80, 1]] {
        let found = read(&folder(Dtype::F8_E4M3, &bytes, &[(&scale, shape, &rows)], fp8())).unwrap();
        assert!(found.iter().zip(&numbers).enumerate().all(|(i, (a, b))| *a == b * rows[i / 48]));
    }
    let (bytes, numbers) = turns(E5M2);
    assert_eq!(read(&folder(Dtype::F8_E5M2, &bytes, &[], fp8())).unwrap(), numbers);
}

#[test]
fn blocks_whose_last_is_not_full() {
    let (bytes, numbers) = turns(E4M3);
    let scale = format!("{NAME}_scale_inv");
    let scales: Vec<f32> = (0..6).map(|i| 0.7 + i as f32).collect();
    let config = json!({ "quant_method": "fp8", "weight_block_size": [32, 32] });
    let beside = format!("{}.input_scale", NAME.strip_suffix(".weight").unwrap());
    let more: [(&str, &[usize], &[f32]); 2] = [(&scale, &[3, 2], &scales), (&beside, &[], &[1.0])];
    let found = read(&folder(Dtype::F8_E4M3, &bytes, &more, config)).unwrap();
    let of = |i: usize| scales[i / 48 / 32 * 2 + i % 48 / 32];
    assert!(found.iter().zip(&numbers).enumerate().all(|(i, (a, b))| *a == b * of(i)));
}

#[test]
fn scales_of_another_shape_are_refused() {
    let (bytes, _) = turns(E4M3);
    let scale = format!("{NAME}_scale_inv");
    let more: [(&str, &[usize], &[f32]); 1] = [(&scale, &[7], &[1.0; 7])];
    let message = read(&folder(Dtype::F8_E4M3, &bytes, &more, json!({ "quant_method": "fp8" }))).unwrap_err();
    assert!(message.contains(&scale) && message.contains("[80, 48]") && message.contains("[7]"), "{message}");
}

#[test]
fn other_quantizations_are_refused_by_name() {
    let (bytes, _) = turns(E4M3);
    for method in ["gptq", "awq", "bitsandbytes", "hqq"] {
        let message = read(&folder(Dtype::F8_E4M3, &bytes, &[], json!({ "quant_method": method }))).unwrap_err();
        assert!(message.contains("quantization_config.quant_method") && message.contains(method), "{message}");
        assert!(message.contains("GGUF"), "{message}");
    }
    let ints = json!({ "quant_method": "compressed-tensors",
                       "config_groups": { "group_0": { "weights": { "type": "int", "num_bits": 4 } } } });
    assert!(read(&folder(Dtype::F8_E4M3, &bytes, &[], ints)).is_err());
}
