//! The bookkeeping of the KV cache: which block holds what, and for whom. No
//! tensors: [`KvCache`](super::KvCache) holds those.
//!
//! A block of [`BLOCK`] tokens is *free*, *held* by one or more leases, or
//! *idle*: full of keys and values that a later prompt may begin with, held by
//! nobody, and taken back when free blocks run out, least recently used first.

use std::sync::{Arc, Mutex, PoisonError};

use super::ModelError;
use crate::kernels::attention::BLOCK;
use state::{Content, START, State};

mod state;
#[cfg(test)]
mod tests;

/// All blocks of one cache. Clones share them.
#[derive(Debug, Clone)]
pub struct Blocks {
    /// The lock is held for bookkeeping only; it is there because leases may
    /// be dropped on other threads.
    state: Arc<Mutex<State>>,
}

/// How many blocks are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCounts {
    /// All of them.
    pub total: usize,
    /// Held by at least one lease.
    pub used: usize,
    /// Held by two or more.
    pub shared: usize,
    /// Held by none, but kept for prompts that begin with what they hold.
    pub idle: usize,
}

impl BlockCounts {
    /// Blocks that a lease could take now.
    pub fn available(&self) -> usize {
        self.total - self.used
    }
}

/// The blocks of one sequence and how many tokens they hold.
///
/// Dropping it lets go of them.
#[derive(Debug)]
pub struct Lease {
    number: u64,
    blocks: Vec<u32>,
    /// Leading blocks that others may find and hold too: never written again.
    published: usize,
    len: usize,
    owner: Blocks,
}

impl Blocks {
    /// Tokens in a block.
    pub const SIZE: usize = BLOCK;

    /// `total` free blocks.
    pub fn new(total: usize) -> Self {
        Self {
            state: Arc::new(Mutex::new(State::new(total))),
        }
    }

    /// An empty lease on these blocks.
    pub fn lease(&self) -> Lease {
        let number = self.with(|state| {
            state.leases += 1;
            state.leases
        });
        Lease {
            number,
            blocks: Vec::new(),
            published: 0,
            len: 0,
            owner: self.clone(),
        }
    }

    /// How many are in which state.
    pub fn counts(&self) -> BlockCounts {
        self.with(|state| BlockCounts {
            total: state.blocks.len(),
            used: state.blocks.len() - state.free.len() - state.idle.len(),
            shared: state.shared,
            idle: state.idle.len(),
        })
    }

    /// Available blocks that a new lease for `tokens` would take, with room
    /// for one token more; those that other leases hold already, it shares.
    pub fn needed_for(&self, tokens: &[u32]) -> usize {
        let all = (tokens.len() + 1).div_ceil(BLOCK);
        self.with(|state| {
            let held = |&block: &u32| state.blocks[block as usize].holders > 0;
            all - state.find(START, tokens).take_while(held).count()
        })
    }

    /// Whether both are handles of the same blocks.
    pub(super) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        // No update can panic half-way.
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
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

    /// Tokens that the held blocks have room for.
    pub fn capacity(&self) -> usize {
        self.blocks.len() * BLOCK
    }

    /// Takes blocks so that `tokens` more tokens fit.
    ///
    /// # Errors
    /// [`ModelError::CacheFull`]; the lease is then as it was.
    pub fn grow(&mut self, tokens: usize) -> Result<(), ModelError> {
        let wanted = (self.len + tokens).div_ceil(BLOCK);
        let needed = wanted.saturating_sub(self.blocks.len());
        self.owner.with(|state| {
            let available = state.free.len() + state.idle.len();
            if available < needed {
                return Err(ModelError::CacheFull {
                    needed,
                    free: available,
                    block: BLOCK,
                });
            }
            self.blocks.extend((0..needed).map_while(|_| state.take()));
            Ok(())
        })
    }

    /// Goes on with blocks that hold the next of `tokens`, the sequence's own,
    /// from an earlier or another sequence; returns how many tokens they hold.
    /// The last token is never among them, so that there is always one left
    /// to compute.
    pub fn reuse(&mut self, tokens: &[u32]) -> usize {
        let before = self.len;
        if self.capacity() > before || self.published < self.blocks.len() || before > tokens.len() {
            return 0;
        }
        self.owner.with(|state| {
            let last = state.last_publication(&self.blocks);
            let found: Vec<u32> = state.find(last, &tokens[before..]).collect();
            for &block in &found {
                state.hold(block);
            }
            self.blocks.extend(found);
        });
        self.published = self.blocks.len();
        self.len = self.capacity();
        self.len - before
    }

    /// Lets others reuse the full blocks of `tokens`, which are those of this
    /// sequence: at least the [`len`](Self::len) computed ones.
    ///
    /// # Panics
    /// If there are fewer tokens than were computed.
    pub fn publish(&mut self, tokens: &[u32]) {
        let full = tokens[..self.len].as_chunks::<BLOCK>().0;
        if self.published == full.len() {
            return;
        }
        self.owner.with(|state| {
            for (i, &tokens) in full.iter().enumerate().skip(self.published) {
                let before = state.last_publication(&self.blocks[..i]);
                let content = Content { before, tokens };
                self.blocks[i] = state.publish(self.blocks[i], content);
            }
        });
        self.published = full.len();
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

    /// Forgets all tokens from position `len` on and lets go of their blocks.
    ///
    /// # Panics
    /// If a published block would be cut: others may be reading it.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        self.len = len;
        let kept = len.div_ceil(BLOCK);
        self.published = self.published.min(kept);
        assert!(
            len >= self.published * BLOCK,
            "a published block would be cut"
        );
        self.release_from(kept);
    }

    /// No other lease on these blocks ever has the same number.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The blocks that it is a lease on.
    pub(super) fn owner(&self) -> &Blocks {
        &self.owner
    }

    /// Lets go of the blocks from the `first` on, the last one first: what
    /// follows becomes idle before what it follows, and is evicted before it.
    fn release_from(&mut self, first: usize) {
        let released = self.blocks.drain(first..).rev();
        self.owner
            .with(|state| released.for_each(|block| state.release(block)));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.release_from(0);
    }
}
