//! A blob that grows: written, hashed and counted as it comes.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use super::HubError;
use super::cache::{create_folder, publish};
use super::digest::{BLOCK, Hasher};
use super::name::Etag;

/// Blocks between the thread that receives and the one that hashes.
const BLOCKS: usize = 4;

/// The beginning of a content, on disk and hashed.
pub(super) struct Partial<'a> {
    path: PathBuf,
    file: File,
    etag: &'a Etag,
    size: u64,
    len: u64,
    hasher: Hasher,
}

/// Why bytes did not go from the connection to the disk.
pub(super) enum Broken {
    /// The connection.
    Read(io::Error),
    /// The disk.
    Write(HubError),
    /// Someone else's file failed, so nobody waits for this one.
    Cancelled,
}

impl<'a> Partial<'a> {
    /// Goes on with what an interrupted process left, or begins.
    pub(super) fn open(path: PathBuf, etag: &'a Etag, size: u64) -> Result<Self, HubError> {
        if let Some(folder) = path.parent() {
            create_folder(folder)?;
        }
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            // A link put here must not make us write elsewhere.
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|e| HubError::io(&path, &e))?;
        Self::resume(path, file, etag, size)
    }

    fn resume(path: PathBuf, file: File, etag: &'a Etag, size: u64) -> Result<Self, HubError> {
        let hasher = Hasher::new(etag, size);
        let mut partial = Self {
            path,
            file,
            etag,
            size,
            len: 0,
            hasher,
        };
        let hashed = partial.hasher.update_from(&mut partial.file);
        partial.len = hashed.map_err(|e| partial.io(&e))?;
        if partial.len > size {
            partial.restart()?;
        }
        Ok(partial)
    }

    /// Bytes that are there.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn is_complete(&self) -> bool {
        self.len == self.size
    }

    /// Drops what is there.
    pub(super) fn restart(&mut self) -> Result<(), HubError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(|e| self.io(&e))?;
        self.len = 0;
        self.hasher = Hasher::new(self.etag, self.size);
        Ok(())
    }

    /// Appends what `body` has, at most one byte more than is expected. One
    /// thread receives and writes, another hashes.
    ///
    /// `received` is told of each block, and says whether to go on.
    pub(super) fn receive(
        &mut self,
        mut body: impl Read,
        received: &dyn Fn(u64) -> bool,
    ) -> Result<(), Broken> {
        let (file, hasher) = (&mut self.file, &mut self.hasher);
        let (path, len, size) = (&self.path, &mut self.len, self.size);
        thread::scope(|scope| {
            let (to_hash, hash) = mpsc::sync_channel::<Vec<u8>>(BLOCKS);
            let (to_fill, fill) = mpsc::channel();
            for _ in 0..BLOCKS {
                // Fails only when the receiver is gone; it is below.
                let _ = to_fill.send(Vec::with_capacity(BLOCK));
            }
            scope.spawn(move || {
                for block in hash {
                    hasher.update(&block);
                    let _ = to_fill.send(block);
                }
            });
            while let Ok(mut block) = fill.recv() {
                block.clear();
                let most = (size + 1 - *len).min(BLOCK as u64);
                let end = read_block(&mut body, most, &mut block);
                if !block.is_empty() {
                    file.write_all(&block)
                        .map_err(|e| Broken::Write(write_error(path, &e, size - *len)))?;
                    *len += block.len() as u64;
                    let bytes = block.len() as u64;
                    // The hashing thread lives as long as this sender.
                    let _ = to_hash.send(block);
                    if !received(bytes) {
                        return Err(Broken::Cancelled);
                    }
                }
                match end {
                    Ok(true) => return Ok(()),
                    Ok(false) if *len > size => return Ok(()),
                    Ok(false) => {}
                    Err(e) => return Err(Broken::Read(e)),
                }
            }
            Ok(())
        })
    }

    /// Compares size and hash with what was announced.
    ///
    /// # Errors
    /// How they differ.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.len != self.size {
            let more = if self.len > self.size { " or more" } else { "" };
            return Err(format!("{} bytes{more}, expected {}", self.len, self.size));
        }
        self.hasher.clone().check(self.etag)
    }

    /// Gives a checked file its final name.
    pub(super) fn publish(self, to: &Path) -> Result<(), HubError> {
        publish(&self.file, &self.path, to)
    }

    fn io(&self, error: &io::Error) -> HubError {
        HubError::io(&self.path, error)
    }
}

