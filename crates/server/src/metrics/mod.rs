//! What dashboards read: Prometheus metrics under vLLM's names, and some of our own.

mod observer;
mod registry;

pub(crate) use observer::Observer;
pub(crate) use registry::{Metrics, Text, stats};
