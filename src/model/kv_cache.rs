//! The KV cache: one pool of blocks, leased to sequences, returned on Drop.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};

use super::{Config, ModelError};
use crate::kernels::attention::{BLOCK, Heads};

/// Keys and values of all sequences, per layer, in blocks of positions; see
/// [`Cache`](crate::kernels::attention::Cache) for the order within a block.
///
/// A sequence finds its positions through the block table of its [`Lease`].
#[derive(Debug)]
pub struct KvCache {
    pub(super) layers: Vec<LayerCache>,
    free: Arc<FreeBlocks>,
}

/// The cached keys and values of one layer.
#[derive(Debug)]
pub(super) struct LayerCache {
    pub(super) keys: Tensor,
    pub(super) values: Tensor,
}

/// The blocks that no lease holds. The lock is held for a push or a pop only;
/// it is there because leases may be dropped on other threads.
#[derive(Debug)]
struct FreeBlocks {
    total: usize,
    list: Mutex<Vec<u32>>,
}

impl KvCache {
    /// Tokens in a block.
    pub const BLOCK: usize = BLOCK;

    /// A cache with room for `tokens` tokens, rounded up to whole blocks.
    ///
    /// # Errors
    /// [`ModelError::Candle`] when the memory cannot be had.
    pub fn new(config: &Config, tokens: usize) -> Result<Self, ModelError> {
        let total = tokens.div_ceil(BLOCK);
        let heads = Heads {
            count: config.n_head,
            dim: config.head_dim(),
            scale: 1.0,
        };
        let layers = (0..config.n_layer)
            .map(|_| {
                Ok(LayerCache {
                    keys: Tensor::zeros((total, heads.key_block()), DType::F32, &Device::Cpu)?,
                    values: Tensor::zeros((total, heads.value_block()), DType::F32, &Device::Cpu)?,
                })
            })
            .collect::<Result<_, ModelError>>()?;
        // Popped from the end: the lowest block goes out first.
        let list = Mutex::new((0..total as u32).rev().collect());
        Ok(Self {
            layers,
            free: Arc::new(FreeBlocks { total, list }),
        })
    }

    /// An empty lease on this cache.
    pub fn lease(&self) -> Lease {
        Lease {
            blocks: Vec::new(),
            len: 0,
            free: Arc::clone(&self.free),
        }
    }

    /// Blocks that no lease holds.
    pub fn free_blocks(&self) -> usize {
        self.free.count()
    }

    /// All blocks of the pool.
    pub fn total_blocks(&self) -> usize {
        self.free.total
    }

    /// Whether `lease` was made by this cache.
    pub(super) fn owns(&self, free: &Pool) -> bool {
        Arc::ptr_eq(&self.free, &free.0)
    }
}

impl FreeBlocks {
    fn with<R>(&self, f: impl FnOnce(&mut Vec<u32>) -> R) -> R {
        // A push or pop leaves the list whole even if another thread panicked.
        f(&mut self.list.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn count(&self) -> usize {
        self.with(|list| list.len())
    }
}

/// The identity of the pool that a lease belongs to.
#[derive(Debug, Clone)]
pub(super) struct Pool(Arc<FreeBlocks>);

/// The blocks of one sequence and how many tokens they hold.
#[derive(Debug)]
pub struct Lease {
    blocks: Vec<u32>,
    len: usize,
    free: Arc<FreeBlocks>,
}

impl Lease {
    /// Tokens whose keys and values are in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token is in the cache yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Blocks held.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Takes blocks so that `tokens` more tokens fit.
    ///
    /// # Errors
    /// [`ModelError::CacheFull`]; the lease is then as it was.
    pub fn grow(&mut self, tokens: usize) -> Result<(), ModelError> {
        let wanted = (self.len + tokens).div_ceil(BLOCK);
        let needed = wanted.saturating_sub(self.blocks.len());
        self.free.with(|list| {
            if list.len() < needed {
                return Err(ModelError::CacheFull {
                    needed,
                    free: list.len(),
                    block: BLOCK,
                });
            }
            let first = list.len() - needed;
            self.blocks.extend(list.drain(first..).rev());
            Ok(())
        })
    }

    /// Notes that a forward pass wrote `tokens` more tokens.
    ///
    /// # Panics
    /// If the lease was not grown for them.
    pub fn commit(&mut self, tokens: usize) {
        assert!(
            self.len + tokens <= self.capacity(),
            "commit past the lease"
        );
        self.len += tokens;
    }

    /// Forgets all tokens from position `len` on and returns their blocks.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        self.len = len;
        let returned = self.blocks.drain(len.div_ceil(BLOCK)..).rev();
        self.free.with(|list| list.extend(returned));
    }

    /// Tokens that the held blocks have room for.
    pub fn capacity(&self) -> usize {
        self.blocks.len() * BLOCK
    }

    pub(super) fn pool(&self) -> Pool {
        Pool(Arc::clone(&self.free))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let returned = self.blocks.drain(..).rev();
        self.free.with(|list| list.extend(returned));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(tokens: usize) -> KvCache {
        let json = br#"{"n_embd": 4, "n_head": 1, "n_layer": 1}"#;
        KvCache::new(&Config::from_json(json, "test").unwrap(), tokens).unwrap()
    }

    #[test]
    fn blocks_come_back_on_drop_and_truncate() {
        let cache = cache(3 * BLOCK);
        let mut lease = cache.lease();
        lease.grow(2 * BLOCK + 1).unwrap();
        assert_eq!((lease.blocks(), cache.free_blocks()), (&[0, 1, 2][..], 0));
        lease.commit(2 * BLOCK + 1);
        lease.truncate(1);
        assert_eq!((lease.blocks().len(), cache.free_blocks()), (1, 2));
        drop(lease);
        assert_eq!(cache.free_blocks(), cache.total_blocks());
    }

    #[test]
    fn a_full_cache_leaves_the_lease_alone() {
        let cache = cache(BLOCK);
        let mut lease = cache.lease();
        assert!(matches!(
            lease.grow(BLOCK + 1),
            Err(ModelError::CacheFull {
                needed: 2,
                free: 1,
                ..
            })
        ));
        assert_eq!((lease.capacity(), cache.free_blocks()), (0, 1));
    }
}
