//! Settings that can be changed while the server runs.

use crate::app::{App, Limits};
use crate::error::{ApiError, Kind};
use crate::guard::Doors;
use crate::models::{Catalog, read, write};
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, RwLock};
use std::time::Duration;

/// A value that is read often and replaced seldom, by hand. What was replaced stays, since requests may still read it.
#[derive(Debug)]
pub(crate) struct Live<T: 'static>(RwLock<&'static T>);

impl<T: PartialEq + 'static> Live<T> {
    pub(crate) fn new(value: T) -> Live<T> {
        Live(RwLock::new(Box::leak(Box::new(value))))
    }

    /// Whether the value was another one before.
    pub(crate) fn replace(&self, value: T) -> bool {
        let changed = **read(&self.0) != value;
        if changed {
            *write(&self.0) = Box::leak(Box::new(value));
        }
        changed
    }
}

impl<T: 'static> Deref for Live<T> {
    type Target = T;

    fn deref(&self) -> &T {
        *read(&self.0)
    }
}

/// What can be changed while the server runs. Answers that are on their way are not touched.
#[derive(Clone, Debug)]
pub struct Changeable {
    /// The models of the configuration; those made through the API stay besides.
    pub catalog: Catalog,
    /// What a request may weigh. Those of heads and connections hold for new connections.
    pub limits: Limits,
    /// Whom it listens to.
    pub doors: Doors,
    /// Keys that open everything, besides those that are written down.
    pub keys: Vec<String>,
    /// How long a model stays unused.
    pub keep_alive: Option<Duration>,
}

/// Reads the configuration again: what can be changed, and the names of values that need a restart.
pub type Reload = dyn Fn() -> Result<(Changeable, Vec<String>), String> + Send + Sync;

/// Where a server reads its configuration again.
#[derive(Clone, Default)]
pub struct Reloading(pub Option<Arc<Reload>>);

impl fmt::Debug for Reloading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Reloading" } else { "Fixed" })
    }
}

/// What a reload did.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Reloaded {
    /// What is another now.
    pub changed: Vec<String>,
    /// What is another in the configuration, and will be after a restart.
    pub needs_restart: Vec<String>,
}

/// Reads the configuration again. Where that fails, everything stays as it is.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn reload(app: &App) -> Result<Reloaded, ApiError> {
    let Some(source) = &app.reloading.0 else {
        return Err(ApiError::new(Kind::NotImplemented, "this server has no configuration to read again"));
    };
    let (new, needs_restart) = source().map_err(|error| {
        tracing::error!(error, "the configuration is wrong; the one before stays");
        ApiError::invalid(format!("the configuration before stays: {error}"))
    })?;
    let mut changed = Vec::new();
    let mut note = |name: &str, is_new: bool| changed.extend(is_new.then(|| name.to_owned()));
    note("limits", app.limits.replace(new.limits));
    note("doors", app.doors.replace(new.doors));
    note("keys", app.keys.reload(&new.keys).map_err(ApiError::internal)?);
    note("keep_alive", std::mem::replace(&mut *write(&app.models.keep_alive), new.keep_alive) != new.keep_alive);
    note("models", app.models.relist(new.catalog, &app.store));
    tracing::warn!(?changed, ?needs_restart, "the configuration was read again");
    Ok(Reloaded { changed, needs_restart })
}
