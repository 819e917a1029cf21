//! Ctrl-C ends the answer that is being written; without one, or the second time, the program.

use allod_engine::Cancel;
use std::sync::{Mutex, PoisonError};

/// What the next Ctrl-C ends.
static CURRENT: Mutex<Option<Cancel>> = Mutex::new(None);

/// The exit code of a program ended by Ctrl-C, as shells expect it.
pub(crate) const EXIT: u8 = 130;

/// Takes over Ctrl-C. Where that is impossible it keeps its usual meaning.
pub(crate) fn install() {
    let _ = ctrlc::set_handler(|| {
        let current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some(cancel) if !cancel.is_cancelled() => cancel.cancel(),
            _ => std::process::exit(EXIT.into()),
        }
    });
}

/// Until it is dropped, Ctrl-C raises `cancel`.
pub(crate) struct Guard;

impl Guard {
    pub(crate) fn new(cancel: Cancel) -> Guard {
        *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) = Some(cancel);
        Guard
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
