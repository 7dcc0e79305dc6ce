//! Repeating what failed for a while.

use std::time::Duration;

use rand::Rng;

use super::HubError;
use super::http::{Failure, Retry};
use super::progress::{Event, Progress};

/// Failures in a row, without progress between them, that are one too many.
const MAX_FAILURES: u32 = 6;
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// A server that wants more patience than this gets an error instead.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Counts the failures of one task.
pub(super) struct Attempts<'a> {
    backoff: Duration,
    failures: u32,
    progress: &'a dyn Progress,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(backoff: Duration, progress: &'a dyn Progress) -> Self {
        Self {
            backoff,
            failures: 0,
            progress,
        }
    }

    /// Something arrived: patience begins anew.
    pub(super) fn progressed(&mut self) {
        self.failures = 0;
    }

    /// Waits until it is time to try again.
    ///
    /// # Errors
    /// The failure, where trying again makes no sense.
    pub(super) fn after(&mut self, failure: Failure) -> Result<(), Failure> {
        self.failures += 1;
        let asked = match failure.retry {
            Retry::No => return Err(failure),
            Retry::Unconnected | Retry::Later(None) => None,
            Retry::Later(Some(wait)) => Some(wait),
        };
        if self.failures >= MAX_FAILURES || asked.is_some_and(|wait| wait > LONGEST_WAIT) {
            return Err(failure);
        }
        let backoff = self.backoff * 2u32.pow(self.failures - 1);
        // Those who failed together should not come again together.
        let jitter = rand::rng().random_range(1.0..1.25);
        let backoff = backoff.min(LONGEST_BACKOFF).mul_f64(jitter);
        let wait = asked.map_or(backoff, |asked| asked.max(self.backoff.mul_f64(jitter)));
        let reason = failure.error.to_string();
        self.progress.event(&Event::Retrying {
            reason: &reason,
            wait,
        });
        std::thread::sleep(wait);
        Ok(())
    }
}

/// Runs a task until it succeeds or must not be repeated. A server that can't
/// even be connected to is not waited for: most likely there is no network.
pub(super) fn retrying<T>(
    mut attempts: Attempts<'_>,
    mut task: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    loop {
        match task() {
            Ok(value) => return Ok(value),
            Err(failure) if failure.retry == Retry::Unconnected => return Err(failure),
            Err(failure) => attempts.after(failure)?,
        }
    }
}

impl From<Failure> for HubError {
    fn from(failure: Failure) -> Self {
        *failure.error
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Instant;

    use super::*;

    #[derive(Default)]
    struct Waits(Mutex<Vec<Duration>>);

    impl Progress for Waits {
        fn event(&self, event: &Event<'_>) {
            if let Event::Retrying { wait, .. } = event {
                self.0.lock().unwrap().push(*wait);
            }
        }
    }

    fn failing(retry: Retry) -> (Vec<Duration>, u32) {
        let waits = Waits::default();
        let mut tries = 0;
        let attempts = Attempts::new(Duration::from_millis(2), &waits);
        let result: Result<(), _> = retrying(attempts, || {
            tries += 1;
            let mut failure = Failure::last(HubError::protocol("url", "fails"));
            failure.retry = retry;
            Err(failure)
        });
        assert!(result.is_err());
        (waits.0.into_inner().unwrap(), tries)
    }

    #[test]
    fn waits_grow_and_end() {
        let (waits, tries) = failing(Retry::Later(None));
        assert_eq!(tries, MAX_FAILURES);
        assert_eq!(waits.len() as u32, MAX_FAILURES - 1);
        for (i, wait) in waits.iter().enumerate() {
            let least = Duration::from_millis(2) * 2u32.pow(i as u32);
            assert!(
                *wait >= least && *wait <= least.mul_f64(1.25),
                "{i}: {wait:?}"
            );
        }
    }

    #[test]
    fn what_the_server_asks_for_is_kept() {
        let start = Instant::now();
        let (waits, _) = failing(Retry::Later(Some(Duration::from_millis(20))));
        assert!(
            waits.iter().all(|w| *w == Duration::from_millis(20)),
            "{waits:?}"
        );
        assert!(start.elapsed() >= Duration::from_millis(100));
        assert_eq!(failing(Retry::Later(Some(LONGEST_WAIT * 2))).1, 1);
    }

    #[test]
    fn what_cannot_help_is_not_tried() {
        assert_eq!(failing(Retry::No).1, 1);
        assert_eq!(failing(Retry::Unconnected).1, 1);
    }
}
