//! A whole model from the hub into the cache.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::HubError;
use super::cache::{RepoCache, create_folder};
use super::checkpoint::{CONFIG, Files, INDEX, shards};
use super::http::Client;
use super::name::{Commit, FileName, RepoId, Revision};
use super::notes::Notes;
use super::parallel::in_parallel;
use super::partial::free_space;
use super::progress::{Event, Progress};
use super::remote::{Announced, Listing, Remote};
use super::settings::Settings;
use super::transfer::Transfer;
use crate::model::Config;

/// What is left free when a disk is filled.
const RESERVE: u64 = 1 << 20;

/// One model that is being fetched.
struct Fetch<'a> {
    repo: &'a RepoId,
    cache: &'a RepoCache,
    commit: Commit,
    transfer: Transfer<'a>,
}

/// Fetches what is missing of a model. The revision is resolved once, and
/// every file is that of the commit. The revision's name points to the commit
/// when all files are there.
///
/// # Errors
/// The first of [`HubError`]; what arrived until then is kept for next time.
pub(super) fn fetch(
    settings: &Settings,
    cache: &RepoCache,
    repo: &RepoId,
    revision: &Revision,
    progress: &dyn Progress,
) -> Result<Commit, HubError> {
    let client = Client::new(settings)?;
    let remote = Remote::new(&client, settings, repo, progress);
    let Listing { commit, files } = remote.listing(revision)?;
    tracing::info!("{repo} at {revision} is commit {commit}");
    let notes = Notes::new(cache);
    let transfer = Transfer {
        remote: &remote,
        cache,
        notes: &notes,
        failure: &OnceLock::new(),
    };
    let fetch = Fetch {
        repo,
        cache,
        commit,
        transfer,
    };
    let chosen = Files::choose(&files, repo)?;
    fetch.configuration()?;
    let mut wanted = vec![chosen.weights.clone()];
    if chosen.weights.as_str() == INDEX {
        wanted.extend(fetch.shards()?);
    }
    wanted.extend(chosen.others);
    fetch.all(&wanted)?;
    if revision.commit().is_none() {
        cache.set_commit(revision, &fetch.commit)?;
    }
    notes.set_whole(&fetch.commit);
    Ok(fetch.commit)
}

impl Fetch<'_> {
    /// config.json, from which it is seen whether the rest is worth fetching.
    fn configuration(&self) -> Result<(), HubError> {
        let bytes = self.small(CONFIG)?;
        Config::from_json(&bytes, &format!("{}/{CONFIG}", self.repo))?;
        Ok(())
    }

    /// The shards that the index lists.
    fn shards(&self) -> Result<Vec<FileName>, HubError> {
        let bytes = self.small(INDEX)?;
        let shards = shards(&bytes);
        let shards = shards
            .map_err(|reason| HubError::protocol(&format!("{}/{INDEX}", self.repo), reason))?;
        Ok(shards.into_iter().collect())
    }

    /// Fetches a small file and reads it.
    fn small(&self, name: &'static str) -> Result<Vec<u8>, HubError> {
        let file = FileName::known(name);
        let announced = self.transfer.remote.announced(&self.commit, &file)?;
        self.check_space(std::slice::from_ref(&announced))?;
        self.transfer.fetch(&announced)?;
        self.link(&announced)?;
        let path = self.cache.blob(&announced.etag);
        std::fs::read(&path).map_err(|e| HubError::io(&path, &e))
    }

    /// Fetches files, a few at a time, the largest first, and equal ones once.
    fn all(&self, names: &[FileName]) -> Result<(), HubError> {
        let ask = |file: &FileName| self.transfer.remote.announced(&self.commit, file);
        let files = in_parallel(names, ask)?;
        let distinct: BTreeMap<_, _> = files.iter().map(|file| (&file.etag, file)).collect();
        let mut distinct: Vec<Announced> = distinct.into_values().cloned().collect();
        distinct.sort_by_key(|file| std::cmp::Reverse(file.size));
        self.check_space(&distinct)?;
        in_parallel(&distinct, |file| self.transfer.fetch(file))?;
        files.iter().try_for_each(|file| self.link(file))
    }

    /// Makes the snapshot's file a link to the blob.
    fn link(&self, announced: &Announced) -> Result<(), HubError> {
        let Announced { file, etag, .. } = announced;
        self.cache.link(&self.commit, file, etag)
    }

    /// Compares what is still to come with the free space.
    fn check_space(&self, files: &[Announced]) -> Result<(), HubError> {
        let mut needed = 0u64;
        let mut count = 0;
        for file in files {
            if self.transfer.has(file)? {
                continue;
            }
            let have = std::fs::metadata(self.cache.incomplete(&file.etag));
            let have = have.map_or(0, |meta| meta.len());
            needed = needed.saturating_add(file.size.saturating_sub(have));
            count += 1;
        }
        if count == 0 {
            return Ok(());
        }
        let folder = self.cache.path();
        create_folder(&folder)?;
        if let Some(free) =
            free_space(&folder).filter(|free| needed.saturating_add(RESERVE) > *free)
        {
            let folder = folder.display().to_string();
            return Err(HubError::DiskFull {
                folder,
                needed,
                free,
            });
        }
        let event = Event::Planned {
            files: count,
            bytes: needed,
        };
        self.transfer.remote.progress().event(&event);
        Ok(())
    }
}
