//! The names that come from outside (arguments, servers, files in the cache)
//! and become paths and URLs. Each is a type that holds valid names only.

use std::fmt;

/// A name that must not be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} {reason}")]
pub struct NameError {
    what: &'static str,
    value: String,
    reason: &'static str,
}

/// File systems take no longer name.
const MAX_PART: usize = 255;
const MAX_PATH: usize = 1024;

/// The rules that every name follows, so that it stays below the folder it is
/// joined to: parts between slashes that are not empty, `.`, `..` or overlong,
/// and no character that means something else to some system.
fn check_path(what: &'static str, value: &str) -> Result<(), NameError> {
    let fail = |reason| Err(error(what, value, reason));
    if value.is_empty() || value.len() > MAX_PATH {
        return fail("is empty or too long");
    }
    if value.starts_with('/') {
        return fail("is an absolute path");
    }
    if value.contains(|c: char| c.is_control() || matches!(c, '\\' | ':' | '"' | '<' | '>' | '|')) {
        return fail("has a character that no name may have");
    }
    for part in value.split('/') {
        if part.is_empty() || part == "." || part == ".." {
            return fail("has an empty part, `.` or `..`");
        }
        if part.len() > MAX_PART {
            return fail("has a part that is too long");
        }
    }
    Ok(())
}

fn error(what: &'static str, value: &str, reason: &'static str) -> NameError {
    NameError {
        what,
        value: value.chars().take(200).collect(),
        reason,
    }
}

/// A model repository on the hub, such as `openai-community/gpt2`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RepoId(String);

/// The models that go by a short name.
const SHORT_NAMES: [(&str, &str); 5] = [
    ("gpt2", "openai-community/gpt2"),
    ("gpt2-medium", "openai-community/gpt2-medium"),
    ("gpt2-large", "openai-community/gpt2-large"),
    ("gpt2-xl", "openai-community/gpt2-xl"),
    ("distilgpt2", "distilbert/distilgpt2"),
];

impl RepoId {
    /// A short name, or `owner/name`.
    ///
    /// # Errors
    /// [`NameError`] when it is neither, by the rules of the hub.
    pub fn parse(value: &str) -> Result<Self, NameError> {
        let long = SHORT_NAMES.iter().find(|(short, _)| *short == value);
        let id = Self::parse_long(long.map_or(value, |(_, long)| long))?;
        if id.0.contains('/') {
            Ok(id)
        } else {
            Err(error(Self::WHAT, value, "is not of the form owner/name"))
        }
    }

    const WHAT: &str = "the model id";

