//! Waiting for what another thread or process does.

use std::time::{Duration, Instant};

/// Waits until `done`, `limit` at most.
pub fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < limit, "not after {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
