//! Architectures against Transformers: every folder under `goldens/` is a small random model with the logits that
//! Transformers computed for it.

mod golden;
mod registry;
