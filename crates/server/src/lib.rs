//! Models over HTTP: the dialects of OpenAI, Anthropic and Ollama on one address.
//!
//! A request enters through `router`, is read by its dialect into a `generate::Job`, and leaves as
//! that job's outputs in the dialect's words. Models are loaded when they are asked for (`models`); each has an
//! engine on a thread of its own, and events come from there through channels that neither side waits in.
//!
//! ```no_run
//! use allod_server::{Catalog, Origin, Server, Settings, Spec};
//!
//! # async fn example() -> std::io::Result<()> {
//! let mut catalog = Catalog::default();
//! catalog.insert("stories", Spec::new(Origin::Path("stories.gguf".into())));
//! let server = Server::new(Settings { catalog, ..Settings::default() });
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:11434").await?;
//! server.serve(listener, std::future::pending()).await;
//! # Ok(())
//! # }
//! ```
#![deny(missing_docs)]

mod admin;
#[cfg(test)]
mod api;
mod app;
mod auth;
mod batch;
mod body;
mod chat;
mod dialect;
mod error;
mod generate;
mod guard;
mod health;
mod ids;
mod listen;
mod live;
mod metrics;
mod models;
#[cfg(test)]
mod mutated;
#[cfg(feature = "otel")]
mod otel;
mod prompt;
mod receipt;
mod router;
mod store;
mod stream;
mod time;
mod upload;

pub use app::Limits;
pub use auth::{KeyLimits, KeyRecord, Scope, create_key};
pub use batch::{Batch, BatchError, Counts};
pub use guard::Doors;
pub use live::{Changeable, Reload, Reloaded, Reloading};
pub use models::{Catalog, LoadError, Origin, Sizing, Spec};
#[cfg(feature = "otel")]
pub use otel::{Traces, trace_with};
pub use receipt::{
    AnswerPart, Difference, Digests, Finish, ModelPart, Receipt, RequestPart, Tokens, Verified, VerifyError, digests,
    path_digest, sampling_value, text_digest, verify,
};

use app::App;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;
use tokio::net::TcpListener;

/// What a server is made of.
#[derive(Debug, Default)]
pub struct Settings {
    /// Its models.
    pub catalog: Catalog,
    /// Threads that compute; 0 is one for each core.
    pub threads: usize,
    /// Bytes that models may take together; by default three quarters of the machine's memory.
    pub memory: Option<u64>,
    /// How long a model stays unused; `None` is for good.
    pub keep_alive: Option<Duration>,
    /// What a request may weigh.
    pub limits: Limits,
    /// Whom it listens to.
    pub doors: Doors,
    /// Every answer gets a receipt, asked for or not.
    pub receipts: bool,
    /// Where the configuration is read again.
    pub reloading: Reloading,
    /// Keys that open everything, besides those that are written down.
    pub keys: Vec<String>,
    /// The field of OpenAI's chats that reasoning is told in.
    pub reasoning_field: ReasoningField,
    /// Where it keeps what outlives it: models made through the API, files, batches, responses.
    pub data: Option<PathBuf>,
    /// Bytes of computed prefixes of each model that are kept there when memory has no room for them, or the model
    /// goes.
    pub prefix_bytes: Option<u64>,
    /// How long what is being answered may go on when the server ends.
    pub grace: Option<Duration>,
}

/// A field of OpenAI's chats for reasoning; OpenAI itself has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReasoningField {
    /// `reasoning_content`, as DeepSeek, SGLang and llama.cpp call it.
    #[default]
    ReasoningContent,
    /// `reasoning`, as vLLM and OpenRouter call it.
    Reasoning,
}

impl ReasoningField {
    fn name(self) -> &'static str {
        match self {
            ReasoningField::ReasoningContent => "reasoning_content",
            ReasoningField::Reasoning => "reasoning",
        }
    }
}

/// A server that is ready to listen.
pub struct Server {
    app: Arc<App>,
    tls: Option<tokio_rustls::TlsAcceptor>,
    grace: Duration,
}

impl Server {
    /// A server with nothing loaded yet.
    pub fn new(settings: Settings) -> Server {
        let threads = match settings.threads {
            0 => std::thread::available_parallelism().map_or(1, Into::into),
            n => n,
        };
        let models = models::Models::new(settings.catalog, threads, settings.memory, settings.keep_alive);
        let data = settings.data.unwrap_or_else(|| "allod-data".into());
        let models = match settings.prefix_bytes {
            Some(bytes) => models.keeping_pages(data.join("prefixes"), bytes),
            None => models,
        };
        let store = Arc::new(store::Store::new(data));
        dialect::ollama::create::restore(&models, &store);
        dialect::responses::restore(&store);
        let streams = Arc::new(stream::Streams::new(settings.limits.replay, settings.limits.replay_time));
        let app = App {
            models: Arc::new(models),
            metrics: Arc::new(metrics::Metrics::new()),
            limits: live::Live::new(settings.limits),
            keys: auth::Keys::open(&store, &settings.keys),
            background: dialect::responses::Background::default(),
            batches: std::sync::Mutex::default(),
            batch_turns: tokio::sync::Semaphore::new(dialect::jobs::BATCHES),
            doors: live::Live::new(settings.doors),
            reloading: settings.reloading,
            streams,
            receipts: settings.receipts,
            reasoning_field: settings.reasoning_field.name(),
            store,
            draining: AtomicBool::new(false),
            active: AtomicUsize::new(0),
        };
        Server { app: Arc::new(app), tls: None, grace: settings.grace.unwrap_or(Duration::from_secs(30)) }
    }

    /// Loads a model now, so that the first request need not wait.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub async fn preload(&self, model: &str) -> Result<(), String> {
        self.app.models.lease(model, models::Purpose::Text).await.map(drop).map_err(|e| e.message)
    }

    /// Speaks TLS with a certificate chain and its key, in PEM.
    ///
    /// # Errors
    /// Files that cannot be read or do not belong together.
    pub fn with_tls(self, certificate: &Path, key: &Path) -> std::io::Result<Server> {
        Ok(Server { tls: Some(listen::tls(certificate, key)?), ..self })
    }

    /// Whether a request needs a key.
    pub fn has_keys(&self) -> bool {
        !self.app.keys.is_empty()
    }

    /// Answers the requests of a file. `progress` is called after each.
    ///
    /// # Errors
    /// The files.
    pub async fn batch(&self, batch: &Batch, progress: &mut (dyn FnMut(&Counts) + Send)) -> Result<Counts, BatchError> {
        batch::run(batch, batch::Run { app: &self.app, caller: app::Caller::owner(), progress }).await
    }

    /// Reads the configuration again when it is called.
    pub fn reloader(&self) -> impl Fn() -> Result<Reloaded, String> + Send + Sync + use<> {
        let app = Arc::clone(&self.app);
        move || live::reload(&app).map_err(|error| error.message)
    }

    /// Answers who connects to `listener` until `stop` is done; then what is being answered ends.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        dialect::jobs::resume(&self.app);
        let app = Arc::clone(&self.app);
        let housekeeping = tokio::spawn(async move {
            for second in 0u64.. {
                tokio::time::sleep(Duration::from_secs(1)).await;
                app.models.sweep();
                app.keys.save_usage();
                app.streams.sweep();
                if second.is_multiple_of(60) {
                    dialect::jobs::files::sweep(&app.store);
                }
            }
        });
        listen::serve(Arc::clone(&self.app), listener, self.tls, stop, self.grace).await;
        housekeeping.abort();
        self.app.keys.save_usage();
    }
}
