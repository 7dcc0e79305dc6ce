//! The tasks of a job, dealt to the threads.

use std::sync::atomic::{AtomicU64, Ordering};

/// A share of consecutive tasks for each thread.
///
/// A thread takes its own from the front, and so reads on where it was; when
/// there are none left, it takes one by one from the back of the largest share.
pub(super) struct Shares(Box<[Share]>);

/// The first task that nobody has taken, and in the upper half where they end.
/// Alone in its cache lines, so that a thread takes its own undisturbed.
#[derive(Default)]
#[repr(align(128))]
struct Share(AtomicU64);

impl Shares {
    /// No tasks yet, for so many threads.
    pub(super) fn new(threads: usize) -> Self {
        Self((0..threads).map(|_| Share::default()).collect())
    }

    /// Deals the tasks `0..count`. Nobody may be taking any meanwhile.
    pub(super) fn deal(&self, count: usize) {
        let count = u32::try_from(count).expect("no job has billions of tasks");
        let threads = self.0.len() as u64;
        // Below `count`, as `i` is at most the number of threads.
        let bound = |i: u64| (u64::from(count) * i / threads) as u32;
        for (i, share) in (0..).zip(&self.0) {
            share.set(bound(i), bound(i + 1));
        }
    }

    /// Leaves nothing to take.
    pub(super) fn drop_all(&self) {
        self.0.iter().for_each(|share| share.set(0, 0));
    }

    /// The next task for a thread, if there is any.
    pub(super) fn take(&self, thread: usize) -> Option<usize> {
        let own = self.0[thread].take(|start, end| (start, (start + 1, end)));
        own.or_else(|| {
            // The largest may be empty by the time it is asked.
            while let Some(largest) = self.largest() {
                if let Some(task) = largest.take(|start, end| (end - 1, (start, end - 1))) {
                    return Some(task);
                }
            }
            None
        })
    }

    /// The largest share that isn't empty.
    fn largest(&self) -> Option<&Share> {
        let largest = self.0.iter().max_by_key(|share| share.len())?;
        (largest.len() > 0).then_some(largest)
    }
}

impl Share {
    fn set(&self, start: u32, end: u32) {
        self.0.store(pack(start, end), Ordering::Relaxed);
    }

    fn len(&self) -> u32 {
        let (start, end) = unpack(self.0.load(Ordering::Relaxed));
        end - start
    }

    /// Takes the task that `choose` names, of those from a start to an end, and
    /// leaves those that it leaves.
    fn take(&self, choose: impl Fn(u32, u32) -> (u32, (u32, u32))) -> Option<usize> {
        let mut now = self.0.load(Ordering::Relaxed);
        loop {
            let (start, end) = unpack(now);
            if start == end {
                return None;
            }
            let (task, (start, end)) = choose(start, end);
            let left = pack(start, end);
            let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
            match self.0.compare_exchange_weak(now, left, success, failure) {
                Ok(_) => return Some(task as usize),
                Err(changed) => now = changed,
            }
        }
    }
}

fn pack(start: u32, end: u32) -> u64 {
    u64::from(start) | u64::from(end) << 32
}

fn unpack(share: u64) -> (u32, u32) {
    (share as u32, (share >> 32) as u32)
}
