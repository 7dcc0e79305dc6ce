//! A model's name → its files: the demo model, a local folder, or a model of
//! a Hugging Face hub, fetched once, verified, and kept in the cache that
//! Python's huggingface_hub uses too.
//!
//! This is the only part of the program that opens outgoing connections.
//!
//! The way of a model: `name` checks what it is called, `snapshot` looks
//! for it in the `cache`, `fetch` gets what is missing: `remote` asks the hub
//! what there is, `transfer` brings each file through a `partial` blob that is
//! hashed as it grows. The crate `hf-hub` has the cache's paths as well, but
//! validates none of the names and writes nothing atomically, so that little
//! of it would be left to use.

mod cache;
mod checkpoint;
mod digest;
mod error;
mod export;
mod fetch;
mod http;
mod list;
mod name;
mod notes;
mod parallel;
mod partial;
mod progress;
mod remote;
mod retry;
mod settings;
mod snapshot;
mod transfer;

pub use error::HubError;
pub use list::{CachedModel, Freed};
pub use name::{Commit, NameError, RepoId, Revision};
pub use progress::{Event, NoProgress, Progress};
pub use settings::{Proxies, Settings};
pub use snapshot::Snapshot;

use std::path::Path;

use crate::model::ModelFiles;
use cache::RepoCache;
use notes::Notes;
use snapshot::Found;

/// Where models come from.
#[derive(Debug, Clone)]
pub struct Hub {
    settings: Settings,
}

/// What a model's name means.
enum Named {
    /// The demo model or a folder.
    Local(ModelFiles),
    /// A model of the hub.
    Repo(RepoId, Revision),
}

/// The files of the demo model or of a folder; `None` where the name is
/// neither. A folder wins over a model of the hub, but not over the demo, and
/// the log says so.
///
/// # Errors
/// [`HubError`], where a folder is no checkpoint or a revision was asked for.
pub fn local(name: &str, revision: Option<&str>) -> Result<Option<ModelFiles>, HubError> {
    let path = Path::new(name);
    let shown = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let shown = shown.display();
    let files = if name == "demo" {
        if path.is_dir() {
            tracing::warn!("using the embedded demo model, not the folder {shown}: that is ./demo");
        }
        ModelFiles::demo()
    } else if path.is_dir() {
        match RepoId::parse(name) {
            Ok(repo) => tracing::warn!("using the folder {shown}, not the model {repo} of the hub"),
            Err(_) => tracing::info!("using the folder {shown}"),
        }
        ModelFiles::from_dir(path)?
    } else {
        return Ok(None);
    };
    if revision.is_some() {
        let reason = format!("{name:?} is not on the hub, so it has no revisions");
        return Err(HubError::setting("--revision", reason));
    }
    Ok(Some(files))
}

/// A model of the hub and its revision, or a local model.
fn named(name: &str, revision: Option<&str>) -> Result<Named, HubError> {
    if let Some(files) = local(name, revision)? {
        return Ok(Named::Local(files));
    }
    let (repo, revision) = remote_name(name, revision)?;
    Ok(Named::Repo(repo, revision))
}

