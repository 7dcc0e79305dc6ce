//! The KV cache: keys and values of all sequences, in the blocks of one pool.

use std::str::FromStr;

use candle_core::{Device, Tensor};

use super::blocks::{Blocks, Lease};
use super::{Config, ModelError};
pub use crate::kernels::attention::CacheFormat;
use crate::kernels::attention::{BLOCK, Cache, Heads};
use crate::kernels::memory;

/// Keys and values of all sequences, per layer, in blocks of positions; see
/// [`Cache`] for the order within a block.
///
/// A sequence finds its positions through the block table of its [`Lease`].
#[derive(Debug)]
pub struct KvCache {
    /// Where it is in the host's memory.
    pub(super) layers: Vec<LayerCache>,
    /// Where it is not.
    #[cfg(feature = "cuda")]
    pub(super) on_device: Option<crate::cuda::Cache>,
    blocks: Blocks,
}

/// The precision in which keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvDtype {
    /// 32-bit floats.
    F32,
    /// bf16: half as large, and half as much to read for each token.
    Bf16,
}

impl FromStr for KvDtype {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        match name {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(ModelError::Unsupported(format!(
                "no such dtype of keys and values: {name} (there are f32 and bf16)"
            ))),
        }
    }
}

/// The cached keys and values of one layer, words of [`CacheFormat`].
#[derive(Debug)]
pub(super) struct LayerCache {
    pub(super) format: CacheFormat,
    pub(super) keys: Tensor,
    pub(super) values: Tensor,
}

impl KvCache {
    /// Tokens in a block.
    pub const BLOCK: usize = BLOCK;

    /// A cache of this format with room for `tokens` tokens, rounded up to
    /// whole blocks.
    /// Memory is taken from the system as blocks are first written, in a large
    /// cache 2 MiB at a time of each layer's keys and values.
    ///
    /// # Errors
    /// [`ModelError::Memory`] when the memory cannot be had.
    pub fn new(config: &Config, format: CacheFormat, tokens: usize) -> Result<Self, ModelError> {
        let total = tokens.div_ceil(BLOCK);
        let heads = Self::heads(config);
        let zeros = |part| {
            let words = heads.block_words(part, format);
            let zeros = total.checked_mul(words).and_then(memory::zeros::<u32>);
            let bytes = Self::bytes_for(config, format, tokens);
            let what = "the KV cache";
            let zeros = zeros.ok_or(ModelError::Memory { what, bytes })?;
            Ok::<_, ModelError>(Tensor::from_vec(zeros, (total, words), &Device::Cpu)?)
        };
        let layers = (0..config.n_layer)
            .map(|_| {
                Ok(LayerCache {
                    format,
                    keys: zeros(Cache::Keys)?,
                    values: zeros(Cache::Values)?,
                })
            })
            .collect::<Result<_, ModelError>>()?;
        Ok(Self {
            layers,
            #[cfg(feature = "cuda")]
            on_device: None,
            blocks: Blocks::new(total),
        })
    }

    /// A cache of so many blocks on a GPU.
    #[cfg(feature = "cuda")]
    pub(super) fn on_device(blocks: usize, cache: crate::cuda::Cache) -> Self {
        Self {
            layers: Vec::new(),
            on_device: Some(cache),
            blocks: Blocks::new(blocks),
        }
    }

    /// Bytes that a cache for `tokens` tokens takes when it is full.
    pub fn bytes_for(config: &Config, format: CacheFormat, tokens: usize) -> usize {
        let heads = Self::heads(config);
        let parts = [Cache::Keys, Cache::Values];
        let words: usize = parts
            .map(|part| heads.block_words(part, format))
            .iter()
            .sum();
        let block = words * size_of::<u32>() * config.n_layer;
        tokens.div_ceil(BLOCK).saturating_mul(block)
    }

    /// The bookkeeping of its blocks.
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// An empty lease on this cache.
    pub fn lease(&self) -> Lease {
        self.blocks.lease()
    }

    fn heads(config: &Config) -> Heads {
        Heads {
            count: config.n_head,
            dim: config.head_dim(),
            scale: 1.0,
        }
    }
}
