//! Who may do what, and how much of it. Keys are written down as hashes only.

mod meter;

pub use meter::KeyLimits;
pub(crate) use meter::Turn;

use crate::error::{ApiError, Kind};
use crate::models::{lock, read, write};
use crate::store::Store;
use meter::Meter;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, RwLock};

const KIND: &str = "keys";
const USAGE: &str = "usage";

/// What a key opens; each opens what stands before it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Ask models.
    Infer,
    /// Make, copy, remove, load and give up models.
    Manage,
    /// Make and take keys, see everybody's usage.
    Admin,
}

/// A key as it is written down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Names the key without telling it.
    pub id: String,
    /// Whose it is.
    pub name: String,
    /// SHA-256 of the key. Keys are random and long, so nobody can guess one from this.
    pub sha256: String,
    /// What it opens.
    pub scope: Scope,
    /// How much may be done with it.
    #[serde(default)]
    pub limits: KeyLimits,
    /// Seconds since 1970.
    pub created: u64,
}

/// What was done with a key.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    pub(crate) requests: AtomicU64,
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) completion_tokens: AtomicU64,
}

/// The same, as it is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UsageRecord {
    pub(crate) requests: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
}

impl Usage {
    pub(crate) fn record(&self) -> UsageRecord {
        UsageRecord {
            requests: self.requests.load(Relaxed),
            prompt_tokens: self.prompt_tokens.load(Relaxed),
            completion_tokens: self.completion_tokens.load(Relaxed),
        }
    }

    fn from_record(record: UsageRecord) -> Usage {
        Usage {
            requests: record.requests.into(),
            prompt_tokens: record.prompt_tokens.into(),
            completion_tokens: record.completion_tokens.into(),
        }
    }
}

/// A key at work.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) record: KeyRecord,
    pub(crate) usage: Usage,
    meter: Meter,
}

impl Key {
    fn new(record: KeyRecord, usage: UsageRecord) -> Key {
        Key { record, usage: Usage::from_record(usage), meter: Meter::default() }
    }

    /// On whose account the engine books it.
    pub(crate) fn client(&self) -> u64 {
        self.record.sha256.bytes().take(16).fold(0, |n, b| n.rotate_left(4) ^ u64::from(b))
    }

    /// Counts a request in.
    ///
    /// # Errors
    /// The key's limits are reached.
    pub(crate) fn begin(self: &Arc<Key>) -> Result<Turn, ApiError> {
        let turn = meter::begin(self)?;
        self.usage.requests.fetch_add(1, Relaxed);
        Ok(turn)
    }

    /// Books the tokens of an answer.
    pub(crate) fn spend(&self, prompt: usize, completion: usize) {
        self.usage.prompt_tokens.fetch_add(prompt as u64, Relaxed);
        self.usage.completion_tokens.fetch_add(completion as u64, Relaxed);
        self.meter.spend((prompt + completion) as u64);
    }
}

/// All keys. Where there is none, everybody may do everything.
#[derive(Debug)]
pub(crate) struct Keys {
    /// By the hash of the key.
    by_hash: RwLock<BTreeMap<String, Arc<Key>>>,
    store: Arc<Store>,
    /// What was last written of each key's usage.
    written: Mutex<BTreeMap<String, UsageRecord>>,
}

impl Keys {
    /// The keys that are written down, and those that the configuration gives.
    pub(crate) fn open(store: &Arc<Store>, given: &[String]) -> Keys {
        let keys = records(store, given).map(|record| (record.sha256.clone(), written_down(store, record)));
        Keys { by_hash: RwLock::new(keys.collect()), store: Arc::clone(store), written: Mutex::default() }
    }

    /// Reads again what is written down, and takes the keys that the configuration gives now. Those that stay keep what
    /// was done with them. Gives whether anything is new.
    ///
    /// # Errors
    /// No key would be left, and everybody let in.
    pub(crate) fn reload(&self, given: &[String]) -> std::io::Result<bool> {
        let mut by_hash = write(&self.by_hash);
        let now = records(&self.store, given).map(|record| {
            let known = by_hash.get(&record.sha256).filter(|key| key.record == record).cloned();
            (record.sha256.clone(), known.unwrap_or_else(|| written_down(&self.store, record)))
        });
        let now: BTreeMap<_, _> = now.collect();
        if now.is_empty() && !by_hash.is_empty() {
            let message = "the last key would go, and with it the door: that needs a restart";
            return Err(std::io::Error::other(message));
        }
        let same = now.len() == by_hash.len()
            && now.iter().all(|(hash, key)| by_hash.get(hash).is_some_and(|k| Arc::ptr_eq(k, key)));
        *by_hash = now;
        Ok(!same)
    }

