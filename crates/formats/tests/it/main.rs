#![expect(clippy::unwrap_used, reason = "what is unwrapped here is the test")]

mod codec;
mod llama2c;
mod read;
mod write;
