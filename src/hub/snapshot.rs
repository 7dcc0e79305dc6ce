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

/// Looks for a commit's files, and verifies them.
pub(super) fn find(cache: &RepoCache, repo: &RepoId, commit: &Commit) -> Result<Found, HubError> {
    let notes = Notes::new(cache);
    let folder = cache.snapshot(commit);
    let damaged = |file: &FileName, reason: String| Found::Damaged {
        commit: commit.clone(),
        file: folder.join(file.as_str()).display().to_string(),
        reason,
    };
    let mut files = Vec::new();
    for name in known_files() {
        match cache.blob_of(commit, &name) {
            Ok(Some(blob)) => files.push((name, blob)),
            Ok(None) => {}
            Err(reason) => return Ok(damaged(&name, reason)),
        }
    }
    if let Some((name, reason)) = first_damaged(&notes, &files)? {
        return Ok(damaged(&name, reason));
    }
    let missing = |what: &str| Found::Missing(format!("there is no {what} of it"));
    let names: BTreeSet<String> = files.iter().map(|(n, _)| n.to_string()).collect();
    if !names.contains(CONFIG) {
        return Ok(missing(CONFIG));
    }
    let Ok(chosen) = Files::choose(&names, repo) else {
        return Ok(missing("weights"));
    };
    let index = files.iter().find(|(name, _)| name.as_str() == INDEX);
    if let Some((_, index)) = index.filter(|(name, _)| *name == chosen.weights) {
        let bytes = std::fs::read(&index.path).map_err(|e| HubError::io(&index.path, &e))?;
        let shards = match shards(&bytes) {
            Ok(shards) => shards,
            Err(reason) => return Ok(damaged(&chosen.weights, reason)),
        };
        let mut found = Vec::new();
        for shard in shards {
            match cache.blob_of(commit, &shard) {
                Ok(Some(blob)) => found.push((shard, blob)),
                Ok(None) => return Ok(missing(shard.as_str())),
                Err(reason) => return Ok(damaged(&shard, reason)),
            }
        }
        if let Some((name, reason)) = first_damaged(&notes, &found)? {
            return Ok(damaged(&name, reason));
        }
        files.extend(found);
    }
    let snapshot = Snapshot {
        repo: repo.clone(),
        commit: commit.clone(),
        folder: folder.clone(),
        files,
    };
    Ok(if chosen.has_tokenizer() || notes.is_whole(commit) {
        Found::Whole(snapshot)
    } else {
        Found::Usable(snapshot)
    })
}

/// The first file whose content is not what its hash says.
fn first_damaged(
    notes: &Notes,
    files: &[(FileName, Blob)],
) -> Result<Option<(FileName, String)>, HubError> {
    let results = in_parallel(files, |(_, blob)| notes.check(blob))?;
    let mut results = results.into_iter().zip(files);
    Ok(results.find_map(|(result, (name, _))| Some((name.clone(), result.err()?))))
}
