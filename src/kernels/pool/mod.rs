//! The threads that compute: fork and join within some microseconds.
//!
//! Rayon's entry from outside costs up to 86 µs, and a decode step has some
//! sixty joins. Here the workers spin for a moment after a job, so that the
//! next finds them awake, and park after that: an idle process burns nothing.
//! Each thread begins with a share of its own of the tasks, which lie together
//! as what they read does; who is done takes from the others. That never changes a
//! result: tasks write disjoint parts and reduce nothing between them.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use shares::Shares;

mod shares;

/// How long a worker looks for the next job before it parks.
const SPIN: Duration = Duration::from_micros(60);

/// Looks at the state between two looks at the clock.
const LOOKS: usize = 64;

/// Runs `task(0)`, …, `task(count − 1)`, each once, on the threads of the
/// process, the caller's among them, and returns when all are done.
///
/// Called from inside a task, it runs the tasks one after another.
///
/// # Panics
/// With the panic of a task, after the others have ended.
pub fn run(count: usize, task: impl Fn(usize) + Sync) {
    if count <= 1 || threads() == 1 || INSIDE.get() {
        (0..count).for_each(task);
        return;
    }
    pool().run(count, &task);
}

/// [`run`] over the chunks of a slice: `task(i, chunk)` for each chunk of
/// `size` elements, the last perhaps shorter.
pub fn for_each_chunk<T: Send>(
    slice: &mut [T],
    size: usize,
    task: impl Fn(usize, &mut [T]) + Sync,
) {
    /// The start of the slice, of which each task takes its own part.
    struct Start<T>(*mut T);
    // SAFETY: the tasks take disjoint parts, and `T` may be sent to their threads.
    unsafe impl<T: Send> Sync for Start<T> {}

    assert!(size > 0, "chunks of nothing");
    let (len, start) = (slice.len(), Start(slice.as_mut_ptr()));
    let start = &start;
    run(len.div_ceil(size), |i| {
        let first = i * size;
        // SAFETY: `first..first + count` lies within the slice, and no other
        // task has the same `i`; the slice is borrowed until `run` returns.
        let chunk =
            unsafe { std::slice::from_raw_parts_mut(start.0.add(first), size.min(len - first)) };
        task(i, chunk);
    });
}

/// [`run`] with tasks that may fail: the first error to come, after all have
/// ended; tasks that start later are skipped.
///
/// # Errors
/// That of a task.
pub fn try_run<E: Send>(
    count: usize,
    task: impl Fn(usize) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let first = FirstError::default();
    run(count, |i| first.attempt(|| task(i)));
    first.into_result()
}

/// [`for_each_chunk`] with tasks that may fail, as in [`try_run`].
///
/// # Errors
/// That of a task.
pub fn try_for_each_chunk<T: Send, E: Send>(
    slice: &mut [T],
    size: usize,
    task: impl Fn(usize, &mut [T]) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let first = FirstError::default();
    for_each_chunk(slice, size, |i, chunk| first.attempt(|| task(i, chunk)));
    first.into_result()
}

/// The first error of several tasks.
struct FirstError<E> {
    error: Mutex<Option<E>>,
    failed: AtomicBool,
}

impl<E> Default for FirstError<E> {
    fn default() -> Self {
        Self {
            error: Mutex::new(None),
            failed: AtomicBool::new(false),
        }
    }
}

impl<E> FirstError<E> {
    /// Does the work, unless other work has failed.
    fn attempt(&self, work: impl FnOnce() -> Result<(), E>) {
        if self.failed.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = work() {
            self.failed.store(true, Ordering::Relaxed);
            lock(&self.error).get_or_insert(error);
        }
    }

    fn into_result(self) -> Result<(), E> {
        let error = self.error.into_inner();
        let error = error.unwrap_or_else(PoisonError::into_inner);
        error.map_or(Ok(()), Err)
    }
}

/// Sets the number of threads, once per process and before the first job;
/// false if it was set before. Otherwise it is what the process may use:
/// processors, affinity and container limits considered.
pub fn set_threads(count: usize) -> bool {
    THREADS.set(count.max(1)).is_ok()
}

/// The number of threads that compute, the caller's included.
pub fn threads() -> usize {
    *THREADS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

static THREADS: OnceLock<usize> = OnceLock::new();

thread_local! {
    /// Whether this thread is running a task.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| Pool::new(threads() - 1))
}

struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    /// Held for a job: callers on several threads take turns.
    turn: Mutex<()>,
}

struct Worker {
    thread: Thread,
    parked: Arc<AtomicBool>,
}

/// What the caller and the workers share.
struct Shared {
    /// [`OPEN`], the number of the job, and how many workers are in it.
    state: AtomicUsize,
    job: Mutex<Option<Job>>,
    /// The tasks of the job that nobody has taken.
    tasks: Shares,
    panic: Mutex<Option<Box<dyn std::any::Any + Send>>>,
}

/// The job takes workers.
const OPEN: usize = 1 << 15;
/// One worker in the job.
const MEMBER: usize = 1;
/// All bits that count members.
const MEMBERS: usize = OPEN - 1;
/// The next job.
const EPOCH: usize = OPEN << 1;

/// A task with its lifetime erased; valid while its job has members or is open.
#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(usize) + Sync),
}

