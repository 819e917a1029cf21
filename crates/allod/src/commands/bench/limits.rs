//! `allod bench --limits`: what the machine can do, and each kernel's share of it.

use crate::failure::Failure;
use crate::load;
use allod_cpu::{Isa, KvType, Pool};
use allod_formats::WeightSource;
use allod_kernels::attention::KvLayout;
use allod_kernels::limits::{self, Timing};
use allod_plan::{Op, Plan};
use allod_tensor::DType;
use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use std::io::{Write, stdout};

/// Types and shapes that are measured where neither a model nor a flag names others: those of Qwen3-0.6B and
/// Llama-3.2-1B.
const TYPES: &str = "F32,F16,BF16,Q8_0,Q6_K,Q5_K,Q4_K,Q3_K,Q2_K,Q4_0,Q5_0,IQ4_XS,IQ4_NL,MXFP4";
const SHAPES: &str = "3072x1024,1024x3072,8192x2048";
const HEADS: &str = "16/8/128";

/// What is measured by `--limits`.
#[derive(Args)]
pub(super) struct LimitsArgs {
    /// Measure the machine (read bandwidth, int8 and f32 multiply-adds) and print each kernel's share of it
    #[arg(long)]
    pub(super) limits: bool,
    /// With --limits: types of weights [default: the model's, or all that have kernels of their own]
    #[arg(long = "type", value_delimiter = ',', value_name = "TYPE", requires = "limits")]
    types: Vec<String>,
    /// With --limits: shapes of weights as ROWSxCOLUMNS [default: the model's, or those of Qwen3-0.6B and Llama-3.2-1B]
    #[arg(long = "shape", value_delimiter = ',', value_name = "SHAPE", requires = "limits")]
    shapes: Vec<String>,
    /// With --limits: attention as HEADS/KV_HEADS/HEAD_SIZE [default: the model's, or Qwen3-0.6B's]
    #[arg(long, value_delimiter = ',', value_name = "HEADS", requires = "limits")]
    heads: Vec<String>,
    /// With --limits: rows of input
    #[arg(long, value_delimiter = ',', default_value = "1,512", value_name = "N", requires = "limits")]
    rows: Vec<usize>,
    /// With --limits: instruction sets [default: all that this machine has]
    #[arg(long = "isas", value_delimiter = ',', value_name = "ISA", requires = "limits")]
    isas: Vec<Isa>,
}

/// One kernel at one shape.
#[derive(Serialize)]
struct Line {
    kernel: &'static str,
    isa: &'static str,
    /// Whether dispatch picks this instruction set here.
    picked: bool,
    threads: usize,
    #[serde(rename = "type")]
    kind: String,
    shape: String,
    rows: usize,
    microseconds: f64,
    gigabytes_per_second: f64,
    giga_multiply_adds_per_second: f64,
    /// Which limit bounds it: `read`, `int8` or `f32`.
    limit: &'static str,
    share: f64,
}

/// What the machine can do with one instruction set and so many threads.
#[derive(Serialize)]
struct Machine {
    isa: &'static str,
    picked: bool,
    threads: usize,
    read_gigabytes_per_second: f64,
    int8_giga_multiply_adds_per_second: f64,
    f32_giga_multiply_adds_per_second: f64,
}

/// What to measure.
struct Wanted {
    weights: Vec<(DType, (usize, usize))>,
    heads: Vec<(usize, usize, usize)>,
}

