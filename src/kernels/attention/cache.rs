//! Where keys and values lie in the cache, and how they get there.

use super::{Heads, Piece};
use crate::kernels::SharedMut;
use crate::kernels::linear::{PANEL, panels};
use crate::kernels::pool;

/// Positions in a cache block and in a step of the softmax: the columns of one
/// panel, so that scores are a product like any other.
pub const BLOCK: usize = PANEL;

/// Values worth writing to the cache on several threads.
const PARALLEL_VALUES: usize = 32 << 10;

/// Which of the two caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// Keys, `[blocks, heads, dim, BLOCK]`: the positions of a block are the
    /// columns of a panel.
    Keys,
    /// Values, `[blocks, heads, panels(dim), BLOCK, PANEL]`.
    Values,
}

impl Heads {
    /// Values of one block of cached keys, `[heads, dim, BLOCK]`.
    pub fn key_block(&self) -> usize {
        self.count * self.dim * BLOCK
    }

    /// Values of one block of cached values, `[heads, panels(dim), BLOCK, PANEL]`.
    pub fn value_block(&self) -> usize {
        self.count * panels(self.dim) * BLOCK * PANEL
    }

    pub(super) fn width(&self) -> usize {
        self.count * self.dim
    }

    /// One head's keys in a block, `[dim, BLOCK]`.
    pub(super) fn keys<'a>(&self, cache: &'a [f32], block: u32, head: usize) -> &'a [f32] {
        let len = self.dim * BLOCK;
        &cache[(block as usize * self.count + head) * len..][..len]
    }

    /// One head's values in a block, `[panels(dim), BLOCK, PANEL]`.
    pub(super) fn values<'a>(&self, cache: &'a [f32], block: u32, head: usize) -> &'a [f32] {
        let len = panels(self.dim) * BLOCK * PANEL;
        &cache[(block as usize * self.count + head) * len..][..len]
    }
}

/// Copies the new keys or values in `qkv [rows, 3·heads·dim]` to their
/// positions in the cache.
///
/// # Panics
/// If a piece lies outside `qkv` or the cache.
pub fn write_cache(
    part: Cache,
    qkv: &[f32],
    pieces: &[Piece<'_>],
    heads: Heads,
    cache: &mut [f32],
) {
    let width = heads.width();
    let block_len = match part {
        Cache::Keys => heads.key_block(),
        Cache::Values => heads.value_block(),
    };
    for piece in pieces {
        let blocks = &piece.blocks[..(piece.position + piece.count).div_ceil(BLOCK)];
        let end = blocks.iter().map(|&b| (b as usize + 1) * block_len).max();
        assert!(end <= Some(cache.len()), "a block outside the cache");
        assert!((piece.row + piece.count) * 3 * width <= qkv.len(), "rows");
    }
    let out = SharedMut(cache.as_mut_ptr());
    let write = |task: usize| {
        let (piece, head) = (&pieces[task / heads.count], task % heads.count);
        let third = if part == Cache::Keys { 1 } else { 2 };
        for i in 0..piece.count {
            let position = piece.position + i;
            let block = piece.blocks[position / BLOCK] as usize;
            let at = position % BLOCK;
            let from = ((piece.row + i) * 3 + third) * width + head * heads.dim;
            for (d, value) in qkv[from..][..heads.dim].iter().enumerate() {
                let to = match part {
                    Cache::Keys => ((block * heads.count + head) * heads.dim + d) * BLOCK + at,
                    Cache::Values => {
                        let panel = (block * heads.count + head) * panels(heads.dim) + d / PANEL;
                        (panel * BLOCK + at) * PANEL + d % PANEL
                    }
                };
                // SAFETY: within a block that was checked above; no two tasks
                // share a head of a position.
                unsafe { *out.at(to) = *value };
            }
        }
    };
    let tasks = pieces.len() * heads.count;
    if qkv.len() < PARALLEL_VALUES {
        (0..tasks).for_each(write);
    } else {
        pool::run(tasks, write);
    }
}
