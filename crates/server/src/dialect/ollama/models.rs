//! Listings: `/api/tags`, `/api/ps`, `/api/show`, `/api/version`; and the end of a model: `DELETE /api/delete`.

use crate::app::App;
use crate::body::{self, Form, Refused};
use crate::error::{ApiError, Kind};
use crate::models::{Loaded, Origin, Spec, read};
use crate::time::rfc3339;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A name as Ollama lists it, always with a tag.
fn tagged(name: &str) -> String {
    if name.contains(':') { name.to_owned() } else { format!("{name}:latest") }
}

/// Names what the entry is, without reading its weights.
pub(super) fn digest(name: &str, spec: &Spec) -> String {
    use sha2::{Digest, Sha256};
    let what =
        format!("{name} {:?} {:?} {:?} {}", spec.origin.describe(), spec.sampling, spec.system, spec.file_bytes());
    crate::ids::hex(&Sha256::digest(what.as_bytes()))
}

fn details(spec: &Spec, loaded: Option<&Loaded>) -> Value {
    let info = loaded.map(|l| &l.info);
    let family = info.map_or("", |i| i.architecture.as_str());
    let format = match &spec.origin {
        Origin::Path(path) if path.is_dir() || path.extension().is_some_and(|e| e == "safetensors") => "safetensors",
        _ => "gguf",
    };
    json!({
        "parent_model": spec.parent.clone().unwrap_or_default(),
        "format": format,
        "family": family,
        "families": if family.is_empty() { vec![] } else { vec![family] },
        "parameter_size": info.map_or_else(String::new, |i| short(i.parameters)),
        "quantization_level": info.map_or("", |i| i.quantization.as_str()),
    })
}

/// A count of parameters as people say it.
fn short(n: u64) -> String {
    match n {
        1_000_000_000.. => format!("{:.1}B", n as f64 / 1e9),
        1_000_000.. => format!("{:.1}M", n as f64 / 1e6),
        _ => format!("{:.1}K", n as f64 / 1e3),
    }
}

/// All models.
#[cfg_attr(test, utoipa::path(get, path = "/api/tags", responses((status = 200, description = "All models"))))]
pub(crate) async fn tags(State(app): State<Arc<App>>) -> Json<Value> {
    let catalog = read(&app.models.catalog).clone();
    let working = app.models.working();
    let one = |(name, spec): (&str, &Arc<Spec>)| {
        let loaded = working.iter().find(|w| w.name == name).map(|w| &*w.loaded);
        json!({
            "name": tagged(name),
            "model": tagged(name),
            "modified_at": rfc3339(spec.modified),
            "size": spec.file_bytes(),
            "digest": digest(name, spec),
            "details": details(spec, loaded),
        })
    };
    Json(json!({ "models": catalog.entries().map(one).collect::<Vec<_>>() }))
}

/// Models at work.
#[cfg_attr(test, utoipa::path(get, path = "/api/ps", responses((status = 200, description = "Models at work"))))]
pub(crate) async fn ps(State(app): State<Arc<App>>) -> Json<Value> {
    // Ollama's clients want a date also where there is none.
    let never = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000_000_000);
    let one = |w: crate::models::Working| {
        json!({
            "name": tagged(&w.name),
            "model": tagged(&w.name),
            "size": w.loaded.bytes.iter().sum::<u64>(),
            "size_vram": 0,
            "digest": digest(&w.name, &w.spec),
            "details": details(&w.spec, Some(&w.loaded)),
            "expires_at": rfc3339(w.expires.unwrap_or(never)),
            "context_length": w.loaded.context,
        })
    };
    Json(json!({ "models": app.models.working().into_iter().map(one).collect::<Vec<_>>() }))
}

/// A model by its name.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct ShowForm {
    #[serde(alias = "name")]
    pub(crate) model: String,
    /// Long values too.
    #[serde(default)]
    pub(crate) verbose: bool,
}

impl Form for ShowForm {
    const REFUSED: Refused = &[
        ("system", "make a model with another system text (POST /api/create)"),
        ("template", "make a model with another template (POST /api/create)"),
        ("options", "make a model with other options (POST /api/create)"),
    ];
}

/// Everything about a model; it is loaded for that.
#[cfg_attr(test, utoipa::path(post, path = "/api/show", request_body = ShowForm,
    responses((status = 200, description = "The model"), (status = 404, description = "There is none of that name"))))]
