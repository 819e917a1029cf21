//! A model as a program over rows, recorded once: its operations, shapes, memory, digest; and the [`Backend`] that
//! runs it one [`Step`] at a time.
#![deny(missing_docs)]

mod step;

pub use step::{Backend, Capacity, PAGE, SeqRows, Step, StepError};
