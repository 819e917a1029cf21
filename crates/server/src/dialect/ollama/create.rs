//! `POST /api/create` and `/api/copy`: models made of others, with their own defaults.

use super::blobs;
use super::modelfile::{self, Modelfile};
use super::options::Options;
use crate::app::App;
use crate::body::{self, Form, Refused};
use crate::dialect::ollama::chat::Message;
use crate::error::ApiError;
use crate::models::{Catalog, Models, Origin, Spec, write};
use crate::store::Store;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Documents of this kind describe the models that were made here.
pub(super) const KIND: &str = "models";

/// A model to be made.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateForm {
    #[serde(alias = "name")]
    pub(crate) model: String,
    /// The model that it is made of.
    pub(crate) from: Option<String>,
    /// Files that were sent before, by name: `sha256:…`.
    pub(crate) files: Option<BTreeMap<String, String>>,
    /// Texts of the licence.
    pub(crate) license: Option<super::options::Stop>,
    pub(crate) system: Option<String>,
    /// A chat template (Jinja).
    pub(crate) template: Option<String>,
    #[cfg_attr(test, schema(value_type = Option<Object>))]
    pub(crate) parameters: Option<Map<String, Value>>,
    /// Messages that stand before each conversation.
    pub(crate) messages: Option<Vec<Message>>,
    /// A Modelfile that says all this.
    pub(crate) modelfile: Option<String>,
    #[serde(default = "super::generate::yes")]
    pub(crate) stream: bool,
}

impl Form for CreateForm {
    const REFUSED: Refused = &[
        ("quantize", "use `allod quantize`"),
        ("adapters", "give adapters in the server's configuration"),
        ("path", "the server reads no paths of a request; send the file as a blob"),
    ];
}

/// What is written down of a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Made {
    name: String,
    from: Option<String>,
    blob: Option<String>,
    sampling: Map<String, Value>,
    stop: Vec<String>,
    context: Option<usize>,
    system: Option<String>,
    template: Option<String>,
    messages: Vec<Value>,
    license: Option<String>,
    modelfile: String,
    created: u64,
}

impl Made {
    /// The entry of the catalogue, if what it is made of is still there.
    fn spec(&self, catalog: &Catalog, blob: impl Fn(&str) -> Option<PathBuf>) -> Option<(String, Spec)> {
        let mut spec = match (&self.blob, &self.from) {
            (Some(digest), _) => Spec::new(Origin::Path(blob(digest)?)),
            (None, Some(from)) => (*catalog.find(from)?.1).clone(),
            (None, None) => return None,
        };
        spec.aliases.clear();
        spec.pin = false;
        spec.sampling.extend(self.sampling.clone());
        spec.sizing.context = self.context.or(spec.sizing.context);
        if !self.stop.is_empty() {
            spec.stop.clone_from(&self.stop);
        }
        spec.system = self.system.clone().or(spec.system);
        spec.template = self.template.clone().or(spec.template);
        spec.license = self.license.clone().or(spec.license);
        spec.messages.extend(self.messages.iter().cloned());
        spec.parent.clone_from(&self.from);
        spec.modelfile = Some(self.modelfile.clone());
        spec.modified = UNIX_EPOCH + Duration::from_secs(self.created);
        Some((self.name.clone(), spec))
    }
}

/// Makes a model.
#[cfg_attr(test, utoipa::path(post, path = "/api/create", request_body = CreateForm,
    responses((status = 200, description = "The states it went through, a line each"))))]
pub(crate) async fn create(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let form: CreateForm = body::json(&headers, body, &app.limits).await?;
    let made = form.made(&app)?;
    register(&app, &made)?;
    let states = ["parsing", "writing manifest", "success"].map(|status| json!({ "status": status }));
    if !form.stream {
        return Ok(axum::Json(&states[2]).into_response());
    }
    let lines: String = states.iter().map(|s| format!("{s}\n")).collect();
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response())
}

/// Writes a model down and lists it.
fn register(app: &App, made: &Made) -> Result<(), ApiError> {
    let mut catalog = write(&app.models.catalog);
    if catalog.find(&made.name).is_some_and(|(name, spec)| name == made.name && spec.modelfile.is_none()) {
        let message = format!("model: {:?} comes from the server's configuration; choose another name", made.name);
        return Err(ApiError::new(crate::error::Kind::Conflict, message));
    }
    let spec = made.spec(&catalog, |digest| blobs::find(&app.store, digest));
    let (name, spec) = spec.ok_or_else(|| ApiError::not_found("from: there is no such model"))?;
    app.store.put(KIND, &name, made).map_err(ApiError::internal)?;
    catalog.insert(name, spec);
    Ok(())
}

/// Lists the models that were made before. One may be made of another, whatever the order.
pub(crate) fn restore(models: &Models, store: &Store) {
    let mut waiting: Vec<Made> = store.all(KIND);
    let mut catalog = write(&models.catalog);
    loop {
        let before = waiting.len();
        waiting.retain(|made| match made.spec(&catalog, |digest| blobs::find(store, digest)) {
            Some((name, spec)) => {
                catalog.insert(name, spec);
                false
            }
            None => true,
        });
        if waiting.len() == before {
            break;
        }
    }
    for made in waiting {
        tracing::warn!(model = made.name, "what it was made of is gone");
    }
}

