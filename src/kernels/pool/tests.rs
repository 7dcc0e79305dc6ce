use std::sync::atomic::AtomicU64;

use super::*;

/// A pool of its own, so that the machine's processors don't matter.
fn sum_on(pool: &Pool, count: usize) -> u64 {
    let total = AtomicU64::new(0);
    pool.run(count, &|i| {
        total.fetch_add(i as u64 + 1, Ordering::Relaxed);
    });
    total.into_inner()
}

#[test]
fn every_task_runs_once() {
    for workers in 1..4 {
        let pool = Pool::new(workers);
        for count in 2..200u64 {
            assert_eq!(sum_on(&pool, count as usize), count * (count + 1) / 2);
        }
        // After the workers have parked.
        std::thread::sleep(4 * SPIN);
        assert_eq!(sum_on(&pool, 100), 5050);
    }
}

#[test]
fn callers_take_turns() {
    let pool = Pool::new(2);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    assert_eq!(sum_on(&pool, 50), 1275);
                }
            });
        }
    });
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    let pool = Pool::new(3);
    for _ in 0..20 {
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(64, &|i| {
                if i == 40 {
                    // Without the hook's message.
                    resume_unwind(Box::new("on purpose"));
                }
            });
        }));
        assert!(result.is_err());
        assert_eq!(sum_on(&pool, 10), 55);
    }
}

#[test]
fn panics_of_one_job_are_not_the_next_ones() {
    let pool = Pool::new(1);
    let both_there = std::sync::Barrier::new(2);
    let result = catch_unwind(AssertUnwindSafe(|| {
        // One task for the caller, one for the worker.
        pool.run(2, &|_| {
            both_there.wait();
            resume_unwind(Box::new("on purpose"));
        });
    }));
    assert!(result.is_err());
    assert_eq!(sum_on(&pool, 10), 55);
}

#[test]
fn after_an_error_no_task_begins() {
    let begun = AtomicU64::new(0);
    let mut values = [0; 100];
    // Inside a task, so that the tasks run one after another.
    run(2, |outer| {
        if outer == 0 {
            let result = try_for_each_chunk(&mut [0; 100], 1, |i, _| {
                begun.fetch_add(1, Ordering::Relaxed);
                if i == 3 { Err(i) } else { Ok(()) }
            });
            assert_eq!(result, Err(3));
        }
    });
    assert_eq!(begun.into_inner(), 4);
    let fine = try_for_each_chunk(&mut values, 7, |i, chunk| {
        chunk.fill(i);
        Ok::<_, ()>(())
    });
    assert_eq!((fine, values[99]), (Ok(()), 14));
}

#[test]
fn tasks_within_tasks_run_in_place() {
    let total = AtomicU64::new(0);
    run(8, |_| {
        run(8, |_| {
            total.fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(total.into_inner(), 64);
}

#[test]
fn chunks_are_disjoint_and_cover_all() {
    let mut values = vec![0usize; 103];
    for_each_chunk(&mut values, 10, |i, chunk| {
        chunk.iter_mut().for_each(|v| *v += i + 1)
    });
    assert!(values.iter().enumerate().all(|(at, &v)| v == at / 10 + 1));
}
