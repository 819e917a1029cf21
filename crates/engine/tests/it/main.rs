//! Sampling against formulas worked out elsewhere and against statistics; sessions and the engine against a toy model
//! and tiny real ones.
#![expect(clippy::unwrap_used, reason = "a test may")]

mod engine;
mod guide;
mod pages;
mod pair;
mod plain;
mod same_bytes;
mod sampling;
mod session;
mod toy;
