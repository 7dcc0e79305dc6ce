//! A cached model as a plain folder, to carry to a machine without a network.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use super::HubError;
use super::cache::{Blob, create_folder, publish, temporary_beside};
use super::checkpoint::known_files;
use super::digest::{BLOCK, Hasher};
use super::partial::free_space;
use super::snapshot::Snapshot;

impl Snapshot {
    /// Copies the files into a folder, each verified once more on the way.
    ///
    /// # Errors
    /// [`HubError`]: not enough room, or the folder holds files of another
    /// model, which would be mixed with these.
    pub fn export(&self, folder: &Path) -> Result<(), HubError> {
        create_folder(folder)?;
        let ours = |name: &str| self.files.iter().any(|(file, _)| file.as_str() == name);
        let mut foreign = known_files().filter(|file| !ours(file.as_str()));
        if let Some(foreign) = foreign.find(|file| folder.join(file.as_str()).exists()) {
            let path = folder.join(foreign.as_str()).display().to_string();
            let reason = "is there and belongs to another model; choose an empty folder";
            return Err(HubError::Io {
                file: path,
                reason: reason.to_owned(),
            });
        }
        let needed = self.size();
        if let Some(free) = free_space(folder).filter(|free| needed > *free) {
            let folder = folder.display().to_string();
            return Err(HubError::DiskFull {
                folder,
                needed,
                free,
            });
        }
        for (file, blob) in &self.files {
            copy(blob, &folder.join(file.as_str()))?;
        }
        Ok(())
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.file_sizes().map(|(_, size)| size).sum()
    }

    /// Names and sizes of the files.
    pub fn file_sizes(&self) -> impl Iterator<Item = (&str, u64)> {
        self.files.iter().map(|(file, blob)| {
            let size = std::fs::metadata(&blob.path).map_or(0, |meta| meta.len());
            (file.as_str(), size)
        })
    }
}

fn copy(blob: &Blob, to: &Path) -> Result<(), HubError> {
    let temporary = temporary_beside(to);
    let copied = copy_to(blob, &temporary).and_then(|file| publish(&file, &temporary, to));
    if copied.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    copied
}

fn copy_to(blob: &Blob, to: &Path) -> Result<File, HubError> {
    let read_error = |e| HubError::io(&blob.path, &e);
    let write_error = |e| HubError::io(to, &e);
    let mut from = File::open(&blob.path).map_err(read_error)?;
    let mut left = from.metadata().map_err(read_error)?.len();
    let mut hasher = Hasher::new(&blob.etag, left);
    let mut out = File::create(to).map_err(write_error)?;
    let mut block = vec![0; BLOCK];
    while left > 0 {
        let most = left.min(BLOCK as u64) as usize;
        from.read_exact(&mut block[..most]).map_err(read_error)?;
        hasher.update(&block[..most]);
        out.write_all(&block[..most]).map_err(write_error)?;
        left -= most as u64;
    }
    let check = hasher.check(&blob.etag);
    check.map_err(|reason| HubError::Io {
        file: blob.path.display().to_string(),
        reason,
    })?;
    Ok(out)
}
