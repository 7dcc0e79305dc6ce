//! Attention of one row. What it reads it reads once, so memory is the limit:
//! it reads in the order in which the cache lies, block by block and in each of
//! them the heads, and so fast that the processor's own look ahead does best.

use std::ops::Range;

use super::rows::{Next, Online, Rows, SPAN, SPAN_BLOCKS, query_words, room, weigh};
use super::{BLOCK, Cache, Layer, Piece};
use crate::kernels::SharedMut;
use crate::kernels::linear::{Words, words_of};
use crate::kernels::vector::Vector;

/// Heads that are computed together at most.
pub const MOST_HEADS: usize = 16;

/// Some heads of a row that is all of its sequence's in a batch.
pub struct Row<'a> {
    pub piece: Piece<'a>,
    /// Up to [`MOST_HEADS`].
    pub heads: Range<usize>,
}

/// Some blocks of a row.
#[derive(Clone, Copy)]
struct Span<'a> {
    blocks: &'a [u32],
    /// Positions from their first on that the row attends to.
    seen: usize,
}

impl Row<'_> {
    /// Writes the row's keys and values, and computes its attention. `scratch`
    /// keeps its memory.
    ///
    /// # Safety
    /// The set of `V` must be there, the piece's blocks in the cache; `out` must
    /// hold `[rows, heads·dim]`. No other thread may touch these heads of the
    /// row there, nor write those of its blocks.
    #[inline(always)]
    pub unsafe fn attend<V: Vector, W: Words>(
        &self,
        layer: Layer<'_>,
        scratch: &mut Vec<[u32; SPAN]>,
        out: SharedMut,
    ) {
        let (dim, width, count) = (layer.heads.dim, layer.heads.width(), self.heads.len());
        let start = self.piece.row * width + self.heads.start * dim;
        // SAFETY: these heads of the row are this task's own.
        let out = |h: usize| unsafe { out.slice(start + h * dim, dim) };
        let query_words = query_words::<W>(dim);
        room(scratch, count, count * query_words);
        let (scores, queries) = scratch.split_at_mut(count);
        let queries = &mut queries.as_flattened_mut()[..count * query_words];
        for (h, query) in queries.chunks_mut(query_words).enumerate() {
            out(h).fill(0.0);
            // SAFETY: passed on from the caller.
            unsafe { self.head(h).pack_queries::<V, W, 1>(layer, query) };
        }
        let mut online = [Online::START; MOST_HEADS];
        let len = self.piece.position + 1;
        let blocks = &self.piece.blocks[..len.div_ceil(BLOCK)];
        for (i, blocks) in blocks.chunks(SPAN_BLOCKS).enumerate() {
            let seen = len - i * SPAN;
            let span = Span { blocks, seen };
            let mut shrinks = [1.0; MOST_HEADS];
            // SAFETY: passed on from the caller.
            unsafe {
                self.score::<V, W>(layer, span, queries, scores);
                for (h, scores) in scores.iter_mut().enumerate() {
                    let scores = &mut scores[..blocks.len() * BLOCK];
                    shrinks[h] = weigh::<V, W>(scores, seen, &mut online[h]);
                }
                self.add_values::<V, W>(layer, span, (scores, shrinks), &out);
            }
        }
        for (h, online) in online.into_iter().take(count).enumerate() {
            online.finish(out(h));
        }
    }

    /// Scores of all heads with a span's keys, `[heads, SPAN]`.
    ///
    /// # Safety
    /// As [`attend`](Self::attend).
    #[inline(always)]
    unsafe fn score<V: Vector, W: Words>(
        &self,
        layer: Layer<'_>,
        span: Span<'_>,
        queries: &[u32],
        scores: &mut [[u32; SPAN]],
    ) {
        let query_words = queries.len() / scores.len();
        for (b, &block) in span.blocks.iter().enumerate() {
            let heads = scores.iter_mut().zip(queries.chunks(query_words));
            for (h, (scores, query)) in heads.enumerate() {
                let scores = std::array::from_mut(scores);
                let nothing = Next::nothing(query);
                // SAFETY: passed on from the caller.
                unsafe {
                    self.write::<V>(layer, Cache::Keys, (block, h));
                    let head = self.head(h);
                    head.score::<V, W, 1>(layer, query, (b, block), nothing, scores);
                }
            }
        }
    }

    /// Adds a span's values, weighted, to the outputs of all heads, which are
    /// shrunk first.
    ///
    /// # Safety
    /// As [`attend`](Self::attend).
    #[inline(always)]
    unsafe fn add_values<'o, V: Vector, W: Words>(
        &self,
        layer: Layer<'_>,
        span: Span<'_>,
        (weights, shrinks): (&[[u32; SPAN]], [f32; MOST_HEADS]),
        out: &impl Fn(usize) -> &'o mut [f32],
    ) {
        for (b, block) in span.blocks.iter().enumerate() {
            let seen = (span.seen - b * BLOCK) as isize;
            for (h, weights) in weights.iter().enumerate() {
                let weights = &weights[b * words_of::<W>(BLOCK)..];
                let values = (std::slice::from_ref(block), |_| Next::nothing(weights));
                // Once a span.
                let shrink = if b == 0 { shrinks[h] } else { 1.0 };
                let shrink = ([shrink], seen);
                // SAFETY: passed on from the caller.
                unsafe {
                    self.write::<V>(layer, Cache::Values, (*block, h));
                    let (head, weights) = (self.head(h), weights.as_ptr());
                    head.add_values::<V, W, 1>(layer, values, weights, shrink, |_| out(h));
                }
            }
        }
    }

    /// Writes the row's own keys or values where their block is about to be
    /// read: those of the next head, so that no read waits for a write; before
    /// the first head its own too.
    ///
    /// # Safety
    /// As [`attend`](Self::attend).
    #[inline(always)]
    unsafe fn write<V: Vector>(&self, layer: Layer<'_>, part: Cache, (block, h): (u32, usize)) {
        let Piece {
            blocks, position, ..
        } = self.piece;
        if block != blocks[position / BLOCK] {
            return;
        }
        let next = self.heads.start + h + 1;
        let from = if h == 0 { next - 1 } else { next };
        for head in from..(next + 1).min(self.heads.end) {
            // SAFETY: passed on from the caller.
            unsafe { layer.write_part::<V>(part, self.piece, head) };
        }
    }

    /// One of its heads.
    #[inline(always)]
    fn head(&self, h: usize) -> Rows<'_> {
        Rows {
            row: self.piece.row,
            len: self.piece.position + 1,
            blocks: self.piece.blocks,
            head: self.heads.start + h,
        }
    }
}
