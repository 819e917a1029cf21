//! The models of this server: which there are, which are at work, and who makes room for whom.
//!
//! A model is loaded when it is first asked for. When a new one does not fit beside those at work, the ones that
//! nobody has used for longest are given up, by the bytes they were measured to hold. A new model is read and checked
//! before anything is given up for it, and where the machine has the memory it is made ready beside the others first:
//! so a load that fails costs nobody a working model.

mod adapters;
mod catalog;
mod memory;
mod source;

pub use catalog::{Catalog, Spec};
pub(crate) use source::{Learned, Loaded, Purpose};
pub use source::{LoadError, Origin, Sizing};

use crate::error::{ApiError, Kind};
use allod_cpu::Pool;
use allod_engine::engine::{AdapterId, SpillOptions};
use std::collections::HashMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Mutex as AsyncMutex;

/// All models.
pub(crate) struct Models {
    pub(crate) catalog: RwLock<Catalog>,
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
    /// One load at a time, so that the account of memory is right.
    loading: AsyncMutex<()>,
    pool: Arc<Pool>,
    budget: u64,
    clock: AtomicU64,
    pub(crate) keep_alive: RwLock<Option<Duration>>,
    /// Where computed prefixes outlive their model, and how many bytes of each model's.
    pages: Option<(PathBuf, u64)>,
    /// Loads that were done, and models given up for others.
    pub(crate) loads: AtomicU64,
    pub(crate) evictions: AtomicU64,
}

/// Names that differ in nothing but defaults share one engine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key(String);

impl Key {
    fn of(spec: &Spec, purpose: Purpose) -> Key {
        Key(format!("{purpose:?} {:?} {:?}", spec.origin, spec.sizing))
    }
}

/// A place for one engine, empty or not.
struct Slot {
    ready: RwLock<Option<Arc<Loaded>>>,
    state: Mutex<Use>,
    active: AtomicUsize,
}

#[derive(Clone, Copy, Debug)]
struct Use {
    /// The clock when it was last used.
    last: u64,
    pinned: bool,
    /// When it is given up unless it is used again.
    expires: Option<Instant>,
}

/// A model for as long as a request needs it.
pub(crate) struct Lease {
    /// The name it is known by.
    pub(crate) name: String,
    pub(crate) spec: Arc<Spec>,
    /// What its requests run through.
    pub(crate) adapter: Option<AdapterId>,
    loaded: Arc<Loaded>,
    slot: Arc<Slot>,
    keep_alive: Option<Duration>,
}

impl Deref for Lease {
    type Target = Loaded;

    fn deref(&self) -> &Loaded {
        &self.loaded
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = lock(&self.slot.state);
        state.expires = self.keep_alive.map(|time| Instant::now() + time);
        self.slot.active.fetch_sub(1, Relaxed);
    }
}

impl Lease {
    /// How long the model stays after this request; `None` is for good.
    pub(crate) fn keep_for(&mut self, time: Option<Duration>) {
        self.keep_alive = time;
    }
}

/// A model at work, for listings.
pub(crate) struct Working {
    pub(crate) name: String,
    pub(crate) spec: Arc<Spec>,
    pub(crate) loaded: Arc<Loaded>,
    pub(crate) active: usize,
    pub(crate) expires: Option<SystemTime>,
}

impl Models {
    pub(crate) fn new(catalog: Catalog, threads: usize, budget: Option<u64>, keep_alive: Option<Duration>) -> Models {
        Models {
            catalog: RwLock::new(catalog),
            slots: Mutex::default(),
            loading: AsyncMutex::default(),
            pool: Arc::new(Pool::new(threads)),
            budget: budget.or_else(memory::usual_budget).unwrap_or(u64::MAX),
            clock: AtomicU64::default(),
            keep_alive: RwLock::new(keep_alive),
            pages: None,
            loads: AtomicU64::default(),
            evictions: AtomicU64::default(),
        }
    }

    /// Keeps computed prefixes in a folder, so many bytes of each model's.
    pub(crate) fn keeping_pages(self, folder: PathBuf, bytes: u64) -> Models {
        Models { pages: Some((folder, bytes)), ..self }
    }

    /// Where a model's prefixes go. Equal identities mean equal bytes.
    fn spill(&self, spec: &Spec, purpose: Purpose) -> Option<SpillOptions> {
        let (folder, bytes) = self.pages.clone().filter(|_| purpose == Purpose::Text)?;
        let identity = format!("{:?} {}", Key::of(spec, purpose), spec.origin.version()).into_bytes();
        Some(SpillOptions { folder, bytes, identity })
    }

