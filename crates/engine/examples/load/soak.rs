//! Overload for as long as asked: more requests than fit, of every kind, some cancelled; memory must stay flat and every
//! page must come back.

use crate::{Bench, Random, Size, request};
use allod_engine::engine::{EventKind, Failure, Request, Task};
use std::error::Error;
use std::time::{Duration, Instant};

/// Bytes of memory the process has in use, where the system tells.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    pages.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok()).unwrap_or(0) * 4096
}

pub(crate) fn soak(bench: &Bench, seconds: usize) -> Result<(), Box<dyn Error>> {
    let size = Size { sequences: 12, context: 512, pages: 120 };
    let mut engine = bench.engine(size, |o| (o.draft, o.queue) = (6, 64))?;
    let (started, mut random) = (Instant::now(), Random(8));
    let (mut served, mut refused, mut report, mut first) = (0u64, 0u64, Duration::ZERO, 0);
    let mut ids = Vec::new();
    while started.elapsed() < Duration::from_secs(seconds as u64) {
        for _ in 0..random.below(3) {
            match engine.submit(random_request(&mut random, bench.vocabulary())) {
                Ok(id) => ids.push(id),
                Err(Failure::QueueFull { .. }) => refused += 1,
                Err(failure) => return Err(failure.into()),
            }
        }
        if random.below(20) == 0 && !ids.is_empty() {
            engine.cancel(ids[random.below(ids.len())]);
        }
        for event in engine.step() {
            if let EventKind::Failed(failure) = &event.kind {
                return Err(failure.clone().into());
            }
            if event.kind.is_last() {
                served += 1;
                ids.retain(|&id| id != event.request);
            }
        }
        if started.elapsed() >= report {
            report += Duration::from_secs((seconds as u64 / 12).max(5));
            let (memory, stats) = (resident() >> 20, engine.stats());
            // What grows to its bound in the beginning is not a leak.
            first = if served > 50 && first == 0 { memory } else { first };
            eprintln!(
                "{:>5} s: {served} answers, {refused} refused, {memory} MiB, {} waiting, {} preemptions, {} of {} drafts right",
                started.elapsed().as_secs(),
                stats.waiting,
                stats.counters.preemptions,
                stats.counters.kept,
                stats.counters.drafted,
            );
        }
    }
    while !engine.is_idle() {
        engine.step();
    }
    let (held, last) = (engine.stats().held_pages, resident() >> 20);
    println!(
        "{served} answers, {refused} refused; {held} pages held at the end; memory {first} MiB early, {last} MiB at the end"
    );
    if held > 0 { Err("pages were lost".into()) } else { Ok(()) }
}

fn random_request(random: &mut Random, vocabulary: usize) -> Request {
    let (length, alphabet) = (1 + random.below(250), [6, vocabulary][random.below(2)]);
    let mut one = request(random.text(length, alphabet), 1 + random.below(60));
    one.sampling.temperature = [0.0, 0.8][random.below(2)];
    (one.client, one.priority) = (random.below(4) as u64, i32::from(random.below(10) == 0));
    one.n = if random.below(6) == 0 { 3 } else { 1 };
    if random.below(8) == 0 {
        let mut text = || {
            let length = 1 + random.below(20);
            random.text(length, vocabulary)
        };
        one.task = Task::Score(vec![text(), text(), text()]);
    }
    one
}
