//! Every golden through GGUF and back into a folder. `ALLOD_BACK` names a folder to keep what is written in, for
//! `scripts/goldens/way_back.py`, which has Transformers read it.

use crate::golden::{self, Golden};
use allod_formats::{
    Gguf, Metadata, TensorInfo, WeightSource, codec,
    gguf::{Layout, Split},
};
use allod_models::{
    convert::{FolderOptions, GgufOptions, to_gguf, to_safetensors},
    model, open_source,
};
use allod_tensor::{DType, Tensor};
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};

fn options(matrices: DType) -> GgufOptions {
    GgufOptions { matrices: Some(matrices), ..GgufOptions::default() }
}

fn worst(g: &Golden, path: &Path) -> Result<f32, String> {
    let m = model(open_source(path).map_err(|e| e.to_string())?, Some(g.ids[0].len())).map_err(|e| e.to_string())?;
    Ok(golden::distance(&golden::run_whole(&m, &g.ids), &g.rows))
}

#[test]
fn goldens_survive_gguf_and_the_way_back() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = std::env::var_os("ALLOD_BACK").map_or(temporary.path().to_owned(), PathBuf::from);
    std::fs::create_dir_all(&folder).unwrap();
    let mut wrong = vec![];
    for g in golden::goldens() {
        if golden::open(&g).is_err() {
            continue; // the golden test says so
        }
        let source = open_source(&g.path).unwrap();
        let file = folder.join(format!("{}.gguf", g.name));
        let back = folder.join(&g.name);
        let steps = [
            ("to GGUF", to_gguf(&*source, &Metadata::default(), &file, &options(DType::F32)), &file),
            (
                "back",
                Gguf::open(&file)
                    .map_err(Into::into)
                    .and_then(|f| to_safetensors(&f, &back, &FolderOptions::default())),
                &back,
            ),
        ];
        for (step, done, path) in steps {
            match done.map_err(|e| e.to_string()).and_then(|_| worst(&g, path)) {
                Ok(far) if far <= golden::TOLERANCE => println!("{} {step}: {far:.1e}", g.name),
                Ok(far) => wrong.push(format!("{} {step}: {far:.1e}", g.name)),
                Err(e) => wrong.push(format!("{} {step}: {e}", g.name)),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn experts_in_mxfp4_come_back_as_the_same_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let g = golden::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/gpt_oss-mxfp4"));
    let (file, back) = (folder.path().join("m.gguf"), folder.path().join("back"));
    to_gguf(&*open_source(&g.path).unwrap(), &Metadata::default(), &file, &GgufOptions::default()).unwrap();
    let gguf = Gguf::open(&file).unwrap();
    assert_eq!(gguf.info("blk.0.ffn_up_exps.weight").unwrap().dtype, DType::MXFP4);
    to_safetensors(&gguf, &back, &FolderOptions::default()).unwrap();
    let again = open_source(&back).unwrap();
    for name in ["blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight", "blk.0.ffn_down_exps.weight"] {
        let plain = again.tensor(name).unwrap();
        assert_eq!(plain.dtype, DType::BF16);
        assert_eq!(codec::to_f32(&plain).unwrap(), codec::to_f32(&gguf.tensor(name).unwrap()).unwrap(), "{name}");
    }
    let far = worst(&g, &back).unwrap();
    assert!(far <= golden::TOLERANCE, "{far:.1e}");
}

/// llama.cpp leaves out keys whose values it takes for granted; Transformers takes others for granted.
#[test]
fn what_gguf_leaves_unsaid_is_said_in_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    for (golden, key, field, expected) in [
        ("qwen3_moe", "qwen3moe.expert_weights_norm", "norm_topk_prob", json!(true)),
        ("deepseek_v3", "deepseek2.expert_weights_norm", "norm_topk_prob", json!(false)),
        ("gemma2", "gemma2.attention.scale", "query_pre_attn_scalar", json!(16)),
        ("gemma2", "gemma2.attn_logit_softcapping", "attn_logit_softcapping", json!(null)),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(golden);
        let source = Without { source: open_source(&path).unwrap(), meta: Metadata::default() }.key(key);
        let (file, back) = (folder.path().join("m.gguf"), folder.path().join("back"));
        to_gguf(&source, &Metadata::default(), &file, &GgufOptions::default()).unwrap();
        to_safetensors(&Gguf::open(&file).unwrap(), &back, &FolderOptions::default()).unwrap();
        let config: Json = serde_json::from_slice(&std::fs::read(back.join("config.json")).unwrap()).unwrap();
        assert_eq!(config.get(field), Some(&expected), "{golden}: {field}");
    }
}

/// A source that lacks a key.
struct Without {
    source: Box<dyn WeightSource>,
    meta: Metadata,
}

impl Without {
    fn key(mut self, key: &str) -> Without {
        self.meta = self.source.metadata().clone();
        assert!(self.meta.remove(key).is_some(), "{key}");
        self
    }
}

impl WeightSource for Without {
    fn origin(&self) -> String {
        self.source.origin()
    }
    fn metadata(&self) -> &Metadata {
        &self.meta
    }
    fn names(&self) -> Vec<String> {
        self.source.names()
    }
    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.source.info(name)
    }
    fn tensor(&self, name: &str) -> Result<Tensor, allod_formats::Error> {
        self.source.tensor(name)
    }
}

