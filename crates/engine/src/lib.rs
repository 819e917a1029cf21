//! Sequences and sampling: token ids in, token ids out. Synchronous, and it knows no strings.
//!
//! For one conversation, a [`Request`] enters a [`Session`] and [`Event`]s leave it. For many, the same
//! [`Engine`] runs
//! [`engine::Request`]s side by side, and each gets the bytes that it would get alone:
//!
//! ```no_run
//! use allod_cpu::{Cpu, Options, Pool};
//! use allod_engine::engine::{EventKind, Request};
//! use allod_engine::{Engine, EngineOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = allod_models::open("model.gguf".as_ref(), None)?;
//! let size = Options { outputs: 64, sequences: 16, pages: Some(2048), ..Options::default() };
//! let cpu = Cpu::new(&model.plan, &*model.source, Pool::new(8).into(), &size)?;
//! let engine = Engine::new(Box::new(cpu), EngineOptions::for_plan(&model.plan, 64)).spawn(32)?;
//!
//! let prompts = [vec![1, 15043], vec![1, 15043, 3186]];
//! let requests = prompts.map(|ids| engine.submit(Request { ids, eos: vec![2], ..Request::default() }));
//! for answers in requests {
//!     for event in answers? {
//!         match event.kind {
//!             EventKind::Token(token) => println!("{}", token.id),
//!             EventKind::Failed(failure) => return Err(failure.into()),
//!             _ => {}
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Below both, [`Sequence`]s hold pages of a [`PagePool`] and [`forward`] runs rows of any number of them in one
//! [`allod_plan::Step`]; a [`Sampler`] turns a row of logits into the next token.
#![deny(missing_docs)]

pub mod engine;
mod pages;
mod prefix;
pub mod sampler;
mod sequence;
mod session;
mod stop;

pub use engine::{Engine, EngineOptions};
pub use pages::PagePool;
pub use prefix::PageHash;
pub use sampler::{ParamError, SampleError, Sampler, SamplingParams, Stage, Token};
pub use sequence::{Outputs, Rows, Sequence, forward};
pub use session::{Cancel, Event, Finish, Generation, Request, Session, Stats};
pub use stop::StopStrings;

/// Why a request ended without an answer. Other requests are not touched by it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// There is nothing to continue.
    #[error("the prompt is empty: there is no token to continue")]
    EmptyPrompt,
    /// The prompt alone fills the context, so that no token could follow. Nothing is cut silently.
    #[error("the prompt has {tokens} tokens; the context holds {context}, of which one must stay free for the answer")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Positions of the context.
        context: usize,
    },
    /// A token that the model does not have.
    #[error("token {id} at position {position} is outside the vocabulary of {vocabulary}")]
    UnknownToken {
        /// The token.
        id: u32,
        /// Where it stands.
        position: usize,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// All pages of the key-value cache are taken.
    #[error("the key-value cache is full: {wanted} more pages are needed, {free} of {total} are free")]
    NoPages {
        /// Pages that were asked for.
        wanted: usize,
        /// Pages that are free.
        free: usize,
        /// Pages of the pool.
        total: usize,
    },
    /// The request's sampling parameters.
    #[error(transparent)]
    Params(#[from] ParamError),
    /// The model's logits.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// What the answer must keep to.
    #[error(transparent)]
    Constraint(#[from] engine::ConstraintError),
    /// A continuation to be scored has no tokens.
    #[error("continuation {index} is empty: there is nothing to score")]
    EmptyContinuation {
        /// Which one.
        index: usize,
    },
    /// Thinking that nothing ends.
    #[error("thinking needs at least one token that ends it")]
    EndlessThinking,
    /// The engine does not take it.
    #[error("{0}")]
    Refused(String),
    /// The model computed something that is no number.
    #[error("element {index} of the vector is {value}; the model's weights or its configuration are broken")]
    NotFinite {
        /// The first such element.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// The backend refused the step.
    #[error("the backend refused a step: {0}")]
    Step(#[from] allod_plan::StepError),
}