pub(super) fn run(
    args: &LimitsArgs,
    model: Option<&std::path::Path>,
    threads: &[usize],
    depth: &[usize],
    json: bool,
) -> Result<()> {
    let wanted = match model {
        Some(path) => {
            let (model, _) = load::model(load::source(path)?, None)?;
            Wanted::of(&model.plan, &*model.source)?.with(args)?
        }
        None => Wanted::named(args)?,
    };
    let isas = if args.isas.is_empty() { Isa::available().collect() } else { args.isas.clone() };
    let (mut machines, mut lines) = (Vec::new(), Vec::new());
    for &threads in threads {
        let pool = Pool::new(threads);
        for &isa in &isas {
            // Plain Rust defines the bytes; nobody runs it for speed, unless asked.
            if isa == Isa::Scalar && args.isas.is_empty() {
                continue;
            }
            let machine = Machine::measure(&pool, isa);
            if !json {
                machine.print()?;
            }
            let mut show = |line: Line| -> Result<()> {
                if !json {
                    line.print()?;
                }
                lines.push(line);
                Ok(())
            };
            for &(dtype, shape) in &wanted.weights {
                for &rows in &args.rows {
                    show(machine.linear(&pool, isa, dtype, shape, rows)?)?;
                }
            }
            for &heads in &wanted.heads {
                for kind in KvType::ALL {
                    for &depth in depth {
                        for &rows in &args.rows {
                            show(machine.attention(&pool, isa, kind, heads, depth, rows)?)?;
                        }
                    }
                }
            }
            machines.push(machine);
        }
    }
    if json {
        let all = serde_json::json!({ "machine": machines, "kernels": lines });
        writeln!(stdout(), "{}", serde_json::to_string_pretty(&all)?)?;
    }
    Ok(())
}

impl Wanted {
    /// What flags name, or the defaults.
    fn named(args: &LimitsArgs) -> Result<Wanted> {
        let or = |given: &[String], default: &str| match given {
            [] => default.split(',').map(Into::into).collect(),
            _ => given.to_vec(),
        };
        let types = or(&args.types, TYPES);
        let shapes = or(&args.shapes, SHAPES).iter().map(|s| shape(s)).collect::<Result<Vec<_>>>()?;
        let mut weights = Vec::new();
        for name in &types {
            let unknown = || Failure::new(format!("there is no type {name}"), "use a GGUF type, such as Q4_K");
            let dtype = DType::from_name(name).ok_or_else(unknown)?;
            weights.extend(shapes.iter().map(|&s| (dtype, s)));
        }
        let heads = or(&args.heads, HEADS).iter().map(|h| heads(h)).collect::<Result<_>>()?;
        Ok(Wanted { weights, heads })
    }

    /// The products and the attention of a plan, each shape once.
    fn of(plan: &Plan, source: &dyn WeightSource) -> Result<Wanted> {
        let mut wanted = Wanted { weights: Vec::new(), heads: Vec::new() };
        for node in plan.nodes() {
            match &node.op {
                Op::Linear { parts } => {
                    for part in parts {
                        let info = plan.param(part.weight);
                        let dtype = source.tensor(&info.name)?.dtype;
                        if let [rows, cols] = info.shape[..] {
                            wanted.weights.push((dtype, (rows, cols)));
                        }
                    }
                }
                Op::Attend(a) => {
                    let cache = plan.caches()[a.cache.index()];
                    if !cache.value_in_key && cache.key_dim == cache.value_dim {
                        wanted.heads.push((a.heads, cache.kv_heads, cache.key_dim));
                    }
                }
                _ => {}
            }
        }
        let mut seen = std::collections::HashSet::new();
        wanted.weights.retain(|w| seen.insert(*w));
        wanted.heads.sort_unstable();
        wanted.heads.dedup();
        Ok(wanted)
    }

    /// Only what flags leave.
    fn with(mut self, args: &LimitsArgs) -> Result<Wanted> {
        let named = Wanted::named(args)?;
        if !args.types.is_empty() {
            self.weights.retain(|w| named.weights.iter().any(|n| n.0 == w.0));
        }
        if !args.shapes.is_empty() {
            self.weights.retain(|w| named.weights.iter().any(|n| n.1 == w.1));
        }
        if !args.heads.is_empty() {
            self.heads = named.heads;
        }
        Ok(self)
    }
}

fn numbers<const N: usize>(text: &str, between: char) -> Option<[usize; N]> {
    let all: Vec<usize> = text.split(between).map(str::parse).collect::<Result<_, _>>().ok()?;
    <[usize; N]>::try_from(all).ok().filter(|n| n.iter().all(|&n| n > 0 && n <= 1 << 20))
}

fn shape(text: &str) -> Result<(usize, usize)> {
    let bad = || Failure::new(format!("{text:?} is no shape"), "give rows and columns, such as 3072x1024");
    let [rows, cols] = numbers(text, 'x').ok_or_else(bad)?;
    Ok((rows, cols))
}

