//! What happens while a model is fetched, for those who watch.

use std::time::Duration;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// All files are known; these bytes are still to come.
    Planned {
        /// Files to fetch.
        files: usize,
        /// Bytes to fetch.
        bytes: u64,
    },
    /// A file begins, or goes on where it was interrupted.
    Started {
        /// Its name.
        file: &'a str,
        /// Its size in bytes.
        size: u64,
        /// Bytes that are there from an earlier attempt.
        have: u64,
    },
    /// Bytes of a file arrived.
    Received {
        /// Its name.
        file: &'a str,
        /// How many.
        bytes: u64,
    },
    /// What had arrived of a file was no good: it begins anew.
    Restarted {
        /// Its name.
        file: &'a str,
    },
    /// A file is verified and in its place.
    Finished {
        /// Its name.
        file: &'a str,
    },
    /// Another process fetches the file.
    Waiting {
        /// Its name.
        file: &'a str,
    },
    /// A request failed and will be repeated.
    Retrying {
        /// How it failed, and what was asked for.
        reason: &'a str,
        /// After this long.
        wait: Duration,
    },
}

/// Whoever watches. Called from several threads.
pub trait Progress: Sync {
    /// Something happened.
    fn event(&self, event: &Event<'_>);
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn event(&self, _: &Event<'_>) {}
}
