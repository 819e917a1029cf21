//! What a model is worth. Token ids and a backend enter; numbers with their errors leave.
//!
//! A [`Scorer`] runs token ids and gives the logits of the positions that are wanted. On top of it, [`perplexity()`]
//! says how well a model predicts a text, and [`kl()`] how far a model strays from another, be it one that runs beside
//! it or one whose predictions were saved by [`LogitsWriter`] in llama.cpp's format.
//!
//! ```no_run
//! use allod_cpu::{Cpu, Options, Pool};
//! use allod_eval::{Scorer, Windows, perplexity};
//! use std::{ops::ControlFlow, sync::Arc};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = allod_models::open("model.gguf".as_ref(), Some(512))?;
//! let outputs = allod_eval::outputs(model.plan.result_width());
//! let pool = Arc::new(Pool::new(8));
//! let options = Options { context: 512, outputs, ..Options::default() };
//! let mut cpu = Cpu::new(&model.plan, &*model.source, Arc::clone(&pool), &options)?;
//!
//! let tokens: Vec<u32> = (0..4096).map(|i| i % 256).collect(); // in their place, the ids of a text
//! let windows = Windows::halves(512, tokens.len(), None)?;
//! let mut scorer = Scorer::new(&mut cpu, &pool);
//! let found = perplexity(&mut scorer, &tokens, &windows, None, &mut |_| ControlFlow::Continue(()))?;
//! println!("{} ± {}", found.perplexity.value, found.perplexity.error);
//! # Ok(())
//! # }
//! ```
#![deny(missing_docs)]

mod error;
mod kl;
mod logits_file;
mod perplexity;
mod plot;
mod rows;
mod scorer;
mod statistics;
mod windows;

pub use error::Error;
pub use kl::{Base, Divergence, Predictions, kl, predictions, reference_windows};
pub use logits_file::{LogitsReader, LogitsWriter};
pub use perplexity::{Perplexity, perplexity, save_logits};
pub use plot::{Point, plot};
pub use scorer::{Scorer, outputs};
pub use statistics::{Estimate, Percentiles};
pub use windows::{Progress, Windows};
