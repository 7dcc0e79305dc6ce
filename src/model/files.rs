//! Which files make up a checkpoint, and where their bytes are.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::ModelError;

/// Where the bytes of one file come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A file on disk, read with positioned reads.
    File(PathBuf),
    /// A file that is part of the binary.
    Embedded {
        /// The name shown in messages.
        name: &'static str,
        /// The content.
        bytes: &'static [u8],
    },
}

impl Source {
    /// The name that messages show.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Embedded { name, .. } => (*name).to_owned(),
        }
    }

    /// The whole content; for small files.
    ///
    /// # Errors
    /// [`ModelError::Io`] when the file cannot be read.
    pub fn read(&self) -> Result<Vec<u8>, ModelError> {
        match self {
            Self::File(path) => std::fs::read(path).map_err(|e| ModelError::io(self.name(), &e)),
            Self::Embedded { bytes, .. } => Ok(bytes.to_vec()),
        }
    }

    /// Opens the source for positioned reads.
    pub(super) fn open(&self) -> Result<Reader, ModelError> {
        let name = self.name();
        match self {
            Self::File(path) => {
                let io = |e: std::io::Error| ModelError::io(&*name, &e);
                let file = File::open(path).map_err(io)?;
                let len = file.metadata().map_err(io)?.len();
                Ok(Reader {
                    name,
                    len,
                    bytes: Bytes::File(file),
                })
            }
            Self::Embedded { bytes, .. } => Ok(Reader {
                name,
                len: bytes.len() as u64,
                bytes: Bytes::Embedded(bytes),
            }),
        }
    }
}

/// An opened [`Source`]. Reads never move a shared cursor, and a file that
/// shrinks meanwhile is an error, not a SIGBUS as with a memory map.
pub(super) struct Reader {
    pub(super) name: String,
    pub(super) len: u64,
    bytes: Bytes,
}

enum Bytes {
    File(File),
    Embedded(&'static [u8]),
}

impl Reader {
    /// Fills `buffer` from byte `offset` on.
    pub(super) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), ModelError> {
        let result = match &self.bytes {
            Bytes::File(file) => file.read_exact_at(buffer, offset),
            Bytes::Embedded(bytes) => usize::try_from(offset)
                .ok()
                .and_then(|start| bytes.get(start..start.checked_add(buffer.len())?))
                .map(|found| buffer.copy_from_slice(found))
                .ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into()),
        };
        result.map_err(|e| ModelError::io(&*self.name, &e))
    }
}

/// The weights of a checkpoint, in the form they were published.
#[derive(Debug, Clone)]
pub enum WeightFiles {
    /// One `model.safetensors`.
    Safetensors(Source),
    /// `model.safetensors.index.json` and the folder that holds its shards.
    Sharded {
        /// The index file.
        index: PathBuf,
    },
    /// `pytorch_model.bin`.
    Pickle(PathBuf),
}

/// The tokenizer of a checkpoint, in the form it was published.
#[derive(Debug, Clone)]
pub enum TokenizerFiles {
    /// `tokenizer.json`.
    Json(Source),
    /// GPT-2's first form.
    VocabMerges {
        /// `vocab.json`.
        vocab: PathBuf,
        /// `merges.txt`.
        merges: PathBuf,
    },
    /// The folder has none; prompts can only be given as token ids.
    Missing,
}

/// The files of one checkpoint.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    /// The name under which the model is served.
    pub name: String,
    /// `config.json`.
    pub config: Source,
    /// `generation_config.json`; only its `eos_token_id` is used.
    pub generation_config: Option<Source>,
    /// The weights.
    pub weights: WeightFiles,
    /// The tokenizer.
    pub tokenizer: TokenizerFiles,
}

macro_rules! embedded {
    ($file:literal) => {
        Source::Embedded {
            name: concat!("demo/", $file),
            bytes: include_bytes!(concat!("../../weights/demo/", $file)),
        }
    };
}

impl ModelFiles {
    /// The demo model, which is part of the binary.
    pub fn demo() -> Self {
        Self {
            name: "demo".to_owned(),
            config: embedded!("config.json"),
            generation_config: None,
            weights: WeightFiles::Safetensors(embedded!("model.safetensors")),
            tokenizer: TokenizerFiles::Json(embedded!("tokenizer.json")),
        }
    }

    /// The folder that holds them; none for the demo.
    pub fn dir(&self) -> Option<&Path> {
        match &self.config {
            Source::File(path) => path.parent(),
            Source::Embedded { .. } => None,
        }
    }

    /// Finds the files of a checkpoint in a local folder.
    ///
    /// # Errors
    /// [`ModelError::Folder`] naming what was looked for and not found.
    pub fn from_dir(dir: &Path) -> Result<Self, ModelError> {
        let fail = |reason: &str| ModelError::Folder {
            dir: dir.to_owned(),
            reason: reason.to_owned(),
        };
        if !dir.is_dir() {
            return Err(fail("there is no such folder"));
        }
        let existing = |name: &str| Some(dir.join(name)).filter(|path| path.is_file());
        let config = existing("config.json").ok_or_else(|| fail("it holds no config.json"))?;
        let weights = if let Some(path) = existing("model.safetensors") {
            WeightFiles::Safetensors(Source::File(path))
        } else if let Some(index) = existing("model.safetensors.index.json") {
            WeightFiles::Sharded { index }
        } else if let Some(path) = existing("pytorch_model.bin") {
            WeightFiles::Pickle(path)
        } else {
            return Err(fail(
                "it holds no weights (looked for model.safetensors, \
                 model.safetensors.index.json and pytorch_model.bin)",
            ));
        };
        let tokenizer = match (
            existing("tokenizer.json"),
            existing("vocab.json"),
            existing("merges.txt"),
        ) {
            (Some(path), _, _) => TokenizerFiles::Json(Source::File(path)),
            (None, Some(vocab), Some(merges)) => TokenizerFiles::VocabMerges { vocab, merges },
            _ => TokenizerFiles::Missing,
        };
        Ok(Self {
            name: folder_name(dir),
            config: Source::File(config),
            generation_config: existing("generation_config.json").map(Source::File),
            weights,
            tokenizer,
        })
    }
}

/// The folder's own name, also for `.` and paths that end in `..`.
fn folder_name(dir: &Path) -> String {
    let absolute = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    absolute
        .file_name()
        .map_or_else(|| dir.display().to_string(), |n| n.to_string_lossy().into())
}