    pub(crate) fn is_empty(&self) -> bool {
        read(&self.by_hash).is_empty()
    }

    /// The key that a request brings.
    ///
    /// # Errors
    /// It brings none, or one that is unknown; the two are told apart, what exists is not.
    pub(crate) fn check(&self, brought: Option<&str>) -> Result<Arc<Key>, ApiError> {
        let Some(brought) = brought else {
            let message = "this server wants a key: Authorization: Bearer KEY, or x-api-key: KEY";
            return Err(ApiError::new(Kind::Unauthenticated, message));
        };
        // The look-up compares hashes, whose bytes tell nothing about a key that is nearly right.
        let key = read(&self.by_hash).get(&sha256(brought)).cloned();
        key.ok_or_else(|| {
            ApiError::new(Kind::Unauthenticated, "the key is not known here").with_code("invalid_api_key")
        })
    }

    /// Makes a key and writes it down. The key itself is told only here.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn create(&self, name: &str, scope: Scope, limits: KeyLimits) -> std::io::Result<(String, KeyRecord)> {
        let key = crate::ids::new("allod-") + &crate::ids::new("");
        let created = crate::ids::now();
        let record =
            KeyRecord { id: crate::ids::new("key_"), name: name.into(), sha256: sha256(&key), scope, limits, created };
        self.store.put(KIND, &record.id, &record)?;
        let entry = Arc::new(Key::new(record.clone(), UsageRecord::default()));
        write(&self.by_hash).insert(record.sha256.clone(), entry);
        Ok((key, record))
    }

    /// Takes a key away; false when there was none. Those of the configuration stay.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn revoke(&self, id: &str) -> std::io::Result<bool> {
        if !self.store.delete(KIND, id)? {
            return Ok(false);
        }
        write(&self.by_hash).retain(|_, key| key.record.id != id);
        Ok(true)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Key>> {
        read(&self.by_hash).values().cloned().collect()
    }

    /// Writes down the usage that has changed.
    pub(crate) fn save_usage(&self) {
        let mut written = lock(&self.written);
        for key in self.all() {
            let (id, now) = (&key.record.id, key.usage.record());
            if written.get(id) == Some(&now) {
                continue;
            }
            match self.store.put(USAGE, id, &now) {
                Ok(()) => drop(written.insert(id.clone(), now)),
                Err(error) => tracing::warn!(%error, "usage could not be written"),
            }
        }
    }
}

/// The keys that are written down, and those that the configuration gives.
fn records(store: &Store, given: &[String]) -> impl Iterator<Item = KeyRecord> {
    let from_configuration = given.iter().enumerate().map(|(i, key)| KeyRecord {
        id: format!("configured-{i}"),
        name: "from the configuration".into(),
        sha256: sha256(key),
        scope: Scope::Admin,
        limits: KeyLimits::default(),
        created: 0,
    });
    store.all::<KeyRecord>(KIND).into_iter().chain(from_configuration)
}

/// A key with what was done with it so far.
fn written_down(store: &Store, record: KeyRecord) -> Arc<Key> {
    let usage = store.get::<UsageRecord>(USAGE, &record.id).ok().flatten().unwrap_or_default();
    Arc::new(Key::new(record, usage))
}

fn sha256(key: &str) -> String {
    use sha2::{Digest, Sha256};
    crate::ids::hex(&Sha256::digest(key.as_bytes()))
}

/// Makes a key in a server's data folder while no server needs to run, and returns it.
///
/// # Errors
/// The file system's.
pub fn create_key(
    data: &std::path::Path,
    name: &str,
    scope: Scope,
    limits: KeyLimits,
) -> std::io::Result<(String, KeyRecord)> {
    let store = Arc::new(Store::new(data.to_owned()));
    Keys::open(&store, &[]).create(name, scope, limits)
}
