//! `allod serve`: models over HTTP.

use crate::config::{self, Config, Layered, Log, ModelPart, ReasoningName, bytes};
use crate::failure::Failure;
use crate::load::{DEFAULT, STORIES};
use crate::printer::note;
use allod_cpu::KvType;
use allod_server::{
    Catalog, Changeable, KeyLimits, Origin, ReasoningField, Reloading, Scope, Server, Settings, Sizing, Spec,
};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use std::io::{Write, stdout};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

const EXAMPLES: &str = "\
Examples:
  allod serve model.gguf                         at http://127.0.0.1:11434
  allod serve small=a.gguf large=b.gguf          two models, by name
  allod serve a.gguf --adapter tuned=my-lora     a model, and what fine-tuning made of it
  allod serve --new-key laptop                   make a key; from then on the server wants one
  allod serve --models-dir ~/models --port 8080  every model in a folder, loaded when asked for";

/// Serve models to clients of OpenAI, Anthropic and Ollama
///
/// Values come from flags, else from the environment (ALLOD_PORT, ALLOD_LIMITS_BODY, …), else from a file in TOML whose
/// keys are the flags' names, else they are the defaults. `--print-config` writes them all, with where each comes from.
/// SIGHUP reads them again: keys, limits, names and models change without a stream being dropped.
#[derive(Args, Clone)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ServeArgs {
    /// Models, as PATH or NAME=PATH; without any, the model that is built in
    #[arg(value_hint = clap::ValueHint::AnyPath)]
    models: Vec<String>,
    /// The configuration [default: allod/allod.toml in the user's folder of configurations, if there is one]
    #[arg(long, env = "ALLOD_CONFIG", value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Write the configuration with the origin of each value, and end
    #[arg(long)]
    print_config: bool,
    /// Offer every model in this folder
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    models_dir: Vec<PathBuf>,
    /// Offer the first model with a LoRA adapter as a model of its own: a PEFT folder or a GGUF adapter. May be given
    /// several times
    #[arg(long, value_name = "NAME=PATH", value_hint = clap::ValueHint::AnyPath)]
    adapter: Vec<String>,
    /// Field of OpenAI's chats that reasoning is told in
    #[arg(long, value_enum, value_name = "NAME")]
    reasoning_field: Option<ReasoningName>,
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long)]
    host: Option<IpAddr>,
    /// Port to listen on; Ollama's clients look for 11434 [default: 11434]
    #[arg(long)]
    port: Option<u16>,
    /// Tokens of prompt and answer together [default: what each model was trained for]
    #[arg(long, value_name = "TOKENS")]
    ctx: Option<usize>,
    /// Answers computed side by side
    #[arg(long, value_name = "N")]
    parallel: Option<usize>,
    /// Listen beyond this machine although no key is asked for
    #[arg(long)]
    allow_anyone: bool,
    /// A key that opens everything; several may be given
    #[arg(long, value_name = "KEY")]
    api_key: Vec<String>,
    /// Make a key of this name, print it, and end
    #[arg(long, value_name = "NAME")]
    new_key: Option<String>,
    /// What the new key opens
    #[arg(long, value_enum, default_value_t = KeyScope::Infer, requires = "new_key")]
    scope: KeyScope,
    /// A name of this server that requests may be meant for, besides addresses and localhost; `*` is any
    #[arg(long, value_name = "NAME")]
    allowed_host: Vec<String>,
    /// A page whose scripts may ask, besides those of this machine, such as `https://app.example`; `*` is any
    #[arg(long, value_name = "ORIGIN")]
    allowed_origin: Vec<String>,
    /// Certificate chain for TLS, in PEM
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its private key, in PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Bytes that models may take together, such as 8G [default: three quarters of the memory]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory: Option<u64>,
    /// Keep so many bytes of each model's computed prompt prefixes on disk, such as 4G, so that they outlive the model's
    /// stay in memory
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    prefix_disk: Option<u64>,
    /// How long an unused model stays, in seconds [default: until the memory is wanted]
    #[arg(long, value_name = "SECONDS")]
    keep_alive: Option<u64>,
    /// How long answers may go on when the server ends, in seconds [default: 30]
    #[arg(long, value_name = "SECONDS")]
    grace: Option<u64>,
    /// Give every answer a receipt, with which `allod verify` makes it again
    #[arg(long)]
    receipts: bool,
    /// Folder for what outlives the server: keys, models made through the API, files, batches, responses
    /// [default: allod below the user's data folder]
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    data: Option<PathBuf>,
    /// Write a line for each request to stderr
    #[arg(long, value_enum, value_name = "FORM")]
    log: Option<Log>,
    /// Threads to compute with [default: all cores]
    #[arg(long, short, value_name = "N")]
    threads: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KeyScope {
    /// Ask models
    Infer,
    /// Make, copy and remove models too
    Manage,
    /// Make and take keys too
    Admin,
}

