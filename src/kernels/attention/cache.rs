//! Where keys and values lie in the cache, and how they get there.

use std::ops::Range;

use super::{CacheFormat, Heads, Layer, Piece};
use crate::kernels::SharedMut;
use crate::kernels::linear::{PANEL, panels};
use crate::kernels::vector::{LANES, Vector, pair, to_bf16};

/// Positions in a cache block: the columns of one panel, so that scores are a
/// product like any other.
pub const BLOCK: usize = PANEL;

/// Which of the two caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// Keys, `[blocks, heads, dim / w, BLOCK]` words of `w` values: the
    /// positions of a block are the columns of a panel. An odd last value is
    /// followed by 0.
    Keys,
    /// Values, `[blocks, heads, panels(dim), BLOCK / w, PANEL]` words of `w`
    /// values.
    Values,
}

impl Heads {
    /// Words of one block of cached keys or values.
    pub fn block_words(&self, part: Cache, format: CacheFormat) -> usize {
        self.count * self.head_words(part, format)
    }

    fn head_words(&self, part: Cache, format: CacheFormat) -> usize {
        let in_word = format.values_in_word();
        match part {
            Cache::Keys => self.dim.div_ceil(in_word) * BLOCK,
            Cache::Values => panels(self.dim) * (BLOCK / in_word) * PANEL,
        }
    }

    pub(super) fn width(&self) -> usize {
        self.count * self.dim
    }

    /// Where one head's keys or values of a block lie in the cache.
    #[inline(always)]
    pub(super) fn of_block(
        &self,
        (part, format): (Cache, CacheFormat),
        block: u32,
        head: usize,
    ) -> Range<usize> {
        let len = self.head_words(part, format);
        let start = (block as usize * self.count + head) * len;
        start..start + len
    }
}

impl Layer<'_> {
    /// Copies the new keys and values of one head of a piece to their
    /// positions in the cache.
    ///
    /// # Safety
    /// The set of `V` must be there, the piece's blocks in the cache, and no
    /// other thread may touch this head of them.
    #[inline(always)]
    pub(super) unsafe fn write<V: Vector>(self, piece: Piece<'_>, head: usize) {
        // SAFETY: passed on from the caller.
        unsafe {
            self.write_part::<V>(Cache::Keys, piece, head);
            self.write_part::<V>(Cache::Values, piece, head);
        }
    }

    /// # Safety
    /// As [`write`](Self::write).
    #[inline(always)]
    pub(super) unsafe fn write_part<V: Vector>(self, part: Cache, piece: Piece<'_>, head: usize) {
        let out = self.part(part);
        let third = if part == Cache::Keys { 1 } else { 2 };
        let Heads { count, dim, .. } = self.heads;
        let new_values = |i: usize| {
            let start = ((piece.row + i) * 3 + third) * count * dim + head * dim;
            &self.qkv[start..][..dim]
        };
        let mut i = 0;
        while i < piece.count {
            let (position, values) = (piece.position + i, new_values(i));
            let (block, at) = (piece.blocks[position / BLOCK], position % BLOCK);
            let place = self.heads.of_block((part, self.format), block, head);
            let start = place.start;
            i += 1;
            // SAFETY: the caller's promise.
            unsafe {
                match (part, self.format) {
                    (Cache::Keys, CacheFormat::F32) => put_key::<1>(values, out, start + at),
                    (Cache::Keys, _) => put_key::<2>(values, out, start + at),
                    (Cache::Values, CacheFormat::F32) => put_value(values, out, start, at),
                    (Cache::Values, _) if at % 2 == 0 && i < piece.count => {
                        put_pair([values, new_values(i)], out, start, at);
                        i += 1;
                    }
                    (Cache::Values, _) => put_half(values, out, start, at),
                }
            }
        }
    }
}

/// Writes one position's key, `W` values in a word, from the word `start` on.
///
/// # Safety
/// Its words must be in the buffer, and no other thread may touch them.
#[inline(always)]
unsafe fn put_key<const W: usize>(key: &[f32], out: SharedMut<u32>, start: usize) {
    for (chunk, values) in key.chunks(W * LANES).enumerate() {
        let mut full = [[0.0; W]; LANES];
        full.as_flattened_mut()[..values.len()].copy_from_slice(values);
        // Not `map`, which isn't compiled for the instruction set.
        let mut words = [0; LANES];
        for (word, values) in words.iter_mut().zip(&full) {
            *word = match W {
                1 => values[0].to_bits(),
                _ => pair(values[0], values[W - 1]),
            };
        }
        for (i, word) in words[..values.len().div_ceil(W)].iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { *out.at(start + (chunk * LANES + i) * BLOCK) = *word };
        }
    }
}

/// Writes one position's value in f32, `at` of a block whose first word is
/// `start`.
///
/// # Safety
/// As [`put_key`].
#[inline(always)]
unsafe fn put_value(value: &[f32], out: SharedMut<u32>, start: usize, at: usize) {
    for (panel, values) in value.chunks(PANEL).enumerate() {
        // SAFETY: the caller's promise.
        let out = unsafe { out.slice(start + (panel * BLOCK + at) * PANEL, values.len()) };
        for (out, x) in out.iter_mut().zip(values) {
            *out = x.to_bits();
        }
    }
}

/// Writes the values in bf16 of the positions `at` and the next, whose words
/// they share.
///
/// # Safety
/// As [`put_key`].
#[inline(always)]
unsafe fn put_pair(values: [&[f32]; 2], out: SharedMut<u32>, start: usize, at: usize) {
    let panels = values[0].chunks(PANEL).zip(values[1].chunks(PANEL));
    for (panel, (first, second)) in panels.enumerate() {
        let step = panel * BLOCK / 2 + at / 2;
        // SAFETY: the caller's promise.
        let out = unsafe { out.slice(start + step * PANEL, first.len()) };
        for (out, (first, second)) in out.iter_mut().zip(first.iter().zip(second)) {
            *out = pair(*first, *second);
        }
    }
}

/// Writes one position's value in bf16, half of the words of two positions.
///
/// # Safety
/// As [`put_key`], of the words' halves.
#[inline(always)]
unsafe fn put_half(value: &[f32], out: SharedMut<u32>, start: usize, at: usize) {
    for (panel, values) in value.chunks(PANEL).enumerate() {
        let step = panel * BLOCK / 2 + at / 2;
        for (i, x) in values.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { *out.at(start + step * PANEL + i).cast::<u16>().add(at % 2) = to_bf16(*x) };
        }
    }
}
