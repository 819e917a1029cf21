//! What all handlers share.

use crate::auth::{Key, Keys};
use crate::dialect::responses::Background;
use crate::error::{ApiError, Kind};
use crate::generate::{Job, Running};
use crate::guard::Doors;
use crate::metrics::{Metrics, Observer};
use crate::models::{Lease, Models, Purpose};
use crate::store::Store;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

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
        }
    }
}

/// The server's parts.
pub(crate) struct App {
    pub(crate) models: Arc<Models>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: Limits,
    pub(crate) store: Arc<Store>,
    pub(crate) background: Background,
    pub(crate) keys: Keys,
    pub(crate) doors: Doors,
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
}

impl Caller {
    /// The same caller, booked apart from others behind the same key.
    pub(crate) fn on_account_of(&self, user: &str) -> Caller {
        let hash = blake3::hash(format!("{} {user}", self.client).as_bytes());
        let client = hash.as_bytes().iter().take(8).fold(0, |n, &b| n << 8 | u64::from(b));
        Caller { client, ..self.clone() }
    }
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
        job.sampling.seed.get_or_insert_with(crate::ids::seed);
        let observer = Observer::new(&self.metrics, &lease.name, &job, caller);
        Running::start(lease, job, observer).await
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
