//! What the cache holds of a model at one commit, verified.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::HubError;
use super::cache::{Blob, RepoCache};
use super::checkpoint::{CONFIG, Files, INDEX, known_files, shards};
use super::name::{Commit, FileName, RepoId};
use super::notes::Notes;
use super::parallel::in_parallel;

/// A model in the cache whose files are all there and intact.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The repository.
    pub repo: RepoId,
    /// The commit.
    pub commit: Commit,
    /// The folder that holds the files, as links.
    pub folder: PathBuf,
    /// The files.
    pub(super) files: Vec<(FileName, Blob)>,
}

/// What was found in the cache.
pub(super) enum Found {
    /// All that the repository has.
    Whole(Snapshot),
    /// Enough to compute with, but perhaps not all: someone else fetched it,
    /// and there is no tokenizer.
    Usable(Snapshot),
    /// Not enough.
    Missing(String),
    /// A file that must not be used.
    Damaged {
        commit: Commit,
        file: String,
        reason: String,
    },
}

/// Looks for a commit's files, and verifies those that a model is made of.
pub(super) fn find(cache: &RepoCache, repo: &RepoId, commit: &Commit) -> Result<Found, HubError> {
    let notes = Notes::new(cache);
    let search = Search {
        cache,
        commit,
        notes: &notes,
    };
    match search.files(repo) {
        Ok((files, has_tokenizer)) => {
            let snapshot = Snapshot {
                repo: repo.clone(),
                commit: commit.clone(),
                folder: cache.snapshot(commit),
                files,
            };
            Ok(if has_tokenizer || notes.is_whole(commit) {
                Found::Whole(snapshot)
            } else {
                Found::Usable(snapshot)
            })
        }
        Err(Flaw::Missing(what)) => Ok(Found::Missing(format!("there is no {what} of it"))),
        Err(Flaw::Damaged(file, reason)) => {
            let path = cache.snapshot(commit).join(file.as_str());
            Ok(Found::Damaged {
                commit: commit.clone(),
                file: path.display().to_string(),
                reason,
            })
        }
        Err(Flaw::Failed(error)) => Err(error),
    }
}

/// The search for one commit's files.
struct Search<'a> {
    cache: &'a RepoCache,
    commit: &'a Commit,
    notes: &'a Notes,
}

/// Why a snapshot is not to be had.
enum Flaw {
    Missing(String),
    Damaged(FileName, String),
    Failed(HubError),
}

impl Search<'_> {
    /// The verified files, and whether a tokenizer is among them. The files
    /// are those that [`ModelFiles::from_dir`](crate::model::ModelFiles)
    /// takes; others that lie there are left alone.
    fn files(&self, repo: &RepoId) -> Result<(Vec<(FileName, Blob)>, bool), Flaw> {
        // One that must not be used is there, too: it would be taken.
        let is_there = |name: &FileName| !matches!(self.cache.blob_of(self.commit, name), Ok(None));
        let there: BTreeSet<String> = known_files()
            .filter(is_there)
            .map(|name| name.to_string())
            .collect();
        if !there.contains(CONFIG) {
            return Err(Flaw::Missing(CONFIG.to_owned()));
        }
        let chosen = Files::choose(&there, repo);
        let chosen = chosen.map_err(|_| Flaw::Missing("weights".to_owned()))?;
        let has_tokenizer = chosen.has_tokenizer();
        let mut names = vec![FileName::known(CONFIG), chosen.weights.clone()];
        names.extend(chosen.others);
        let mut files = self.verified(names)?;
        let index = files.iter().find(|(name, _)| name.as_str() == INDEX);
        if let Some((name, index)) = index {
            let bytes = std::fs::read(&index.path);
            let bytes = bytes.map_err(|e| Flaw::Failed(HubError::io(&index.path, &e)))?;
            let shards = shards(&bytes).map_err(|reason| Flaw::Damaged(name.clone(), reason))?;
            files.extend(self.verified(shards)?);
        }
        Ok((files, has_tokenizer))
    }

    /// The blobs of these files, each compared with its hash.
    fn verified(
        &self,
        names: impl IntoIterator<Item = FileName>,
    ) -> Result<Vec<(FileName, Blob)>, Flaw> {
        let blob = |name: FileName| match self.cache.blob_of(self.commit, &name) {
            Ok(Some(blob)) => Ok((name, blob)),
            Ok(None) => Err(Flaw::Missing(name.to_string())),
            Err(reason) => Err(Flaw::Damaged(name, reason)),
        };
        let files = names.into_iter().map(blob).collect::<Result<Vec<_>, _>>()?;
        in_parallel(&files, |(name, blob)| {
            let checked = self.notes.check(blob).map_err(Flaw::Failed)?;
            checked.map_err(|reason| Flaw::Damaged(name.clone(), reason))
        })?;
        Ok(files)
    }
}
