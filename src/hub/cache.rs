//! The folder that huggingface_hub and we share.
//!
//! ```text
//! models--owner--name/blobs/ETAG              content, named by its hash
//! models--owner--name/snapshots/COMMIT/FILE   a relative link to a blob
//! models--owner--name/refs/REVISION           the commit of a branch or tag
//! .locks/models--owner--name/ETAG.lock        held by whoever fetches the blob
//! models--owner--name/.gpt2-engine/           our notes (`notes.rs`)
//! ```
//! Newer versions of huggingface_hub make a blob a link itself, into a store
//! that all repositories of the cache share.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::HubError;
use super::name::{Commit, Etag, FileName, RepoId, Revision};

/// One repository's part of the cache.
#[derive(Debug, Clone)]
pub(super) struct RepoCache {
    root: PathBuf,
    folder: String,
}

/// Where the content of a snapshot's file is.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) etag: Etag,
    pub(super) path: PathBuf,
}

impl RepoCache {
    pub(super) fn new(root: &Path, repo: &RepoId) -> Self {
        Self {
            root: root.to_owned(),
            folder: repo.folder(),
        }
    }

    /// The repository's folder.
    pub(super) fn path(&self) -> PathBuf {
        self.root.join(&self.folder)
    }

    pub(super) fn blob(&self, etag: &Etag) -> PathBuf {
        self.path().join("blobs").join(etag.as_str())
    }

    /// Where a blob grows until it is verified.
    pub(super) fn incomplete(&self, etag: &Etag) -> PathBuf {
        let name = format!("{}.incomplete", etag.as_str());
        self.path().join("blobs").join(name)
    }

    pub(super) fn lock(&self, etag: &Etag) -> PathBuf {
        let name = format!("{}.lock", etag.as_str());
        self.locks().join(name)
    }

    pub(super) fn locks(&self) -> PathBuf {
        self.root.join(".locks").join(&self.folder)
    }

    pub(super) fn snapshots(&self) -> PathBuf {
        self.path().join("snapshots")
    }

    pub(super) fn snapshot(&self, commit: &Commit) -> PathBuf {
        self.snapshots().join(commit.as_str())
    }

    pub(super) fn refs(&self) -> PathBuf {
        self.path().join("refs")
    }

    /// The commit that a revision was when it was last fetched.
    pub(super) fn commit(&self, revision: &Revision) -> Option<Commit> {
        if let Some(commit) = revision.commit() {
            return Some(commit);
        }
        match fs::read_to_string(self.refs().join(revision.as_str())) {
            Ok(text) => Commit::parse(text.trim()).ok(),
            Err(_) => self.abbreviated(revision),
        }
    }

    /// The commit that begins with these digits, if there is one such.
    fn abbreviated(&self, revision: &Revision) -> Option<Commit> {
        let digits = revision.as_str();
        if digits.len() < 7 {
            return None;
        }
        let entries = fs::read_dir(self.snapshots()).ok()?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut found = names.filter(|name| name.starts_with(digits));
        match (found.next(), found.next()) {
            (Some(name), None) => Commit::parse(&name).ok(),
            _ => None,
        }
    }

    /// Remembers which commit a revision is.
    pub(super) fn set_commit(&self, revision: &Revision, commit: &Commit) -> Result<(), HubError> {
        if self.commit(revision).as_ref() == Some(commit) {
            return Ok(());
        }
        let path = self.refs().join(revision.as_str());
        write_atomically(&path, commit.as_str().as_bytes())
    }

    /// The blob behind a snapshot's file: `None` where there is no file.
    ///
    /// # Errors
    /// Why the file must not be used: it is no link to a blob, or leads out
    /// of the cache.
    pub(super) fn blob_of(&self, commit: &Commit, file: &FileName) -> Result<Option<Blob>, String> {
        let pointer = self.snapshot(commit).join(file.as_str());
        match fs::symlink_metadata(&pointer) {
            Err(_) => return Ok(None),
            Ok(meta) if !meta.is_symlink() => {
                return Err(
                    "is a plain file, so that nothing says what its hash should be".to_owned(),
                );
            }
            Ok(_) => {}
        }
        let target = fs::read_link(&pointer).map_err(|e| e.to_string())?;
        let etag = self.etag_of_link(&target)?;
        let blob = self.existing(&etag)?;
        let strays = match &blob {
            Some(blob) => !same_file(&pointer, &blob.path),
            None => pointer.exists(),
        };
        if strays {
            return Err("lies in a folder that is a link out of the cache".to_owned());
        }
        Ok(blob)
    }

    /// The blob, if it is there.
    ///
    /// # Errors
    /// Why it must not be used: it leads out of the cache.
    pub(super) fn existing(&self, etag: &Etag) -> Result<Option<Blob>, String> {
        let path = self.blob(etag);
        let Ok(real) = path.canonicalize() else {
            return Ok(None);
        };
        if !self.contains(&real) {
            return Err(format!("is a link out of the cache, to {}", real.display()));
        }
        let etag = etag.clone();
        Ok(Some(Blob { etag, path }))
    }

    /// The etag that `../../blobs/ETAG` names.
    fn etag_of_link(&self, target: &Path) -> Result<Etag, String> {
        let fail = || format!("is a link to {}, not to a blob", target.display());
        let name = target
            .file_name()
            .and_then(|n| n.to_str())
            .ok_or_else(fail)?;
        let etag = Etag::parse(name).map_err(|_| fail())?;
        let relative = Path::new("../../blobs").join(name);
        if target == relative || target == self.blob(&etag) {
            Ok(etag)
        } else {
            Err(fail())
        }
    }