/// Names are short and of plain characters, so that they mean the same everywhere.
///
/// # Errors
/// This one is not.
pub(crate) fn check_name(name: &str) -> Result<(), ApiError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    let parts = name.split(['/', ':']).all(|part| !part.is_empty() && !part.starts_with('.'));
    if name.is_empty() || name.len() > 200 || !name.chars().all(plain) || !parts {
        let message =
            format!("expected letters, digits and -_./:@ in parts that do not begin with a dot, found {name:?}");
        return Err(ApiError::field("model", message));
    }
    Ok(())
}

impl CreateForm {
    fn made(&self, app: &App) -> Result<Made, ApiError> {
        check_name(&self.model)?;
        let mut file = match &self.modelfile {
            Some(text) => modelfile::parse(text)?,
            None => Modelfile::default(),
        };
        file.from = self.from.clone().or(file.from);
        file.system = self.system.clone().or(file.system);
        file.template = self.template.clone().or(file.template);
        file.parameters.extend(self.parameters.clone().unwrap_or_default());
        if !file.adapters.is_empty() {
            return Err(ApiError::field("modelfile", "give adapters in the server's configuration"));
        }
        match &self.license {
            Some(super::options::Stop::One(text)) => file.licenses.push(text.clone()),
            Some(super::options::Stop::Many(texts)) => file.licenses.extend(texts.iter().cloned()),
            None => {}
        }
        for (i, message) in self.messages.iter().flatten().enumerate() {
            file.messages.push(message.for_template(&format!("messages[{i}]"))?);
        }
        if let Some(template) = &file.template {
            allod_text::Template::new(template).map_err(|e| ApiError::field("template", e))?;
        }
        let blob = self.blob(app, file.from.as_deref())?;
        if blob.is_none() {
            let from = file.from.as_deref().ok_or_else(|| ApiError::field("from", "name a model, or send files"))?;
            app.models.find(from)?;
        }
        let mut options = Options::read(Some(&file.parameters))?;
        let context = options.num_ctx.take().map(|n| n as usize);
        let stop = options.stops().unwrap_or_default();
        let text = file.text();
        Ok(Made {
            name: self.model.clone(),
            blob,
            sampling: options.values()?,
            stop,
            context,
            modelfile: self.modelfile.clone().unwrap_or(text),
            from: file.from,
            system: file.system,
            template: file.template,
            messages: file.messages,
            license: (!file.licenses.is_empty()).then(|| file.licenses.join("\n")),
            created: crate::ids::now(),
        })
    }

    /// The digest of the one file, which must be here.
    fn blob(&self, app: &App, from: Option<&str>) -> Result<Option<String>, ApiError> {
        let files = self.files.clone().unwrap_or_default();
        let digest = match (files.len(), from.and_then(|f| f.strip_prefix('@'))) {
            (0, None) => return Ok(None),
            (0, Some(digest)) => digest.to_owned(),
            (1, _) => files.into_values().next().unwrap_or_default(),
            (n, _) => return Err(ApiError::field("files", format!("expected one GGUF file, found {n} files"))),
        };
        blobs::check(&digest)?;
        match blobs::find(&app.store, &digest) {
            Some(_) => Ok(Some(digest)),
            None => Err(ApiError::field("files", format!("{digest} is not here; send it to /api/blobs first"))),
        }
    }
}

impl Modelfile {
    fn text(&self) -> String {
        let mut text = format!("FROM {}\n", self.from.as_deref().unwrap_or("(a file)"));
        for (name, value) in &self.parameters {
            let values = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
            text.extend(values.iter().map(|value| format!("PARAMETER {name} {value}\n")));
        }
        let texts = [("TEMPLATE", &self.template), ("SYSTEM", &self.system)];
        text.extend(texts.iter().filter_map(|(word, v)| Some(format!("{word} \"\"\"{}\"\"\"\n", v.as_ref()?))));
        text
    }
}

/// A model under another name.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct CopyForm {
    pub(crate) source: String,
    pub(crate) destination: String,
}

impl Form for CopyForm {
    const REFUSED: Refused = &[];
}

/// Lists a model under another name too.
#[cfg_attr(test, utoipa::path(post, path = "/api/copy", request_body = CopyForm,
    responses((status = 200, description = "Done"), (status = 404, description = "There is none of that name"))))]
pub(crate) async fn copy(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<(), ApiError> {
    let form: CopyForm = body::json(&headers, body, &app.limits).await?;
    check_name(&form.destination)?;
    let (name, _) = app.models.find(&form.source)?;
    let made = app.store.get::<Made>(KIND, &name).map_err(ApiError::internal)?;
    let made = match made {
        Some(made) => Made { name: form.destination, ..made },
        None => Made {
            name: form.destination,
            modelfile: format!("FROM {name}\n"),
            from: Some(name),
            blob: None,
            sampling: Map::new(),
            stop: Vec::new(),
            context: None,
            system: None,
            template: None,
            messages: Vec::new(),
            license: None,
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        },
    };
    register(&app, &made)
}

/// Pulling and pushing need a store of models, which is not built.
#[cfg_attr(test, utoipa::path(post, path = "/api/pull", responses((status = 501, description = "Not offered yet"))))]
pub(crate) async fn registry() -> ApiError {
    let message = "there is no registry yet: put the model's file on this machine and name it when the server starts";
    ApiError::new(crate::error::Kind::NotImplemented, message)
}
