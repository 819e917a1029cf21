//! The server's configuration: defaults, under a file, under the environment, under flags.

mod layers;
mod values;

pub(crate) use layers::Layered;
pub(crate) use values::bytes;

use crate::failure::Failure;
use allod_cpu::Activations;
use allod_server::{Doors, Limits};
use anyhow::{Context, Result};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use values::{byte_count, byte_count_option};

/// Everything that can be set. The names are the flags'.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) host: IpAddr,
    pub(crate) port: u16,
    pub(crate) allow_anyone: bool,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    pub(crate) data: Option<PathBuf>,
    pub(crate) threads: Option<usize>,
    #[serde(deserialize_with = "byte_count_option")]
    pub(crate) memory: Option<u64>,
    pub(crate) log: Option<Log>,
    /// Seconds for answers when the server ends.
    pub(crate) grace: u64,
    pub(crate) ctx: Option<usize>,
    pub(crate) parallel: Option<usize>,
    pub(crate) keep_alive: Option<u64>,
    pub(crate) receipts: bool,
    /// The first model's adapters, as NAME=PATH.
    pub(crate) adapter: Vec<String>,
    pub(crate) reasoning_field: ReasoningName,
    /// Bytes of each model's computed prefixes.
    #[serde(deserialize_with = "byte_count_option")]
    pub(crate) prefix_disk: Option<u64>,
    pub(crate) api_key: Vec<String>,
    pub(crate) allowed_host: Vec<String>,
    pub(crate) allowed_origin: Vec<String>,
    pub(crate) models_dir: Vec<PathBuf>,
    pub(crate) limits: LimitsPart,
    pub(crate) models: IndexMap<String, ModelPart>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            host: Ipv4Addr::LOCALHOST.into(),
            port: 11434,
            allow_anyone: false,
            tls_cert: None,
            tls_key: None,
            data: None,
            threads: None,
            memory: None,
            log: None,
            grace: 30,
            ctx: None,
            parallel: None,
            keep_alive: None,
            receipts: false,
            adapter: Vec::new(),
            reasoning_field: ReasoningName::default(),
            prefix_disk: None,
            api_key: Vec::new(),
            allowed_host: Vec::new(),
            allowed_origin: Vec::new(),
            models_dir: Vec::new(),
            limits: LimitsPart::default(),
            models: IndexMap::new(),
        }
    }
}

/// The form of the lines that tell of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Log {
    /// For people
    Text,
    /// An object a line
    Json,
}

/// The field of OpenAI's chats for reasoning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum ReasoningName {
    /// As DeepSeek, SGLang and llama.cpp call it
    #[default]
    ReasoningContent,
    /// As vLLM and OpenRouter call it
    Reasoning,
}

/// `[limits]`: bytes, counts, and times in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LimitsPart {
    #[serde(deserialize_with = "byte_count")]
    body: u64,
    #[serde(deserialize_with = "byte_count")]
    upload: u64,
    body_time: f64,
    header_time: f64,
    #[serde(deserialize_with = "byte_count")]
    header_bytes: u64,
    headers: usize,
    connections: usize,
    requests: usize,
    #[serde(deserialize_with = "byte_count")]
    replay: u64,
    replay_time: f64,
}

impl Default for LimitsPart {
    fn default() -> LimitsPart {
        let usual = Limits::default();
        LimitsPart {
            body: usual.body as u64,
            upload: usual.upload as u64,
            body_time: usual.body_time.as_secs_f64(),
            header_time: usual.header_time.as_secs_f64(),
            header_bytes: usual.header_bytes as u64,
            headers: usual.headers,
            connections: usual.connections,
            requests: usual.requests,
            replay: usual.replay as u64,
            replay_time: usual.replay_time.as_secs_f64(),
        }
    }
}

/// `[models.NAME]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ModelPart {
    pub(crate) path: PathBuf,
    pub(crate) aliases: Vec<String>,
    pub(crate) pin: bool,
    /// Seconds.
    pub(crate) keep_alive: Option<u64>,
    pub(crate) ctx: Option<usize>,
    pub(crate) parallel: Option<usize>,
    /// Most tokens drafted by looking them up in the text so far.
    pub(crate) draft: Option<usize>,
    /// Type of cached keys and values.
    pub(crate) cache_type: Option<String>,
    /// What BF16 weights are multiplied with.
    pub(crate) activations: Activations,
    /// Bytes of keys and values.
    #[serde(deserialize_with = "byte_count_option")]
    pub(crate) cache_bytes: Option<u64>,
    pub(crate) system: Option<String>,
    pub(crate) template: Option<String>,
    pub(crate) stop: Vec<String>,
    pub(crate) sampling: Map<String, Value>,
}

impl Config {
    /// The limits as the server takes them.
    ///
    /// # Errors
    /// A time that is none.
    pub(crate) fn limits(&self) -> Result<Limits> {
        let part = &self.limits;
        let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let time = |name: &str, seconds: f64| {
            Duration::try_from_secs_f64(seconds).with_context(|| format!("limits.{name}: {seconds} is no time"))
        };
        Ok(Limits {
            body: bytes(part.body),
            upload: bytes(part.upload),
            body_time: time("body_time", part.body_time)?,
            header_time: time("header_time", part.header_time)?,
            header_bytes: bytes(part.header_bytes),
            headers: part.headers,
            connections: part.connections.max(1),
            requests: part.requests,
            replay: bytes(part.replay),
            replay_time: time("replay_time", part.replay_time)?,
        })
    }

    pub(crate) fn doors(&self) -> Doors {
        Doors { hosts: self.allowed_host.clone(), origins: self.allowed_origin.clone() }
    }

    /// The keys that only a restart can change, and differ.
    pub(crate) fn fixed_differences(&self, other: &Config) -> Vec<&'static str> {
        let pairs = [
            ("host", self.host == other.host),
            ("port", self.port == other.port),
            ("tls_cert", self.tls_cert == other.tls_cert),
            ("tls_key", self.tls_key == other.tls_key),
            ("data", self.data == other.data),
            ("threads", self.threads == other.threads),
            ("memory", self.memory == other.memory),
            ("log", self.log == other.log),
            ("grace", self.grace == other.grace),
            ("reasoning_field", self.reasoning_field == other.reasoning_field),
            ("prefix_disk", self.prefix_disk == other.prefix_disk),
        ];
        pairs.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
    }
}

/// The file of the configuration: the one that is named, else the user's where there is one.
///
/// # Errors
/// The one that is named is not there.
pub(crate) fn file(named: Option<&Path>) -> Result<Option<PathBuf>> {
    if let Some(path) = named {
        if !path.is_file() {
            let hint = "`allod serve --print-config > allod.toml` writes one to begin with";
            return Err(Failure::new(format!("there is no {}", path.display()), hint).into());
        }
        return Ok(Some(path.to_owned()));
    }
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".config"));
    let folder = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|p| p.is_absolute()).or_else(home);
    Ok(folder.map(|folder| folder.join("allod/allod.toml")).filter(|path| path.is_file()))
}
