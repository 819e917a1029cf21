//! `POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter`, as vLLM has them: adapters as models, while the server
//! runs.

use crate::app::App;
use crate::body::{self, Form, Refused};
use crate::error::{ApiError, Kind};
use crate::models::{Purpose, Spec, write};
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;

/// An adapter to be offered as a model.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct LoadForm {
    /// The name of the model that it makes.
    pub(crate) lora_name: String,
    /// A PEFT folder or a GGUF adapter on the server's machine.
    #[cfg_attr(test, schema(value_type = String))]
    pub(crate) lora_path: PathBuf,
    /// The model that it changes; the server's first one where it is left out.
    #[serde(default)]
    pub(crate) base_model_name: String,
    /// An adapter of the same name is replaced.
    #[serde(default)]
    pub(crate) load_inplace: bool,
}

impl Form for LoadForm {
    const REFUSED: Refused = &[("is_3d_lora_weight", "not offered")];
}

/// Offers an adapter as a model.
#[cfg_attr(test, utoipa::path(post, path = "/v1/load_lora_adapter", request_body = LoadForm,
    responses((status = 200, description = "It is a model now"))))]
pub(crate) async fn load(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<String, ApiError> {
    let form: LoadForm = body::json(&headers, body, &app.limits).await?;
    let name = &form.lora_name;
    super::ollama::create::check_name(name).map_err(|e| ApiError { param: Some("lora_name".into()), ..e })?;
    let (base, spec) = app.models.find(&form.base_model_name)?;
    if spec.adapter.is_some() {
        return Err(ApiError::field("base_model_name", format!("{base:?} is an adapter itself")));
    }
    let taken = app.models.find(name).ok();
    match &taken {
        None => {}
        Some((_, old)) if old.adapter.is_some() && form.load_inplace => {}
        Some((_, old)) if old.adapter.is_some() => {
            let message = format!("the adapter {name:?} is loaded already; load_inplace replaces it");
            return Err(ApiError::field("lora_name", message));
        }
        Some(_) => return Err(ApiError::new(Kind::Conflict, format!("lora_name: {name:?} is a model already"))),
    }
    // One that was loaded from the same place may have been written anew.
    if let Some(path) = taken.as_ref().and_then(|(_, old)| old.adapter.as_deref()) {
        app.models.drop_adapter(path);
    }
    let spec = Spec::adapted(&spec, &base, form.lora_path.clone()).map_err(|e| ApiError::field("lora_path", e))?;
    let lease = app.models.lease_entry(name.clone(), Arc::new(spec.clone()), Purpose::Text).await?;
    drop(lease);
    write(&app.models.catalog).insert(name, spec);
    Ok(format!("Success: LoRA adapter '{name}' added successfully."))
}

/// An adapter that is to go.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct UnloadForm {
    pub(crate) lora_name: String,
}

impl Form for UnloadForm {
    const REFUSED: Refused = &[("lora_int_id", "adapters go by name")];
}

/// Takes an adapter out of the models. Requests that run with it end as they would.
#[cfg_attr(test, utoipa::path(post, path = "/v1/unload_lora_adapter", request_body = UnloadForm,
    responses((status = 200, description = "It is gone"), (status = 404, description = "There is none of that name"))))]
pub(crate) async fn unload(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<String, ApiError> {
    let form: UnloadForm = body::json(&headers, body, &app.limits).await?;
    let found = app.models.find(&form.lora_name).ok();
    let adapter = found.and_then(|(name, spec)| Some((name, spec.adapter.clone()?)));
    let Some((name, path)) = adapter else {
        return Err(ApiError::not_found(format!("lora_name: there is no adapter {:?}", form.lora_name)));
    };
    write(&app.models.catalog).remove(&name);
    app.models.drop_adapter(&path);
    Ok(format!("Success: LoRA adapter '{name}' removed successfully."))
}
