//! Vectors of sequences, pooled as sentence-transformers' files say.

use crate::golden::{self, Golden};
use allod_formats::{Gguf, Metadata, Safetensors, codec};
use allod_models::{
    Output,
    convert::{GgufOptions, to_gguf},
    model_for, open_source,
};
use std::{fs, path::Path};

/// A copy of a golden with the files that tell how to pool.
fn folder(g: &Golden, mode: &str, normalize: bool, to: &Path) {
    fs::create_dir_all(to.join("1_Pooling")).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(g.path.join(name), to.join(name)).unwrap();
    }
    let module = |i: usize, kind: &str, path: &str| {
        format!(r#"{{"idx": {i}, "name": "{i}", "path": "{path}", "type": "sentence_transformers.models.{kind}"}}"#)
    };
    let mut modules = vec![module(0, "Transformer", ""), module(1, "Pooling", "1_Pooling")];
    if normalize {
        modules.push(module(2, "Normalize", "2_Normalize"));
    }
    fs::write(to.join("modules.json"), format!("[{}]", modules.join(","))).unwrap();
    let flags = ["cls_token", "mean_tokens", "lasttoken"].map(|m| format!(r#""pooling_mode_{m}": {}"#, m == mode));
    fs::write(to.join("1_Pooling/config.json"), format!("{{{}}}", flags.join(","))).unwrap();
}

#[test]
fn pooled_vectors_are_those_of_transformers() {
    let temp = tempfile::tempdir().unwrap();
    let mut tried = 0;
    for g in golden::goldens() {
        let file = Safetensors::open(g.path.join("golden.safetensors")).unwrap();
        for (mode, name) in [("mean_tokens", "mean"), ("cls_token", "cls"), ("lasttoken", "last")] {
            for (normalize, ending) in [(false, ""), (true, "_normalized")] {
                let Ok(expected) = file.tensor(&format!("{name}{ending}")) else { continue };
                let expected = codec::to_f32(&expected).unwrap();
                let path = temp.path().join(format!("{}-{name}{ending}", g.name));
                folder(&g, mode, normalize, &path);
                let gguf = path.with_extension("gguf");
                let source = open_source(&path).unwrap();
                to_gguf(&*source, &Metadata::default(), &gguf, &GgufOptions::default()).unwrap();
                for source in [source, Box::new(Gguf::open(&gguf).unwrap())] {
                    let m = model_for(source, Some(g.ids[0].len()), Output::Embedding).unwrap();
                    let far = golden::distance(&golden::pooled(&m, &g.ids), &expected);
                    assert!(far < golden::TOLERANCE, "{} {name}{ending}: {far:.1e}", g.name);
                    tried += 1;
                }
            }
        }
    }
    if std::env::var("ALLOD_GOLDEN").is_err() {
        assert_eq!(tried, 3 * 6 * 2);
    }
}

#[test]
fn decoders_give_hidden_states_and_vectors_too() {
    for g in golden::goldens().into_iter().filter(|g| ["gemma2", "gpt2", "opt-350m"].contains(&g.name.as_str())) {
        let length = g.ids[0].len();
        let of = |output| model_for(open_source(&g.path).unwrap(), Some(length), output).unwrap();
        let hidden = of(Output::Hidden);
        assert_eq!(hidden.plan.result_width(), hidden.config.dim);
        let rows = golden::run_whole(&hidden, &g.ids);
        let vectors = golden::pooled(&of(Output::Embedding), &g.ids);
        for (s, vector) in vectors.chunks(hidden.config.dim).enumerate() {
            let last = &rows[(s + 1) * length * hidden.config.dim - hidden.config.dim..][..hidden.config.dim];
            let norm = last.iter().map(|x| x * x).sum::<f32>().sqrt();
            let far = vector.iter().zip(last).map(|(v, l)| (v - l / norm).abs()).fold(0.0, f32::max);
            assert!(far < 1e-6, "{}: {far}", g.name);
        }
    }
}

#[test]
fn a_module_that_is_not_known_is_named_when_a_vector_is_asked_for() {
    let temp = tempfile::tempdir().unwrap();
    let goldens = golden::goldens();
    let Some(g) = goldens.iter().find(|g| g.name == "bert") else { return };
    folder(g, "mean_tokens", false, temp.path());
    let dense = r#"[{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]"#;
    fs::write(temp.path().join("modules.json"), dense).unwrap();
    let of = |output| model_for(open_source(temp.path()).unwrap(), Some(8), output);
    assert!(of(Output::Own).is_ok());
    let message = of(Output::Embedding).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("Dense (2_Dense)"), "{message}");
}

/// Sentences by their token ids, ended by -1, and the vectors that Transformers gives them.
#[test]
fn a_real_sentence_encoder() {
    let Some(weights) = allod_testkit::data().map(|d| d.join("weights")) else { return };
    let (path, known) = (weights.join("all-minilm-l6-v2"), weights.join("known_vectors_all-minilm-l6-v2.safetensors"));
    if !path.is_dir() || !known.is_file() {
        println!("skipped: no {}", path.display());
        return;
    }
    let known = Safetensors::open(known).unwrap();
    let ids = known.tensor("ids").unwrap();
    let vectors = codec::to_f32(&known.tensor("vectors").unwrap()).unwrap();
    let m = model_for(open_source(&path).unwrap(), None, Output::Embedding).unwrap();
    let rows = ids.data.chunks(ids.shape[1] * 8).map(|row| {
        let row = row.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()));
        row.map_while(|id| id.try_into().ok()).collect()
    });
    let rows: Vec<Vec<u32>> = rows.collect();
    let width = m.plan.result_width();
    // In batches, with sentences of all lengths in a step.
    let found: Vec<f32> = rows.chunks(25).flat_map(|batch| golden::pooled(&m, batch)).collect();
    assert_eq!(found.len(), vectors.len());
    let cosines =
        found.chunks(width).zip(vectors.chunks(width)).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a * b).sum());
    let worst: f32 = cosines.fold(1.0, f32::min);
    println!("least cosine over {} sentences: {worst}", ids.shape[0]);
    assert!(worst >= 0.9999);
}
