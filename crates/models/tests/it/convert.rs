//! Every golden through GGUF and back into a folder.

use crate::golden::{self, Golden};
use allod_formats::{Gguf, Metadata};
use allod_models::{
    convert::{FolderOptions, GgufOptions, to_gguf, to_safetensors},
    model, open_source,
};
use allod_tensor::DType;
use std::path::Path;

fn options(matrices: DType) -> GgufOptions {
    GgufOptions { matrices: Some(matrices), ..GgufOptions::default() }
}

fn worst(g: &Golden, path: &Path) -> Result<f32, String> {
    let m = model(open_source(path).map_err(|e| e.to_string())?, Some(g.ids[0].len())).map_err(|e| e.to_string())?;
    Ok(golden::distance(&golden::run_whole(&m, &g.ids), &g.rows))
}

#[test]
fn goldens_survive_gguf_and_the_way_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = vec![];
    for g in golden::goldens() {
        if golden::open(&g).is_err() {
            continue; // the golden test says so
        }
        let source = open_source(&g.path).unwrap();
        let file = folder.path().join(format!("{}.gguf", g.name));
        let back = folder.path().join(&g.name);
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
