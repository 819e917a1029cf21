//! Where a model keeps its templates, and which one a conversation takes.

use super::{Error, Template};
use allod_formats::Metadata;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The templates of a model: one without a name, and named ones for special uses (`tool_use`, `rag`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Templates {
    /// The one for everything else.
    pub default: Option<String>,
    /// By name.
    pub named: BTreeMap<String, String>,
}

impl Templates {
    /// The templates in a GGUF file's metadata: `tokenizer.chat_template`, `tokenizer.chat_template.NAME`.
    pub fn from_gguf(meta: &Metadata) -> Templates {
        let mut templates = Templates::default();
        for (key, _) in meta.iter() {
            let (Some(name), Some(source)) = (key.strip_prefix("tokenizer.chat_template"), meta.str(key)) else {
                continue;
            };
            match name.strip_prefix('.') {
                Some(name) => templates.insert(name, source),
                None if name.is_empty() => templates.insert("default", source),
                None => {}
            }
        }
        templates
    }

    /// The templates in a model's folder: `chat_template.jinja` and `additional_chat_templates/NAME.jinja`, else
    /// `chat_template.json`, else the `chat_template` of `tokenizer_config.json`, a string or a list of named ones.
    ///
    /// # Errors
    /// [`Error::File`] when a file cannot be read or is not what it should be.
    pub fn from_folder(folder: &Path) -> Result<Templates, Error> {
        let mut templates = Templates::default();
        for name in ["tokenizer_config.json", "chat_template.json"] {
            if let Some(text) = read(&folder.join(name))? {
                let value: Value = serde_json::from_str(&text).map_err(|e| file(name, e))?;
                templates.read_config(name, value.get("chat_template"))?;
            }
        }
        if let Some(source) = read(&folder.join("chat_template.jinja"))? {
            templates = Templates { default: Some(source), ..Templates::default() };
        }
        let more = folder.join("additional_chat_templates");
        let entries = match std::fs::read_dir(&more) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(templates),
            Err(e) => return Err(file(more.display(), e)),
        };
        for entry in entries {
            let path = entry.map_err(|e| file(more.display(), e))?.path();
            let name =
                path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".jinja")).map(str::to_owned);
            if let (Some(name), Some(source)) = (name, read(&path)?) {
                templates.insert(&name, &source);
            }
        }
        Ok(templates)
    }

    fn insert(&mut self, name: &str, source: &str) {
        match name {
            "default" => self.default = Some(source.to_owned()),
            name => {
                self.named.insert(name.to_owned(), source.to_owned());
            }
        }
    }

    fn read_config(&mut self, path: &str, value: Option<&Value>) -> Result<(), Error> {
        match value {
            None | Some(Value::Null) => Ok(()),
            Some(Value::String(source)) => {
                self.default = Some(source.clone());
                Ok(())
            }
            Some(Value::Array(list)) => {
                for entry in list {
                    let text = |key: &str| entry.get(key).and_then(Value::as_str);
                    match (text("name"), text("template")) {
                        (Some(name), Some(source)) => self.insert(name, source),
                        _ => return Err(file(path, "chat_template: expected entries with a name and a template")),
                    }
                }
                Ok(())
            }
            Some(_) => Err(file(path, "chat_template: expected a string or a list of named templates")),
        }
    }

    /// The source for a conversation: `tool_use` where there are tools and such a template, else the default one, else
    /// the only one there is.
    pub fn choose(&self, with_tools: bool) -> Option<&str> {
        let tool_use = self.named.get("tool_use").filter(|_| with_tools);
        let only = || self.named.values().next().filter(|_| self.named.len() == 1);
        tool_use.or(self.default.as_ref()).or_else(only).map(String::as_str)
    }

    /// Compiles the template that [`Templates::choose`] gives; `None` when the model has none.
    ///
    /// # Errors
    /// As [`Template::new`].
    pub fn compile(&self, with_tools: bool) -> Result<Option<Template>, Error> {
        self.choose(with_tools).map(Template::new).transpose()
    }
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(file(path.display(), e)),
    }
}

fn file(path: impl ToString, message: impl ToString) -> Error {
    Error::File { path: path.to_string(), message: message.to_string() }
}
