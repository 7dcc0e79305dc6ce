//! What can go wrong with a checkpoint or a forward pass.

use std::path::PathBuf;

/// An error of the model floor. Each message names the file, field or tensor
/// and says what was expected.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ModelError {
    /// A file could not be read.
    #[error("{file}: {reason}")]
    Io {
        /// The file's path.
        file: String,
        /// What the operating system said.
        reason: String,
    },
    /// A folder does not hold the files of a checkpoint.
    #[error("{}: not a GPT-2 checkpoint folder: {reason}", dir.display())]
    Folder {
        /// The folder that was looked into.
        dir: PathBuf,
        /// What is missing and what was looked for.
        reason: String,
    },
    /// A field of config.json has a value the model cannot have.
    #[error("{file}: field `{field}`: {reason}")]
    Config {
        /// The configuration file.
        file: String,
        /// The JSON key.
        field: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// A checkpoint file is malformed as a whole.
    #[error("{file}: {reason}")]
    Checkpoint {
        /// The checkpoint file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// One tensor is missing or unusable.
    #[error("{file}: tensor `{tensor}`: {reason}")]
    Tensor {
        /// The checkpoint file.
        file: String,
        /// The tensor's name in that file.
        tensor: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// The system has no memory for something large.
    #[error("no memory for {what}: {bytes} bytes")]
    Memory {
        /// What it was for.
        what: &'static str,
        /// How much was asked for; at most the largest number.
        bytes: usize,
    },
    /// The KV cache has no free block left.
    #[error("the KV cache is full: {needed} more blocks of {block} tokens needed, {free} free")]
    CacheFull {
        /// Blocks asked for.
        needed: usize,
        /// Blocks available.
        free: usize,
        /// Tokens a block holds.
        block: usize,
    },
    /// A batch asks for something the model cannot compute.
    #[error("invalid batch: {0}")]
    Batch(String),
    /// A precision or device that this build does not have.
    #[error("{0}")]
    Unsupported(String),
    /// The GPU failed.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] crate::cuda::CudaError),
    /// The tensor library failed.
    #[error("tensor operation failed: {0}")]
    Candle(String),
}

impl ModelError {
    pub(super) fn io(file: impl Into<String>, error: &std::io::Error) -> Self {
        Self::Io {
            file: file.into(),
            reason: error.to_string(),
        }
    }

    pub(super) fn tensor(file: &str, tensor: &str, reason: impl Into<String>) -> Self {
        Self::Tensor {
            file: file.to_owned(),
            tensor: tensor.to_owned(),
            reason: reason.into(),
        }
    }
}

impl From<candle_core::Error> for ModelError {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(error.to_string())
    }
}
