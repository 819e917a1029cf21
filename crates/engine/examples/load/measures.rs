//! The measurements that end by themselves.

use crate::script::Script;
use crate::{Bench, Log, Random, Size, drain, percentile, request};
use allod_engine::engine::Request;
use allod_engine::{Engine, EngineOptions};
use allod_plan::{Delta, Lora, Op, PAGE};
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

/// Lengths of prompt and answer like those of ShareGPT, a third as long so that a run takes a minute: log-normal with
/// medians 40 and 80.
pub(crate) fn lengths(count: usize) -> Vec<(usize, usize)> {
    let mut random = Random(7);
    let mut draw = |median, sigma, most: f64| random.log_normal(median, sigma).clamp(4.0, most) as usize;
    (0..count).map(|_| (draw(40.0, 1.1, 400.0), draw(80.0, 0.8, 300.0))).collect()
}

/// So many clients, each with two requests, one after the other.
pub(crate) fn clients(bench: &Bench, clients: usize) -> Result<(), Box<dyn Error>> {
    let size = Size { sequences: clients.min(64), context: 1024, pages: clients * 44 };
    let mut engine = bench.engine(size, |_| {})?;
    let mut random = Random(1);
    let mut waiting = lengths(2 * clients).into_iter();
    let mut next = |engine: &mut Engine| -> Result<(), Box<dyn Error>> {
        if let Some((prompt, answer)) = waiting.next() {
            engine.submit(request(random.text(prompt, bench.vocabulary()), answer))?;
        }
        Ok(())
    };
    let (started, mut log) = (Instant::now(), Log::default());
    for _ in 0..clients {
        next(&mut engine)?;
    }
    while !engine.is_idle() {
        for _ in log.take(engine.step())? {
            next(&mut engine)?;
        }
    }
    let (seconds, delays) = (started.elapsed().as_secs_f64(), log.delays());
    println!(
        "{clients} clients, {} requests: {:.1} output tokens/s, {:.1} s; between tokens p50 {:.1} ms, p99 {:.1} ms",
        log.tokens.len(),
        log.total as f64 / seconds,
        seconds,
        percentile(&delays, 50).as_secs_f64() * 1e3,
        percentile(&delays, 99).as_secs_f64() * 1e3,
    );
    Ok(())
}

/// 32 questions about one text of 2,000 tokens, with and without sharing what is computed of it.
pub(crate) fn prefix(bench: &Bench) -> Result<(), Box<dyn Error>> {
    let mut random = Random(2);
    let text = random.text(2000, bench.vocabulary());
    let questions: Vec<Vec<u32>> = (0..32).map(|_| random.text(20, bench.vocabulary())).collect();
    let run = |share: bool, count: usize| -> Result<f64, Box<dyn Error>> {
        let size = Size { sequences: 32, context: 2304, pages: 32 * 132 };
        let mut engine = bench.engine(size, |o| o.prefix_cache = share)?;
        for question in &questions[..count] {
            engine.submit(request([&text[..], question].concat(), 16))?;
        }
        Ok(drain(&mut engine)?.0)
    };
    // Without sharing the time is that of so many prompts; a quarter of them tells it.
    let (with, without) = (run(true, 32)?, 4.0 * run(false, 8)?);
    println!(
        "32 requests over one prefix: {with:.1} s shared, {without:.1} s not (4 × 8 requests): {:.1}×",
        without / with
    );
    Ok(())
}

/// The delays of an answer while a prompt of 4,000 tokens arrives, against its own undisturbed ones, in a pool whose
/// pages have all been used: the operating system hands out a page's memory when it is first written, and takes its time.
pub(crate) fn victim(bench: &Bench) -> Result<(), Box<dyn Error>> {
    for delay in [1.5, 2.0, 4.0] {
        let mut random = Random(3);
        let mut run = |disturbed: bool| -> Result<Log, Box<dyn Error>> {
            let size = Size { sequences: 4, context: 4352, pages: 320 };
            let mut engine = bench.engine(size, |o| o.delay = delay)?;
            engine.submit(request(random.text(4300, bench.vocabulary()), 1))?;
            drain(&mut engine)?;
            engine.submit(request(random.text(1000, bench.vocabulary()), 1))?;
            drain(&mut engine)?;
            let victim = engine.submit(request(random.text(100, bench.vocabulary()), 400))?;
            let mut log = Log::default();
            while log.total < 20 {
                log.take(engine.step())?;
            }
            if disturbed {
                engine.submit(request(random.text(4000, bench.vocabulary()), 1))?;
            }
            while !log.take(engine.step())?.contains(&victim) {}
            log.tokens.retain(|&id, _| id == victim);
            Ok(log)
        };
        let p99 = |log: &Log| percentile(&log.delays(), 99).as_secs_f64() * 1e3;
        let (calm, disturbed) = (p99(&run(false)?), p99(&run(true)?));
        println!(
            "delay {delay}: p99 between tokens {calm:.1} ms, with a long prompt {disturbed:.1} ms: {:.2}×",
            disturbed / calm
        );
    }
    Ok(())
}

