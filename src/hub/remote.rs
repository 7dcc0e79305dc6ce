//! What the hub says about a repository, and its files' content.

use std::collections::BTreeSet;

use ureq::http::Method;

use super::HubError;
use super::http::{Answer, Client, Failure, Follow};
use super::name::{Commit, Etag, FileName, RepoId, Revision};
use super::progress::Progress;
use super::retry::{Attempts, retrying};
use super::settings::Settings;

/// A repository on the hub.
pub(super) struct Remote<'a> {
    client: &'a Client,
    settings: &'a Settings,
    repo: &'a RepoId,
    progress: &'a dyn Progress,
}

/// What a revision is.
pub(super) struct Listing {
    pub(super) commit: Commit,
    pub(super) files: BTreeSet<String>,
}

/// What a file's content is.
#[derive(Debug, Clone)]
pub(super) struct Announced {
    pub(super) file: FileName,
    pub(super) url: String,
    pub(super) etag: Etag,
    pub(super) size: u64,
}

impl<'a> Remote<'a> {
    pub(super) fn new(
        client: &'a Client,
        settings: &'a Settings,
        repo: &'a RepoId,
        progress: &'a dyn Progress,
    ) -> Self {
        Self {
            client,
            settings,
            repo,
            progress,
        }
    }

    /// Resolves a revision to the commit that it is now, once for all files.
    pub(super) fn listing(&self, revision: &Revision) -> Result<Listing, HubError> {
        #[derive(serde::Deserialize)]
        struct Info {
            sha: String,
            #[serde(default)]
            siblings: Vec<Sibling>,
        }
        #[derive(serde::Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let (endpoint, repo) = (&self.settings.endpoint, self.repo);
        let revision_part = encode(revision.as_str());
        let url = format!("{endpoint}/api/models/{repo}/revision/{revision_part}");
        let bytes = retrying(self.attempts(), || {
            let answer = self.client.send(&Method::GET, &url, None, Follow::All)?;
            let mut body = answer.response.into_body();
            body.read_to_vec().map_err(|e| {
                let reason = format!("the answer broke off: {e}");
                Failure::passing(HubError::protocol(&url, reason))
            })
        });
        let bytes = bytes.map_err(|failure| self.explain(failure, revision))?;
        let info: Info = serde_json::from_slice(&bytes).map_err(|e| {
            let reason = format!("the answer is not what a Hugging Face hub says of a model: {e}");
            HubError::protocol(&url, reason)
        })?;
        let commit = Commit::parse(&info.sha)?;
        if revision.commit().is_some_and(|asked| asked != commit) {
            let reason = format!("answered for commit {commit}");
            return Err(HubError::protocol(&url, reason));
        }
        let files = info.siblings.into_iter().map(|s| s.rfilename).collect();
        Ok(Listing { commit, files })
    }

    /// Size and hash of a file.
    pub(super) fn announced(
        &self,
        commit: &Commit,
        file: &FileName,
    ) -> Result<Announced, HubError> {
        let (endpoint, repo) = (&self.settings.endpoint, self.repo);
        let url = format!(
            "{endpoint}/{repo}/resolve/{commit}/{}",
            encode(file.as_str())
        );
        let announced = retrying(self.attempts(), || {
            let answer = self.ask(&url)?;
            read_announcement(&answer, commit, file, &url).map_err(Failure::last)
        });
        announced.map_err(|failure| self.explain(failure, &Revision::default()))
    }

    /// HEAD; where a server doesn't know that, or leaves out the size, the
    /// first byte.
    fn ask(&self, url: &str) -> Result<Answer, Failure> {
        let send = |method, range| self.client.send(&method, url, range, Follow::UntilLinked);
        match send(Method::HEAD, None) {
            Ok(answer) if size_of(&answer).is_some() => Ok(answer),
            Err(failure) if !matches!(failure.status(), Some(405 | 501)) => Err(failure),
            _ => send(Method::GET, Some("bytes=0-0")),
        }
    }

