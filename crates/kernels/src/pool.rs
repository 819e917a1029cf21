//! Threads.
use std::sync::atomic::{AtomicUsize, Ordering};

/// A set of threads.
pub struct Pool {
    threads: usize,
}

impl Pool {
    /// A pool of `threads`.
    pub fn new(threads: usize) -> Pool {
        Pool { threads: threads.max(1) }
    }

    /// How many threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `f(0)` … `f(tasks - 1)`.
    pub fn run(&self, tasks: usize, f: impl Fn(usize) + Sync) {
        let next = AtomicUsize::new(0);
        let work = || loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= tasks {
                break;
            }
            f(i);
        };
        if self.threads == 1 || tasks == 1 {
            return work();
        }
        std::thread::scope(|s| {
            for _ in 1..self.threads {
                s.spawn(work);
            }
            work();
        });
    }
}
