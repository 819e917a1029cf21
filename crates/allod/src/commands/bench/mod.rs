//! `allod bench`: how fast a model reads and writes here.

mod limits;

use crate::failure::Failure;
use crate::load::{self, KernelArgs, ROWS};
use crate::printer::Progress;
use allod_cpu::{Cpu, Options};
use allod_engine::{Outputs, PagePool, Rows, Sequence, forward};
use allod_models::Model;
use allod_plan::{Backend, PAGE};
use anyhow::Result;
use clap::Args;
use limits::LimitsArgs;
use serde::Serialize;
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Measure prompt and generation speed
///
/// Every combination of depth, batch and threads is measured: reading --prompt tokens, then writing --generate tokens,
/// each after --depth tokens of context, in as many sequences as --batch says. Speeds count the tokens of all sequences.
#[derive(Args)]
#[command(after_help = "Examples:\n  allod bench model.gguf\n  \
                        allod bench model.gguf -p 512 -n 64 -d 0,4096 -b 1,16 -t 1,2 --json\n  \
                        allod bench --limits                        what this machine can do, and the kernels' shares\n  \
                        allod bench --limits --type Q4_K --shape 4096x4096 --rows 1,16,512\n  \
                        allod bench model.gguf --limits             the same at a model's own shapes")]
pub(crate) struct BenchArgs {
    /// A .gguf file, a folder of safetensors, a llama2.c .bin, or `default`: the model that is built in
    #[arg(value_hint = clap::ValueHint::AnyPath, required_unless_present = "limits")]
    model: Option<PathBuf>,
    /// Tokens of the prompt; 0 skips this test
    #[arg(long, short, value_delimiter = ',', default_value = "512", value_name = "TOKENS")]
    prompt: Vec<usize>,
    /// Tokens to generate; 0 skips this test
    #[arg(long, short = 'n', value_delimiter = ',', default_value = "64", value_name = "TOKENS")]
    generate: Vec<usize>,
    /// Tokens that are in the context before
    #[arg(long, short, value_delimiter = ',', default_value = "0", value_name = "TOKENS")]
    depth: Vec<usize>,
    /// Sequences at once
    #[arg(long, short, value_delimiter = ',', default_value = "1", value_name = "N")]
    batch: Vec<usize>,
    /// Threads to compute with [default: all cores]
    #[arg(long, short, value_delimiter = ',', value_name = "N")]
    threads: Vec<usize>,
    #[command(flatten)]
    kernels: KernelArgs,
    /// Measurements of each test; the median counts
    #[arg(long, short, default_value = "3", value_name = "N")]
    repeat: usize,
    /// Print a list of {test, prompt, generate, depth, batch, threads, tokens_per_second, samples}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    limits: LimitsArgs,
}

/// One line of the table.
#[derive(Serialize)]
struct Row {
    test: String,
    prompt: usize,
    generate: usize,
    depth: usize,
    batch: usize,
    threads: usize,
    tokens_per_second: f64,
    /// Tokens per second of each measurement.
    samples: Vec<f64>,
}