impl ServeArgs {
    /// The flags that were given, under the configuration's names.
    fn given(&self) -> Map<String, Value> {
        let models: Map<String, Value> = self.models.iter().map(|model| named(model)).collect();
        let all = json!({
            "models_dir": self.models_dir,
            "host": self.host,
            "port": self.port,
            "ctx": self.ctx,
            "parallel": self.parallel,
            "allow_anyone": self.allow_anyone,
            "api_key": self.api_key,
            "allowed_host": self.allowed_host,
            "allowed_origin": self.allowed_origin,
            "tls_cert": self.tls_cert,
            "tls_key": self.tls_key,
            "memory": self.memory,
            "keep_alive": self.keep_alive,
            "grace": self.grace,
            "receipts": self.receipts,
            "adapter": self.adapter,
            "reasoning_field": self.reasoning_field,
            "prefix_disk": self.prefix_disk,
            "data": self.data,
            "log": self.log,
            "threads": self.threads,
            "models": models,
        });
        let Value::Object(mut all) = all else { return Map::new() };
        // What is null, false or empty was not given.
        all.retain(|_, value| match value {
            Value::Array(list) => !list.is_empty(),
            Value::Bool(flag) => *flag,
            value => !value.is_null(),
        });
        all
    }

    fn layered(&self) -> Result<Layered> {
        let file = config::file(self.config.as_deref())?;
        Layered::read(file.as_deref(), |name| std::env::var(name).ok(), self.given())
    }
}

/// A model's name and entry, from PATH or NAME=PATH.
fn named(model: &str) -> (String, Value) {
    let (name, path) = match model.split_once('=') {
        Some((name, path)) if !name.is_empty() => (name.to_owned(), path),
        _ => (Catalog::name_of(model.as_ref()), model),
    };
    (name, json!({ "path": path }))
}

pub(crate) fn run(args: &ServeArgs) -> Result<ExitCode> {
    let layered = args.layered()?;
    if args.print_config {
        write!(stdout(), "{}", layered.shown())?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = layered.config;
    let data = config.data.clone().map_or_else(usual_data, Ok)?;
    if let Some(name) = &args.new_key {
        let scope = match args.scope {
            KeyScope::Infer => Scope::Infer,
            KeyScope::Manage => Scope::Manage,
            KeyScope::Admin => Scope::Admin,
        };
        let (key, _) = allod_server::create_key(&data, name, scope, KeyLimits::default())?;
        writeln!(stdout(), "{key}")?;
        return Ok(ExitCode::SUCCESS);
    }
    start_log(config.log);
    let Changeable { catalog, limits, doors, keys, keep_alive } = changeable(&config)?;
    let (again, first) = (args.clone(), config.clone());
    let reload = move || -> Result<(Changeable, Vec<String>), String> {
        let read = || {
            let config = again.layered()?.config;
            let fixed = config.fixed_differences(&first).into_iter().map(str::to_owned).collect();
            Ok((changeable(&config)?, fixed))
        };
        read().map_err(|error: anyhow::Error| crate::failure::told(&error).trim_end().to_owned())
    };
    let settings = Settings {
        catalog,
        threads: config.threads.unwrap_or(0),
        memory: config.memory,
        keep_alive,
        limits,
        keys,
        doors,
        receipts: config.receipts,
        reasoning_field: match config.reasoning_field {
            ReasoningName::ReasoningContent => ReasoningField::ReasoningContent,
            ReasoningName::Reasoning => ReasoningField::Reasoning,
        },
        prefix_bytes: config.prefix_disk,
        reloading: Reloading(Some(Arc::new(reload))),
        data: Some(data),
        grace: Some(Duration::from_secs(config.grace)),
    };
    #[cfg(feature = "otel")]
    let traces = traces()?;
    let runtime = tokio::runtime::Runtime::new().context("the runtime")?;
    let done = runtime.block_on(serve(&config, settings));
    #[cfg(feature = "otel")]
    if let Some(error) = traces.and_then(|traces| traces.shutdown().err()) {
        note(&format!("the last traces did not leave: {error}"));
    }
    done
}

/// Sends traces to the collector that the environment names, in OpenTelemetry's variables.
#[cfg(feature = "otel")]
fn traces() -> Result<Option<allod_server::Traces>> {
    if std::env::vars().all(|(name, _)| !name.starts_with("OTEL_EXPORTER_OTLP")) {
        return Ok(None);
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_http().build().context("OpenTelemetry")?;
    Ok(Some(allod_server::trace_with(exporter)))
}

/// What can be changed while the server runs.
fn changeable(config: &Config) -> Result<Changeable> {
    Ok(Changeable {
        catalog: catalog(config)?,
        limits: config.limits()?,
        doors: config.doors(),
        keys: config.api_key.clone(),
        keep_alive: config.keep_alive.map(Duration::from_secs),
    })
}

/// `$XDG_DATA_HOME/allod`, else `~/.local/share/allod`.
fn usual_data() -> Result<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share"));
    let folder = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|p| p.is_absolute()).or_else(home);
    let hint = "give one with --data";
    Ok(folder.ok_or_else(|| Failure::new("there is no folder for the server's data", hint))?.join("allod"))
}

fn start_log(log: Option<Log>) {
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false);
    match log {
        Some(Log::Text) => builder.init(),
        Some(Log::Json) => builder.json().flatten_event(true).init(),
        None => builder.with_max_level(tracing_subscriber::filter::LevelFilter::WARN).init(),
    }
}

