//! Adapters that are written and read again. That PEFT reads them is seen by scripts/peers/adapters.py.

use allod_formats::WeightSource;
use allod_models::{adapter, open_source};
use allod_plan::{Delta, Lora};
use allod_train::{out::write_peft, run::config::TrainConfig};
use std::path::{Path, PathBuf};

const RANK: usize = 2;
const ALPHA: f64 = 4.0;

fn base(name: &str) -> Box<dyn WeightSource> {
    let goldens = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/tests/goldens");
    open_source(&goldens.join(name)).unwrap()
}

/// A change of each weight that `wanted` takes, other numbers in each place.
fn changes(base: &dyn WeightSource, wanted: impl Fn(&str) -> bool) -> Lora {
    let mut lora = Lora::default();
    let values = |n: usize, seed: usize| (0..n).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 64.0 - 0.7).collect();
    for (seed, name) in base.names().into_iter().filter(|name| wanted(name)).enumerate() {
        let shape = base.info(&name).unwrap().shape;
        let [experts @ .., rows, columns] = &shape[..] else { continue };
        let all = RANK * experts.iter().product::<usize>();
        let (a, b) = (values(all * columns, seed), values(all * rows, seed + 1));
        lora.deltas.insert(name, Delta { rank: RANK, a, b, scale: (ALPHA / RANK as f64) as f32, magnitude: None });
    }
    lora
}

fn write(base: &dyn WeightSource, lora: &Lora, folder: &Path) -> Result<(), allod_train::Error> {
    let train = TrainConfig { rank: RANK, alpha: ALPHA, dropout: 0.1, ..TrainConfig::default() };
    write_peft(folder, base, "base", lora, &train, false).map(drop)
}

#[test]
fn changes_of_experts_come_back() {
    let wanted: [fn(&str) -> bool; 3] = [
        |name| name.ends_with("_exps.weight") || name.ends_with("attn_q.weight"),
        |name| name.ends_with("ffn_up_exps.weight"),
        |name| name.ends_with("1.ffn_down_exps.weight") || name.ends_with("ffn_gate_inp.weight"),
    ];
    let bases = ["mixtral", "qwen3_moe", "gpt_oss", "deepseek_v2", "jamba", "granitemoehybrid", "nemotron_h-moe"];
    for (name, wanted) in bases.iter().flat_map(|name| wanted.map(|wanted| (name, wanted))) {
        let (base, folder) = (base(name), tempfile::tempdir().unwrap());
        let lora = changes(&*base, wanted);
        assert!(!lora.deltas.is_empty(), "{name}");
        write(&*base, &lora, folder.path()).unwrap();
        assert!(adapter::open(folder.path(), &*base).unwrap() == lora, "{name}");
    }
}

#[test]
fn what_peft_has_no_place_for_is_named() {
    let experts = |name: &str| name.ends_with("ffn_down_exps.weight") || name.ends_with("attn_q.weight");
    let folder = tempfile::tempdir().unwrap();
    let turned = base("llama4_text");
    let error = write(&*turned, &changes(&*turned, experts), folder.path()).unwrap_err().to_string();
    assert!(error.contains("ffn_down_exps") && error.contains("GGUF adapter"), "{error}");

    let base = base("qwen3_moe");
    let mut lora = changes(&*base, experts);
    let rows = base.info("blk.0.attn_q.weight").unwrap().shape[0];
    lora.deltas.get_mut("blk.0.attn_q.weight").unwrap().magnitude = Some(vec![1.0; rows].into());
    let error = write(&*base, &lora, folder.path()).unwrap_err().to_string();
    assert!(error.contains("mlp.experts.down_proj") && error.contains("DoRA"), "{error}");

    let mut lora = changes(&*base, experts);
    lora.deltas.get_mut("blk.0.ffn_down_exps.weight").unwrap().a = vec![0.0; 7].into();
    let error = write(&*base, &lora, folder.path()).unwrap_err().to_string();
    assert!(error.contains("blk.0.ffn_down_exps.weight") && error.contains("7 elements"), "{error}");
}
