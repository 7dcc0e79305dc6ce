//! What is in the cache, and taking it out again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::cache::RepoCache;
use super::checkpoint::CONFIG;
use super::name::{Commit, RepoId, Revision};
use super::notes::Notes;
use super::{Hub, HubError, remote_name};
use crate::model::{Config, ModelFiles};

/// A model in the cache, at one commit.
#[derive(Debug, Clone)]
pub struct CachedModel {
    /// The repository.
    pub repo: RepoId,
    /// The commit.
    pub commit: Commit,
    /// The branches and tags that are this commit.
    pub revisions: Vec<String>,
    /// In what the weights are stored, such as `f32`; `None` where they are
    /// not all there.
    pub dtype: Option<String>,
    /// Bytes of its files.
    pub size: u64,
    /// When it was last used, by us or, as far as the file system tells, by
    /// others.
    pub last_used: Option<SystemTime>,
    /// The folder with its files.
    pub folder: PathBuf,
}

/// What a removal gave back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freed {
    /// Bytes.
    pub bytes: u64,
}

impl Hub {
    /// The GPT-2 models in the cache, by id and commit. Other models, which
    /// other programs keep there, are left out.
    ///
    /// # Errors
    /// [`HubError::Io`] when the cache cannot be read.
    pub fn cached(&self) -> Result<Vec<CachedModel>, HubError> {
        let mut models = Vec::new();
        for folder in names_in(&self.settings.cache)? {
            let Some(repo) = RepoId::from_folder(&folder) else {
                continue;
            };
            let cache = self.repo_cache(&repo);
            for commit in names_in(&cache.snapshots())? {
                if let Ok(commit) = Commit::parse(&commit) {
                    models.extend(describe(&cache, &repo, commit));
                }
            }
        }
        models.sort_by(|a, b| (&a.repo, &a.commit).cmp(&(&b.repo, &b.commit)));
        Ok(models)
    }

    /// Removes a model from the cache: with a revision that commit alone, and
    /// the blobs that no other commit needs.
    ///
    /// # Errors
    /// [`HubError::NotCached`] when it is not there; [`HubError::Io`].
    pub fn remove(&self, name: &str, revision: Option<&str>) -> Result<Freed, HubError> {
        let whole = revision.is_none() && !name.contains('@');
        let (repo, revision) = remote_name(name, revision)?;
        let not_cached = || HubError::NotCached {
            repo: repo.clone(),
            revision: revision.clone(),
            missing: "there is nothing of it".to_owned(),
            cache: self.settings.cache.display().to_string(),
        };
        let mut freed = None;
        for repo in repo.cached_as() {
            let cache = self.repo_cache(&repo);
            let before = size_below(&cache.path());
            if whole && cache.path().is_dir() {
                remove_all(&cache)?;
            } else if let Some(commit) = cache.commit(&revision).filter(|_| !whole)
                && cache.snapshot(&commit).is_dir()
            {
                remove_commit(&cache, &commit)?;
            } else {
                continue;
            }
            let bytes = before.saturating_sub(size_below(&cache.path()));
            freed = Some(Freed {
                bytes: freed.map_or(0, |f: Freed| f.bytes) + bytes,
            });
        }
        freed.ok_or_else(not_cached)
    }
}

/// A commit that is a GPT-2.
fn describe(cache: &RepoCache, repo: &RepoId, commit: Commit) -> Option<CachedModel> {
    let folder = cache.snapshot(&commit);
    let config = fs::read(folder.join(CONFIG)).ok()?;
    Config::from_json(&config, CONFIG).ok()?;
    let metas: Vec<_> = names_in(&folder)
        .ok()?
        .into_iter()
        .filter_map(|name| fs::metadata(folder.join(name)).ok())
        .collect();
    let read = metas.iter().filter_map(|meta| meta.accessed().ok()).max();
    let dtype = ModelFiles::from_dir(&folder).and_then(|files| files.weights.stored_dtype());
    Some(CachedModel {
        repo: repo.clone(),
        revisions: revisions_of(cache, &commit),
        dtype: dtype.ok(),
        size: metas.iter().map(fs::Metadata::len).sum(),
        last_used: read.max(Notes::new(cache).last_used(&commit)),
        commit,
        folder,
    })
}

/// The branches and tags that are this commit.
fn revisions_of(cache: &RepoCache, commit: &Commit) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(prefix) = folders.pop() {
        for name in names_in(&cache.refs().join(&prefix)).unwrap_or_default() {
            let name = format!("{prefix}{name}");
            let Ok(revision) = Revision::parse(&name) else {
                continue;
            };
            if cache.refs().join(&name).is_dir() {
                folders.push(format!("{name}/"));
            } else if cache.commit(&revision).as_ref() == Some(commit) {
                found.push(name);
            }
        }
    }
    found.sort();
    found
}

fn remove_all(cache: &RepoCache) -> Result<(), HubError> {
    let path = cache.path();
    fs::remove_dir_all(&path).map_err(|e| HubError::io(&path, &e))?;
    let _ = fs::remove_dir_all(cache.locks());
    Ok(())
}

/// Removes a snapshot, the names that point to it, and what only it used.
fn remove_commit(cache: &RepoCache, commit: &Commit) -> Result<(), HubError> {
    for revision in revisions_of(cache, commit) {
        let path = cache.refs().join(revision);
        fs::remove_file(&path).map_err(|e| HubError::io(&path, &e))?;
    }
    let mine = blobs_of(cache, commit.as_str());
    let path = cache.snapshot(commit);
    fs::remove_dir_all(&path).map_err(|e| HubError::io(&path, &e))?;
    let mut others = BTreeSet::new();
    for other in names_in(&cache.snapshots())? {
        others.extend(blobs_of(cache, &other));
    }
    let notes = Notes::new(cache);
    notes.forget(commit.as_str());
    for blob in mine.difference(&others) {
        notes.forget(blob);
        let path = cache.path().join("blobs").join(blob);
        fs::remove_file(&path).map_err(|e| HubError::io(&path, &e))?;
    }
    Ok(())
}

/// The names of the blobs that a snapshot's links name, at any depth: other
/// programs keep files in folders.
fn blobs_of(cache: &RepoCache, commit: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![cache.snapshots().join(commit)];
    while let Some(folder) = folders.pop() {
        for name in names_in(&folder).unwrap_or_default() {
            let path = folder.join(name);
            if let Ok(target) = fs::read_link(&path) {
                let blob = target.file_name().map(|n| n.to_string_lossy().into_owned());
                found.extend(blob.filter(|b| cache.path().join("blobs").join(b).exists()));
            } else if path.is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

/// The names in a folder; none where there is no such folder.
fn names_in(folder: &Path) -> Result<Vec<String>, HubError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(HubError::io(folder, &e)),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.collect())
}

/// Bytes of the plain files below a folder.
fn size_below(folder: &Path) -> u64 {
    let names = names_in(folder).unwrap_or_default();
    let sizes = names.into_iter().map(|name| {
        let path = folder.join(name);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => size_below(&path),
            Ok(meta) if meta.is_file() => meta.len(),
            _ => 0,
        }
    });
    sizes.sum()
}