/// The time of an answer with and without drafts: an edit that repeats its prompt with some changes, and a text in
/// which nothing repeats.
pub(crate) fn drafts(bench: &Bench) -> Result<(), Box<dyn Error>> {
    let mut random = Random(4);
    let original = random.text(400, bench.vocabulary());
    let mut edited = original.clone();
    // One word in 25 is another.
    (0..16).for_each(|i| edited[i * 25 + 10] = random.below(bench.vocabulary()) as u32);
    // Tokens from a small alphabet meet again by chance, but nothing follows from it.
    let noise: Vec<u32> = (0..400).map(|_| random.below(12) as u32).collect();
    for (what, answer) in [("an edit", edited), ("noise", noise)] {
        let run = |draft: usize| -> Result<f64, Box<dyn Error>> {
            let size = Size { sequences: 1, context: 1024, pages: 64 };
            let mut engine = bench.engine(size, |o| o.draft = draft)?;
            let text = Script { text: answer.clone().into(), at: 0 };
            engine.submit(Request { constraint: Some(Arc::new(text)), ..request(original.clone(), answer.len()) })?;
            let mut log = Log::default();
            while log.total == 0 {
                log.take(engine.step())?;
            }
            let (seconds, _) = drain(&mut engine)?;
            Ok(seconds)
        };
        let times = [run(0)?, run(12)?, run(0)?, run(12)?];
        println!("{what}: {:.2}× as fast with drafts", (times[0] + times[2]) / (times[1] + times[3]));
    }
    Ok(())
}

/// Eight adapters, a request each: in one batch, and one after the other.
pub(crate) fn adapters(bench: &Bench) -> Result<(), Box<dyn Error>> {
    let size = Size { sequences: 8, context: 256, pages: 8 * 16 };
    let mut engine = bench.engine(size, |o: &mut EngineOptions| o.prefix_cache = false)?;
    let mut random = Random(5);
    let ids = (0..8).map(|_| engine.load_adapter(&adapter(bench, &mut random))).collect::<Result<Vec<_>, _>>()?;
    let prompt = random.text(16, bench.vocabulary());
    let ask = |id| Request { adapter: Some(id), ..request(prompt.clone(), 64) };
    let started = Instant::now();
    for &id in &ids {
        engine.submit(ask(id))?;
        drain(&mut engine)?;
    }
    let serial = started.elapsed().as_secs_f64();
    ids.iter().try_for_each(|&id| engine.submit(ask(id)).map(drop))?;
    let (mixed, _) = drain(&mut engine)?;
    println!("eight adapters: {serial:.1} s one after the other, {mixed:.1} s in one batch: {:.2}×", serial / mixed);
    Ok(())
}

/// A random adapter of rank 16 on the matrices of attention.
fn adapter(bench: &Bench, random: &mut Random) -> Lora {
    let plan = &bench.model.plan;
    let parts =
        plan.nodes().iter().filter_map(|node| if let Op::Linear { parts } = &node.op { Some(parts) } else { None });
    let params = parts.flatten().map(|part| plan.param(part.weight)).filter(|p| p.name.contains("attn_"));
    let mut values =
        |count: usize| -> Arc<[f32]> { (0..count).map(|_| random.below(2001) as f32 / 1e5 - 0.01).collect() };
    let rank = 16;
    let delta = params.map(|p| {
        let (a, b) = (values(rank * p.shape[1]), values(rank * p.shape[0]));
        (p.name.clone(), Delta { rank, a, b, scale: 2.0, magnitude: None })
    });
    Lora { deltas: delta.collect(), ..Lora::default() }
}

/// Reserved and unused cache while requests of mixed lengths run, against slots of the longest length.
pub(crate) fn waste(bench: &Bench) -> Result<(), Box<dyn Error>> {
    const LONGEST: usize = 2048;
    let mut engine = bench.engine(Size { sequences: 16, context: LONGEST, pages: 16 * LONGEST / PAGE }, |_| {})?;
    let mut random = Random(6);
    for _ in 0..48 {
        let prompt = random.log_normal(160.0, 1.0).clamp(4.0, 1200.0) as usize;
        let answer = random.log_normal(200.0, 0.8).clamp(4.0, 800.0) as usize;
        engine.submit(request(random.text(prompt, bench.vocabulary()), answer))?;
    }
    let (mut used, mut paged, mut slotted) = (0, 0, 0);
    while !engine.is_idle() {
        engine.step();
        for sequence in engine.snapshot().sequences.into_iter().filter(|s| s.running) {
            used += sequence.tokens.min(sequence.pages.len() * PAGE);
            paged += sequence.pages.len() * PAGE;
            slotted += LONGEST;
        }
    }
    let waste = |reserved: usize| 100.0 * (1.0 - used as f64 / reserved as f64);
    println!("reserved and unused: {:.1} % in pages, {:.1} % in slots of {LONGEST}", waste(paged), waste(slotted));
    Ok(())
}
