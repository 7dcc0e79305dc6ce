//! One file from the hub into the cache: locked, resumed, verified.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use super::HubError;
use super::cache::{RepoCache, create_folder};
use super::http::{Answer, Failure, is_timeout};
use super::name::Revision;
use super::notes::Notes;
use super::partial::{Broken, Partial};
use super::progress::Event;
use super::remote::{Announced, Remote, content_range};

/// A content that arrives wrong is fetched once more before it is given up.
const MAX_MISMATCHES: u32 = 2;
/// How often a lock that another process holds is tried.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// Where files of one repository come from and go to.
pub(super) struct Transfer<'a> {
    pub(super) remote: &'a Remote<'a>,
    pub(super) cache: &'a RepoCache,
    pub(super) notes: &'a Notes,
    /// How one file failed, so that the others end too.
    pub(super) failure: &'a OnceLock<HubError>,
}

impl Transfer<'_> {
    /// Makes sure that the blob is in the cache. Of several processes that want the same blob one fetches it, the
    /// others wait as long as that one lives.
    pub(super) fn fetch(&self, announced: &Announced) -> Result<(), HubError> {
        self.fetch_locked(announced)
            .inspect_err(|error| drop(self.failure.set(error.clone())))
    }

    fn fetch_locked(&self, announced: &Announced) -> Result<(), HubError> {
        if self.has(announced)? {
            return Ok(());
        }
        let _lock = self.lock(announced)?;
        if self.has(announced)? {
            return Ok(());
        }
        self.receive(announced)
    }

    /// Whether the blob is there and intact.
    pub(super) fn has(&self, announced: &Announced) -> Result<bool, HubError> {
        let checked = match self.cache.existing(&announced.etag) {
            Ok(None) => return Ok(false),
            Ok(Some(blob)) => self.notes.check(&blob)?,
            Err(reason) => Err(reason),
        };
        if let Err(reason) = &checked {
            let (file, path) = (&announced.file, self.cache.blob(&announced.etag));
            tracing::debug!("{file} in the cache, {}: {reason}", path.display());
        }
        Ok(checked.is_ok())
    }

    /// Waits for the lock on the blob. It is a `flock`, as huggingface_hub's,
    /// so the system frees it when its holder dies.
    fn lock(&self, announced: &Announced) -> Result<File, HubError> {
        let path = self.cache.lock(&announced.etag);
        let io = |e: std::io::Error| HubError::io(&path, &e);
        create_folder(&self.cache.locks())?;
        let options = File::options().create(true).append(true).open(&path);
        let file = options.map_err(io)?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(e)) => return Err(io(e)),
                Err(TryLockError::WouldBlock) => self.check_others()?,
            }
            if !told {
                let file = announced.file.as_str();
                self.remote.progress().event(&Event::Waiting { file });
                told = true;
            }
            std::thread::sleep(LOCK_POLL);
        }
    }

    fn receive(&self, announced: &Announced) -> Result<(), HubError> {
        let blob = self.cache.blob(&announced.etag);
        let path = self.cache.incomplete(&announced.etag);
        let mut partial = Partial::open(path.clone(), &announced.etag, announced.size)?;
        self.tell(&Event::Started {
            file: announced.file.as_str(),
            size: announced.size,
            have: partial.len(),
        });
        let mut mismatches = 0;
        loop {
            self.fill(&mut partial, announced)?;
            let Err(reason) = partial.check() else { break };
            mismatches += 1;
            if mismatches == MAX_MISMATCHES {
                remove(&path)?;
                return Err(HubError::Mismatch {
                    file: announced.file.to_string(),
                    url: announced.url.clone(),
                    reason,
                });
            }
            tracing::warn!("{}: {reason}. Fetching it once more", announced.file);
            self.restart(&mut partial, announced)?;
        }
        partial.publish(&blob)?;
        self.notes.set_verified(&blob, &announced.etag);
        let file = announced.file.as_str();
        self.tell(&Event::Finished { file });
        Ok(())
    }

    /// Receives until the content is complete, or too long.
    fn fill(&self, partial: &mut Partial<'_>, announced: &Announced) -> Result<(), HubError> {
        let mut attempts = self.remote.attempts();
        while !partial.is_complete() {
            self.check_others()?;
            let before = partial.len();
            let result = self.fill_once(partial, announced);
            if partial.len() > announced.size {
                return Ok(());
            }
            if partial.len() > before {
                attempts.progressed();
            }
            if let Err(failure) = result {
                let waited = attempts.after(failure);
                waited.map_err(|f| self.remote.explain(f, &Revision::default()))?;
            }
        }
        Ok(())
    }

    /// One request; the connection may break before the end.
    fn fill_once(&self, partial: &mut Partial<'_>, announced: &Announced) -> Result<(), Failure> {
        let opened = self.remote.open(announced, partial.len());
        let answer = match opened {
            Err(failure) if failure.status() == Some(416) && partial.len() > 0 => {
                self.restart(partial, announced).map_err(Failure::last)?;
                self.remote.open(announced, 0)?
            }
            opened => opened?,
        };
        if starts_at(&answer, announced)? != partial.len() {
            // The server doesn't know ranges, or this one.
            if answer.status() != 200 {
                let reason = format!("asked for bytes from {} on, got others", partial.len());
                return Err(Failure::last(HubError::protocol(&announced.url, reason)));
            }
            self.restart(partial, announced).map_err(Failure::last)?;
        }
        let file = announced.file.as_str();
        let received = |bytes| {
            self.tell(&Event::Received { file, bytes });
            self.failure.get().is_none()
        };
        let body = answer.response.into_body().into_reader();
        match partial.receive(body, &received) {
            Ok(()) if partial.len() < announced.size => {
                Err(self.broke(partial, announced, "the connection ended"))
            }
            Ok(()) => Ok(()),
            Err(Broken::Read(e)) if is_timeout(&e) => {
                Err(self.broke(partial, announced, "the server fell silent"))
            }
            Err(Broken::Read(e)) => Err(self.broke(partial, announced, &e.to_string())),
            Err(Broken::Write(error)) => Err(Failure::last(error)),
            Err(Broken::Cancelled) => self.check_others().map_err(Failure::last),
        }
    }

    fn broke(&self, partial: &Partial<'_>, announced: &Announced, reason: &str) -> Failure {
        let (len, size) = (partial.len(), announced.size);
        Failure::passing(HubError::Unreachable {
            url: announced.url.clone(),
            reason: format!("{reason}, after {len} of {size} bytes"),
        })
    }

    fn restart(&self, partial: &mut Partial<'_>, announced: &Announced) -> Result<(), HubError> {
        let file = announced.file.as_str();
        self.tell(&Event::Restarted { file });
        partial.restart()
    }

    fn tell(&self, event: &Event<'_>) {
        self.remote.progress().event(event);
    }

    /// # Errors
    /// How another file failed.
    fn check_others(&self) -> Result<(), HubError> {
        self.failure
            .get()
            .map_or(Ok(()), |error| Err(error.clone()))
    }
}

/// The byte at which an answer's content begins.
///
/// # Errors
/// When its size already says that it is another content.
fn starts_at(answer: &Answer, announced: &Announced) -> Result<u64, Failure> {
    let (start, size) = match answer.status() {
        206 => match content_range(answer) {
            Some((start, size)) => (start, Some(size)),
            None => {
                let reason = "a part without a Content-Range";
                return Err(Failure::last(HubError::protocol(&announced.url, reason)));
            }
        },
        _ => (0, answer.number("content-length")),
    };
    match size {
        Some(size) if size != announced.size => Err(Failure::last(HubError::Mismatch {
            file: announced.file.to_string(),
            url: announced.url.clone(),
            reason: format!("{size} bytes, expected {}", announced.size),
        })),
        _ => Ok(start),
    }
}

fn remove(path: &Path) -> Result<(), HubError> {
    std::fs::remove_file(path).map_err(|e| HubError::io(path, &e))
}
