use allod_kernels::pool::{Parts, Pool};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU32, AtomicUsize, Ordering::*},
    time::Duration,
};

#[test]
fn every_task_runs_once() {
    for threads in [0, 1, 2, 3, 4, 9] {
        let pool = Pool::new(threads);
        for tasks in [0, 1, 2, 3, 17, 1000] {
            let runs: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
            pool.run(tasks, |i| {
                runs[i].fetch_add(1, Relaxed);
            });
            assert!(runs.iter().all(|n| n.load(Relaxed) == 1), "{threads} threads, {tasks} tasks");
        }
    }
}

#[test]
fn many_short_regions_follow_each_other() {
    let pool = Pool::new(3);
    let sum = AtomicUsize::new(0);
    for region in 0..20_000 {
        if region % 5000 == 0 {
            std::thread::sleep(Duration::from_millis(3)); // lets the workers fall asleep
        }
        pool.run(4, |i| {
            sum.fetch_add(i + 1, Relaxed);
        });
    }
    assert_eq!(sum.load(Relaxed), 200_000);
}

#[test]
fn a_caller_that_was_held_up_still_gets_help_in_long_regions() {
    for threads in [2, 4] {
        let pool = Pool::new(threads);
        let caller = std::thread::current().id();
        let helped = AtomicUsize::new(0);
        let by_worker = || std::thread::current().id() != caller;
        for _ in 0..50 {
            // A worker that comes by is slow, as one that is put aside.
            pool.run(threads, |_| {
                if by_worker() {
                    std::thread::sleep(Duration::from_millis(3));
                }
            });
        }
        for _ in 0..50 {
            pool.run(20, |_| {
                std::thread::sleep(Duration::from_millis(1));
                helped.fetch_add(usize::from(by_worker()), Relaxed);
            });
        }
        assert!(helped.load(Relaxed) > 0, "{threads} threads");
    }
}

#[test]
fn a_panic_comes_out_and_the_pool_lives_on() {
    let pool = Pool::new(3);
    let done = AtomicUsize::new(0);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        pool.run(100, |i| {
            done.fetch_add(1, Relaxed);
            assert!(i != 37, "task {i}");
        });
    }));
    let message = outcome.unwrap_err().downcast::<String>().unwrap();
    assert_eq!(*message, "task 37");
    assert_eq!(done.load(Relaxed), 100);
    pool.run(10, |_| {
        done.fetch_add(1, Relaxed);
    });
    assert_eq!(done.load(Relaxed), 110);
}

#[test]
fn a_region_inside_a_task_runs_on_that_thread() {
    let pool = Pool::new(2);
    let sum = AtomicUsize::new(0);
    pool.run(8, |_| {
        let thread = std::thread::current().id();
        pool.run(8, |_| {
            assert_eq!(std::thread::current().id(), thread);
            sum.fetch_add(1, Relaxed);
        });
    });
    assert_eq!(sum.load(Relaxed), 64);
}

#[test]
fn callers_on_several_threads_take_turns() {
    let pool = Pool::new(2);
    let sum = AtomicUsize::new(0);
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                for _ in 0..500 {
                    pool.run(6, |_| {
                        sum.fetch_add(1, Relaxed);
                    });
                }
            });
        }
    });
    assert_eq!(sum.load(Relaxed), 12_000);
}

#[test]
#[expect(unsafe_code, reason = "parts are disjoint")]
fn tasks_write_disjoint_parts() {
    let pool = Pool::new(4);
    let mut all = vec![0u32; 1000];
    let parts = Parts::new(&mut all);
    pool.run(100, |i| {
        // SAFETY: ten elements of its own for each task.
        unsafe { parts.part(i * 10, 10) }.fill(i as u32 + 1);
    });
    assert!(all.iter().enumerate().all(|(i, &v)| v as usize == i / 10 + 1));
}
