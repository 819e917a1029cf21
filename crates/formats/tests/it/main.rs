#![expect(clippy::unwrap_used, reason = "what is unwrapped here is the test")]

mod codec;
mod fuzz;
mod llama2c;
mod malformed;
mod read;
mod write;