pub(crate) fn run(args: &BenchArgs) -> Result<ExitCode> {
    check(args)?;
    let threads = if args.threads.is_empty() { vec![load::threads(None)] } else { args.threads.clone() };
    let Some(path) = args.model.as_deref().filter(|_| !args.limits.limits) else {
        limits::run(&args.limits, args.model.as_deref(), &threads, &args.depth, args.json)?;
        return Ok(ExitCode::SUCCESS);
    };
    let longest = |all: &[usize]| all.iter().copied().max().unwrap_or(0);
    let context = longest(&args.depth) + longest(&args.prompt).max(longest(&args.generate)) + 1;
    let (model, _) = load::model(load::source(path)?, None)?;
    let mut rows = Vec::new();
    for &threads in &threads {
        let mut bench = Bench::new(&model, threads, context, longest(&args.batch), &args.kernels)?;
        for &batch in &args.batch {
            for &depth in &args.depth {
                bench.fill(batch, depth)?;
                let prompts = args.prompt.iter().map(|&p| (p, 0));
                let generations = args.generate.iter().map(|&n| (0, n));
                for (prompt, generate) in prompts.chain(generations).filter(|t| t.0 + t.1 > 0) {
                    let row = bench.measure(prompt, generate, threads, args.repeat)?;
                    if !args.json {
                        table_line(&row, rows.is_empty())?;
                    }
                    rows.push(row);
                }
            }
        }
    }
    if args.json {
        writeln!(stdout(), "{}", serde_json::to_string_pretty(&rows)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn check(args: &BenchArgs) -> Result<()> {
    let zero = args.repeat == 0 || args.batch.contains(&0) || args.threads.contains(&0);
    let sizes = args.prompt.iter().chain(&args.generate).chain(&args.depth).chain(&args.batch);
    if zero || sizes.copied().any(|n| n > 1 << 24) {
        let hint = "batch, threads and repeat begin at 1; sizes end at 16777216";
        return Err(Failure::new("these sizes cannot be measured", hint).into());
    }
    Ok(())
}

fn table_line(row: &Row, first: bool) -> Result<()> {
    let mut out = stdout().lock();
    if first {
        writeln!(out, "{:<10} {:>8} {:>6} {:>8} {:>12}  range", "test", "depth", "batch", "threads", "tokens/s")?;
    }
    let low = row.samples.iter().copied().fold(f64::INFINITY, f64::min);
    let high = row.samples.iter().copied().fold(0.0, f64::max);
    let Row { test, depth, batch, threads, tokens_per_second, .. } = row;
    writeln!(out, "{test:<10} {depth:>8} {batch:>6} {threads:>8} {tokens_per_second:>12.2}  {low:.2}–{high:.2}")?;
    Ok(())
}

/// A prepared model and the sequences that stand at the depth to measure at.
struct Bench {
    cpu: Cpu,
    pool: PagePool,
    recurrent: bool,
    vocabulary: usize,
    rows: usize,
    sequences: Vec<Sequence>,
    depth: usize,
    slots: usize,
}

impl Bench {
    fn new(model: &Model, threads: usize, context: usize, batch: usize, kernels: &KernelArgs) -> Result<Bench> {
        let recurrent = load::recurrent(model);
        // Each sequence of a recurrent model has a second slot, which keeps its state at the depth.
        let slots = if recurrent { 2 * batch } else { batch };
        let pages = batch * context.div_ceil(PAGE);
        let rows = ROWS.max(batch);
        let options =
            Options { rows, outputs: batch, sequences: slots, context, pages: Some(pages), ..kernels.options() };
        Ok(Bench {
            cpu: load::prepare(model, threads, &options)?,
            pool: PagePool::new(pages),
            recurrent,
            vocabulary: model.config.vocab.max(1),
            rows,
            sequences: Vec::new(),
            depth: 0,
            slots: batch,
        })
    }

    /// Brings `batch` sequences to `depth`.
    fn fill(&mut self, batch: usize, depth: usize) -> Result<()> {
        for mut s in self.sequences.drain(..) {
            s.truncate(0, &mut self.pool);
        }
        self.sequences = (0..batch as u32).map(Sequence::new).collect();
        self.depth = depth;
        if self.recurrent {
            (0..batch as u32).for_each(|i| self.cpu.clear_state(i));
        }
        let mut progress = Progress::default();
        progress.show(&format!("filling the context: {batch} × {depth} tokens"));
        self.read(depth)?;
        if self.recurrent {
            (0..batch).for_each(|i| self.cpu.copy_state(i as u32, (self.slots + i) as u32));
        }
        Ok(())
    }

    /// Puts the sequences back to the depth.
    fn rewind(&mut self) {
        for (i, s) in self.sequences.iter_mut().enumerate() {
            s.truncate(self.depth, &mut self.pool);
            if self.recurrent {
                self.cpu.copy_state((self.slots + i) as u32, i as u32);
            }
        }
    }

    fn measure(&mut self, prompt: usize, generate: usize, threads: usize, repeat: usize) -> Result<Row> {
        let batch = self.sequences.len();
        let test = if generate > 0 { format!("write {generate}") } else { format!("read {prompt}") };
        let mut progress = Progress::default();
        let mut samples = Vec::new();
        // The first round warms caches and pages and does not count.
        for round in 0..=repeat {
            progress.show(&format!("{test}: {round} of {repeat}"));
            let started = Instant::now();
            if generate > 0 {
                self.write(generate)?
            } else {
                self.read(prompt)?
            }
            let seconds = started.elapsed().as_secs_f64();
            self.rewind();
            if round > 0 {
                samples.push((batch * (prompt + generate)) as f64 / seconds);
            }
        }
        let tokens_per_second = median(&samples);
        Ok(Row { test, prompt, generate, depth: self.depth, batch, threads, tokens_per_second, samples })
    }

    fn token(&self, sequence: usize, position: usize) -> u32 {
        ((sequence * 7919 + position * 104_729) % self.vocabulary) as u32
    }

    /// Feeds `count` tokens to every sequence, as many rows at once as fit.
    fn read(&mut self, count: usize) -> Result<()> {
        let start = self.sequences.first().map_or(0, |s| s.tokens().len());
        let mut left = vec![count; self.sequences.len()];
        while left.iter().any(|&n| n > 0) {
            let mut room = self.rows;
            let mut chunks = Vec::new();
            for (i, left) in left.iter_mut().enumerate() {
                let n = room.min(*left);
                let from = start + count - *left;
                chunks.push((from..from + n).map(|p| self.token(i, p)).collect::<Vec<u32>>());
                *left -= n;
                room -= n;
            }
            let all = self.sequences.iter_mut().zip(&chunks).zip(&left).filter(|((_, c), _)| !c.is_empty());
            let mut batch: Vec<Rows<'_>> = all
                .map(|((sequence, tokens), &left)| Rows {
                    sequence,
                    tokens,
                    outputs: if left == 0 { Outputs::Last } else { Outputs::None },
                })
                .collect();
            forward(&mut self.cpu, &mut self.pool, &mut batch)?;
        }
        Ok(())
    }

    /// Generates `count` tokens in every sequence, one step for each.
    fn write(&mut self, count: usize) -> Result<()> {
        (0..count).try_for_each(|_| self.read(1))
    }
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n == 0 { 0.0 } else { (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0 }
}
