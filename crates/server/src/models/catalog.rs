//! Which models there are, by what names.

use super::{Origin, Sizing};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A model under a name: where it comes from, and what a request that says nothing else gets.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Its file.
    pub origin: Origin,
    /// A LoRA adapter that its requests run through: a PEFT folder or a GGUF file.
    pub adapter: Option<PathBuf>,
    /// How it is run.
    pub sizing: Sizing,
    /// Other names.
    pub aliases: Vec<String>,
    /// Never given up for another.
    pub pin: bool,
    /// How long it stays unused: for good (`Some(None)`), so long, or as the server's default says.
    pub keep_alive: Option<Option<Duration>>,
    /// Parameters of the sampler, over what the file recommends.
    pub sampling: Map<String, Value>,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// What stands before a conversation that brings no instructions of its own.
    pub system: Option<String>,
    /// A chat template (Jinja) in place of the file's.
    pub template: Option<String>,
    /// Messages that stand before each conversation.
    pub messages: Vec<Value>,
    /// The name of the model that it was made from, if it was.
    pub parent: Option<String>,
    /// The Modelfile it was made from.
    pub modelfile: Option<String>,
    /// The licence that its Modelfile states.
    pub license: Option<String>,
    /// When it was made or its file last changed.
    pub modified: SystemTime,
}

impl Spec {
    /// A model from its file, everything else as usual.
    pub fn new(origin: Origin) -> Spec {
        let modified = match &origin {
            Origin::Path(path) => std::fs::metadata(path).and_then(|m| m.modified()).ok(),
            Origin::Embedded(..) => None,
        };
        Spec {
            origin,
            adapter: None,
            sizing: Sizing::default(),
            aliases: Vec::new(),
            pin: false,
            keep_alive: None,
            sampling: Map::new(),
            stop: Vec::new(),
            system: None,
            template: None,
            messages: Vec::new(),
            parent: None,
            modelfile: None,
            license: None,
            modified: modified.unwrap_or(SystemTime::UNIX_EPOCH),
        }
    }

    /// `base` seen through an adapter, as a model of its own. Both share one engine; conversations go through the
    /// template that the adapter was trained with.
    ///
    /// # Errors
    /// The adapter's template cannot be read.
    pub fn adapted(base: &Spec, base_name: &str, adapter: PathBuf) -> Result<Spec, allod_models::Error> {
        let modified = std::fs::metadata(&adapter).and_then(|m| m.modified()).unwrap_or(base.modified);
        let template = allod_models::adapter::template(&adapter)?.or_else(|| base.template.clone());
        Ok(Spec {
            adapter: Some(adapter),
            template,
            aliases: Vec::new(),
            parent: Some(base_name.to_owned()),
            modelfile: None,
            modified,
            ..base.clone()
        })
    }

    /// Bytes of its file or folder.
    pub(crate) fn file_bytes(&self) -> u64 {
        match &self.origin {
            Origin::Embedded(_, bytes) => bytes.len() as u64,
            Origin::Path(path) if path.is_dir() => {
                let files = std::fs::read_dir(path).into_iter().flatten().flatten();
                files.filter_map(|f| f.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len()).sum()
            }
            Origin::Path(path) => std::fs::metadata(path).map_or(0, |m| m.len()),
        }
    }
}

/// All models.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    entries: BTreeMap<String, Arc<Spec>>,
    /// The model of requests that name none.
    first: Option<String>,
}

impl Catalog {
    /// Adds a model; one of the same name is replaced.
    pub fn insert(&mut self, name: impl Into<String>, spec: Spec) {
        let name = name.into();
        self.first.get_or_insert_with(|| name.clone());
        self.entries.insert(name, Arc::new(spec));
    }

    /// Adds the first model as an adapter changes it.
    ///
    /// # Errors
    /// The adapter is broken, or was made for another model; the name is taken.
    pub fn insert_adapter(&mut self, name: &str, adapter: PathBuf) -> Result<(), String> {
        let (base, spec) = self.find("").ok_or("there is no model for an adapter to change")?;
        if self.entries.contains_key(name) {
            return Err(format!("two models are named {name:?}"));
        }
        let refused = |e: String| format!("adapter {name}: {e}");
        let source = spec.origin.open().map_err(|e| refused(e.to_string()))?;
        allod_models::adapter::open(&adapter, &*source).map_err(|e| refused(e.to_string()))?;
        let spec = Spec::adapted(&spec, base, adapter).map_err(|e| refused(e.to_string()))?;
        self.insert(name, spec);
        Ok(())
    }

    /// Removes a model.
    pub(crate) fn remove(&mut self, name: &str) -> Option<Arc<Spec>> {
        if self.first.as_deref() == Some(name) {
            self.first = None;
        }
        self.entries.remove(name)
    }

    /// A model by its name or an alias, with or without Ollama's `:latest`. The empty name is the first model's.
    pub(crate) fn find(&self, name: &str) -> Option<(&str, Arc<Spec>)> {
        if name.is_empty() {
            let name = self.first.as_deref()?;
            return Some((name, Arc::clone(self.entries.get(name)?)));
        }
        let plain = name.strip_suffix(":latest").unwrap_or(name);
        let exact = self.entries.get_key_value(name).or_else(|| self.entries.get_key_value(plain));
        let tagged = || self.entries.iter().find(|(n, _)| n.strip_suffix(":latest") == Some(plain));
        let aliased = || self.entries.iter().find(|(_, s)| s.aliases.iter().any(|a| a == name || a == plain));
        let (name, spec) = exact.or_else(tagged).or_else(aliased)?;
        Some((name, Arc::clone(spec)))
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &Arc<Spec>)> {
        self.entries.iter().map(|(name, spec)| (name.as_str(), spec))
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.entries.keys().map(String::as_str).collect()
    }

    /// The name for a model's file: its stem.
    pub fn name_of(path: &Path) -> String {
        let stem = path.file_stem().filter(|_| !path.is_dir()).or(path.file_name());
        stem.map_or_else(|| "model".into(), |s| s.to_string_lossy().into_owned())
    }
}
