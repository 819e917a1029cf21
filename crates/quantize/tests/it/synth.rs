use allod_formats::{Gguf, WeightSource, codec};
use allod_kernels::pool::Pool;
use allod_quantize::synth;

#[test]
fn a_written_model_opens_and_its_values_have_the_spread_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    synth::write("qwen3-0.6b", "Q4_K_M", &path, 7, &Pool::new(2)).unwrap();
    let model = Gguf::open(&path).unwrap();
    for name in ["token_embd.weight", "blk.0.attn_v.weight", "blk.9.ffn_gate.weight", "blk.3.attn_q_norm.weight"] {
        let t = model.tensor(name).unwrap();
        let v = codec::to_f32(&t).unwrap();
        let mean = v.iter().map(|&x| f64::from(x)).sum::<f64>() / v.len() as f64;
        let rms = (v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / v.len() as f64).sqrt();
        let (centre, wanted) = match name {
            "token_embd.weight" => (0.0, 3.0 / 32.0),
            n if n.ends_with("norm.weight") => (1.0, 1.0),
            _ => (0.0, 1.0 / 32.0),
        };
        assert!((mean - centre).abs() < 0.05 * wanted, "{name}: mean {mean}");
        assert!((rms / wanted - 1.0).abs() < 0.1, "{name}: rms {rms}");
    }
}
