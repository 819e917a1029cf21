//! llama2.c checkpoints against the GGUF file that llama.cpp's converter made from the same weights.

use allod_formats::{Gguf, WeightSource, llama2c};

#[test]
fn a_checkpoint_equals_its_gguf_conversion() {
    let Some(data) = allod_testkit::data() else { return };
    let folder = data.join("weights/stories260K");
    let (bin, gguf) =
        (llama2c::open(folder.join("stories260K.bin")).unwrap(), Gguf::open(folder.join("stories260K.gguf")).unwrap());
    for name in bin.names() {
        let (a, b) = (bin.tensor(&name).unwrap(), gguf.tensor(&name).unwrap());
        assert_eq!((&a.shape, &a.data[..]), (&b.shape, &b.data[..]), "{name}");
    }
    // Tied in the one file; the converter repeated the matrix in the other.
    assert!(bin.info("output.weight").is_none());
    assert_eq!(bin.names().len() + 1, gguf.names().len());
    for (key, value) in bin.metadata().iter() {
        match gguf.metadata().get(key) {
            // The converter wrote the default of llama.cpp instead of the file's value.
            Some(_) if key == "llama.context_length" => assert_eq!(bin.metadata().uint(key), Some(512)),
            Some(theirs) => assert_eq!(value, theirs, "{key}"),
            None => assert!(["llama.vocab_size", "llama.rope.freq_base"].contains(&key), "{key}"),
        }
    }
}

#[test]
fn a_checkpoint_without_tokenizer_takes_one_from_elsewhere() {
    let Some(data) = allod_testkit::data() else { return };
    let (path, tokenizer) = (data.join("weights/llama2xs/model.bin"), data.join("weights/stories260K/tok512.bin"));
    assert!(llama2c::open(&path).unwrap().metadata().get("tokenizer.ggml.tokens").is_none());
    let model = llama2c::open_with(&path, tokenizer).unwrap();
    assert_eq!(model.metadata().strings("tokenizer.ggml.tokens").unwrap().len(), 512);
    assert_eq!(model.info("blk.4.ffn_down.weight").unwrap().shape, [64, 192]);
}
