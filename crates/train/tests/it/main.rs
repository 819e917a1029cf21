//! Training, against TRL, torch and Transformers where they say the same thing.
#![expect(clippy::unwrap_used, reason = "a test may")]

mod adapters;
mod data;
mod golden;
mod runs;
mod toy;
mod trl;
