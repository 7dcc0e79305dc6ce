//! A few threads for what waits on the network or the disk.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Connections at a time: more than that servers dislike.
const THREADS: usize = 4;

/// Applies `task` to all items, a few at a time; the results are in the
/// items' order. After a failure no further item begins.
///
/// # Errors
/// The first failure.
pub(super) fn in_parallel<T, R, E>(
    items: &[T],
    task: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E>
where
    T: Sync,
    R: Send,
    E: Send,
{
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let done = Mutex::new(Vec::with_capacity(items.len()));
    // A thread that panicked is joined, and its panic goes on, at the scope's end.
    let lock_failure = || failure.lock().unwrap_or_else(|e| e.into_inner());
    let work = || {
        while lock_failure().is_none() {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { break };
            match task(item) {
                Ok(result) => {
                    let mut done = done.lock().unwrap_or_else(|e| e.into_inner());
                    done.push((at, result));
                }
                Err(error) => {
                    lock_failure().get_or_insert(error);
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..THREADS.min(items.len()) {
            scope.spawn(work);
        }
        work();
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(|e| e.into_inner()) {
        return Err(error);
    }
    let mut done = done.into_inner().unwrap_or_else(|e| e.into_inner());
    done.sort_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_and_failures_end_it() {
        let items: Vec<u32> = (0..100).collect();
        let doubled = in_parallel(&items, |i| Ok::<_, ()>(i * 2)).unwrap();
        assert_eq!(doubled, (0..100).map(|i| i * 2).collect::<Vec<_>>());
        let tried = AtomicUsize::new(0);
        let result = in_parallel(&items, |i| {
            tried.fetch_add(1, Ordering::Relaxed);
            if *i == 3 { Err("three") } else { Ok(()) }
        });
        assert_eq!(result, Err("three"));
        assert!(tried.into_inner() <= 100);
        assert_eq!(in_parallel(&[0u8; 0], |_| Ok::<_, ()>(())), Ok(vec![]));
    }
}
