//! Measures an engine under load. All figures but the first are ratios taken in one run.
//!
//! ```text
//! cargo run --release -p allod-engine --example load -- MODEL clients [32]
//! cargo run --release -p allod-engine --example load -- MODEL prefix
//! cargo run --release -p allod-engine --example load -- MODEL victim
//! cargo run --release -p allod-engine --example load -- MODEL drafts
//! cargo run --release -p allod-engine --example load -- MODEL adapters
//! cargo run --release -p allod-engine --example load -- MODEL waste
//! cargo run --release -p allod-engine --example load -- MODEL soak SECONDS
//! ```
//!
//! Any model does. `ALLOD_THREADS` says how many threads compute. What a model of random weights says is noise, so where
//! a measurement needs a certain text, a constraint lets nothing else through.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its results are what it prints")]

mod measures;
mod script;
mod soak;

use allod_cpu::{Cpu, Options, Pool};
use allod_engine::engine::{Event, EventKind, Request, RequestId};
use allod_engine::{Engine, EngineOptions, SamplingParams};
use allod_models::Model;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A model and the threads it runs on.
pub(crate) struct Bench {
    pub(crate) model: Model,
    pool: Arc<Pool>,
}

/// Sizes of a backend.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) sequences: usize,
    pub(crate) context: usize,
    pub(crate) pages: usize,
}

/// Results wanted of one step.
const OUTPUTS: usize = 64;

impl Bench {
    pub(crate) fn engine(&self, size: Size, change: impl FnOnce(&mut EngineOptions)) -> Result<Engine, Box<dyn Error>> {
        let Size { sequences, context, pages } = size;
        let size = Options { outputs: OUTPUTS, sequences, context, pages: Some(pages), ..Options::default() };
        let cpu = Cpu::new(&self.model.plan, &*self.model.source, self.pool.clone(), &size)?;
        let mut options =
            EngineOptions { sequences: Some(sequences), ..EngineOptions::for_plan(&self.model.plan, OUTPUTS) };
        change(&mut options);
        Ok(Engine::new(Box::new(cpu), options))
    }

    pub(crate) fn vocabulary(&self) -> usize {
        self.model.plan.result_width()
    }
}

/// When the tokens of each request came.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) tokens: BTreeMap<RequestId, Vec<Instant>>,
    pub(crate) total: usize,
}

impl Log {
    /// Takes in events; gives the requests that ended.
    pub(crate) fn take(&mut self, events: Vec<Event>) -> Result<Vec<RequestId>, Box<dyn Error>> {
        let now = Instant::now();
        let mut ended = Vec::new();
        for event in events {
            match event.kind {
                EventKind::Token(_) => {
                    self.tokens.entry(event.request).or_default().push(now);
                    self.total += 1;
                }
                EventKind::Finished { .. } => ended.push(event.request),
                EventKind::Failed(failure) => return Err(failure.into()),
                _ => {}
            }
        }
        Ok(ended)
    }

    /// Times between tokens of one request, of all requests, in order of length.
    pub(crate) fn delays(&self) -> Vec<Duration> {
        let mut delays: Vec<Duration> =
            self.tokens.values().flat_map(|times| times.windows(2).map(|pair| pair[1] - pair[0])).collect();
        delays.sort_unstable();
        delays
    }
}

/// The value below which so many of a hundred lie.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// Runs until nobody is left; gives the seconds and what came when.
pub(crate) fn drain(engine: &mut Engine) -> Result<(f64, Log), Box<dyn Error>> {
    let (started, mut log) = (Instant::now(), Log::default());
    while !engine.is_idle() {
        log.take(engine.step())?;
    }
    Ok((started.elapsed().as_secs_f64(), log))
}

/// A greedy request for exactly so many tokens.
pub(crate) fn request(ids: Vec<u32>, tokens: usize) -> Request {
    let sampling = SamplingParams {
        max_tokens: Some(tokens as u32),
        temperature: 0.0,
        seed: Some(1),
        ..SamplingParams::default()
    };
    Request { ids, sampling, ..Request::default() }
}

/// SplitMix64 (Steele et al. 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }

    fn uniform(&mut self) -> f64 {
        (self.below(1 << 52) as f64 + 0.5) / (1u64 << 52) as f64
    }

    /// A draw from a log-normal distribution with this median and spread.
    pub(crate) fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        let normal = (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos();
        median * (sigma * normal).exp()
    }

    pub(crate) fn text(&mut self, length: usize, vocabulary: usize) -> Vec<u32> {
        (0..length).map(|_| self.below(vocabulary) as u32).collect()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, what, rest @ ..] = &arguments[..] else {
        return Err("expected: MODEL clients|prefix|victim|drafts|adapters|waste|soak [NUMBER]".into());
    };
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    let threads = std::env::var("ALLOD_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(cores);
    let model = allod_models::open(model.as_ref(), Some(8192))?;
    let bench = Bench { model, pool: Arc::new(Pool::new(threads)) };
    let number = rest.first().map(|n| n.parse()).transpose()?;
    match what.as_str() {
        "clients" => measures::clients(&bench, number.unwrap_or(32)),
        "prefix" => measures::prefix(&bench),
        "victim" => measures::victim(&bench),
        "drafts" => measures::drafts(&bench),
        "adapters" => measures::adapters(&bench),
        "waste" => measures::waste(&bench),
        "soak" => soak::soak(&bench, number.unwrap_or(60)),
        other => Err(format!("there is no measurement {other}").into()),
    }
}
