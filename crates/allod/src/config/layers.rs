//! Layers of a configuration, and where each value comes from.

use super::{Config, ModelPart};
use crate::failure::Failure;
use anyhow::{Context, Result};
use indexmap::IndexMap;
use serde_json::{Map, Value, json};
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

/// Where a value comes from; later ones go over earlier ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Default,
    File(PathBuf),
    Environment(String),
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(path) => write!(f, "{}", path.display()),
            Source::Environment(name) => write!(f, "environment: {name}"),
            Source::Flag => f.write_str("flag"),
        }
    }
}

/// Keys whose values are paths; in a file they are relative to it.
const PATHS: &[&str] = &["tls_cert", "tls_key", "data", "models_dir", "path"];
/// Keys that nobody is shown.
const SECRET: &str = "api_key";
/// The path of a value: `["limits", "body"]`.
type Key = Vec<String>;

/// A configuration with the origin of each value.
#[derive(Clone, Debug)]
pub(crate) struct Layered {
    pub(crate) config: Config,
    values: IndexMap<Key, (Value, Source)>,
}

impl Layered {
    /// Puts file, environment and flags over the defaults. `flags` holds what was given, by the names of [`Config`].
    ///
    /// # Errors
    /// A file that cannot be read, a key that does not exist, a value of another kind.
    pub(crate) fn read(
        file: Option<&Path>,
        environment: impl Fn(&str) -> Option<String>,
        flags: Map<String, Value>,
    ) -> Result<Layered> {
        let mut values = IndexMap::new();
        let defaults = serde_json::to_value(Config::default())?;
        put(&mut values, &defaults, &Source::Default);
        if let Some(path) = file {
            put(&mut values, &from_file(path)?, &Source::File(path.to_owned()));
        }
        for key in values.keys().cloned().collect::<Vec<_>>() {
            let name = format!("ALLOD_{}", key.join("_").to_uppercase());
            if let Some(text) = environment(&name) {
                let list = at(&defaults, &key).is_some_and(Value::is_array);
                values.insert(key, (from_text(&text, list), Source::Environment(name)));
            }
        }
        put(&mut values, &flags.into(), &Source::Flag);
        let config = typed(&values)?;
        Ok(Layered { config, values })
    }

    /// The configuration as a file, each value with its origin.
    pub(crate) fn shown(&self) -> String {
        let mut text = String::from("# Every value, and where it comes from\n");
        let mut table = Key::new();
        let (plain, tables): (Vec<_>, Vec<_>) = self.values.iter().partition(|(key, _)| key.len() == 1);
        for (key, (value, source)) in plain.into_iter().chain(tables) {
            let (name, above) = key.split_last().map_or(("", &[][..]), |(name, above)| (name.as_str(), above));
            if table != above {
                table = above.to_vec();
                let _ = write!(text, "\n[{}]\n", table.iter().map(|part| quoted(part)).collect::<Vec<_>>().join("."));
            }
            let hidden = name == SECRET && value.as_array().is_some_and(|keys| !keys.is_empty());
            let _ = match toml::Value::try_from(value) {
                _ if hidden => writeln!(text, "# {name} = [\"…\"]  # {source}"),
                Ok(value) => writeln!(text, "{} = {value}  # {source}", quoted(name)),
                // Nothing is set.
                Err(_) => writeln!(text, "# {} =  # {source}", quoted(name)),
            };
        }
        text
    }
}

/// A key as TOML writes it.
fn quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if bare { key.into() } else { toml::Value::from(key).to_string() }
}

fn from_file(path: &Path) -> Result<Value> {
    let name = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(name)?;
    let mut value: Value = toml::from_str(&text).with_context(name)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    settle(&mut value, folder, false);
    Ok(value)
}

/// Makes paths relative to the file's folder.
fn settle(value: &mut Value, folder: &Path, is_path: bool) {
    match value {
        Value::Object(map) => map.iter_mut().for_each(|(k, v)| settle(v, folder, PATHS.contains(&k.as_str()))),
        Value::Array(list) if is_path => list.iter_mut().for_each(|entry| settle(entry, folder, true)),
        Value::String(text) if is_path && text != crate::load::DEFAULT => {
            *text = folder.join(&*text).to_string_lossy().into_owned();
        }
        _ => {}
    }
}

/// A value of the environment: as TOML would read it, else a text. Lists are separated by commas.
fn from_text(text: &str, list: bool) -> Value {
    if list {
        return text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    }
    let read = toml::from_str::<Value>(&format!("value = {text}")).ok().and_then(|mut table| {
        let value = table.get_mut("value")?.take();
        Some(value).filter(|value| value.is_number() || value.is_boolean())
    });
    read.unwrap_or_else(|| text.into())
}

fn at<'v>(value: &'v Value, key: &[String]) -> Option<&'v Value> {
    key.iter().try_fold(value, |value, part| value.get(part))
}

/// Puts the leaves of a layer over those that are there.
fn put(values: &mut IndexMap<Key, (Value, Source)>, layer: &Value, source: &Source) {
    fn walk(key: &mut Key, value: &Value, values: &mut IndexMap<Key, (Value, Source)>, source: &Source) {
        let Value::Object(map) = value else {
            values.insert(key.clone(), (value.clone(), source.clone()));
            return;
        };
        for (name, value) in map {
            key.push(name.clone());
            walk(key, value, values, source);
            key.pop();
        }
    }
    walk(&mut Key::new(), layer, values, source);
}

