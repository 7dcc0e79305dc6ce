//! The transformer: a checkpoint's files → packed weights → logits.
//!
//! Read in this order: [`files`](ModelFiles), [`Config`], the weights,
//! [`Gpt2`]. Weights, configuration and state ([`KvCache`]) are three types.

mod batch;
mod checkpoint;
mod config;
mod error;
mod files;
mod gpt2;
mod kv_cache;
mod ops;
mod weights;

pub use batch::{Batch, LogitRows, Logits};
pub use config::{Activation, Config};
pub use error::ModelError;
pub use files::{ModelFiles, Source, TokenizerFiles, WeightFiles};
pub use gpt2::{Gpt2, NoRecorder, Recorder};
pub use kv_cache::{KvCache, Lease};

use std::str::FromStr;

/// The precision in which weights are held and products computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dtype {
    /// 32-bit floats: equal to transformers' f32.
    #[default]
    F32,
}

impl Dtype {
    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
        }
    }
}

impl FromStr for Dtype {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        match name {
            "f32" => Ok(Self::F32),
            "bf16" | "f16" | "q8" | "q4" => Err(ModelError::Unsupported(format!(
                "dtype {name} is not built yet; this build has f32"
            ))),
            _ => Err(ModelError::Unsupported(format!(
                "no such dtype: {name} (this build has f32)"
            ))),
        }
    }
}

/// How a checkpoint is to be held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadOptions {
    /// The precision of the weights.
    pub dtype: Dtype,
}
