use crate::{go, golden, told};
use allod_eval::{LogitsReader, Windows, save_logits};
use std::{fs, ops::ControlFlow};

/// The form by its description: nothing of the library reads here.
#[test]
fn a_file_has_llama_cpps_form() {
    let dir = tempfile::tempdir().unwrap();
    let (g, path) = (golden("llama"), dir.path().join("base.kld"));
    let windows = Windows::halves(g.length, g.tokens.len(), None).unwrap();
    g.scorer(2, 32, |s| save_logits(s, &g.tokens, &windows, &path, &mut go)).unwrap();
    let bytes = fs::read(&path).unwrap();
    let int = |at: usize| i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let float = |at: usize| f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(&bytes[..8], b"_logits_");
    assert_eq!([int(8), int(12), int(16)], [g.length, g.width, g.tokens.len() / g.length]);
    assert!(g.tokens.iter().enumerate().all(|(i, &t)| int(20 + 4 * i) == t as usize));
    let (start, size) = (20 + 4 * g.tokens.len(), 2 * (2 * g.width.div_ceil(2) + 4));
    assert_eq!(bytes.len(), start + g.counted().len() * size);
    for (i, (position, _)) in g.counted().into_iter().enumerate() {
        let at = start + i * size;
        let step = |id: usize| u16::from_le_bytes(bytes[at + 8 + 2 * id..][..2].try_into().unwrap());
        for (id, expected) in g.log_probs(position).into_iter().enumerate() {
            let found = f64::from(float(at) * f32::from(step(id)) + float(at + 4));
            assert!((found - expected).abs() < 3e-4, "position {position}, id {id}: {found} against {expected}");
        }
    }
}

#[test]
fn stopped_work_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (g, path) = (golden("llama"), dir.path().join("base.kld"));
    fs::write(&path, b"old").unwrap();
    let windows = Windows::halves(g.length, g.tokens.len(), None).unwrap();
    let stop = &mut |_| ControlFlow::Break(());
    assert_eq!(told(g.scorer(1, 32, |s| save_logits(s, &g.tokens, &windows, &path, stop))), "stopped");
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let strided = Windows { step: 1, ..windows };
    assert!(told(g.scorer(1, 32, |s| save_logits(s, &g.tokens, &strided, &path, &mut go))).contains("second half"));
}

#[test]
fn malformed_files_are_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("base.kld");
    let g = golden("llama");
    let windows = Windows::halves(g.length, g.tokens.len(), None).unwrap();
    g.scorer(1, 32, |s| save_logits(s, &g.tokens, &windows, &path, &mut go)).unwrap();
    let whole = fs::read(&path).unwrap();
    let with = |at: usize, value: i32| {
        let mut b = whole.clone();
        b[at..at + 4].copy_from_slice(&value.to_le_bytes());
        b
    };
    let cases = [
        (b"GGUF".to_vec(), "length"),
        (with(0, 0), "start"),
        (with(8, -5), "tokens of a window"),
        (with(12, 0), "vocabulary"),
        (with(12, i32::MAX), "length"),
        (with(16, i32::MAX), "length"),
        (with(20, i32::MAX), "tokens"),
        (whole[..whole.len() - 1].to_vec(), "length"),
        ([&whole[..], b"x"].concat(), "length"),
    ];
    for (bytes, field) in cases {
        fs::write(&path, bytes).unwrap();
        let error = told(LogitsReader::open(&path));
        assert!(error.contains("base.kld: ") && error.contains(field), "{error}");
    }
}
