//! Batches: requests from a file in OpenAI's format, answered through the server's own routes.
//!
//! What is answered is in the output file, so that a batch goes on where it was, whatever ended it.

mod line;
mod run;

pub use run::{Batch, BatchError, Counts};

pub(crate) use line::{ENDPOINTS, Refusal};
pub(crate) use run::{Run, refuse_rest, run};
