//! The transformer: a checkpoint's files → packed weights → logits.
//!
//! Read in this order: [`files`](ModelFiles), [`Config`], the weights,
//! [`Gpt2`]. Weights, configuration and state ([`KvCache`]) are three types.

mod batch;
mod blocks;
mod checkpoint;
mod config;
#[cfg(feature = "cuda")]
mod cuda_gpt2;
mod device;
mod error;
mod files;
mod gpt2;
mod inspection;
mod kv_cache;
mod loader;
mod logits;
mod ops;
mod pick;
mod room;
mod transformer;
mod weights;
mod workspace;

pub use batch::{Batch, LogitRows};
pub use blocks::{BlockCounts, Blocks, Lease};
pub use config::{Activation, Config};
#[cfg(feature = "cuda")]
pub use cuda_gpt2::{CudaGpt2, CudaPass};
pub use device::Device;
pub use error::ModelError;
pub use files::{ModelFiles, Source, TokenizerFiles, WeightFiles};
pub use gpt2::{Gpt2, NoRecorder, Recorder};
pub use inspection::{Attention, Inspection, Inspector, Norms, View};
pub use kv_cache::{CacheFormat, KvCache, KvDtype};
pub use logits::{Logits, Row};
pub use pick::{Draw, Filters, Pick, Picked, Wish};
pub use transformer::Transformer;

use std::str::FromStr;

#[cfg(feature = "cuda")]
use crate::cuda::Format;
use crate::kernels::linear::Precision;

/// The precision in which weights are held and products computed. Sums, and
/// all that lies between the products, are f32 in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dtype {
    /// 32-bit floats: equal to transformers' f32.
    #[default]
    F32,
    /// Weights, and the activations that meet them, rounded to bf16.
    Bf16,
    /// The same in f16, on CUDA only.
    F16,
    /// 8-bit weights and activations in blocks of 32, each with a scale.
    Q8,
    /// 4-bit weights, 8-bit activations in blocks of 32, each with a scale.
    Q4,
}

impl Dtype {
    /// All that a CPU has, the most precise first.
    pub const ALL: [Self; 4] = [Self::F32, Self::Bf16, Self::Q8, Self::Q4];

    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }

    /// The name that the kernels for CPUs have for it.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] for f16.
    pub(crate) fn precision(self) -> Result<Precision, ModelError> {
        match self {
            Self::F32 => Ok(Precision::F32),
            Self::Bf16 => Ok(Precision::Bf16),
            Self::F16 => Err(ModelError::Unsupported(F16_ON_CPU.to_owned())),
            Self::Q8 => Ok(Precision::Q8),
            Self::Q4 => Ok(Precision::Q4),
        }
    }

    /// The name that GPUs have for it.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] for q8 and q4.
    #[cfg(feature = "cuda")]
    pub(crate) fn format(self) -> Result<Format, ModelError> {
        match self {
            Self::F32 => Ok(Format::F32),
            Self::Bf16 => Ok(Format::Bf16),
            Self::F16 => Ok(Format::F16),
            Self::Q8 | Self::Q4 => Err(ModelError::Unsupported(format!(
                "dtype {} is for CPUs only; use f32, bf16 or f16 on CUDA",
                self.as_str()
            ))),
        }
    }
}

const F16_ON_CPU: &str = "dtype f16 is for CUDA only; use bf16 on a CPU";

impl FromStr for Dtype {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        let cuda = cfg!(feature = "cuda").then_some(Self::F16);
        let mut all = Self::ALL.into_iter().chain(cuda);
        let known = all.find(|dtype| dtype.as_str() == name);
        known.ok_or_else(|| {
            ModelError::Unsupported(match name {
                "f16" => F16_ON_CPU.to_owned(),
                _ => {
                    let f16 = if cuda.is_some() { "f16, " } else { "" };
                    format!("no such dtype: {name} (there are f32, bf16, {f16}q8 and q4)")
                }
            })
        })
    }
}

/// How a checkpoint is to be held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadOptions {
    /// The precision of the weights.
    pub dtype: Dtype,
}