impl Hub {
    /// With settings of one's own.
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// With the settings that the environment gives.
    ///
    /// # Errors
    /// [`HubError::Setting`].
    pub fn from_env() -> Result<Self, HubError> {
        Ok(Self::new(Settings::from_env()?))
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Finds the files of a model, and fetches them if they are on the hub and
    /// not in the cache yet. A cached model is used without asking the hub.
    ///
    /// # Errors
    /// [`HubError`], saying what was looked for.
    pub fn resolve(
        &self,
        name: &str,
        revision: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<ModelFiles, HubError> {
        let (repo, revision) = match named(name, revision)? {
            Named::Repo(repo, revision) => (repo, revision),
            Named::Local(files) => return Ok(files),
        };
        let snapshot = self.snapshot(&repo, &revision, progress)?;
        let mut files = ModelFiles::from_dir(&snapshot.folder)?;
        files.name = if revision == Revision::default() {
            repo.to_string()
        } else {
            format!("{repo}@{revision}")
        };
        Ok(files)
    }

    /// A model of the hub, from the cache if it is there.
    fn snapshot(
        &self,
        repo: &RepoId,
        revision: &Revision,
        progress: &dyn Progress,
    ) -> Result<Snapshot, HubError> {
        let cache = self.settings.cache.display().to_string();
        let (missing, usable) = match self.find(repo, revision)? {
            Found::Whole(snapshot) => return Ok(self.used(snapshot, "as cached")),
            Found::Damaged {
                commit,
                file,
                reason,
            } => {
                return self.heal(repo, commit, Damage { file, reason }, progress);
            }
            Found::Usable(snapshot) => ("is no tokenizer of it".to_owned(), Some(snapshot)),
            Found::Missing(missing) => (missing, None),
        };
        if self.settings.offline {
            return match usable {
                Some(snapshot) => Ok(self.used(snapshot, "offline, without a tokenizer")),
                None => Err(HubError::NotCached {
                    repo: repo.clone(),
                    revision: revision.clone(),
                    missing,
                    cache,
                }),
            };
        }
        match (self.fetch(repo, revision, progress), usable) {
            (Ok(snapshot), _) => Ok(self.used(snapshot, "fetched now")),
            (Err(error), Some(snapshot)) if error.is_network() => {
                tracing::warn!("{error}; using what is in the cache");
                Ok(self.used(snapshot, "as cached"))
            }
            (Err(error), None) if error.is_network() => Err(HubError::UnreachableNotCached {
                reason: Box::new(error),
                missing,
                cache,
            }),
            (Err(error), _) => Err(error),
        }
    }

    /// Fetches a model, or what is new or missing of it.
    ///
    /// Without a network, or offline, the cached model is returned, if all of
    /// it is there, and a warning says so.
    ///
    /// # Errors
    /// [`HubError`].
    pub fn pull(
        &self,
        name: &str,
        revision: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Snapshot, HubError> {
        let Named::Repo(repo, revision) = named(name, revision)? else {
            let reason = format!("{name:?} is here already; there is nothing to fetch");
            return Err(HubError::setting("MODEL", reason));
        };
        if self.settings.offline {
            return self.snapshot(&repo, &revision, progress);
        }
        match self.fetch(&repo, &revision, progress) {
            Err(error) if error.is_network() => match self.find(&repo, &revision)? {
                Found::Whole(snapshot) => {
                    tracing::warn!("{error}; what is in the cache is whole and verified");
                    Ok(snapshot)
                }
                _ => Err(error),
            },
            result => result,
        }
    }

    fn fetch(
        &self,
        repo: &RepoId,
        revision: &Revision,
        progress: &dyn Progress,
    ) -> Result<Snapshot, HubError> {
        // Where Python keeps it under its short name, it stays there.
        let mut names = repo.cached_as();
        let kept = names.find(|name| self.repo_cache(name).path().is_dir());
        let cache = self.repo_cache(kept.as_ref().unwrap_or(repo));
        let commit = fetch::fetch(&self.settings, &cache, repo, revision, progress)?;
        match snapshot::find(&cache, kept.as_ref().unwrap_or(repo), &commit)? {
            Found::Whole(snapshot) | Found::Usable(snapshot) => Ok(snapshot),
            Found::Missing(missing) => {
                let reason = format!("right after it was fetched {missing}");
                Err(HubError::protocol(
                    &cache.path().display().to_string(),
                    reason,
                ))
            }
            Found::Damaged { file, reason, .. } => Err(HubError::Corrupt {
                file,
                reason,
                repo: repo.clone(),
            }),
        }
    }

    /// Fetches the files of a commit again that are damaged.
    fn heal(
        &self,
        repo: &RepoId,
        commit: Commit,
        damage: Damage,
        progress: &dyn Progress,
    ) -> Result<Snapshot, HubError> {
        let Damage { file, reason } = damage;
        if self.settings.offline {
            let repo = repo.clone();
            return Err(HubError::Corrupt { file, reason, repo });
        }
        tracing::warn!("{file} is damaged: {reason}. Fetching it again");
        match self.fetch(repo, &commit.into(), progress) {
            Ok(snapshot) => Ok(self.used(snapshot, "damaged files fetched again")),
            Err(error) if error.is_network() => Err(HubError::UnreachableNotCached {
                reason: Box::new(error),
                missing: format!("{file} is damaged: {reason}"),
                cache: self.settings.cache.display().to_string(),
            }),
            Err(error) => Err(error),
        }
    }

    /// Looks in the cache, under each name that the repository has had.
    fn find(&self, repo: &RepoId, revision: &Revision) -> Result<Found, HubError> {
        let mut first = None;
        for name in repo.cached_as() {
            let cache = self.repo_cache(&name);
            let found = match cache.commit(revision) {
                Some(commit) => snapshot::find(&cache, &name, &commit)?,
                None => Found::Missing("there is nothing of it".to_owned()),
            };
            if matches!(found, Found::Whole(_)) {
                return Ok(found);
            }
            first.get_or_insert(found);
        }
        Ok(first.unwrap_or(Found::Missing("there is nothing of it".to_owned())))
    }

    fn used(&self, snapshot: Snapshot, how: &str) -> Snapshot {
        let Snapshot {
            repo,
            commit,
            folder,
            ..
        } = &snapshot;
        tracing::info!(
            "using {repo}, {how}: commit {commit} in {}",
            folder.display()
        );
        Notes::new(&self.repo_cache(repo)).set_used(commit);
        snapshot
    }

    fn repo_cache(&self, repo: &RepoId) -> RepoCache {
        RepoCache::new(&self.settings.cache, repo)
    }
}

/// A file that must not be used, and why.
struct Damage {
    file: String,
    reason: String,
}

/// Reads `ID` or `ID@REVISION`.
fn remote_name(name: &str, revision: Option<&str>) -> Result<(RepoId, Revision), HubError> {
    let (id, at) = match name.split_once('@') {
        Some((id, at)) => (id, Some(at)),
        None => (name, None),
    };
    let Ok(repo) = RepoId::parse(id) else {
        let absolute = std::path::absolute(name).unwrap_or_else(|_| name.into());
        return Err(HubError::NotFound {
            name: name.to_owned(),
            looked_for: absolute.display().to_string(),
        });
    };
    let revision = match (at, revision) {
        (Some(at), Some(revision)) if at != revision => {
            let reason = format!("{revision:?}, but the model's name says @{at}");
            return Err(HubError::setting("--revision", reason));
        }
        (Some(text), _) | (None, Some(text)) => Revision::parse(text)?,
        (None, None) => Revision::default(),
    };
    Ok((repo, revision))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_folders_the_demo_or_repositories() {
        let repo = |name, revision| {
            let (repo, revision) = remote_name(name, revision).unwrap();
            format!("{repo} {revision}")
        };
        assert_eq!(repo("gpt2", None), "openai-community/gpt2 main");
        assert_eq!(repo("a/b@v1", None), "a/b v1");
        assert_eq!(repo("a/b@refs/pr/1", Some("refs/pr/1")), "a/b refs/pr/1");
        assert_eq!(repo("a/b", Some("v2")), "a/b v2");
        assert!(remote_name("a/b@v1", Some("v2")).is_err());
        assert!(remote_name("a/b@../x", None).is_err());
        assert_eq!(local("demo", None).unwrap().unwrap().name, "demo");
        assert!(local("demo", Some("v1")).is_err());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        assert!(
            matches!(local(path, None), Err(HubError::Model(_))),
            "an empty folder"
        );
        assert!(local("a/b", None).unwrap().is_none());
    }

    #[test]
    fn a_misspelt_folder_says_what_was_looked_for() {
        let message = remote_name("./no-such-model", None)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("no-such-model with config.json"),
            "{message}"
        );
    }
}