// SAFETY: the task is `Sync`, and `Pool::run` keeps it alive until no worker
// can reach it any more.
unsafe impl Send for Job {}

impl Pool {
    fn new(count: usize) -> Self {
        let count = count.min(MEMBERS);
        let shared = Arc::new(Shared {
            state: AtomicUsize::default(),
            job: Mutex::default(),
            tasks: Shares::new(count + 1),
            panic: Mutex::default(),
        });
        let workers = (1..=count)
            .filter_map(|i| {
                let parked = Arc::new(AtomicBool::new(false));
                let (theirs, shared) = (Arc::clone(&parked), Arc::clone(&shared));
                let started = std::thread::Builder::new()
                    .name(format!("gpt2-compute-{i}"))
                    .spawn(move || work(&shared, &theirs, i));
                match started {
                    Ok(handle) => Some(Worker {
                        thread: handle.thread().clone(),
                        parked,
                    }),
                    Err(error) => {
                        tracing::warn!("computing with fewer threads than asked for: {error}");
                        None
                    }
                }
            })
            .collect();
        Self {
            shared,
            workers,
            turn: Mutex::new(()),
        }
    }

    fn run(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        // A job that panicked has ended all the same.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. The pointer is reachable through
        // `shared.job` alone, which is emptied below before `task` goes.
        let task = unsafe {
            std::mem::transmute::<
                *const (dyn Fn(usize) + Sync + '_),
                *const (dyn Fn(usize) + Sync + 'static),
            >(task)
        };
        let job = Job { task };
        shared.tasks.deal(count);
        *lock(&shared.job) = Some(job);
        // No member is left from the job before, so nothing else writes here.
        let epoch = shared.state.load(Ordering::Relaxed) & !(EPOCH - 1);
        shared
            .state
            .store(epoch.wrapping_add(EPOCH) | OPEN, Ordering::SeqCst);
        for worker in self.workers.iter().take(count - 1) {
            if worker.parked.swap(false, Ordering::SeqCst) {
                worker.thread.unpark();
            }
        }
        let done = catch_unwind(AssertUnwindSafe(|| shared.take_tasks(job, 0)));
        shared.close();
        // Taken even where the caller's own goes first: it is not the next
        // job's.
        let theirs = lock(&shared.panic).take();
        if let Some(panic) = done.err().or(theirs) {
            resume_unwind(panic);
        }
    }
}

impl Shared {
    /// Runs tasks until none is left, those of a thread's own share first.
    fn take_tasks(&self, job: Job, thread: usize) {
        // SAFETY: the caller is a member of the job, or its owner.
        let task = unsafe { &*job.task };
        let _inside = Inside::enter();
        while let Some(i) = self.tasks.take(thread) {
            task(i);
        }
    }

    /// Lets no more workers in and waits for those inside.
    fn close(&self) {
        self.state.fetch_and(!OPEN, Ordering::SeqCst);
        let mut looks = 0;
        while self.state.load(Ordering::Acquire) & MEMBERS != 0 {
            looks += 1;
            if looks % (64 * LOOKS) == 0 {
                // The worker may have lost its processor to somebody.
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        *lock(&self.job) = None;
    }

    /// Becomes a member of a job other than `last`; its number and itself.
    fn join(&self, last: usize) -> Option<(usize, Job)> {
        let mut state = self.state.load(Ordering::SeqCst);
        loop {
            let epoch = state & !(EPOCH - 1);
            if state & OPEN == 0 || epoch == last {
                return None;
            }
            match self.state.compare_exchange_weak(
                state,
                state + MEMBER,
                Ordering::SeqCst,
                Ordering::SeqCst,
            ) {
                // The owner can't empty the job while there is a member.
                Ok(_) => return (*lock(&self.job)).map(|job| (epoch, job)),
                Err(now) => state = now,
            }
        }
    }
}

/// Marks the thread as running tasks.
struct Inside;

impl Inside {
    fn enter() -> Self {
        INSIDE.set(true);
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

/// A worker's life: it ends with the process.
fn work(shared: &Shared, parked: &AtomicBool, thread: usize) {
    let mut last = 0;
    loop {
        let (epoch, job) = wait(shared, parked, last);
        last = epoch;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| shared.take_tasks(job, thread))) {
            // The rest of the job is not worth doing.
            shared.tasks.drop_all();
            *lock(&shared.panic) = Some(panic);
        }
        shared.state.fetch_sub(MEMBER, Ordering::Release);
    }
}

/// Spins, then parks, until there is a job other than `last`.
fn wait(shared: &Shared, parked: &AtomicBool, last: usize) -> (usize, Job) {
    loop {
        let started = Instant::now();
        while started.elapsed() < SPIN {
            for _ in 0..LOOKS {
                if let Some(joined) = shared.join(last) {
                    return joined;
                }
                std::hint::spin_loop();
            }
        }
        // Either the owner sees the flag and unparks, or this sees its job.
        parked.store(true, Ordering::SeqCst);
        if let Some(joined) = shared.join(last) {
            parked.store(false, Ordering::SeqCst);
            return joined;
        }
        while parked.load(Ordering::SeqCst) {
            std::thread::park();
        }
    }
}

/// Locks what is replaced whole, so that a panic leaves nothing half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
