//! `allod serve`: models over HTTP.

use crate::failure::Failure;
use crate::load::{DEFAULT, STORIES};
use crate::printer::note;
use allod_server::{Catalog, Doors, KeyLimits, Origin, Scope, Server, Settings, Sizing, Spec};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use std::io::{Write, stdout};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpListener;

const EXAMPLES: &str = "\
Examples:
  allod serve model.gguf                         at http://127.0.0.1:11434
  allod serve small=a.gguf large=b.gguf          two models, by name
  allod serve --new-key laptop                   make a key; from then on the server wants one
  allod serve --models-dir ~/models --port 8080  every model in a folder, loaded when asked for";

/// Serve models to clients of OpenAI, Anthropic and Ollama
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ServeArgs {
    /// Models, as PATH or NAME=PATH; without any, the model that is built in
    #[arg(value_hint = clap::ValueHint::AnyPath)]
    models: Vec<String>,
    /// Offer every model in this folder
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    models_dir: Vec<PathBuf>,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; Ollama's clients look for 11434
    #[arg(long, default_value_t = 11434)]
    port: u16,
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
    #[arg(long, env = "ALLOD_API_KEY", hide_env_values = true, value_name = "KEY")]
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
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Bytes that models may take together, such as 8G [default: three quarters of the memory]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory: Option<u64>,
    /// How long an unused model stays, in seconds [default: until the memory is wanted]
    #[arg(long, value_name = "SECONDS")]
    keep_alive: Option<u64>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Log {
    /// For people
    Text,
    /// An object a line
    Json,
}

/// A number of bytes, with K, M, G or T for powers of 1024.
fn bytes(text: &str) -> Result<u64, String> {
    let (digits, power) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1),
        Some((at, 'm' | 'M')) => (&text[..at], 2),
        Some((at, 'g' | 'G')) => (&text[..at], 3),
        Some((at, 't' | 'T')) => (&text[..at], 4),
        _ => (text, 0),
    };
    let number = digits.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
    let number = number.ok_or("expected a number of bytes, such as 8G")?;
    Ok((number * 1024f64.powi(power)) as u64)
}

pub(crate) fn run(args: &ServeArgs) -> Result<ExitCode> {
    let data = args.data.clone().map_or_else(usual_data, Ok)?;
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
    start_log(args.log);
    let settings = Settings {
        catalog: catalog(args)?,
        threads: args.threads.unwrap_or(0),
        memory: args.memory,
        keep_alive: args.keep_alive.map(Duration::from_secs),
        keys: args.api_key.clone(),
        doors: Doors { hosts: args.allowed_host.clone(), origins: args.allowed_origin.clone() },
        data: Some(data),
        ..Settings::default()
    };
    let runtime = tokio::runtime::Runtime::new().context("the runtime")?;
    runtime.block_on(serve(args, settings))
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

fn catalog(args: &ServeArgs) -> Result<Catalog> {
    let sizing = Sizing { context: args.ctx, parallel: args.parallel, ..Sizing::default() };
    let mut catalog = Catalog::default();
    let mut add = |name: String, origin| catalog.insert(name, Spec { sizing: sizing.clone(), ..Spec::new(origin) });
    for model in &args.models {
        let (name, path) = match model.split_once('=') {
            Some((name, path)) if !name.is_empty() => (name.to_owned(), path),
            _ => (Catalog::name_of(model.as_ref()), model.as_str()),
        };
        let path = PathBuf::from(path);
        if path == Path::new(DEFAULT) {
            add(name, Origin::Embedded("allod-stories.gguf", STORIES));
        } else if path.exists() {
            add(name, Origin::Path(path));
        } else {
            let hint = "give a .gguf file, a folder of safetensors or a llama2.c .bin";
            return Err(Failure::new(format!("there is no {}", path.display()), hint).into());
        }
    }
    for folder in &args.models_dir {
        for path in found(folder)? {
            add(Catalog::name_of(&path), Origin::Path(path));
        }
    }
    if args.models.is_empty() && args.models_dir.is_empty() {
        add("allod-stories".into(), Origin::Embedded("allod-stories.gguf", STORIES));
    }
    Ok(catalog)
}

/// The models of a folder: files and folders that look like one, by name.
fn found(folder: &PathBuf) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "gguf") || path.join("config.json").is_file());
    paths.sort();
    Ok(paths)
}

async fn serve(args: &ServeArgs, settings: Settings) -> Result<ExitCode> {
    let address = SocketAddr::new(args.host, args.port);
    let mut server = Server::new(settings);
    if !args.host.is_loopback() && !server.has_keys() && !args.allow_anyone {
        let hint = "make a key with `allod serve --new-key NAME`, or say --allow-anyone as well";
        return Err(
            Failure::new(format!("{address} can be reached from elsewhere, and no key is asked for"), hint).into()
        );
    }
    let mut scheme = "http";
    if let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) {
        server = server.with_tls(certificate, key).context("TLS")?;
        scheme = "https";
    }
    let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    note(&format!("serving at {scheme}://{}", listener.local_addr()?));
    server.serve(listener, stopped()).await;
    Ok(ExitCode::SUCCESS)
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