/// Reads until the block holds `most` bytes or the body ends; says whether it
/// ended. What was read before an error stays in the block.
fn read_block(body: &mut impl Read, most: u64, block: &mut Vec<u8>) -> io::Result<bool> {
    // Within a block, so the number fits.
    let most = most as usize;
    block.resize(most, 0);
    let mut filled = 0;
    let end = loop {
        match body.read(&mut block[filled..]) {
            Ok(0) => break Ok(filled < most),
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => break Err(e),
        }
        if filled == most {
            break Ok(false);
        }
    };
    block.truncate(filled);
    end
}

/// A full disk is named as such.
fn write_error(path: &Path, error: &io::Error, missing: u64) -> HubError {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    if !matches!(error.kind(), StorageFull | QuotaExceeded) {
        return HubError::io(path, error);
    }
    let folder = path.parent().unwrap_or(path);
    HubError::DiskFull {
        folder: folder.display().to_string(),
        needed: missing,
        free: free_space(folder).unwrap_or(0),
    }
}

/// Bytes that an ordinary user may still write to the folder's file system.
pub(super) fn free_space(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// sha256 of "hello\n".
    fn etag() -> Etag {
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        Etag::parse(sha256).unwrap()
    }

    fn read(partial: &mut Partial<'_>, body: &[u8]) {
        assert!(partial.receive(body, &|_| true).is_ok());
    }

    #[test]
    fn a_content_may_come_in_parts_and_by_several_processes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blobs/x.incomplete");
        let etag = etag();
        let mut partial = Partial::open(path.clone(), &etag, 6).unwrap();
        read(&mut partial, b"he");
        read(&mut partial, b"l");
        assert!(partial.check().unwrap_err().contains("3 bytes, expected 6"));
        drop(partial);
        let mut partial = Partial::open(path.clone(), &etag, 6).unwrap();
        assert_eq!(partial.len(), 3);
        read(&mut partial, b"lo\n");
        assert!(partial.is_complete());
        assert_eq!(partial.check(), Ok(()));
        let target = dir.path().join("blobs/x");
        partial.publish(&target).unwrap();
        assert_eq!(std::fs::read(target).unwrap(), b"hello\n");
        assert!(!path.exists());
    }

    #[test]
    fn too_much_and_wrong_bytes_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let etag = etag();
        let mut partial = Partial::open(path.clone(), &etag, 6).unwrap();
        read(&mut partial, &[b'x'; 100_000]);
        assert!(partial.check().unwrap_err().contains("7 bytes or more"));
        drop(partial);
        let mut partial = Partial::open(path, &etag, 6).unwrap();
        assert_eq!(partial.len(), 0, "longer than it can be: dropped");
        read(&mut partial, b"hellp\n");
        assert!(partial.check().unwrap_err().contains("sha256"));
        partial.restart().unwrap();
        read(&mut partial, b"hello\n");
        assert_eq!(partial.check(), Ok(()));
    }

    #[test]
    fn a_full_disk_is_named() {
        let etag = etag();
        let full = File::options()
            .read(true)
            .write(true)
            .open("/dev/full")
            .unwrap();
        let hasher = Hasher::new(&etag, 6);
        let path = PathBuf::from("/dev/full");
        let mut partial = Partial {
            path,
            file: full,
            etag: &etag,
            size: 6,
            len: 0,
            hasher,
        };
        let broken = partial.receive(&b"hello\n"[..], &|_| true);
        let Err(Broken::Write(error)) = broken else {
            panic!("written to a full disk");
        };
        assert!(
            matches!(error, HubError::DiskFull { needed: 6, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::write(&outside, "mine").unwrap();
        let path = dir.path().join("x.incomplete");
        std::os::unix::fs::symlink(&outside, &path).unwrap();
        assert!(Partial::open(path, &etag(), 6).is_err());
        assert_eq!(std::fs::read(outside).unwrap(), b"mine");
    }
}