#[test]
fn matrices_are_quantized_and_vectors_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/phi3-longrope");
    let source = open_source(&path).unwrap();
    let file = folder.path().join("q8.gguf");
    to_gguf(&*source, &Metadata::default(), &file, &options(DType::Q8_0)).unwrap();
    let gguf = Gguf::open(&file).unwrap();
    let of = |name: &str| gguf.info(name).unwrap().dtype;
    assert_eq!(of("blk.0.attn_qkv.weight"), DType::Q8_0);
    assert_eq!(of("blk.0.ffn_down.weight"), DType::F16); // 80 columns are no whole blocks
    assert_eq!(of("blk.0.attn_norm.weight"), DType::F32);
    assert_eq!(of("rope_factors_long.weight"), DType::F32);
    assert_eq!(gguf.metadata().uint("general.file_type"), Some(7));
    assert_eq!(gguf.metadata().uint("general.quantization_version"), Some(2));
    let plain = codec::to_f32(&source.tensor("blk.0.attn_qkv.weight").unwrap()).unwrap();
    let coded = codec::to_f32(&gguf.tensor("blk.0.attn_qkv.weight").unwrap()).unwrap();
    let most = plain.iter().map(|x| x.abs()).fold(0.0, f32::max);
    assert!(plain.iter().zip(&coded).all(|(a, b)| (a - b).abs() <= most / 127.0));
    // Back, the quantized ones are plain again.
    let back = folder.path().join("back");
    to_safetensors(&gguf, &back, &FolderOptions::default()).unwrap();
    let again = open_source(&back).unwrap();
    assert_eq!(again.info("blk.0.attn_qkv.weight").unwrap().dtype, DType::BF16);
    assert!(model(again, None).is_ok());
}

#[test]
fn a_set_of_files_and_the_keys_of_the_caller() {
    let folder = tempfile::tempdir().unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/gpt2");
    let mut extra = Metadata::default();
    extra.set("tokenizer.ggml.model", "gpt2");
    extra.set("general.name", "Another");
    let layout = Layout { split: Split::Tensors(10), ..Layout::default() };
    let options = GgufOptions { matrices: None, layout };
    let files = to_gguf(&*open_source(&path).unwrap(), &extra, &folder.path().join("m.gguf"), &options).unwrap();
    assert!(files.len() > 3);
    let m = model(open_source(&files[0]).unwrap(), Some(32)).unwrap();
    assert_eq!(m.source.metadata().str("tokenizer.ggml.model"), Some("gpt2"));
    assert_eq!(m.source.metadata().str("general.name"), Some("Another"));
    assert_eq!(m.source.info("blk.0.attn_qkv.weight").unwrap().dtype, DType::BF16);
}

#[test]
fn the_model_card_is_carried_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/arcee");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(path.join(name), folder.path().join(name)).unwrap();
    }
    let card = "---\nlicense: apache-2.0 # as the base\nlanguage:\n- en\n- \"fr\"\nbase_model: arcee-ai/AFM-4.5B-base\n\
        datasets: [HuggingFaceH4/ultrachat_200k, mine]\ntags:\n  - chat\npipeline_tag: text-generation\n\
        model-index:\n- name: x\n  results:\n  - task: y\n---\n# Title\nlicense: mit\n";
    std::fs::write(folder.path().join("README.md"), card).unwrap();
    let file = folder.path().join("m.gguf");
    to_gguf(&*open_source(folder.path()).unwrap(), &Metadata::default(), &file, &GgufOptions::default()).unwrap();
    let gguf = Gguf::open(&file).unwrap();
    let meta = gguf.metadata();
    for (key, value) in [
        ("general.license", "apache-2.0"),
        ("general.base_model.0.name", "AFM 4.5B Base"),
        ("general.base_model.0.organization", "Arcee Ai"),
        ("general.base_model.0.repo_url", "https://huggingface.co/arcee-ai/AFM-4.5B-base"),
        ("general.dataset.0.name", "Ultrachat_200k"),
        ("general.dataset.0.organization", "HuggingFaceH4"),
        ("general.dataset.1.name", "Mine"),
    ] {
        assert_eq!(meta.str(key), Some(value), "{key}");
    }
    assert_eq!(meta.uint("general.dataset.count"), Some(2));
    assert_eq!(meta.strings("general.languages").unwrap(), ["en", "fr"]);
    assert_eq!(meta.strings("general.tags").unwrap(), ["chat", "text-generation"]);
}

#[test]
fn what_a_configuration_cannot_say_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/gpt2");
    let mut extra = Metadata::default();
    extra.set("gpt2.attention.causal", false);
    let file = folder.path().join("m.gguf");
    to_gguf(&*open_source(&path).unwrap(), &extra, &file, &GgufOptions::default()).unwrap();
    let refused = to_safetensors(&Gguf::open(&file).unwrap(), &folder.path().join("back"), &FolderOptions::default());
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("gpt2.attention.causal"), "{message}");
}
