//! A model as a program over rows, recorded once: its operations, shapes, memory and digest; the [`Backend`] that
//! runs it one [`Step`] at a time, and [`Trainable`], which runs it forwards and backwards.
//!
//! A [`Scope`] over a source of weights enters an architecture's `forward` and leaves as a [`Plan`].
#![deny(missing_docs)]

mod adapter;
mod differentiate;
mod fuse;
mod memory;
mod narrow;
mod op;
mod plan;
mod scope;
mod step;
mod train;

pub use adapter::{AdapterError, Delta, Lora};
pub use differentiate::{Adjoint, Backward, DifferentiateError, End, Forward, Program, Wanted, differentiate};
pub use fuse::Group;
pub use memory::{Arena, Estimate, RowLimits};
pub use op::*;
pub use plan::{Cache, CacheInfo, Node, Param, ParamInfo, Plan, Rows, State, Value, ValueInfo};
pub use scope::{RecordError, Scope, record};
pub use step::{Backend, Capacity, PAGE, SeqRows, Step, StepError};
pub use train::{
    Adapter, AdapterInit, Head, LinearInfo, LinearKind, Pass, Role, Scores, TrainBatch, Trainable, TrainedTensor, Tune,
};
