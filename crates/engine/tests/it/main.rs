//! Sampling against formulas worked out elsewhere and against statistics; sessions against a toy model.
#![expect(clippy::unwrap_used, reason = "a test may")]

mod pages;
mod sampling;
mod session;
mod toy;
