//! What can go wrong between a model's name and its files.

use std::path::Path;

use super::name::{NameError, RepoId, Revision};
use crate::model::ModelError;

/// An error of the hub. Each message says what was wrong, where, and what can
/// be done about it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HubError {
    /// A folder, or a file of the checkpoint, is not what the model needs.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A name from outside is not one that may be used.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is nothing of that name.
    #[error(
        "no model {name:?}: it is not `demo`, there is no folder of that name (looked for \
         {looked_for} with config.json, model.safetensors or pytorch_model.bin, and \
         tokenizer.json or vocab.json + merges.txt), and it is no model on Hugging Face: those \
         are owner/name, gpt2, gpt2-medium, gpt2-large, gpt2-xl and distilgpt2"
    )]
    NotFound {
        /// The name as given.
        name: String,
        /// The folder that would have been used.
        looked_for: String,
    },
    /// An environment variable or option makes no sense.
    #[error("{name}: {reason}")]
    Setting {
        /// The variable or option.
        name: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// The hub doesn't know the repository, or hides it.
    #[error("{url}: no such model, or a private one: {advice}")]
    NoSuchRepo {
        /// The address of its page.
        url: String,
        /// What to do.
        advice: &'static str,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{repo} has no revision {revision:?}", revision = revision.as_str())]
    NoSuchRevision {
        /// The repository.
        repo: RepoId,
        /// What was asked for.
        revision: Revision,
    },
    /// The repository's owner wants to be asked first.
    #[error("{url} is gated: {advice}")]
    Gated {
        /// The address of its page.
        url: String,
        /// What to do.
        advice: &'static str,
    },
    /// No weights that can be read.
    #[error(
        "{repo} has no model.safetensors, model.safetensors.index.json or pytorch_model.bin \
         (it has {found}): it cannot be used"
    )]
    NoWeights {
        /// The repository.
        repo: RepoId,
        /// The files that it has instead.
        found: String,
    },
    /// Nothing may be fetched, and something is missing.
    #[error(
        "{repo} at {revision} is not in the cache: {missing} (looked in {cache}), and offline \
         nothing is fetched"
    )]
    NotCached {
        /// The repository.
        repo: RepoId,
        /// What was asked for.
        revision: Revision,
        /// What is missing.
        missing: String,
        /// The cache's folder.
        cache: String,
    },
    /// The server cannot be reached, and something is missing.
    #[error("{reason}; and in the cache {cache} {missing}")]
    UnreachableNotCached {
        /// Why it cannot be reached.
        reason: Box<HubError>,
        /// What is missing.
        missing: String,
        /// The cache's folder.
        cache: String,
    },
    /// No connection to the server, or it broke.
    #[error("cannot reach {url}: {reason}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What the system said.
        reason: String,
    },
    /// The server's certificate is not accepted, or what it speaks is no TLS.
    #[error("no safe connection to {url}: {reason}{advice}")]
    Tls {
        /// What was asked for.
        url: String,
        /// What the TLS library said.
        reason: String,
        /// What to do.
        advice: &'static str,
    },
    /// The proxy doesn't let the request through.
    #[error(
        "the proxy {proxy} refused {url}: {reason}; check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY \
         and NO_PROXY"
    )]
    Proxy {
        /// The proxy's address.
        proxy: String,
        /// What was asked for.
        url: String,
        /// What the proxy said.
        reason: String,
    },
    /// The server answers with an error.
    #[error("{url}: the server answered {status}{message}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it said besides.
        message: String,
    },
    /// The server's answer makes no sense.
    #[error("{url}: {reason}")]
    Protocol {
        /// What was asked for.
        url: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// What arrived is not what was announced.
    #[error("{file}: not what {url} announced: {reason}. Nothing of it was kept")]
    Mismatch {
        /// The file.
        file: String,
        /// Where it came from.
        url: String,
        /// Expected and found size or hash.
        reason: String,
    },
    /// A cached file is damaged and cannot be fetched again.
    #[error(
        "{file} is damaged: {reason}. It cannot be fetched again offline: with a network, \
         run `gpt2 pull {repo}`"
    )]
    Corrupt {
        /// The file in the cache.
        file: String,
        /// Expected and found hash, or what else is wrong.
        reason: String,
        /// The repository.
        repo: RepoId,
    },
    /// Not enough room.
    #[error("not enough room in {folder}: {needed} bytes needed, {free} free")]
    DiskFull {
        /// Where the files go.
        folder: String,
        /// Bytes still to be written.
        needed: u64,
        /// Bytes available.
        free: u64,
    },
    /// A file of the cache cannot be read or written.
    #[error("{file}: {reason}")]
    Io {
        /// The file's path.
        file: String,
        /// What the operating system said.
        reason: String,
    },
}

impl HubError {
    pub(super) fn setting(name: &str, reason: impl Into<String>) -> Self {
        Self::Setting {
            name: name.to_owned(),
            reason: reason.into(),
        }
    }

    pub(super) fn io(file: &Path, error: &std::io::Error) -> Self {
        Self::Io {
            file: file.display().to_string(),
            reason: error.to_string(),
        }
    }

    pub(super) fn protocol(url: &str, reason: impl Into<String>) -> Self {
        Self::Protocol {
            url: url.to_owned(),
            reason: reason.into(),
        }
    }

    /// Whether the server could not be asked at all, so that what is cached
    /// is the best there is.
    pub fn is_network(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Tls { .. } | Self::Proxy { .. } => true,
            Self::Status { status, .. } => *status >= 500 || *status == 429,
            _ => false,
        }
    }
}