    /// The content from byte `from` on, wherever the hub has it today.
    pub(super) fn open(&self, announced: &Announced, from: u64) -> Result<Answer, Failure> {
        let range = (from > 0).then(|| format!("bytes={from}-"));
        let range = range.as_deref();
        self.client
            .send(&Method::GET, &announced.url, range, Follow::All)
    }

    pub(super) fn attempts(&self) -> Attempts<'a> {
        Attempts::new(self.settings.backoff, self.progress)
    }

    pub(super) fn progress(&self) -> &'a dyn Progress {
        self.progress
    }

    /// The address of the repository's page.
    fn page(&self) -> String {
        format!("{}/{}", self.settings.endpoint, self.repo)
    }

    /// What an error means to whoever asked for the model.
    pub(super) fn explain(&self, failure: Failure, revision: &Revision) -> HubError {
        let Some(status) = failure.status() else {
            return *failure.error;
        };
        let token = self.client.has_token();
        match (failure.code.as_deref(), status) {
            (Some("GatedRepo"), _) => HubError::Gated {
                url: self.page(),
                advice: if token {
                    "open that page with the account that the token belongs to and accept the \
                     terms, and let the token read gated repositories"
                } else {
                    "open that page, accept the terms, and set HF_TOKEN to a token of your account"
                },
            },
            (Some("RevisionNotFound"), _) => HubError::NoSuchRevision {
                repo: self.repo.clone(),
                revision: revision.clone(),
            },
            (Some("RepoNotFound"), _) | (None, 401 | 404) => HubError::NoSuchRepo {
                url: self.page(),
                advice: if token {
                    "check its name, and that the token may read it"
                } else {
                    "check its name; if it is private, set HF_TOKEN"
                },
            },
            _ => *failure.error,
        }
    }
}

/// Reads size and hash from an answer's headers.
fn read_announcement(
    answer: &Answer,
    commit: &Commit,
    file: &FileName,
    url: &str,
) -> Result<Announced, HubError> {
    let fail = |reason: String| HubError::protocol(url, reason);
    if let Some(found) = answer
        .header("x-repo-commit")
        .filter(|c| *c != commit.as_str())
    {
        return Err(fail(format!("answered for commit {found:?}")));
    }
    let etag = answer.header("x-linked-etag").or(answer.header("etag"));
    let etag = etag.ok_or_else(|| {
        fail("the answer has no etag, so the file could not be verified".to_owned())
    })?;
    let etag = Etag::from_header(etag).map_err(|e| fail(e.to_string()))?;
    let size = size_of(answer).ok_or_else(|| fail("the answer has no size".to_owned()))?;
    Ok(Announced {
        file: file.clone(),
        url: url.to_owned(),
        etag,
        size,
    })
}

/// The content's whole size.
fn size_of(answer: &Answer) -> Option<u64> {
    if let Some(size) = answer.number("x-linked-size") {
        return Some(size);
    }
    match answer.status() {
        200 => answer.number("content-length"),
        206 => content_range(answer).map(|(_, size)| size),
        _ => None,
    }
}

/// First byte and whole size: `bytes FIRST-LAST/SIZE`.
pub(super) fn content_range(answer: &Answer) -> Option<(u64, u64)> {
    let (span, size) = answer.header("content-range")?.split_once('/')?;
    let (first, _) = span.trim().strip_prefix("bytes")?.trim().split_once('-')?;
    Some((first.parse().ok()?, size.trim().parse().ok()?))
}

/// Percent-encodes one part of a path.
fn encode(part: &str) -> String {
    use std::fmt::Write;
    part.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::encode;

    #[test]
    fn parts_of_a_path_are_encoded() {
        assert_eq!(encode("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(encode("naïve+x.json"), "na%C3%AFve%2Bx.json");
        assert_eq!(encode("model-00001.safetensors"), "model-00001.safetensors");
    }
}
