//! A server on a port of this machine, spoken to over plain sockets.

mod anthropic;
mod client;
mod ollama;
mod openai;
mod robust;
mod security;
