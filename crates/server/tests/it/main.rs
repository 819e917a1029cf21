//! A server on a port of this machine, spoken to over plain sockets.
#![expect(clippy::unwrap_used, reason = "a test may")]

mod anthropic;
mod client;
mod jobs;
mod ollama;
mod openai;
mod receipts;
mod robust;
mod security;