    /// The full name and the entry of a model.
    ///
    /// # Errors
    /// There is none of that name.
    pub(crate) fn find(&self, name: &str) -> Result<(String, Arc<Spec>), ApiError> {
        let catalog = read(&self.catalog);
        catalog.find(name).map(|(name, spec)| (name.to_owned(), spec)).ok_or_else(|| {
            let names = catalog.names();
            let known = if names.is_empty() { "none".into() } else { names.join(", ") };
            let message = format!("model: there is no model {name:?} here; there are: {known}");
            ApiError { param: Some("model".into()), ..ApiError::not_found(message) }.with_code("model_not_found")
        })
    }

    /// A model, loaded first if need be.
    ///
    /// # Errors
    /// There is none of that name, it is broken, or there is no room for it.
    pub(crate) async fn lease(self: &Arc<Models>, name: &str, purpose: Purpose) -> Result<Lease, ApiError> {
        let (name, spec) = self.find(name)?;
        self.lease_entry(name, spec, purpose).await
    }

    /// A model by its entry, which need not be in the catalog.
    ///
    /// # Errors
    /// It is broken, or there is no room for it.
    pub(crate) async fn lease_entry(
        self: &Arc<Models>,
        name: String,
        spec: Arc<Spec>,
        purpose: Purpose,
    ) -> Result<Lease, ApiError> {
        let mut lease = self.lease_base(name, spec, purpose).await?;
        match lease.adapt().await {
            Ok(()) => Ok(lease),
            Err(error) => Err(load_failure(&lease.name, &error)),
        }
    }

    async fn lease_base(
        self: &Arc<Models>,
        name: String,
        spec: Arc<Spec>,
        purpose: Purpose,
    ) -> Result<Lease, ApiError> {
        let slot = self.slot(&spec, purpose);
        let ready = read(&slot.ready).clone();
        if let Some(loaded) = ready {
            return Ok(self.hold(name, spec, slot, loaded));
        }
        // A task of its own: whoever comes next wants the model even when the one who asked first has gone.
        let (models, task_slot, task_spec, task_name) =
            (Arc::clone(self), Arc::clone(&slot), Arc::clone(&spec), name.clone());
        let task = tokio::spawn(async move { models.load(&task_name, &task_spec, purpose, &task_slot).await });
        let loaded = task.await.map_err(ApiError::internal)?.map_err(|error| load_failure(&name, &error))?;
        Ok(self.hold(name, spec, slot, loaded))
    }

    fn slot(&self, spec: &Spec, purpose: Purpose) -> Arc<Slot> {
        let mut slots = lock(&self.slots);
        let slot = slots.entry(Key::of(spec, purpose)).or_insert_with(|| {
            let state = Mutex::new(Use { last: 0, pinned: spec.pin, expires: None });
            Arc::new(Slot { ready: RwLock::default(), state, active: AtomicUsize::new(0) })
        });
        lock(&slot.state).pinned |= spec.pin;
        Arc::clone(slot)
    }

    fn hold(&self, name: String, spec: Arc<Spec>, slot: Arc<Slot>, loaded: Arc<Loaded>) -> Lease {
        slot.active.fetch_add(1, Relaxed);
        lock(&slot.state).last = self.clock.fetch_add(1, Relaxed);
        let keep_alive = spec.keep_alive.unwrap_or(*read(&self.keep_alive));
        Lease { name, spec, adapter: None, loaded, slot, keep_alive }
    }

    async fn load(
        &self,
        name: &str,
        spec: &Arc<Spec>,
        purpose: Purpose,
        slot: &Arc<Slot>,
    ) -> Result<Arc<Loaded>, LoadError> {
        let _turn = self.loading.lock().await;
        if let Some(loaded) = read(&slot.ready).clone() {
            return Ok(loaded);
        }
        tracing::info!(model = name, origin = spec.origin.describe(), "loading");
        let (origin, sizing) = (spec.origin.clone(), spec.sizing.clone());
        let opened = blocking(move || source::open(&origin, &sizing, purpose)).await?;
        let needed = opened.estimate;
        let victims = self.victims(name, needed)?;
        let beside = memory::available().is_some_and(|free| free > needed + needed / 8);
        if !beside {
            self.give_up(&victims);
        }
        let pool = Arc::clone(&self.pool);
        let spill = self.spill(spec, purpose);
        let loaded = Arc::new(blocking(move || opened.prepare(&pool, spill)).await?);
        if beside {
            self.give_up(&victims);
        }
        self.loads.fetch_add(1, Relaxed);
        lock(&slot.state).last = self.clock.fetch_add(1, Relaxed);
        *write(&slot.ready) = Some(Arc::clone(&loaded));
        tracing::info!(model = name, bytes = total(&loaded), seconds = loaded.load_time.as_secs_f64(), "loaded");
        Ok(loaded)
    }

