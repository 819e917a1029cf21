//! How a folder of sentence-transformers makes one vector of a sequence: `modules.json` and what it points to.

use super::Hf;
use crate::{Error, output};
use allod_formats::Safetensors;
use serde_json::Value as Json;
use std::path::{Component, Path};

/// Brings it into `pooling_type` and `pooling_normalize`. What it does beyond these is noted as
/// `pooling_unsupported`, which whoever asks for a vector is told.
pub(super) fn read(files: &Safetensors, h: &mut Hf) -> Result<(), Error> {
    let Some(modules) = files.json("modules.json")? else { return Ok(()) };
    let modules = modules.as_array().cloned().unwrap_or_default();
    let mut normalize = false;
    for module in &modules {
        let class = module.get("type").and_then(Json::as_str).unwrap_or_default();
        let path = module.get("path").and_then(Json::as_str).unwrap_or_default();
        match class.rsplit('.').next().unwrap_or_default() {
            "Transformer" => {}
            "Normalize" => normalize = true,
            "Pooling" if is_inside(path) => {
                let config = files.json(&format!("{path}/config.json"))?.unwrap_or(Json::Null);
                match kind(&config) {
                    Ok(n) => h.set("pooling_type", n),
                    Err(mode) => h.set("pooling_unsupported", mode),
                }
            }
            other => h.set("pooling_unsupported", format!("{other} ({path})")),
        }
    }
    h.set("pooling_normalize", normalize);
    Ok(())
}

/// llama.cpp's number for the only mode that is on.
fn kind(config: &Json) -> Result<u32, String> {
    let flags = config.as_object().into_iter().flatten();
    let on = flags.filter(|(k, v)| k.starts_with("pooling_mode_") && v.as_bool() == Some(true));
    let mut on: Vec<&str> = on.filter_map(|(k, _)| k.strip_prefix("pooling_mode_")).collect();
    on.extend(config.get("pooling_mode").and_then(Json::as_str));
    match on[..] {
        ["mean_tokens" | "mean"] => Ok(output::MEAN as u32),
        ["cls_token" | "cls"] => Ok(output::FIRST as u32),
        ["lasttoken" | "last"] => Ok(output::LAST as u32),
        _ => Err(on.join(" and ")),
    }
}

/// True for a path that cannot lead out of the folder.
fn is_inside(path: &str) -> bool {
    !path.contains(['\\', ':']) && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}
