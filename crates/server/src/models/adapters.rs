//! Adapters of models at work: read when they are first asked for, and shared by all requests that name them.

use super::{Lease, LoadError, blocking, lock, read};
use crate::models::Loaded;
use allod_engine::engine::AdapterId;
use std::path::Path;
use std::sync::Arc;

impl Lease {
    /// Makes the adapter of the model's entry ready, if it has one.
    ///
    /// # Errors
    /// It cannot be read, or was made for another base model.
    pub(super) async fn adapt(&mut self) -> Result<(), LoadError> {
        let Some(path) = self.spec.adapter.clone() else { return Ok(()) };
        let known = lock(&self.loaded.adapters).get(&path).copied();
        self.adapter = match known {
            Some(id) => Some(id),
            None => {
                let (loaded, spec) = (Arc::clone(&self.loaded), Arc::clone(&self.spec));
                Some(blocking(move || loaded.load_adapter(&spec.origin, &path)).await?)
            }
        };
        Ok(())
    }
}

impl Loaded {
    fn load_adapter(&self, origin: &super::Origin, path: &Path) -> Result<AdapterId, LoadError> {
        // Read while the lock is held: who comes second finds it there.
        let mut adapters = lock(&self.adapters);
        if let Some(id) = adapters.get(path) {
            return Ok(*id);
        }
        let refused = |e: String| LoadError::Adapter { path: path.to_owned(), message: e };
        let base = origin.open()?;
        let lora = allod_models::adapter::open(path, &*base).map_err(|e| refused(e.to_string()))?;
        let id = self.engine.load_adapter(lora).map_err(|e| refused(e.to_string()))?;
        adapters.insert(path.to_owned(), id);
        tracing::info!(path = %path.display(), "an adapter was loaded");
        Ok(id)
    }
}

impl super::Models {
    /// Takes no more requests for an adapter; those that run with it end as they would.
    pub(crate) fn drop_adapter(&self, path: &Path) {
        let slots: Vec<_> = lock(&self.slots).values().cloned().collect();
        for loaded in slots.iter().filter_map(|slot| read(&slot.ready).clone()) {
            let id = lock(&loaded.adapters).remove(path);
            if let Some(id) = id {
                // An engine that has ended keeps none.
                drop(loaded.engine.drop_adapter(id));
            }
        }
    }
}
