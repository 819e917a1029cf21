//! Times attention against two limits measured in the same run: f32 multiply-adds in registers, and reading memory.
//!
//! `cargo run --release -p allod-kernels --example attention -- [threads] [heads] [kv heads] [head size]`
//! (default: all cores, Qwen3-0.6B's 16 8 128). Each time is the best of several.

use std::hint::black_box;
use std::time::Instant;

use allod_kernels::attention::{AttendParams, KvCache, KvLayout, KvType, PAGE, SeqRows, attend};
use allod_kernels::isa::Isa;
use allod_kernels::pool::{Parts, Pool};

/// Seconds of the best of several runs; of processor time if one thread works, since other programs then matter less.
fn best(threads: usize, repeats: usize, mut f: impl FnMut()) -> f64 {
    let time = |_| {
        let (start, cpu) = (Instant::now(), on_cpu());
        f();
        let wall = start.elapsed().as_secs_f64();
        cpu.zip(on_cpu()).filter(|_| threads == 1).map_or(wall, |(a, b)| b - a)
    };
    (0..repeats).map(time).fold(f64::INFINITY, f64::min)
}

/// Seconds that this thread has run, where the system tells.
fn on_cpu() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split(' ').next()?.parse::<f64>().ok()? / 1e9)
}

/// f32 multiply-adds per second of all threads: independent chains in registers.
fn multiply_limit(pool: &Pool) -> f64 {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn chains(n: usize, x: f32) -> f32 {
        use std::arch::x86_64::*;
        let mut acc = [_mm256_set1_ps(x); 12];
        let (a, b) = (_mm256_set1_ps(x), _mm256_set1_ps(0.5));
        for _ in 0..n {
            for acc in &mut acc {
                *acc = _mm256_fmadd_ps(*acc, a, b);
            }
        }
        let sum = acc.into_iter().reduce(|a, b| _mm256_add_ps(a, b)).unwrap_or(a);
        _mm256_cvtss_f32(sum)
    }
    let n = 30_000_000;
    let seconds = best(pool.threads(), 3, || {
        pool.run(pool.threads(), |_| {
            #[cfg(target_arch = "x86_64")]
            if Isa::Avx2.is_available() {
                #[expect(unsafe_code, reason = "the instructions were just found available")]
                // SAFETY: the machine has AVX2 and FMA.
                black_box(unsafe { chains(n, black_box(0.25)) });
            }
        })
    });
    (n * 12 * 8 * pool.threads()) as f64 / seconds
}

/// Bytes per second that all threads together read from memory.
fn read_limit(pool: &Pool) -> f64 {
    let data = vec![1u64; 1 << 25];
    let tasks = 256;
    let mut sums = vec![0u64; tasks];
    let seconds = best(pool.threads(), 5, || {
        let parts = Parts::new(&mut sums);
        pool.run(tasks, |i| {
            let n = data.len() / tasks;
            let mut lanes = [0u64; 32];
            for block in data[i * n..(i + 1) * n].as_chunks::<32>().0 {
                for (l, v) in lanes.iter_mut().zip(block) {
                    *l = l.wrapping_add(*v);
                }
            }
            #[expect(unsafe_code, reason = "each task has its own sum")]
            // SAFETY: parts of one element each.
            let sum = unsafe { parts.part(i, 1) };
            sum[0] = lanes.iter().sum::<u64>();
        });
    });
    black_box(&sums);
    (data.len() * 8) as f64 / seconds
}

#[expect(clippy::print_stdout, reason = "its purpose")]
fn main() {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<usize>().ok());
    let mut next = |default: usize| args.next().flatten().unwrap_or(default);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (threads, heads, kv_heads, dim) = (next(cores), next(16), next(8), next(128));
    let (pool, isa) = (Pool::new(threads), Isa::best());
    let (multiply, read) = (multiply_limit(&pool), read_limit(&pool));
    println!("{isa}, {threads} threads: {:.0} G multiply-adds/s, {:.1} GB/s read", multiply / 1e9, read / 1e9);
    println!("{heads} heads, {kv_heads} kv heads of {dim}");
    println!("{:>5} {:>6} {:>6} {:>10} {:>8} {:>8}", "kv", "depth", "rows", "time", "GMAC/s", "of limit");
    for dtype in [KvType::F32, KvType::F16, KvType::BF16, KvType::Q8_0, KvType::Q4_0] {
        for (depth, rows) in [(0, 512), (4096, 512), (4096, 1)] {
            let context: usize = depth + rows;
            let layout = KvLayout { kv_heads, k_dim: dim, v_dim: dim, dtype };
            // Several caches in turn, as layers have, so that the last-level cache does not hold them.
            let layers = if rows == 1 { 12 } else { 1 };
            let pages: Vec<u32> = (0..context.div_ceil(PAGE) as u32).collect();
            let number = |i: usize| ((i * 7919 % 1000) as f32 - 500.0) / 500.0;
            let k: Vec<f32> = (0..context * kv_heads * dim).map(number).collect();
            let mut caches = Vec::new();
            for _ in 0..layers {
                let Ok(mut cache) = KvCache::new(layout, pages.len()) else { continue };
                cache.write(&pool, isa, &k, &k, &[SeqRows { rows: 0..context, start: 0, pages: &pages }]);
                caches.push(cache);
            }
            let q: Vec<f32> = (0..rows * heads * dim).map(number).collect();
            let mut out = vec![0.0; q.len()];
            let seqs = [SeqRows { rows: 0..rows, start: depth as u32, pages: &pages }];
            let params = AttendParams::causal(heads, 1.0 / (dim as f32).sqrt());
            let seconds = best(threads, 9, || {
                for cache in &caches {
                    attend(&pool, isa, &params, &q, cache, &seqs, &mut out);
                }
            }) / caches.len().max(1) as f64;
            black_box(&out);
            let seen: usize = (depth + 1..=context).sum();
            let rate = (seen * heads * 2 * dim) as f64 / seconds;
            let bytes = (layout.page_bytes().unwrap_or(0) * pages.len()) as f64 / seconds;
            let share = if rows == 1 {
                format!("{:.0} % of read ({:.1} GB/s)", 100.0 * bytes / read, bytes / 1e9)
            } else {
                format!("{:.0} % of multiply", 100.0 * rate / multiply)
            };
            let name = format!("{dtype:?}");
            println!("{name:>5} {depth:>6} {rows:>6} {:>7.2} ms {:>8.1} {share}", seconds * 1e3, rate / 1e9);
        }
    }
}
