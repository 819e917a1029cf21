use crate::{Memory, model};
use allod_formats::{Gguf, TensorInfo, WeightSource};
use allod_quantize::imatrix::{Entry, Error, Imatrix};
use allod_tensor::DType;

fn statistics() -> Imatrix {
    let mut m = Imatrix { datasets: vec!["a.txt".into()], chunks: 2, chunk_size: 512, ..Imatrix::default() };
    // Rows 1, 2, 3 and -1, 0, 1; and a row 2, 4 that the second of three experts saw.
    let dense = Entry { sums: vec![2.0, 4.0, 10.0], counts: vec![2.0] };
    let experts = Entry { sums: vec![0.0, 0.0, 4.0, 16.0, 0.0, 0.0], counts: vec![0.0, 1.0, 0.0] };
    m.entries.insert("blk.0.attn_q.weight".into(), dense);
    m.entries.insert("blk.0.ffn_up_exps.weight".into(), experts);
    m
}

#[test]
fn files_come_back_and_have_llama_cpps_form() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("i.gguf");
    statistics().save(&path).unwrap();
    assert_eq!(Imatrix::open(&path).unwrap(), statistics());
    let file = Gguf::open(&path).unwrap();
    assert_eq!(file.metadata().str("general.type"), Some("imatrix"));
    assert_eq!(file.metadata().uint("imatrix.chunk_count"), Some(2));
    let shape = |name: &str| file.info(name).unwrap().shape;
    assert_eq!(shape("blk.0.ffn_up_exps.weight.in_sum2"), [3, 2]);
    assert_eq!(shape("blk.0.ffn_up_exps.weight.counts"), [3, 1]);
}

#[test]
fn weights_are_mean_squares_and_unseen_experts_count_alike() {
    let m = statistics();
    let info = |shape: &[usize]| TensorInfo { dtype: DType::F32, shape: shape.to_vec() };
    let dense = m.weights("blk.0.attn_q.weight", &info(&[7, 3])).unwrap().unwrap();
    assert_eq!(dense, [1.0, 2.0, 5.0]);
    let experts = m.weights("blk.0.ffn_up_exps.weight", &info(&[3, 9, 2])).unwrap().unwrap();
    assert_eq!(experts, [1.0, 1.0, 4.0, 16.0, 1.0, 1.0]);
    assert_eq!(m.weights("blk.9.attn_q.weight", &info(&[7, 3])).unwrap(), None);
    assert!(matches!(
        m.weights("blk.0.attn_q.weight", &info(&[7, 4])),
        Err(Error::Mismatch { expected: 4, found: 3, .. })
    ));
}

#[test]
fn merging_adds_and_refuses_another_model() {
    let mut m = statistics();
    m.merge(&statistics()).unwrap();
    assert_eq!(m.entries["blk.0.attn_q.weight"].counts, [4.0]);
    assert_eq!((m.chunks, m.datasets.len()), (4, 1));
    let mut other = Imatrix::default();
    other.entries.insert("blk.0.attn_q.weight".into(), Entry { sums: vec![1.0; 4], counts: vec![1.0] });
    assert!(matches!(m.merge(&other), Err(Error::Mismatch { .. })));
}

#[test]
fn models_are_no_statistics() {
    let source: Memory = model();
    assert!(matches!(Imatrix::read(&source), Err(Error::Kind { .. })));
}
