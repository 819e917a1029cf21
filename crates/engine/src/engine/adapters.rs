//! Adapters that requests may name.

use std::collections::BTreeMap;

/// Names an adapter for as long as the engine lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct AdapterId(u32);

impl AdapterId {
    /// The backend's number for it; 0 is none.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// Adapters of a backend.
#[derive(Debug, Default)]
pub(super) struct Adapters {
    loaded: BTreeMap<AdapterId, Loaded>,
    last: u32,
}

#[derive(Debug)]
struct Loaded {
    digest: blake3::Hash,
    retired: bool,
}

impl Adapters {
    /// A number that no adapter has or had.
    pub(super) fn next(&mut self) -> AdapterId {
        self.last += 1;
        AdapterId(self.last)
    }

    pub(super) fn insert(&mut self, id: AdapterId, digest: blake3::Hash) {
        self.loaded.insert(id, Loaded { digest, retired: false });
    }

    pub(super) fn remove(&mut self, id: AdapterId) {
        self.loaded.remove(&id);
    }

    /// Lets no more requests name it.
    pub(super) fn retire(&mut self, id: AdapterId) -> bool {
        self.loaded.get_mut(&id).map(|loaded| loaded.retired = true).is_some()
    }

    pub(super) fn retired(&self) -> Vec<AdapterId> {
        self.loaded.iter().filter(|(_, loaded)| loaded.retired).map(|(&id, _)| id).collect()
    }

    /// What identifies the adapter's content, if requests may name it.
    pub(super) fn digest(&self, id: AdapterId) -> Option<blake3::Hash> {
        self.loaded.get(&id).filter(|loaded| !loaded.retired).map(|loaded| loaded.digest)
    }
}