    /// What has to be given up so that `needed` bytes fit: the idle ones, longest unused first.
    fn victims(&self, name: &str, needed: u64) -> Result<Vec<Arc<Slot>>, LoadError> {
        let slots = lock(&self.slots);
        let mut idle = Vec::new();
        let (mut held, mut taken) = (0, 0);
        for slot in slots.values() {
            let Some(loaded) = read(&slot.ready).clone() else { continue };
            let (bytes, state) = (total(&loaded), *lock(&slot.state));
            held += bytes;
            if state.pinned || slot.active.load(Relaxed) > 0 {
                taken += bytes;
            } else {
                idle.push((state.last, bytes, Arc::clone(slot)));
            }
        }
        drop(slots);
        if needed.saturating_add(taken) > self.budget {
            let by = self.working().iter().map(|w| w.name.clone()).collect::<Vec<_>>().join(", ");
            return Err(LoadError::Memory { name: name.into(), needed, budget: self.budget, taken, by });
        }
        idle.sort_by_key(|(last, _, _)| *last);
        let mut victims = Vec::new();
        for (_, bytes, slot) in idle {
            if held.saturating_add(needed) <= self.budget {
                break;
            }
            held -= bytes;
            victims.push(slot);
        }
        Ok(victims)
    }

    fn give_up(&self, victims: &[Arc<Slot>]) {
        for slot in victims {
            *write(&slot.ready) = None;
            self.evictions.fetch_add(1, Relaxed);
        }
    }

    /// Gives up a model now, or when its last request ends. False when it was not loaded.
    pub(crate) fn unload(&self, spec: &Spec) -> bool {
        let slots = lock(&self.slots);
        let of = |purpose| slots.get(&Key::of(spec, purpose)).is_some_and(|slot| write(&slot.ready).take().is_some());
        [Purpose::Text, Purpose::Vectors].map(of).contains(&true)
    }

    /// Takes the models that the configuration names now; those made through the API stay besides. Gives whether
    /// anything is new. Models that are no longer named go when their last request has ended.
    pub(crate) fn relist(&self, catalog: Catalog, store: &crate::store::Store) -> bool {
        let before = std::mem::replace(&mut *write(&self.catalog), catalog);
        crate::dialect::ollama::create::restore(self, store);
        let now = read(&self.catalog).clone();
        let named = |spec: &Spec| now.entries().any(|(_, s)| (&s.origin, &s.sizing) == (&spec.origin, &spec.sizing));
        for (_, spec) in before.entries().filter(|(_, spec)| !named(spec)) {
            self.unload(spec);
        }
        before != now
    }

    /// Gives up what nobody has used for as long as it was to stay.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let slots: Vec<_> = lock(&self.slots).values().cloned().collect();
        for slot in slots {
            let state = *lock(&slot.state);
            let due = state.expires.is_some_and(|at| at <= now) && !state.pinned;
            if due && slot.active.load(Relaxed) == 0 && write(&slot.ready).take().is_some() {
                tracing::info!("a model that nobody used was given up");
            }
        }
    }

    /// Models at work, by name; names that share an engine are one.
    pub(crate) fn working(&self) -> Vec<Working> {
        let mut list: Vec<Working> = Vec::new();
        let catalog = read(&self.catalog);
        let slots = lock(&self.slots);
        let mut seen = Vec::new();
        let both =
            catalog.entries().flat_map(|entry| [Purpose::Text, Purpose::Vectors].map(|purpose| (entry, purpose)));
        for ((name, spec), purpose) in both {
            let key = Key::of(spec, purpose);
            let Some(slot) = slots.get(&key).filter(|_| !seen.contains(&key)) else { continue };
            let Some(loaded) = read(&slot.ready).clone() else { continue };
            seen.push(key);
            let expires = lock(&slot.state).expires;
            list.push(Working {
                name: name.to_owned(),
                spec: Arc::clone(spec),
                loaded,
                active: slot.active.load(Relaxed),
                expires: expires.map(|at| SystemTime::now() + at.saturating_duration_since(Instant::now())),
            });
        }
        list
    }

    /// Bytes that models may take.
    pub(crate) fn budget(&self) -> u64 {
        self.budget
    }
}

fn total(loaded: &Loaded) -> u64 {
    loaded.bytes.iter().sum()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LoadError> + Send + 'static,
) -> Result<T, LoadError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(LoadError::Thread(std::io::Error::other(error))),
    }
}

fn load_failure(name: &str, error: &LoadError) -> ApiError {
    tracing::error!(model = name, %error, "a model could not be loaded");
    let message = format!("model {name}: {error}");
    match error {
        LoadError::Memory { .. } => ApiError { retry_after: Some(5), ..ApiError::new(Kind::Overloaded, message) },
        LoadError::Adapter { .. } => ApiError::invalid(message),
        _ => ApiError::internal(message),
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
