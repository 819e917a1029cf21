//! Fine-tuning and pre-training.
//!
//! A data set enters through [`data`] and becomes ids with a mask of what is learned. A [`run`] takes micro-batches of
//! them through a model that gives log-probabilities and takes their derivatives back ([`objective`]), lets an
//! optimizer ([`optim`]) take a step, and writes what happened: metrics, checkpoints, a manifest that lets anyone
//! replay it. What was learned leaves through [`out`].
//!
//! A run depends on its files, its settings and its seed, not on threads: replayed, it gives the same bytes.

pub mod data;
mod error;
pub mod objective;
pub mod optim;
pub mod out;
pub mod pretrain;
pub mod run;

pub use error::{Error, Problem};
