//! Where keys and values lie in the cache, and how they get there.

use super::{CacheFormat, Heads, Piece};
use crate::kernels::SharedMut;
use crate::kernels::isa::{Isa, dispatch};
use crate::kernels::linear::{PANEL, panels};
use crate::kernels::pool;
use crate::kernels::vector::{LANES, Vector, pair, to_bf16};

/// Positions in a cache block: the columns of one panel, so that scores are a
/// product like any other.
pub const BLOCK: usize = PANEL;

/// Values worth writing to the cache on several threads.
const PARALLEL_VALUES: usize = 32 << 10;

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

    /// One head's keys or values in a block.
    pub(super) fn of_block<'a>(
        &self,
        (part, format): (Cache, CacheFormat),
        cache: &'a [u32],
        block: u32,
        head: usize,
    ) -> &'a [u32] {
        let len = self.head_words(part, format);
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
    format: CacheFormat,
    qkv: &[f32],
    pieces: &[Piece<'_>],
    heads: Heads,
    cache: &mut [u32],
) {
    let width = heads.width();
    let block_len = heads.block_words(part, format);
    for piece in pieces {
        let blocks = &piece.blocks[..(piece.position + piece.count).div_ceil(BLOCK)];
        let end = blocks.iter().map(|&b| (b as usize + 1) * block_len).max();
        assert!(end <= Some(cache.len()), "a block outside the cache");
        assert!((piece.row + piece.count) * 3 * width <= qkv.len(), "rows");
    }
    let out = SharedMut(cache.as_mut_ptr());
    let write = |task: usize| {
        let write = Write {
            part,
            format,
            qkv,
            piece: pieces[task / heads.count],
            heads,
            head: task % heads.count,
        };
        dispatch!(Isa::current(), write_head(write: Write<'_>, out: SharedMut<u32>));
    };
    let tasks = pieces.len() * heads.count;
    if qkv.len() < PARALLEL_VALUES {
        (0..tasks).for_each(write);
    } else {
        pool::run(tasks, write);
    }
}

/// One head of a piece's keys or values.
#[derive(Clone, Copy)]
struct Write<'a> {
    part: Cache,
    format: CacheFormat,
    qkv: &'a [f32],
    piece: Piece<'a>,
    heads: Heads,
    head: usize,
}

impl<'a> Write<'a> {
    /// The key or value of the piece's `i`-th token.
    #[inline(always)]
    fn new_values(&self, i: usize) -> &'a [f32] {
        let third = if self.part == Cache::Keys { 1 } else { 2 };
        let Heads { count, dim, .. } = self.heads;
        let start = ((self.piece.row + i) * 3 + third) * count * dim + self.head * dim;
        &self.qkv[start..][..dim]
    }
}

/// # Safety
/// The piece's blocks must be in the buffer, and no other thread may touch
/// this head of its positions.
#[inline(always)]
unsafe fn write_head<V: Vector>(write: Write<'_>, out: SharedMut<u32>) {
    let Write {
        format,
        piece,
        heads,
        head,
        ..
    } = write;
    let head_len = heads.head_words(write.part, format);
    let mut i = 0;
    while i < piece.count {
        let (position, values) = (piece.position + i, write.new_values(i));
        let block = piece.blocks[position / BLOCK] as usize;
        let (start, at) = ((block * heads.count + head) * head_len, position % BLOCK);
        i += 1;
        // SAFETY: the caller's promise.
        unsafe {
            match (write.part, format) {
                (Cache::Keys, CacheFormat::F32) => put_key::<1>(values, out, start + at),
                (Cache::Keys, _) => put_key::<2>(values, out, start + at),
                (Cache::Values, CacheFormat::F32) => put_value(values, out, start, at),
                (Cache::Values, _) if at % 2 == 0 && i < piece.count => {
                    put_pair([values, write.new_values(i)], out, start, at);
                    i += 1;
                }
                (Cache::Values, _) => put_half(values, out, start, at),
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
