//! Reading real files, against facts established with gguf-py and the reference safetensors package.

use allod_formats::{Gguf, Safetensors, WeightSource, safetensors::Dtype};
use allod_tensor::DType;

#[test]
fn a_real_gguf_model_is_read_as_gguf_py_reads_it() {
    let Some(data) = allod_testkit::data() else { return };
    let model = Gguf::open(data.join("weights/stories260K/stories260K.gguf")).unwrap();
    assert_eq!(model.names().len(), 48);
    assert_eq!(model.metadata().len(), 19);
    assert_eq!(model.metadata().str("general.architecture"), Some("llama"));
    assert_eq!(model.metadata().uint("llama.block_count"), Some(5));
    assert_eq!(model.metadata().float("llama.attention.layer_norm_rms_epsilon"), Some(1e-5));
    let tokens = model.metadata().strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!((tokens.len(), tokens[1].as_str()), (512, "<s>"));
    let down = model.tensor("blk.0.ffn_down.weight").unwrap();
    assert_eq!((down.dtype, down.shape.as_slice()), (DType::F32, &[64, 172][..]));
    assert!(down.data.is_mapped());
    let file = std::fs::read(data.join("weights/stories260K/stories260K.gguf")).unwrap();
    assert_eq!(&down.data[..], &file[370016..414048]);
    assert!(model.tensor("blk.5.ffn_down.weight").is_err());
}

#[test]
fn all_vocabulary_files_open() {
    let Some(data) = allod_testkit::data() else { return };
    let mut count = 0;
    for file in std::fs::read_dir(data.join("tokenizer")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|e| e == "gguf") {
            let vocabulary = Gguf::open(&path).unwrap();
            assert!(vocabulary.metadata().strings("tokenizer.ggml.tokens").unwrap().len() > 1000, "{path:?}");
            assert!(vocabulary.names().is_empty());
            count += 1;
        }
    }
    assert_eq!(count, 10);
}

#[test]
fn a_real_safetensors_folder_is_read() {
    let Some(data) = allod_testkit::data() else { return };
    let folder = data.join("weights/tinystories656k");
    let model = Safetensors::open(&folder).unwrap();
    assert_eq!(model.metadata()["format"], "pt");
    assert_eq!(model.entries().count(), 20);
    let embedding = model.entry("lm_head.weight").unwrap();
    assert_eq!(model.entry("model.embed_tokens.weight"), Some(embedding), "a name for shared memory");
    assert_eq!((embedding.dtype, embedding.shape.as_slice()), (Dtype::F32, &[2048, 128][..]));
    assert_eq!(model.tensor("model.norm.weight").unwrap().data.len(), 512);
    let config = model.json("config.json").unwrap().unwrap();
    assert_eq!(config["num_key_value_heads"], 4);
    assert!(model.json("absent.json").unwrap().is_none());
    assert_eq!(Safetensors::open(folder.join("model.safetensors")).unwrap().entries().count(), 20);
}
