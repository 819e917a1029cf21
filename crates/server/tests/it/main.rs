//! A server on a port of this machine, spoken to over plain sockets.
#![expect(clippy::unwrap_used, reason = "a test may")]

mod adapters;
mod anthropic;
mod client;
mod eviction;
mod gaps;
mod jobs;
mod ollama;
mod openai;
mod reasoning;
mod receipts;
mod robust;
mod security;
mod tools;
