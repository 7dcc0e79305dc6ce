//! Hashing content as it comes, and comparing it with its etag.

use std::fs::File;
use std::io::{self, Read};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::name::Etag;

/// What one read of a file takes.
pub(super) const BLOCK: usize = 1 << 18;

/// The running hash of a content whose etag is known.
#[derive(Clone)]
pub(super) enum Hasher {
    Sha256(Sha256),
    GitBlob(Sha1),
}

impl Hasher {
    /// For a content of `len` bytes: git hashes the length first.
    pub(super) fn new(etag: &Etag, len: u64) -> Self {
        match etag {
            Etag::Sha256(_) => Self::Sha256(Sha256::new()),
            Etag::GitBlob(_) => Self::GitBlob(Sha1::new_with_prefix(format!("blob {len}\0"))),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitBlob(hasher) => hasher.update(bytes),
        }
    }

    /// Hashes a file from where it stands to its end; returns the bytes read.
    pub(super) fn update_from(&mut self, file: &mut File) -> io::Result<u64> {
        let mut block = vec![0; BLOCK];
        let mut total = 0;
        loop {
            match file.read(&mut block) {
                Ok(0) => return Ok(total),
                Ok(n) => {
                    self.update(&block[..n]);
                    total += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// # Errors
    /// What was expected and what was found.
    pub(super) fn check(self, etag: &Etag) -> Result<(), String> {
        let (kind, found) = match self {
            Self::Sha256(hasher) => ("sha256", hex(&hasher.finalize())),
            Self::GitBlob(hasher) => ("git object id", hex(&hasher.finalize())),
        };
        if found == etag.as_str() {
            return Ok(());
        }
        Err(format!("its {kind} is {found}, expected {}", etag.as_str()))
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(etag: &str, content: &[u8]) -> Result<(), String> {
        let etag = Etag::parse(etag).unwrap();
        let mut hasher = Hasher::new(&etag, content.len() as u64);
        hasher.update(content);
        hasher.check(&etag)
    }

    #[test]
    fn the_hashes_are_those_of_git_and_lfs() {
        // `git hash-object` and `sha256sum` of "hello\n".
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        assert_eq!(check(git, b"hello\n"), Ok(()));
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(check(sha256, b"hello\n"), Ok(()));
        let wrong = check(sha256, b"hellp\n").unwrap_err();
        assert!(
            wrong.contains("sha256") && wrong.contains(sha256),
            "{wrong}"
        );
        assert!(check(git, b"hello").is_err());
    }
}
