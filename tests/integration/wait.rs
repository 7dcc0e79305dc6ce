//! Waiting for what another thread or process does.

use std::time::{Duration, Instant};

/// Waits until `done`, for as long as a busy machine may need.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "waited too long until {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
