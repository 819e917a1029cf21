//! Models that contradict themselves: the message names tensor or key, what was expected and what was found.

use allod_formats::{Metadata, TensorInfo, WeightSource};
use allod_models::{model, open_source};
use allod_tensor::Tensor;
use std::{collections::HashMap, path::Path};

/// A golden as GGUF would hold it, with some of it changed.
struct Changed {
    source: Box<dyn WeightSource>,
    meta: Metadata,
    gone: Vec<&'static str>,
    added: HashMap<String, Tensor>,
}

impl WeightSource for Changed {
    fn origin(&self) -> String {
        "model.gguf".into()
    }
    fn metadata(&self) -> &Metadata {
        &self.meta
    }
    fn names(&self) -> Vec<String> {
        let kept = self.source.names().into_iter().filter(|n| !self.gone.contains(&n.as_str()));
        kept.chain(self.added.keys().cloned()).collect()
    }
    fn info(&self, name: &str) -> Option<TensorInfo> {
        match self.added.get(name) {
            Some(t) => Some(TensorInfo { dtype: t.dtype, shape: t.shape.clone() }),
            None if self.gone.contains(&name) => None,
            None => self.source.info(name),
        }
    }
    fn tensor(&self, name: &str) -> Result<Tensor, allod_formats::Error> {
        self.added.get(name).cloned().map_or_else(|| self.source.tensor(name), Ok)
    }
}

/// What is said about the golden `name` after `change`.
fn message(name: &str, change: impl FnOnce(&mut Changed)) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
    let source = open_source(&path).unwrap();
    let mut changed = Changed { meta: source.metadata().clone(), source, gone: vec![], added: HashMap::new() };
    change(&mut changed);
    match model(Box::new(changed), None) {
        Ok(_) => "accepted".into(),
        Err(e) => e.to_string(),
    }
}

fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn nothing_changed_is_accepted() {
    assert_eq!(message("gpt2", |_| {}), "accepted");
}

#[test]
fn an_architecture_that_is_not_known() {
    let found = message("gpt2", |c| c.meta.set("general.architecture", "gpt_neo"));
    says(&found, &["model.gguf", "\"gpt_neo\"", "gpt_neox"]);
}

#[test]
fn a_tensor_that_is_missing_or_lost_in_one_layer() {
    let found = message("gpt2", |c| c.gone.push("blk.1.ffn_up.weight"));
    says(&found, &["blk.1.ffn_up.weight", "missing", "[112, 48]"]);
    let found = message("phi", |c| c.gone.push("blk.2.attn_k.bias"));
    says(&found, &["blk.2.attn_k.bias", "missing", "[48]"]);
    let found = message("gpt_neox", |c| c.gone.push("blk.0.attn_output.bias"));
    says(&found, &["blk.0.attn_output.bias", "missing"]);
}

#[test]
fn a_tensor_too_many() {
    let extra = Tensor::from_f32(vec![48], &[0.0; 48]);
    let found = message("llama", |c| drop(c.added.insert("blk.0.attn_sub_norm.weight".into(), extra)));
    says(&found, &["blk.0.attn_sub_norm.weight", "llama"]);
}

#[test]
fn a_tensor_of_another_shape() {
    let odd = Tensor::from_f32(vec![3, 48], &[0.0; 144]);
    let found = message("olmo2", |c| drop(c.added.insert("blk.0.attn_k.weight".into(), odd)));
    says(&found, &["blk.0.attn_k.weight", "expected shape [16, 48]", "found [3, 48]"]);
}

#[test]
fn keys_that_contradict_the_tensors_or_each_other() {
    let found = message("granite", |c| c.meta.set("granite.attention.head_count", 5_u32));
    says(&found, &["expected", "found"]);
    let found = message("nemotron", |c| c.meta.set("nemotron.attention.head_count_kv", 4_u32));
    says(&found, &["blk.0.attn_k.weight", "[64, 48]", "[32, 48]"]);
    let found = message("bloom", |c| c.meta.set("bloom.block_count", 4_u32));
    says(&found, &["blk.3.", "missing"]);
    let found = message("bloom", |c| c.meta.set("bloom.block_count", 2_u32));
    says(&found, &["blk.2.", "not part of architecture bloom"]);
}

#[test]
fn keys_of_the_wrong_kind() {
    let found = message("gpt2", |c| c.meta.set("gpt2.embedding_length", "wide"));
    says(&found, &["gpt2.embedding_length", "unsigned integer", "wide"]);
    let found = message("gpt2", |c| c.meta.set("gpt2.hidden_activation", "mish"));
    says(&found, &["gpt2.hidden_activation", "gelu", "mish"]);
    let found = message("bert", |c| c.meta.set("bert.pooling_type", 9_u32));
    says(&found, &["bert.pooling_type", "mean", "9"]);
    let found = message("phi", |c| c.meta.set("phi2.rope.scaling.type", "spiral"));
    says(&found, &["phi2.rope.scaling.type", "yarn", "spiral"]);
    let found = message("olmo", |c| drop(c.meta.remove("olmo.block_count")));
    says(&found, &["olmo.block_count", "no such key"]);
}

#[test]
fn more_positions_than_were_learned() {
    let source = open_source(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/gpt2")).unwrap();
    let found = model(source, Some(65)).map(|_| ()).unwrap_err().to_string();
    says(&found, &["64 tokens", "65 are asked for"]);
}

#[test]
fn a_configuration_that_says_what_is_not_computed() {
    let temp = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/arcee");
    std::fs::copy(golden.join("model.safetensors"), temp.path().join("model.safetensors")).unwrap();
    let text = std::fs::read_to_string(golden.join("config.json")).unwrap();
    for (from, to, parts) in [
        ("relu2", "silu", ["hidden_act", "relu2", "silu"]),
        ("ArceeForCausalLM", "ArceeForPigs", ["hidden_act", "", ""]),
        ("\"num_hidden_layers\": 3", "\"num_hidden_layers\": \"three\"", ["num_hidden_layers", "integer", "three"]),
    ] {
        let changed = text.replace(from, to);
        assert_ne!(changed, text);
        std::fs::write(temp.path().join("config.json"), changed).unwrap();
        match open_source(temp.path()).and_then(|s| model(s, None)) {
            // The class is unknown, the type is not.
            Ok(_) => assert_eq!(to, "ArceeForPigs"),
            Err(e) => says(&e.to_string(), &parts),
        }
    }
}