    /// Whether a path without links lies in the cache, or where the
    /// repository's folder was moved to.
    fn contains(&self, real: &Path) -> bool {
        let roots = [self.root.clone(), self.path()];
        let mut roots = roots.iter().filter_map(|root| root.canonicalize().ok());
        roots.any(|root| real.starts_with(root))
    }

    /// Makes a snapshot's file a link to its blob.
    pub(super) fn link(
        &self,
        commit: &Commit,
        file: &FileName,
        etag: &Etag,
    ) -> Result<(), HubError> {
        let folder = self.snapshot(commit);
        create_folder(&folder)?;
        let pointer = folder.join(file.as_str());
        let target = Path::new("../../blobs").join(etag.as_str());
        if fs::read_link(&pointer).is_ok_and(|found| found == target) {
            return Ok(());
        }
        let temporary = temporary_beside(&pointer);
        let io = |e: io::Error| HubError::io(&pointer, &e);
        std::os::unix::fs::symlink(&target, &temporary).map_err(io)?;
        fs::rename(&temporary, &pointer).map_err(|e| {
            let _ = fs::remove_file(&temporary);
            io(e)
        })
    }
}

/// Whether two paths lead to one file.
fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Creates a folder and those above it.
pub(super) fn create_folder(folder: &Path) -> Result<(), HubError> {
    fs::create_dir_all(folder).map_err(|e| HubError::io(folder, &e))
}

/// A name beside `path` that no other thread or process uses.
pub(super) fn temporary_beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{count}.tmp", std::process::id()));
    path.with_file_name(name)
}

/// Writes a small file so that readers see the old content or the new one.
pub(super) fn write_atomically(path: &Path, content: &[u8]) -> Result<(), HubError> {
    if let Some(folder) = path.parent() {
        create_folder(folder)?;
    }
    let temporary = temporary_beside(path);
    let written = fs::write(&temporary, content).and_then(|()| fs::rename(&temporary, path));
    written.map_err(|e| {
        let _ = fs::remove_file(&temporary);
        HubError::io(path, &e)
    })
}

/// Gives a file that is written to the end its final name, and makes sure
/// that it survives a power cut.
pub(super) fn publish(file: &File, from: &Path, to: &Path) -> Result<(), HubError> {
    let io = |e: io::Error| HubError::io(to, &e);
    file.sync_all().map_err(io)?;
    fs::rename(from, to).map_err(io)?;
    if let Some(folder) = to.parent() {
        File::open(folder).and_then(|f| f.sync_all()).map_err(io)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repo(root: &Path) -> RepoCache {
        RepoCache::new(root, &RepoId::parse("owner/name").unwrap())
    }

    #[test]
    fn refs_are_read_as_commits_only() {
        let dir = tempfile::tempdir().unwrap();
        let repo = repo(dir.path());
        let main = Revision::default();
        assert_eq!(repo.commit(&main), None);
        let commit = Commit::parse(&"a".repeat(40)).unwrap();
        repo.set_commit(&main, &commit).unwrap();
        assert_eq!(repo.commit(&main), Some(commit));
        fs::write(repo.refs().join("main"), "../../../etc").unwrap();
        assert_eq!(repo.commit(&main), None);
    }

    #[test]
    fn links_lead_to_blobs_of_the_cache_or_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("hub");
        let repo = repo(&root);
        let commit = Commit::parse(&"a".repeat(40)).unwrap();
        let file = FileName::parse("config.json").unwrap();
        let etag = Etag::parse(&"b".repeat(40)).unwrap();
        assert!(repo.blob_of(&commit, &file).unwrap().is_none());

        repo.link(&commit, &file, &etag).unwrap();
        assert!(
            repo.blob_of(&commit, &file).unwrap().is_none(),
            "no blob yet"
        );
        create_folder(&repo.path().join("blobs")).unwrap();
        fs::write(repo.blob(&etag), "{}").unwrap();
        let blob = repo.blob_of(&commit, &file).unwrap().unwrap();
        assert_eq!(blob.etag, etag);

        // A blob that is a link itself: within the cache, then out of it.
        let shared = root.join("blobs/bb/xet");
        create_folder(shared.parent().unwrap()).unwrap();
        fs::rename(repo.blob(&etag), &shared).unwrap();
        std::os::unix::fs::symlink("../../blobs/bb/xet", repo.blob(&etag)).unwrap();
        assert!(repo.blob_of(&commit, &file).unwrap().is_some());
        let outside = dir.path().join("outside");
        fs::rename(&shared, &outside).unwrap();
        fs::remove_file(repo.blob(&etag)).unwrap();
        std::os::unix::fs::symlink(&outside, repo.blob(&etag)).unwrap();
        let reason = repo.blob_of(&commit, &file).unwrap_err();
        assert!(reason.contains("out of the cache"), "{reason}");

        // A pointer that leads elsewhere.
        let pointer = repo.snapshot(&commit).join("config.json");
        for target in ["../../../../outside", "/etc/passwd", "../../blobs/../../x"] {
            fs::remove_file(&pointer).unwrap();
            std::os::unix::fs::symlink(target, &pointer).unwrap();
            assert!(repo.blob_of(&commit, &file).is_err(), "{target}");
        }
        fs::remove_file(&pointer).unwrap();
        fs::write(&pointer, "{}").unwrap();
        assert!(repo.blob_of(&commit, &file).is_err(), "a plain file");
    }
}
