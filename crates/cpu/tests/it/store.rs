//! Prepared weights on disk: the same results with and without, whatever happens to the files.
#![expect(clippy::unwrap_used, reason = "a test may")]

use allod_cpu::{Activations, Cpu, Options, Pool, Store};
use allod_formats::{Gguf, gguf};
use allod_plan::{Backend, Plan, Scope, SeqRows, Step, Value, record};
use allod_tensor::DType;
use allod_testkit::Memory;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

fn forward(m: &mut Scope<'_, '_>) -> Value {
    let x = m.embed("token_embd", 11, 64);
    let x = m.layer(0).linear("a", x, 32);
    let x = m.gather_outputs(x);
    m.linear("output", x, 11)
}

/// A model as a file.
fn model(folder: &Path, size: f32) -> Gguf {
    model_of(folder, size, DType::F32)
}

/// A model whose matrices are of this type.
fn model_of(folder: &Path, size: f32, dtype: DType) -> Gguf {
    let memory = Memory::default()
        .random("token_embd.weight", &[11, 64], -size, size)
        .random("blk.0.a.weight", &[32, 64], -size, size)
        .random("output.weight", &[11, 32], -size, size)
        .stored_as("blk.0.a.weight", dtype)
        .stored_as("output.weight", dtype);
    let path = folder.join("model.gguf");
    gguf::save(&memory, &path, &gguf::Layout::default()).unwrap();
    Gguf::open(path).unwrap()
}

fn logits(plan: &Plan, source: &Gguf, store: Option<Store>) -> Vec<f32> {
    logits_with(plan, source, store, Activations::default())
}

fn logits_with(plan: &Plan, source: &Gguf, store: Option<Store>, activations: Activations) -> Vec<f32> {
    let options = Options { store, activations, rows: 3, context: 16, ..Options::default() };
    let mut cpu = Cpu::new(plan, source, Arc::new(Pool::new(2)), &options).unwrap();
    let sequences = [SeqRows { rows: 0..3, start: 0, pages: &[0], state: 0, adapter: 0 }];
    cpu.run(&Step { tokens: &[1, 5, 7], sequences: &sequences, outputs: &[2] }).unwrap().to_vec()
}

fn files(store: &Store) -> Vec<PathBuf> {
    fs::read_dir(&store.folder).unwrap().map(|e| e.unwrap().path()).collect()
}

#[test]
fn the_results_are_those_of_the_file_itself() {
    let folder = tempfile::tempdir().unwrap();
    let source = model(folder.path(), 1.0);
    let plan = record(&source, forward).unwrap();
    let store = Store { folder: folder.path().join("prepared"), limit: 1 << 20, least: 0 };
    let expected = logits(&plan, &source, None);
    assert_eq!(logits(&plan, &source, Some(store.clone())), expected, "while it is written");
    assert_eq!(files(&store).len(), 1);
    assert_eq!(logits(&plan, &source, Some(store)), expected, "from the file");
}

#[test]
fn one_file_serves_all_activations() {
    for dtype in [DType::F32, DType::BF16, DType::Q8_0] {
        let folder = tempfile::tempdir().unwrap();
        let source = model_of(folder.path(), 1.0, dtype);
        let plan = record(&source, forward).unwrap();
        let store = Store { folder: folder.path().join("prepared"), limit: 1 << 20, least: 0 };
        let expected = Activations::ALL.map(|activations| logits_with(&plan, &source, None, activations));
        assert_eq!(expected[0] != expected[1], dtype == DType::BF16);
        for _ in 0..2 {
            for (activations, expected) in Activations::ALL.into_iter().zip(&expected) {
                assert_eq!(&logits_with(&plan, &source, Some(store.clone()), activations), expected, "{activations}");
            }
        }
        assert_eq!(files(&store).len(), 1);
    }
}

#[test]
fn a_damaged_file_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let source = model(folder.path(), 1.0);
    let plan = record(&source, forward).unwrap();
    let store = Store { folder: folder.path().join("prepared"), limit: 1 << 20, least: 0 };
    let expected = logits(&plan, &source, Some(store.clone()));
    let path = files(&store).remove(0);
    let whole = fs::read(&path).unwrap();
    for at in [0, 1000, whole.len() - 60, whole.len() - 30, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 4;
        fs::write(&path, damaged).unwrap();
        assert_eq!(logits(&plan, &source, Some(store.clone())), expected, "byte {at}");
        assert_eq!(fs::read(&path).unwrap(), whole, "byte {at}");
    }
    for len in [0, 7, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        assert_eq!(logits(&plan, &source, Some(store.clone())), expected, "{len} bytes");
        assert_eq!(fs::read(&path).unwrap(), whole, "{len} bytes");
    }
}

#[test]
fn a_folder_that_cannot_be_made_is_done_without() {
    let folder = tempfile::tempdir().unwrap();
    let source = model(folder.path(), 1.0);
    let plan = record(&source, forward).unwrap();
    let taken = folder.path().join("a-file");
    fs::write(&taken, "").unwrap();
    let store = Store { folder: taken.join("prepared"), limit: 1 << 20, least: 0 };
    assert_eq!(logits(&plan, &source, Some(store)), logits(&plan, &source, None));
}

#[test]
fn another_model_is_another_file_and_old_ones_make_room() {
    let [first, second, third] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let (one, two) = (model(first.path(), 1.0), model(second.path(), 2.0));
    let plan = record(&one, forward).unwrap();
    let mut store = Store { folder: first.path().join("prepared"), limit: 1 << 20, least: 0 };
    let expected = [&one, &two].map(|source| logits(&plan, source, None));
    assert_ne!(expected[0], expected[1]);
    for _ in 0..2 {
        assert_eq!(logits(&plan, &one, Some(store.clone())), expected[0]);
        assert_eq!(logits(&plan, &two, Some(store.clone())), expected[1]);
    }
    assert_eq!(files(&store).len(), 2);
    // Room for one: the others go when a third comes.
    store.limit = fs::metadata(&files(&store)[0]).unwrap().len() + 16;
    logits(&plan, &model(third.path(), 3.0), Some(store.clone()));
    assert_eq!(files(&store).len(), 1);
    // No room at all: nothing is kept, and it runs.
    store.limit = 10;
    assert_eq!(logits(&plan, &two, Some(store.clone())), expected[1]);
    assert_eq!(files(&store).len(), 1);
}