/// The values as a configuration.
fn typed(values: &IndexMap<Key, (Value, Source)>) -> Result<Config> {
    let mut whole = json!({});
    for (key, (value, _)) in values {
        let place = key.iter().fold(&mut whole, |place, part| {
            if !place.is_object() {
                *place = json!({});
            }
            &mut place[part.as_str()]
        });
        *place = value.clone();
    }
    for (key, (_, source)) in values {
        check_key(key, source)?;
    }
    serde_path_to_error::deserialize(whole).map_err(|error| {
        let path = error.path().to_string();
        let source = values.iter().find(|(key, _)| path.starts_with(&key.join("."))).map(|(_, (_, source))| source);
        let from = source.map_or_else(String::new, |source| format!("{source}: "));
        let hint = "`allod serve --print-config` shows every key with its value";
        Failure::new(format!("{from}{path}: {}", error.into_inner()), hint).into()
    })
}

/// Refuses a key that does not exist, with the one that is most like it.
fn check_key(key: &[String], source: &Source) -> Result<()> {
    let mut known = json!(Config::default());
    for (i, part) in key.iter().enumerate() {
        let Value::Object(map) = &known else { break };
        let next = match map.get(part) {
            Some(next) => next.clone(),
            None => {
                let names = map.keys().map(String::as_str);
                let near = names.map(|name| (strsim::levenshtein(name, part), name)).min();
                let name = key[..=i].join(".");
                let hint = match near.filter(|(distance, _)| *distance <= 1 + part.len() / 3) {
                    Some((_, near)) => format!("did you mean {}?", [&key[..i], &[near.into()]].concat().join(".")),
                    None => "`allod serve --print-config` shows every key".into(),
                };
                return Err(Failure::new(format!("{source}: there is no key {name}"), hint).into());
            }
        };
        known = match (i, part.as_str()) {
            // Below `models` stand names, and below a name the keys of a model.
            (0, "models") if key.len() > 1 => json!({ key[1].as_str(): ModelPart::default() }),
            (2, "sampling") => Value::Null,
            _ => next,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use allod_cpu::Activations;
    use allod_server::Limits;

    fn read(file: &str, environment: &[(&str, &str)], flags: Value) -> Result<Layered> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("allod.toml");
        std::fs::write(&path, file)?;
        let environment = |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Layered::read(Some(&path), environment, flags.as_object().cloned().unwrap_or_default())
    }

    #[test]
    fn later_layers_go_over_earlier_ones() {
        let file = "port = 1\nctx = 2\nmemory = \"2K\"\n[limits]\nbody = 5\n\
                    [models.'a.b']\npath = 'x.gguf'\nactivations = 'bf16'\n";
        let environment =
            [("ALLOD_CTX", "3"), ("ALLOD_API_KEY", "1, 2"), ("ALLOD_LIMITS_HEADERS", "9"), ("ALLOD_HOST", "::1")];
        let layered = read(file, &environment, json!({ "ctx": 4, "models": { "c": { "path": "/y.gguf" } } })).unwrap();
        let config = &layered.config;
        assert_eq!((config.port, config.ctx, config.memory), (1, Some(4), Some(2048)));
        assert_eq!((config.api_key.len(), config.host.to_string()), (2, "::1".into()));
        let limits = config.limits().unwrap();
        assert_eq!((limits.body, limits.headers, limits.upload), (5, 9, Limits::default().upload));
        // A path in the file is relative to the file.
        assert!(config.models["a.b"].path.is_absolute());
        assert_eq!(config.models["c"].path, Path::new("/y.gguf"));
        assert_eq!(["a.b", "c"].map(|name| config.models[name].activations), [Activations::BF16, Activations::F32]);
        let shown = layered.shown();
        for line in ["ctx = 4  # flag", "headers = 9  # environment: ALLOD_LIMITS_HEADERS", "grace = 30  # default"] {
            assert!(shown.contains(line), "{shown}");
        }
        assert!(
            shown.contains("[models.\"a.b\"]") && shown.contains("allod.toml\n") && !shown.contains("\"1\""),
            "{shown}"
        );
        // What is shown is a configuration again; only secrets are not.
        let again = read(&shown, &[], json!({})).unwrap().config;
        assert_eq!(again, Config { api_key: Vec::new(), ..config.clone() });
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let told = |file: &str, environment: &[(&str, &str)]| {
            crate::failure::told(&read(file, environment, json!({})).unwrap_err())
        };
        for (file, wanted) in [
            ("prt = 1", ["there is no key prt", "did you mean port?"]),
            ("[limits]\nbodyy = 1", ["there is no key limits.bodyy", "did you mean limits.body?"]),
            ("[models.a]\npth = 'x'", ["models.a.pth", "did you mean models.a.path?"]),
            ("zebra = 1", ["there is no key zebra", "--print-config"]),
            ("port = 'many'", ["allod.toml: port:", "invalid type"]),
            ("memory = '8X'", ["memory", "expected a number of bytes"]),
            ("[models.a]\nactivations = 'f8'", ["models.a.activations", "expected `f32` or `bf16`"]),
            ("port = 1\nport = 2", ["allod.toml", "duplicate key"]),
            ("port = ", ["allod.toml", "1"]),
        ] {
            let told = told(file, &[]);
            assert!(wanted.iter().all(|w| told.contains(w)), "{file}: {told}");
        }
        let told = told("", &[("ALLOD_PORT", "x")]);
        assert!(told.contains("environment: ALLOD_PORT: port:"), "{told}");
    }
}