fn catalog(config: &Config) -> Result<Catalog> {
    let sizing = Sizing { context: config.ctx, parallel: config.parallel, ..Sizing::default() };
    let mut catalog = Catalog::default();
    for (name, model) in &config.models {
        catalog.insert(name, spec(name, model, &sizing)?);
    }
    for folder in &config.models_dir {
        for path in found(folder)? {
            let spec = Spec { sizing: sizing.clone(), ..Spec::new(Origin::Path(path.clone())) };
            catalog.insert(Catalog::name_of(&path), spec);
        }
    }
    if config.models.is_empty() && config.models_dir.is_empty() {
        let spec = Spec::new(Origin::Embedded("allod-stories.gguf", STORIES));
        catalog.insert("allod-stories", Spec { sizing, ..spec });
    }
    for adapter in &config.adapter {
        add_adapter(&mut catalog, adapter)?;
    }
    Ok(catalog)
}

/// The entry of a model.
fn spec(name: &str, model: &ModelPart, sizing: &Sizing) -> Result<Spec> {
    let origin = if model.path == Path::new(DEFAULT) {
        Origin::Embedded("allod-stories.gguf", STORIES)
    } else if model.path.exists() {
        Origin::Path(model.path.clone())
    } else {
        let hint = "give a .gguf file, a folder of safetensors or a llama2.c .bin";
        return Err(Failure::new(format!("model {name}: there is no {}", model.path.display()), hint).into());
    };
    let cache_type = model.cache_type.as_deref().map(str::parse::<KvType>).transpose();
    let sizing = Sizing {
        context: model.ctx.or(sizing.context),
        parallel: model.parallel.or(sizing.parallel),
        cache_bytes: model.cache_bytes,
        cache_type: cache_type.with_context(|| format!("models.{name}.cache_type"))?,
        activations: model.activations,
        draft: model.draft,
    };
    Ok(Spec {
        sizing,
        aliases: model.aliases.clone(),
        pin: model.pin,
        keep_alive: model.keep_alive.map(|seconds| Some(Duration::from_secs(seconds))),
        sampling: model.sampling.clone(),
        stop: model.stop.clone(),
        system: model.system.clone(),
        template: model.template.clone(),
        ..Spec::new(origin)
    })
}

/// Adds the first model as an adapter changes it. The adapter is read, so that one of another model is told now.
fn add_adapter(catalog: &mut Catalog, adapter: &str) -> Result<()> {
    let (name, path) = match adapter.split_once('=') {
        Some((name, path)) if !name.is_empty() => (name.to_owned(), PathBuf::from(path)),
        _ => (Catalog::name_of(adapter.as_ref()), PathBuf::from(adapter)),
    };
    if !path.exists() {
        let hint = "give a PEFT folder or a GGUF adapter";
        return Err(Failure::new(format!("there is no adapter {}", path.display()), hint).into());
    }
    catalog.insert_adapter(&name, path).map_err(|e| Failure::new(e, "allod run --adapter shows the same").into())
}

/// The models of a folder: files and folders that look like one, by name.
fn found(folder: &PathBuf) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "gguf") || path.join("config.json").is_file());
    paths.sort();
    Ok(paths)
}

async fn serve(config: &Config, settings: Settings) -> Result<ExitCode> {
    let address = SocketAddr::new(config.host, config.port);
    let mut server = Server::new(settings);
    if !config.host.is_loopback() && !server.has_keys() && !config.allow_anyone {
        let hint = "make a key with `allod serve --new-key NAME`, or say --allow-anyone as well";
        return Err(
            Failure::new(format!("{address} can be reached from elsewhere, and no key is asked for"), hint).into()
        );
    }
    let mut scheme = "http";
    match (&config.tls_cert, &config.tls_key) {
        (Some(certificate), Some(key)) => {
            server = server.with_tls(certificate, key).context("TLS")?;
            scheme = "https";
        }
        (None, None) => {}
        _ => return Err(Failure::new("TLS needs a certificate and its key", "give --tls-cert and --tls-key").into()),
    }
    let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    note(&format!("serving at {scheme}://{}", listener.local_addr()?));
    reload_when_told(&server);
    server.serve(listener, stopped()).await;
    Ok(ExitCode::SUCCESS)
}

/// Reads the configuration again at every SIGHUP.
fn reload_when_told(server: &Server) {
    #[cfg(unix)]
    if let Ok(mut hangups) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()) {
        let reload = Arc::new(server.reloader());
        tokio::spawn(async move {
            while hangups.recv().await.is_some() {
                let reload = Arc::clone(&reload);
                // Files are read. What is wrong is in the log, and everything stays as it is.
                drop(tokio::task::spawn_blocking(move || reload()).await);
            }
        });
    }
}

/// Ctrl-C or SIGTERM.
async fn stopped() {
    #[cfg(unix)]
    if let Ok(mut term) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        tokio::select! {
            _ = term.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        return;
    }
    drop(tokio::signal::ctrl_c().await);
}