    /// The rules of huggingface_hub's `validate_repo_id`; the owner may be
    /// missing, as it was in the hub's first years.
    fn parse_long(value: &str) -> Result<Self, NameError> {
        let fail = |reason| Err(error(Self::WHAT, value, reason));
        check_path(Self::WHAT, value)?;
        if value.len() > 96 || value.split('/').count() > 2 {
            return fail("is not of the form owner/name");
        }
        if !value.split('/').all(|part| {
            part.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
                && !part.starts_with(['-', '.'])
                && !part.ends_with(['-', '.'])
        }) {
            return fail("has characters other than letters, digits, `-`, `_` and `.`");
        }
        if value.contains("--") || value.contains("..") || value.ends_with(".git") {
            return fail("has `--`, `..` or ends in `.git`");
        }
        Ok(Self(value.to_owned()))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its folder in the cache: `models--owner--name`.
    pub(super) fn folder(&self) -> String {
        format!("models--{}", self.0.replace('/', "--"))
    }

    /// The repository whose folder this is.
    pub(super) fn from_folder(folder: &str) -> Option<Self> {
        let id = folder.strip_prefix("models--")?.replacen("--", "/", 1);
        Self::parse_long(&id).ok()
    }

    /// The ids under which a cache may hold the repository: its own, and the
    /// short name that it had once and that Python still takes.
    pub(super) fn cached_as(&self) -> impl Iterator<Item = Self> + use<> {
        let short = SHORT_NAMES.iter().find(|(_, long)| *long == self.0);
        let short = short.map(|(short, _)| Self((*short).to_owned()));
        std::iter::once(self.clone()).chain(short)
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A branch, a tag, `refs/pr/1`, or a commit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(String);

impl Revision {
    /// # Errors
    /// [`NameError`] when git or the cache could not have such a name.
    pub fn parse(value: &str) -> Result<Self, NameError> {
        check_path("the revision", value)?;
        if value.contains(|c: char| " ~^?*[".contains(c)) || value.contains("..") {
            let reason = "has a character that no git reference may have";
            return Err(error("the revision", value, reason));
        }
        Ok(Self(value.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The commit, where the revision is one.
    pub(super) fn commit(&self) -> Option<Commit> {
        Commit::parse(&self.0).ok()
    }
}

impl Default for Revision {
    fn default() -> Self {
        Self("main".to_owned())
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A whole commit id: 40 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Commit(String);

impl Commit {
    /// # Errors
    /// [`NameError`] when it has another length or other characters.
    pub(super) fn parse(value: &str) -> Result<Self, NameError> {
        if is_hex(value, 40) {
            Ok(Self(value.to_owned()))
        } else {
            Err(error("the commit", value, "is not 40 hexadecimal digits"))
        }
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Commit> for Revision {
    fn from(commit: Commit) -> Self {
        Self(commit.0)
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the hub calls a file's content: its hash, which is also the name of
/// the blob in the cache.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Etag {
    /// The SHA-256 of a file in LFS.
    Sha256(String),
    /// The git object id of any other: SHA-1 of `blob LENGTH\0` and content.
    GitBlob(String),
}

impl Etag {
    /// From a header: quotes and the mark of a weak validator left out.
    ///
    /// # Errors
    /// [`NameError`] when it is no hash, and so nothing to verify with.
    pub(super) fn from_header(header: &str) -> Result<Self, NameError> {
        let value = header.trim();
        let value = value.strip_prefix("W/").unwrap_or(value);
        Self::parse(value.trim_matches('"'))
    }

    /// # Errors
    /// [`NameError`] when it has the form of neither hash.
    pub(super) fn parse(value: &str) -> Result<Self, NameError> {
        match value.len() {
            64 if is_hex(value, 64) => Ok(Self::Sha256(value.to_owned())),
            40 if is_hex(value, 40) => Ok(Self::GitBlob(value.to_owned())),
            _ => Err(error(
                "the etag",
                value,
                "is neither a SHA-256 (64 hexadecimal digits) nor a git object id (40), \
                 so the file could not be verified",
            )),
        }
    }

    /// The digits.
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::GitBlob(digits) => digits,
        }
    }
}

fn is_hex(value: &str, digits: usize) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    value.len() == digits && value.bytes().all(hex)
}

/// A file directly in a repository's folder; no file of a model lies deeper.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileName(String);

impl FileName {
    /// # Errors
    /// [`NameError`] when it is a path, or could be taken for one.
    pub(super) fn parse(value: &str) -> Result<Self, NameError> {
        let what = "the file name";
        check_path(what, value)?;
        if value.contains('/') {
            return Err(error(
                what,
                value,
                "is not the name of a file in the same folder",
            ));
        }
        Ok(Self(value.to_owned()))
    }

    /// A name that stands in the source.
    pub(super) fn known(name: &'static str) -> Self {
        Self(name.to_owned())
    }

    /// The name.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_mean_long_ones() {
        assert_eq!(
            RepoId::parse("gpt2").unwrap().as_str(),
            "openai-community/gpt2"
        );
        let distil = RepoId::parse("distilgpt2").unwrap();
        assert_eq!(distil.as_str(), "distilbert/distilgpt2");
        assert_eq!(distil.folder(), "models--distilbert--distilgpt2");
        assert_eq!(RepoId::from_folder(&distil.folder()), Some(distil.clone()));
        let names: Vec<_> = distil.cached_as().map(|id| id.folder()).collect();
        assert_eq!(
            names,
            ["models--distilbert--distilgpt2", "models--distilgpt2"]
        );
    }

    #[test]
    fn ids_that_are_no_ids() {
        let long = format!("a/{}", "b".repeat(95));
        for id in [
            "",
            "gpt3",
            "/gpt2",
            "a/b/c",
            "../gpt2",
            "a/..",
            "a/b..c",
            "a--b/c",
            "a/-b",
            ".a/b",
            "a/b.git",
            "a/b\0",
            "a/b c",
            "C:/b",
            "a\\b",
            "a/bü",
            long.as_str(),
        ] {
            assert!(RepoId::parse(id).is_err(), "{id:?}");
        }
        for folder in [
            "models--..--b",
            "models--",
            "datasets--a--b",
            "models--a--b--c",
        ] {
            assert_eq!(RepoId::from_folder(folder), None, "{folder}");
        }
    }

    #[test]
    fn revisions() {
        for fine in ["main", "v1.0", "refs/pr/3", "feature/a-b_c", "naïve"] {
            assert!(Revision::parse(fine).is_ok(), "{fine}");
        }
        let long = "r".repeat(256);
        for bad in [
            "",
            "/main",
            "../x",
            "a/../b",
            "a//b",
            "a/",
            ".",
            "C:x",
            "a\0",
            "a b",
            "a\\b",
            "a..b",
            long.as_str(),
        ] {
            assert!(Revision::parse(bad).is_err(), "{bad:?}");
        }
        assert!(
            Revision::parse(&"0f".repeat(20))
                .unwrap()
                .commit()
                .is_some()
        );
        assert!(Revision::default().commit().is_none());
    }

    #[test]
    fn etags_are_hashes() {
        let sha256 = "0a".repeat(32);
        let header = format!("W/\"{sha256}\"");
        assert_eq!(Etag::from_header(&header), Ok(Etag::Sha256(sha256)));
        let blob = "f".repeat(40);
        assert_eq!(Etag::parse(&blob), Ok(Etag::GitBlob(blob)));
        let upper = "A".repeat(64);
        for bad in ["", "../../x", "\"abc\"", upper.as_str()] {
            assert!(Etag::from_header(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn file_names_are_no_paths() {
        assert!(FileName::parse("model-00001-of-00002.safetensors").is_ok());
        for bad in [
            "",
            "..",
            "../x",
            "/etc/passwd",
            "a/b",
            "C:x",
            "a\\b",
            "a\0b",
        ] {
            let message = FileName::parse(bad).unwrap_err().to_string();
            assert!(message.contains("the file name"), "{message}");
        }
    }
}