fn heads(text: &str) -> Result<(usize, usize, usize)> {
    let bad = || {
        Failure::new(
            format!("{text:?} are no heads"),
            "give heads, a divisor of them as kv heads, and the head size: 16/8/128",
        )
    };
    let [heads, kv, dim] = numbers(text, '/').filter(|[h, kv, _]| h.is_multiple_of(*kv)).ok_or_else(bad)?;
    Ok((heads, kv, dim))
}

impl Machine {
    fn measure(pool: &Pool, isa: Isa) -> Machine {
        Machine {
            isa: isa.name(),
            picked: isa == Isa::best(),
            threads: pool.threads(),
            read_gigabytes_per_second: limits::read_bandwidth(pool, isa),
            int8_giga_multiply_adds_per_second: limits::int8_products(pool, isa),
            f32_giga_multiply_adds_per_second: limits::f32_products(pool, isa),
        }
    }

    fn print(&self) -> Result<()> {
        let mark = if self.picked { " (dispatch picks this)" } else { "" };
        let s = if self.threads == 1 { "" } else { "s" };
        let mut out = stdout().lock();
        writeln!(
            out,
            "\n{} thread{s}, {}{mark}: read {:.1} GB/s, int8 {:.0} GMAC/s, f32 {:.0} GMAC/s",
            self.threads,
            self.isa,
            self.read_gigabytes_per_second,
            self.int8_giga_multiply_adds_per_second,
            self.f32_giga_multiply_adds_per_second
        )?;
        Ok(writeln!(
            out,
            "{:<10} {:<7} {:<13} {:>5} {:>10} {:>7} {:>8}  share",
            "kernel", "type", "shape", "rows", "µs", "GB/s", "GMAC/s"
        )?)
    }

    /// The line of a kernel whose products are bound by `products`, called `name`: its share of that limit or of the
    /// memory's, whichever it is nearer to.
    fn line(&self, kernel: &'static str, (name, products): (&'static str, f64), timing: Timing) -> Line {
        let (read, multiply) = (timing.read() / self.read_gigabytes_per_second, timing.rate() / products);
        Line {
            kernel,
            isa: self.isa,
            picked: self.picked,
            threads: self.threads,
            kind: String::new(),
            shape: String::new(),
            rows: 0,
            microseconds: timing.seconds * 1e6,
            gigabytes_per_second: timing.read(),
            giga_multiply_adds_per_second: timing.rate(),
            limit: if read > multiply { "read" } else { name },
            share: read.max(multiply),
        }
    }

    fn linear(&self, pool: &Pool, isa: Isa, dtype: DType, shape: (usize, usize), rows: usize) -> Result<Line> {
        let what = || format!("{dtype} weights of {}x{}", shape.0, shape.1);
        let timing = limits::time_linear(pool, isa, dtype, shape, rows).with_context(what)?;
        let limit = match dtype.is_quantized() {
            true => ("int8", self.int8_giga_multiply_adds_per_second),
            false => ("f32", self.f32_giga_multiply_adds_per_second),
        };
        let line = self.line("linear", limit, timing);
        Ok(Line { kind: dtype.name().into(), shape: format!("{}x{}", shape.0, shape.1), rows, ..line })
    }

    fn attention(
        &self,
        pool: &Pool,
        isa: Isa,
        kind: KvType,
        (heads, kv_heads, dim): (usize, usize, usize),
        depth: usize,
        rows: usize,
    ) -> Result<Line> {
        let layout = KvLayout { kv_heads, k_dim: dim, v_dim: dim, dtype: kind };
        let timing = limits::time_attention(pool, isa, layout, heads, depth, rows)?;
        let line = self.line("attention", ("f32", self.f32_giga_multiply_adds_per_second), timing);
        Ok(Line { kind: kind.name().into(), shape: format!("{heads}/{kv_heads}/{dim}@{depth}"), rows, ..line })
    }
}

impl Line {
    fn print(&self) -> Result<()> {
        let Line { kernel, kind, shape, rows, microseconds, gigabytes_per_second: read, .. } = self;
        let (rate, share) = (self.giga_multiply_adds_per_second, 100.0 * self.share);
        let limit = self.limit;
        let line = format!(
            "{kernel:<10} {kind:<7} {shape:<13} {rows:>5} {microseconds:>10.1} {read:>7.1} {rate:>8.1}  {share:.0} % of {limit}"
        );
        Ok(writeln!(stdout(), "{line}")?)
    }
}
