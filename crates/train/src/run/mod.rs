//! A run: settings, the loop, checkpoints, logs, the manifest.

pub mod batch;
pub mod checkpoint;
pub mod config;
pub mod manifest;
pub mod metrics;
pub mod order;
pub mod plot;
pub mod reference;
pub mod targets;
pub mod tensorboard;
pub mod trainer;

pub use config::Config;
pub use manifest::Manifest;
pub use trainer::{Event, Summary, Trainer, limits};
