//! Architectures against Transformers: every folder under `goldens/` is a small random model with the logits that
//! Transformers computed for it.
#![expect(clippy::unwrap_used, reason = "a test may")]

mod adapters;
mod cached;
mod contradictions;
mod convert;
mod embed;
mod fp8;
mod golden;
mod gradients;
mod known;
mod legacy;
mod malformed;
mod parity;
mod registry;
mod tuning;
