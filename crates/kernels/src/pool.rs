//! The thread pool: one parallel region at a time, its tasks handed out one by one.
//!
//! Decoding a token runs about two hundred regions of some ten microseconds, so a region must cost well under one:
//! workers spin for the next region, briefly, and only then sleep. The caller takes part. Tasks are claimed one at a
//! time, so a worker that the operating system holds back takes nothing away from the others: a region ends when its
//! tasks are done, not when every worker has come by.
//!
//! On shared cores two things do harm. A woken worker may land on the caller's core and spin there while the caller
//! waits to run: so whoever spins gives the core away between looks. And a worker may be put aside in the middle of a
//! task that all wait for: so it gives its core away between tasks, before the system takes it. Where that happens all
//! the same, the caller sleeps after a while, for an idle core is where the scheduler moves that worker to.
#![expect(unsafe_code, reason = "tasks borrow from the caller, who waits for them")]

use std::{
    any::Any,
    cell::{Cell, UnsafeCell},
    hint::spin_loop,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*},
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

/// How long a worker spins for the next region before it sleeps.
const WORKER_SPIN: Duration = Duration::from_micros(60);
/// How long the caller spins for the last tasks before it sleeps.
const CALLER_SPIN: Duration = Duration::from_micros(400);
/// How long a worker keeps its core without asking whether others want it.
const STAY: Duration = Duration::from_millis(1);
/// Tasks that a worker does between looks at the clock.
const LOOK: u32 = 8;

/// Threads that share the tasks of one region after the other.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    /// Held by the caller of the running region: callers from several threads take turns.
    turn: Mutex<()>,
}

struct Worker {
    sleeping: Arc<AtomicBool>,
    handle: Option<JoinHandle<()>>,
}

