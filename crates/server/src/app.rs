//! What all handlers share.

use crate::auth::{Key, Keys, Scope};
use crate::dialect::jobs::AtWork;
use crate::dialect::responses::Background;
use crate::error::{ApiError, Kind};
use crate::generate::{Job, Running};
use crate::guard::Doors;
use crate::live::{Live, Reloading};
use crate::metrics::{Metrics, Observer};
use crate::models::{Lease, Models, Purpose};
use crate::store::Store;
use crate::stream::{Resume, Streams};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// What a request may weigh and how long its parts may take.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of a body.
    pub body: usize,
    /// Bytes of a file that is uploaded.
    pub upload: usize,
    /// Until the body is there.
    pub body_time: Duration,
    /// Until the head is there.
    pub header_time: Duration,
    /// Bytes of a head.
    pub header_bytes: usize,
    /// Fields of a head.
    pub headers: usize,
    /// Connections at a time.
    pub connections: usize,
    /// Requests at a time.
    pub requests: usize,
    /// Bytes of all streams that can be gone on with.
    pub replay: usize,
    /// How long such a stream goes on without a reader, and stays when it is over.
    pub replay_time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            body: 32 << 20,
            upload: 512 << 20,
            body_time: Duration::from_secs(60),
            header_time: Duration::from_secs(10),
            header_bytes: 64 << 10,
            headers: 100,
            connections: 4096,
            requests: 2048,
            replay: 64 << 20,
            replay_time: Duration::from_secs(60),
        }
    }
}

/// The server's parts.
pub(crate) struct App {
    pub(crate) models: Arc<Models>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: Live<Limits>,
    pub(crate) store: Arc<Store>,
    pub(crate) background: Background,
    /// Batches at work, and the turns that they take.
    pub(crate) batches: Mutex<HashMap<String, Arc<AtWork>>>,
    pub(crate) batch_turns: Semaphore,
    pub(crate) keys: Keys,
    pub(crate) doors: Live<Doors>,
    /// Where the configuration is read again.
    pub(crate) reloading: Reloading,
    /// Streams that can be gone on with.
    pub(crate) streams: Arc<Streams>,
    /// Every answer gets a receipt.
    pub(crate) receipts: bool,
    /// The field of OpenAI's chats that reasoning is told in.
    pub(crate) reasoning_field: &'static str,
    /// No new work is taken.
    pub(crate) draining: AtomicBool,
    /// Requests that are being answered.
    pub(crate) active: AtomicUsize,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// On whose account the engine books it.
    pub(crate) client: u64,
    pub(crate) key: Option<Arc<Key>>,
    /// When the request arrived.
    pub(crate) arrived: Instant,
    /// Added to the priority of what is asked.
    pub(crate) priority: i32,
    /// Wants a receipt of every answer.
    pub(crate) receipt: bool,
    /// Wants streams that can be gone on with.
    pub(crate) resume: bool,
    /// The span that the request belongs to.
    #[cfg(feature = "otel")]
    pub(crate) parent: opentelemetry::Context,
}

impl Caller {
    /// The name of the key that was brought.
    pub(crate) fn owner_id(&self) -> Option<String> {
        self.key.as_ref().map(|key| key.record.id.clone())
    }

    /// Whether it may see what belongs to the key `owner`: its own, and an administrator everything.
    pub(crate) fn may_see(&self, owner: Option<&str>) -> bool {
        match &self.key {
            None => true,
            Some(key) => key.record.scope == Scope::Admin || owner == Some(key.record.id.as_str()),
        }
    }

    /// Whom nobody has to let in.
    pub(crate) fn owner() -> Caller {
        Caller {
            client: 0,
            key: None,
            arrived: Instant::now(),
            priority: 0,
            receipt: false,
            resume: false,
            #[cfg(feature = "otel")]
            parent: opentelemetry::Context::new(),
        }
    }

    /// The same caller, booked apart from others behind the same key.
    pub(crate) fn on_account_of(&self, user: &str) -> Caller {
        let hash = blake3::hash(format!("{} {user}", self.client).as_bytes());
        let client = hash.as_bytes().iter().take(8).fold(0, |n, &b| n << 8 | u64::from(b));
        Caller { client, ..self.clone() }
    }
}

/// Whether a receipt says everything that an answer depends on.
fn is_provable(lease: &Lease, job: &Job) -> bool {
    let told_apart = job.reading.as_ref().is_some_and(|reading| reading.single || !job.stop.is_empty());
    lease.adapter.is_none() && job.thinking.is_none() && !told_apart
}

impl App {
    /// A model for a request.
    ///
    /// # Errors
    /// There is none of that name, or no room for it.
    pub(crate) async fn lease(&self, model: &str) -> Result<Lease, ApiError> {
        self.models.lease(model, Purpose::Text).await
    }

    /// A model that makes vectors.
    ///
    /// # Errors
    /// As [`Self::lease`].
    pub(crate) async fn lease_vectors(&self, model: &str) -> Result<Lease, ApiError> {
        self.models.lease(model, Purpose::Vectors).await
    }

    /// Starts a job for a caller.
    ///
    /// # Errors
    /// What the engine refuses.
    pub(crate) async fn run(&self, lease: Lease, mut job: Job, caller: &Caller) -> Result<Running, ApiError> {
        job.client = caller.client;
        job.priority = job.priority.saturating_add(caller.priority);
        let asked = job.receipt || caller.receipt;
        if asked && !is_provable(&lease, &job) {
            let message = "an answer through an adapter, with a budget of reasoning, or ended by its first call cannot \
                           be made again from a receipt yet";
            return Err(ApiError::field("receipt", message));
        }
        job.receipt = (asked || self.receipts) && is_provable(&lease, &job);
        job.sampling.seed.get_or_insert_with(crate::ids::seed);
        let observer = Observer::new(&self.metrics, &lease.name, &job, caller);
        let mut running = Running::start(lease, job, observer).await?;
        if caller.resume {
            running.resume = Some(Resume { streams: Arc::clone(&self.streams), owner: caller.owner_id() });
        }
        Ok(running)
    }

    /// Takes a place among the requests being answered.
    ///
    /// # Errors
    /// There is none, or the server is about to end.
    pub(crate) fn enter(self: &Arc<App>) -> Result<Place, ApiError> {
        if self.draining.load(Relaxed) {
            let message = "the server is about to end and takes no new requests";
            return Err(ApiError { retry_after: Some(10), ..ApiError::new(Kind::Overloaded, message) });
        }
        let place = Place(Arc::clone(self));
        let before = self.active.fetch_add(1, Relaxed);
        if before >= self.limits.requests {
            let message = format!("{before} requests are being answered already");
            return Err(ApiError { retry_after: Some(1), ..ApiError::new(Kind::Overloaded, message) });
        }
        Ok(place)
    }
}

/// A request's place; it is free when this is dropped.
pub(crate) struct Place(Arc<App>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}
