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
//! the same, the caller sleeps after a while, for an idle core is where the scheduler moves that worker to, and then
//! does with a worker less for a time (`Patience`).
#![expect(unsafe_code, reason = "tasks borrow from the caller, who waits for them")]

use std::{
    any::Any,
    cell::{Cell, UnsafeCell},
    hint::spin_loop,
    marker::PhantomData,
    ops::Range,
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
/// Wait of a caller from which a worker was put aside.
const HELD_UP: Duration = Duration::from_micros(200);
/// How long a caller that was held up does with a worker less: the first time, and at most.
const LESS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(512));
/// How soon afterwards it must be held up again to do so for longer.
const AGAIN: Duration = Duration::from_millis(20);
/// How long a region lasts before all workers come in.
const LONG: Duration = Duration::from_millis(1);

/// Threads that share the tasks of one region after the other.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    /// Held by the caller of the running region: callers from several threads take turns.
    turn: Mutex<Patience>,
}

/// How many workers the caller lets in. Once it has waited for more than twice as long as it worked, which no share of the
/// tasks explains, a worker had been put aside in the middle of one: there are fewer cores to be had than threads. So it
/// does with one less, for a time that doubles while that goes on. Where a region lasts all come in, since its tasks are
/// too many to be held up by one.
#[derive(Default)]
struct Patience {
    until: Option<Instant>,
    time: Duration,
    less: usize,
}

impl Patience {
    /// Threads of `threads` that are to begin a region now.
    fn threads(&self, threads: usize) -> usize {
        let less = self.until.is_some_and(|until| Instant::now() < until);
        threads - if less { self.less } else { 0 }
    }

    /// The caller, one of `threads`, `worked` on a region and then `waited`.
    fn learn(&mut self, threads: usize, worked: Duration, waited: Duration) {
        if waited < HELD_UP.max(worked * 2) {
            return;
        }
        let now = Instant::now();
        let before = |time| self.until.is_some_and(|until| now < until + time);
        let less = self.less + usize::from(before(Duration::ZERO));
        (self.less, self.time) = if before(AGAIN) { (less, self.time * 2) } else { (1, LESS.0) };
        (self.less, self.time) = (self.less.min(threads - 1), self.time.min(LESS.1));
        self.until = Some(now + self.time);
    }
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
    /// Number of the region.
    number: CacheLine<AtomicU64>,
    /// A share of the tasks for each thread, which the others help with when they have done their own: neighbouring tasks
    /// read neighbouring memory. Region number (high half) and tasks not yet claimed (low half).
    lanes: Box<[CacheLine<AtomicU64>]>,
    /// Tasks done in this region.
    done: CacheLine<AtomicUsize>,
    /// Written only while no task is claimed and none is left; read only by who has claimed one.
    region: UnsafeCell<Region>,
    caller: Mutex<Option<Thread>>,
    caller_sleeps: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    /// Threads that may work on the region: those with lower numbers, the caller's being 0.
    welcome: AtomicUsize,
}

#[repr(align(128))]
struct CacheLine<T>(T);

