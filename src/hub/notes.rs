//! What we remember beside a cached repository: which blobs were found
//! intact, which snapshots are whole, and when they were last used.
//!
//! Hashing half a gigabyte at each start would cost half a second, so a blob
//! that was hashed once is trusted as long as it is the same file (inode) and
//! the system says that it was not written to (size, time of modification,
//! time of change). Notes that cannot be written, as in a read-only cache,
//! are done without.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::HubError;
use super::cache::{Blob, RepoCache, write_atomically};
use super::digest::Hasher;
use super::name::{Commit, Etag};

/// The notes on one repository.
pub(super) struct Notes {
    folder: PathBuf,
}

impl Notes {
    pub(super) fn new(repo: &RepoCache) -> Self {
        Self {
            folder: repo.path().join(".gpt2-engine"),
        }
    }

    /// Whether a blob's content is what its name says: by the note, else by
    /// its hash, which is noted.
    ///
    /// # Errors
    /// [`HubError::Io`] when the blob cannot be read. The inner error says
    /// how the content differs.
    pub(super) fn check(&self, blob: &Blob) -> Result<Result<(), String>, HubError> {
        let io = |e: std::io::Error| HubError::io(&blob.path, &e);
        let mut file = File::open(&blob.path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        let note = self.verified(&blob.etag);
        if fs::read_to_string(&note).is_ok_and(|text| text == stamp(&meta)) {
            return Ok(Ok(()));
        }
        tracing::info!("verifying {}", blob.path.display());
        let mut hasher = Hasher::new(&blob.etag, meta.len());
        hasher.update_from(&mut file).map_err(io)?;
        let result = hasher.check(&blob.etag);
        if result.is_ok() {
            self.write(&note, &stamp(&meta));
        }
        Ok(result)
    }

    /// Notes that a blob has just been verified.
    pub(super) fn set_verified(&self, blob: &Path, etag: &Etag) {
        if let Ok(meta) = fs::metadata(blob) {
            self.write(&self.verified(etag), &stamp(&meta));
        }
    }

    /// Whether the snapshot was fetched by us, and so has all that the
    /// repository has.
    pub(super) fn is_whole(&self, commit: &Commit) -> bool {
        fs::read_to_string(self.used(commit)).is_ok_and(|text| text == WHOLE)
    }

    /// Notes that the snapshot has all that the repository has.
    pub(super) fn set_whole(&self, commit: &Commit) {
        self.write(&self.used(commit), WHOLE);
    }

    /// Notes that the snapshot is used now.
    pub(super) fn set_used(&self, commit: &Commit) {
        let path = self.used(commit);
        match File::options().append(true).open(&path) {
            // The note's time is the time of use.
            Ok(file) => drop(file.set_modified(SystemTime::now())),
            Err(_) => self.write(&path, ""),
        }
    }

    /// When the snapshot was last used by us.
    pub(super) fn last_used(&self, commit: &Commit) -> Option<SystemTime> {
        fs::metadata(self.used(commit)).ok()?.modified().ok()
    }

    /// Forgets a blob or a snapshot.
    pub(super) fn forget(&self, name: &str) {
        for folder in ["verified", "used"] {
            let _ = fs::remove_file(self.folder.join(folder).join(name));
        }
    }

    fn verified(&self, etag: &Etag) -> PathBuf {
        self.folder.join("verified").join(etag.as_str())
    }

    fn used(&self, commit: &Commit) -> PathBuf {
        self.folder.join("used").join(commit.as_str())
    }

    fn write(&self, path: &Path, text: &str) {
        if let Err(error) = write_atomically(path, text.as_bytes()) {
            tracing::debug!("no note taken: {error}");
        }
    }
}

const WHOLE: &str = "whole";

/// What changes when a file is replaced or written to.
fn stamp(meta: &fs::Metadata) -> String {
    format!(
        "inode {}:{} size {} modified {}.{:09} changed {}.{:09}",
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::name::RepoId;

    #[test]
    fn a_blob_is_hashed_once_and_again_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let repo = RepoCache::new(dir.path(), &RepoId::parse("a/b").unwrap());
        let notes = Notes::new(&repo);
        let etag = Etag::parse("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        let path = repo.blob(&etag);
        let blob = Blob { etag, path };
        fs::create_dir_all(blob.path.parent().unwrap()).unwrap();
        assert!(notes.check(&blob).is_err(), "no such blob");
        fs::write(&blob.path, "hello\n").unwrap();
        assert_eq!(notes.check(&blob).unwrap(), Ok(()));
        let note = fs::read_to_string(notes.verified(&blob.etag)).unwrap();
        assert_eq!(note, stamp(&fs::metadata(&blob.path).unwrap()));
        assert_eq!(notes.check(&blob).unwrap(), Ok(()));

        // One bit, the same size, and the time of modification put back. Older
        // kernels stamp changes with a clock that ticks each 10 ms.
        std::thread::sleep(std::time::Duration::from_millis(20));
        let modified = fs::metadata(&blob.path).unwrap().modified().unwrap();
        fs::write(&blob.path, "hellp\n").unwrap();
        let file = File::options().append(true).open(&blob.path).unwrap();
        file.set_modified(modified).unwrap();
        assert!(notes.check(&blob).unwrap().is_err());
        assert!(
            notes.check(&blob).unwrap().is_err(),
            "and no note was taken"
        );
    }

    #[test]
    fn snapshots_are_whole_or_not_and_used() {
        let dir = tempfile::tempdir().unwrap();
        let repo = RepoCache::new(dir.path(), &RepoId::parse("a/b").unwrap());
        let notes = Notes::new(&repo);
        let commit = Commit::parse(&"c".repeat(40)).unwrap();
        assert!(!notes.is_whole(&commit) && notes.last_used(&commit).is_none());
        notes.set_used(&commit);
        assert!(!notes.is_whole(&commit) && notes.last_used(&commit).is_some());
        notes.set_whole(&commit);
        notes.set_used(&commit);
        assert!(notes.is_whole(&commit));
        notes.forget(commit.as_str());
        assert!(!notes.is_whole(&commit));
    }
}