#[derive(Clone, Copy)]
struct Region {
    task: *const (dyn Fn(usize) + Sync + 'static),
    tasks: usize,
}

struct Shared {
    /// Region number (high half) and tasks not yet claimed (low half).
    state: CacheLine<AtomicU64>,
    /// Tasks done in this region.
    done: CacheLine<AtomicUsize>,
    /// Written only while no task is claimed and none is left; read only by who has claimed one.
    region: UnsafeCell<Region>,
    caller: Mutex<Option<Thread>>,
    caller_sleeps: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
}

#[repr(align(128))]
struct CacheLine<T>(T);

// SAFETY: `region` is written by the one caller that holds `turn`, when no task of the last region is claimed and none
// is left (so nobody reads it), and is published by the release store to `state`; the pointed-to closure is `Sync` and
// outlives the region because the caller waits until every task is done.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

thread_local! {
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// A pool of `threads` threads, the caller's being one of them; 0 counts as 1. Where the system gives fewer
    /// threads than asked for, the pool has those.
    pub fn new(threads: usize) -> Pool {
        fn nothing(_: usize) {}
        let shared = Arc::new(Shared {
            state: CacheLine(AtomicU64::new(0)),
            done: CacheLine(AtomicUsize::new(0)),
            region: UnsafeCell::new(Region { task: &nothing, tasks: 0 }),
            caller: Mutex::new(None),
            caller_sleeps: AtomicBool::new(false),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
        });
        let workers = (1..threads).filter_map(|i| Worker::start(i, &shared)).collect();
        Pool { shared, workers, turn: Mutex::new(()) }
    }

    /// Threads that work on a region, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0)` … `task(tasks - 1)`, each once, in any order and on any thread, and returns when all are done.
    /// Called from inside a task it runs them one after the other on that thread.
    ///
    /// # Panics
    /// With a task's panic, once every task has ended.
    pub fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        if tasks <= 1 || self.workers.is_empty() || IN_TASK.get() {
            return (0..tasks).for_each(task);
        }
        let turn = lock(&self.turn);
        // A count above what the state's half holds is cut into regions.
        let most = u32::MAX as usize;
        for first in (0..tasks).step_by(most) {
            self.region(most.min(tasks - first), &|i| task(first + i));
        }
        drop(turn);
        let panic = lock(&self.shared.panic).take();
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    fn region(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        *lock(&shared.caller) = Some(thread::current());
        shared.done.0.store(0, Relaxed);
        // SAFETY: only the lifetime changes; the closure is called by nobody after this function returns, because every
        // claimed task is waited for and no task is left to claim.
        let task: *const (dyn Fn(usize) + Sync + 'static) = unsafe { std::mem::transmute(task) };
        // SAFETY: see `unsafe impl Sync for Shared`.
        unsafe { *shared.region.get() = Region { task, tasks } };
        let number = (shared.state.0.load(Relaxed) >> 32).wrapping_add(1);
        shared.state.0.store(number << 32 | tasks as u64, SeqCst);
        for w in self.workers.iter().take(tasks - 1) {
            if w.sleeping.load(SeqCst) && w.sleeping.swap(false, SeqCst) {
                w.unpark();
            }
        }
        shared.work(|| {});
        shared.wait(tasks);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for w in &self.workers {
            w.unpark();
        }
        for w in &mut self.workers {
            // A worker's own panic cannot be: tasks' panics are caught. Nothing is lost by not looking.
            let _ = w.handle.take().map(JoinHandle::join);
        }
    }
}

impl Worker {
    fn start(i: usize, shared: &Arc<Shared>) -> Option<Worker> {
        let (shared, sleeping) = (shared.clone(), Arc::new(AtomicBool::new(false)));
        let asleep = sleeping.clone();
        let handle = thread::Builder::new().name(format!("kernel-{i}")).spawn(move || shared.serve(&asleep)).ok()?;
        Some(Worker { sleeping, handle: Some(handle) })
    }

    fn unpark(&self) {
        if let Some(handle) = &self.handle {
            handle.thread().unpark();
        }
    }
}

impl Shared {
    /// Claims and runs tasks until none is left, and calls `between` after each.
    fn work(&self, mut between: impl FnMut()) {
        let _inside = InTask::enter();
        while let Some(left) = self.claim() {
            // SAFETY: a claimed task keeps its region alive and `region` unwritten until `done` counts it.
            let Region { task, tasks } = unsafe { *self.region.get() };
            // SAFETY: as above.
            let run = AssertUnwindSafe(|| unsafe { (*task)(tasks - left) });
            if let Err(payload) = catch_unwind(run) {
                lock(&self.panic).get_or_insert(payload);
            }
            if self.done.0.fetch_add(1, SeqCst) + 1 == tasks && self.caller_sleeps.load(SeqCst) {
                lock(&self.caller).iter().for_each(Thread::unpark);
            }
            between();
        }
    }

    /// Takes one task; gives how many were left, this one included.
    fn claim(&self) -> Option<usize> {
        let mut state = self.state.0.load(Acquire);
        while state as u32 != 0 {
            match self.state.0.compare_exchange_weak(state, state - 1, AcqRel, Acquire) {
                Ok(_) => return Some(state as u32 as usize),
                Err(now) => state = now,
            }
        }
        None
    }

    /// Waits until `tasks` are done.
    fn wait(&self, tasks: usize) {
        let done = || self.done.0.load(SeqCst) == tasks;
        if !spin_until(CALLER_SPIN, done) {
            self.caller_sleeps.store(true, SeqCst);
            while !done() {
                thread::park();
            }
            self.caller_sleeps.store(false, SeqCst);
        }
    }

    /// A worker's life.
    fn serve(&self, sleeping: &AtomicBool) {
        let ready = || self.state.0.load(SeqCst) as u32 != 0 || self.stop.load(Relaxed);
        let (mut since, mut tasks) = (Instant::now(), 0u32);
        while !self.stop.load(SeqCst) {
            self.work(|| {
                tasks = tasks.wrapping_add(1);
                if tasks.is_multiple_of(LOOK) && since.elapsed() >= STAY {
                    thread::yield_now();
                    since = Instant::now();
                }
            });
            if !spin_until(WORKER_SPIN, ready) {
                sleeping.store(true, SeqCst);
                while sleeping.load(SeqCst) && !ready() {
                    thread::park();
                }
                sleeping.store(false, SeqCst);
            }
        }
    }
}

/// Spins until `ready` or until `limit` has passed; gives whether it is ready. Between looks it lets others run: the
/// one it waits for may want this very core.
fn spin_until(limit: Duration, ready: impl Fn() -> bool) -> bool {
    let mut start = None;
    loop {
        for _ in 0..64 {
            if ready() {
                return true;
            }
            spin_loop();
        }
        if start.get_or_insert_with(Instant::now).elapsed() >= limit {
            return false;
        }
        thread::yield_now();
    }
}

/// Marks the thread as inside a task for as long as it lives.
struct InTask;

impl InTask {
    fn enter() -> InTask {
        IN_TASK.set(true);
        InTask
    }
}

impl Drop for InTask {
    fn drop(&mut self) {
        IN_TASK.set(false);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mutable slice that the tasks of a region write in disjoint parts.
pub struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: the parts taken at one time are disjoint (the contract of `part`), so this is a `&mut [T]` handed out in pieces.
unsafe impl<T: Send> Sync for Parts<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    /// Takes the whole slice.
    pub fn new(slice: &'a mut [T]) -> Parts<'a, T> {
        Parts { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Asks for the memory of an element that will be written soon.
    pub(crate) fn prefetch(&self, at: usize) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a hint; any address will do.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_ET0 }>(self.start.wrapping_add(at).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }

    /// The elements from `start` on, `len` of them.
    ///
    /// # Safety
    /// No element of it may be in another part that is alive.
    ///
    /// # Panics
    /// When the part does not lie in the slice.
    #[expect(clippy::mut_from_ref, reason = "the contract: parts alive at one time are disjoint")]
    pub unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "a part outside its slice");
        // SAFETY: inside the slice that `new` borrowed; disjoint by contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