// SAFETY: `region` is written by the one caller that holds `turn`, when no task of the last region is claimed and none
// is left (so nobody reads it), and is published by the release stores to `lanes`; the pointed-to closure is `Sync` and
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
            number: CacheLine(AtomicU64::new(0)),
            lanes: (0..threads.max(1)).map(|_| CacheLine(AtomicU64::new(0))).collect(),
            done: CacheLine(AtomicUsize::new(0)),
            region: UnsafeCell::new(Region { task: &nothing, tasks: 0 }),
            caller: Mutex::new(None),
            caller_sleeps: AtomicBool::new(false),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            welcome: AtomicUsize::new(threads),
        });
        let workers = (1..threads).map_while(|i| Worker::start(i, &shared)).collect();
        Pool { shared, workers, turn: Mutex::default() }
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
        let mut patience = lock(&self.turn);
        // A count above what half of a lane holds is cut into regions.
        let most = u32::MAX as usize;
        for first in (0..tasks).step_by(most) {
            self.region(&mut patience, most.min(tasks - first), &|i| task(first + i));
        }
        drop(patience);
        let panic = lock(&self.shared.panic).take();
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    fn region(&self, patience: &mut Patience, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        *lock(&shared.caller) = Some(thread::current());
        shared.done.0.store(0, Relaxed);
        // SAFETY: only the lifetime changes; the closure is called by nobody after this function returns, because every
        // claimed task is waited for and no task is left to claim.
        let task: *const (dyn Fn(usize) + Sync + 'static) = unsafe { std::mem::transmute(task) };
        // SAFETY: see `unsafe impl Sync for Shared`.
        unsafe { *shared.region.get() = Region { task, tasks } };
        let number = shared.number.0.load(Relaxed).wrapping_add(1);
        let mut welcome = patience.threads(self.threads());
        shared.welcome.store(welcome, SeqCst);
        for (lane, share) in shared.lanes.iter().enumerate() {
            share.0.store(number << 32 | shared.share(tasks, lane).len() as u64, Release);
        }
        shared.number.0.store(number, SeqCst);
        self.wake(tasks.min(welcome));
        let start = Instant::now();
        shared.work(0, || {
            if welcome < self.threads() && start.elapsed() >= LONG {
                welcome = self.threads();
                shared.welcome.store(welcome, SeqCst);
                self.wake(tasks.min(welcome));
            }
        });
        let worked = start.elapsed();
        shared.wait(tasks);
        patience.learn(self.threads(), worked, start.elapsed() - worked);
    }

    /// Wakes sleeping workers, so that as many threads as that are at work.
    fn wake(&self, threads: usize) {
        for w in self.workers.iter().take(threads - 1) {
            if w.sleeping.load(SeqCst) && w.sleeping.swap(false, SeqCst) {
                w.unpark();
            }
        }
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
        let handle = thread::Builder::new().name(format!("kernel-{i}")).spawn(move || shared.serve(i, &asleep)).ok()?;
        Some(Worker { sleeping, handle: Some(handle) })
    }

    fn unpark(&self) {
        if let Some(handle) = &self.handle {
            handle.thread().unpark();
        }
    }
}

impl Shared {
    /// The tasks of a lane.
    fn share(&self, tasks: usize, lane: usize) -> Range<usize> {
        let lanes = self.lanes.len();
        let start = |lane: usize| tasks / lanes * lane + (tasks % lanes).min(lane);
        start(lane)..start(lane + 1)
    }

    fn is_welcome(&self, thread: usize) -> bool {
        thread < self.welcome.load(SeqCst)
    }

    /// Claims and runs tasks while thread `own` is welcome and one is left, those of its own lane first, and calls `between`
    /// after each.
    fn work(&self, own: usize, mut between: impl FnMut()) {
        let _inside = InTask::enter();
        while let Some((lane, left)) = self.is_welcome(own).then(|| self.claim(own)).flatten() {
            // SAFETY: a claimed task keeps its region alive and `region` unwritten until `done` counts it.
            let Region { task, tasks } = unsafe { *self.region.get() };
            // SAFETY: as above.
            let run = AssertUnwindSafe(|| unsafe { (*task)(self.share(tasks, lane).end - left) });
            if let Err(payload) = catch_unwind(run) {
                lock(&self.panic).get_or_insert(payload);
            }
            if self.done.0.fetch_add(1, SeqCst) + 1 == tasks && self.caller_sleeps.load(SeqCst) {
                lock(&self.caller).iter().for_each(Thread::unpark);
            }
            between();
        }
    }

    /// Takes one task; gives its lane and how many were left there, this one included.
    fn claim(&self, own: usize) -> Option<(usize, usize)> {
        let lanes = self.lanes.len();
        (own..own + lanes).map(|lane| lane % lanes).find_map(|lane| {
            let claimed =
                self.lanes[lane].0.fetch_update(AcqRel, Acquire, |state| (state as u32 != 0).then(|| state - 1));
            claimed.ok().map(|state| (lane, state as u32 as usize))
        })
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
    fn serve(&self, own: usize, sleeping: &AtomicBool) {
        let seen = Cell::new(0);
        let ready = || self.number.0.load(SeqCst) != seen.get() && self.is_welcome(own) || self.stop.load(Relaxed);
        let (mut since, mut tasks) = (Instant::now(), 0u32);
        while !self.stop.load(SeqCst) {
            let number = self.number.0.load(SeqCst);
            if self.is_welcome(own) {
                seen.set(number);
            }
            self.work(own, || {
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