pub(crate) async fn show(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<Json<Value>, ApiError> {
    let form: ShowForm = body::json(&headers, body, &app.limits).await?;
    let lease = app.lease(&form.model).await?;
    let info = &lease.info;
    let arch = &info.architecture;
    let mut model_info = Map::new();
    model_info.insert("general.architecture".into(), arch.as_str().into());
    model_info.insert("general.parameter_count".into(), info.parameters.into());
    model_info.insert(format!("{arch}.context_length"), info.trained_context.into());
    model_info.insert(format!("{arch}.embedding_length"), info.embedding_length.into());
    if let Some(title) = &info.title {
        model_info.insert("general.name".into(), title.as_str().into());
    }
    if form.verbose {
        let tokens = (0..lease.tokenizer.vocab_size() as u32).map(|id| lease.tokenizer.token_text(id));
        model_info.insert("tokenizer.ggml.tokens".into(), json!(tokens.collect::<Vec<_>>()));
    }
    let mut capabilities = vec!["completion"];
    if lease.tokenizer.special(allod_text::Role::FimMid).is_some() {
        capabilities.push("insert");
    }
    let learned = lease.templates.choose(false);
    if lease.templates.choose(true).is_some_and(|t| t.format().has_calls()) {
        capabilities.push("tools");
    }
    if learned.is_some_and(|t| t.format().reasons_in(t.template.source())) {
        capabilities.push("thinking");
    }
    let template = learned.map_or("", |t| t.template.source());
    let license = lease.spec.license.clone().or_else(|| info.license.clone());
    Ok(Json(json!({
        "modelfile": modelfile(&lease.name, &lease.spec),
        "parameters": parameters(&lease.spec),
        "template": template,
        "system": lease.spec.system.clone().unwrap_or_default(),
        "license": license.unwrap_or_default(),
        "details": details(&lease.spec, Some(&lease)),
        "model_info": model_info,
        "capabilities": capabilities,
        "modified_at": rfc3339(lease.spec.modified),
        "messages": lease.spec.messages,
    })))
}

/// The defaults as lines of a Modelfile, without the word PARAMETER.
fn parameters(spec: &Spec) -> String {
    let mut text = String::new();
    for (name, value) in &spec.sampling {
        let _ = writeln!(text, "{name:<30} {value}");
    }
    for stop in &spec.stop {
        let _ = writeln!(text, "{:<30} {stop:?}", "stop");
    }
    text
}

fn modelfile(name: &str, spec: &Spec) -> String {
    if let Some(text) = &spec.modelfile {
        return text.clone();
    }
    let mut text = format!("FROM {}\n", spec.parent.as_deref().unwrap_or(name));
    for (name, value) in &spec.sampling {
        let _ = writeln!(text, "PARAMETER {name} {value}");
    }
    if let Some(system) = &spec.system {
        let _ = writeln!(text, "SYSTEM \"\"\"{system}\"\"\"");
    }
    text
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct DeleteForm {
    #[serde(alias = "name")]
    pub(crate) model: String,
}

impl Form for DeleteForm {
    const REFUSED: Refused = &[];
}

/// Removes a model that was made here. Files that the server was started with stay.
#[cfg_attr(test, utoipa::path(delete, path = "/api/delete", request_body = DeleteForm,
    responses((status = 200, description = "It is gone"), (status = 404, description = "There is none of that name"))))]
pub(crate) async fn delete(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<(), ApiError> {
    let form: DeleteForm = body::json(&headers, body, &app.limits).await?;
    let (name, spec) = app.models.find(&form.model)?;
    if spec.modelfile.is_none() {
        let message = format!("model: {name:?} comes from the server's configuration and is removed there");
        return Err(ApiError::new(Kind::Conflict, message));
    }
    app.store.delete(super::create::KIND, &name).map_err(ApiError::internal)?;
    crate::models::write(&app.models.catalog).remove(&name);
    Ok(())
}

/// The version of this server.
#[cfg_attr(test, utoipa::path(get, path = "/api/version", responses((status = 200, description = "The version"))))]
pub(crate) async fn version() -> Json<Value> {
    Json(json!({ "version": env!("CARGO_PKG_VERSION") }))
}
