//! Causal attention over a KV cache in blocks, with an online softmax (Milakov
//! and Gimelshein, 2018).
//!
//! The softmax goes through blocks of absolute positions, and every score and
//! every output is one running sum, so a row's bits do not depend on how its
//! prompt was chunked, which rows were computed with it, or what else is in
//! the batch.

mod cache;

use super::SharedMut;
use super::activation::exp;
use super::isa::{Isa, dispatch};
use super::linear::{Ahead, F32, Format, PANEL};
use super::pool;
use super::vector::{LANES, Vector, sum};
pub use cache::{BLOCK, Cache, write_cache};

/// Rows in a [`Piece`] at most.
pub const PIECE_ROWS: usize = 12;

/// Width of a head up to which a group's queries are laid out once.
const DIM_CHUNK: usize = 128;

/// Consecutive new tokens of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// The cache blocks of the sequence, in the order of positions.
    pub blocks: &'a [u32],
    /// Row of the batch of its first token.
    pub row: usize,
    /// Position of its first token.
    pub position: usize,
    /// Tokens, up to [`PIECE_ROWS`].
    pub count: usize,
}

/// The shape of the heads.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Number of heads.
    pub count: usize,
    /// Width of a head.
    pub dim: usize,
    /// What scores are multiplied by.
    pub scale: f32,
}

/// An attention layer to compute.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// Queries, keys and values of the new tokens, `[rows, 3·heads·dim]`;
    /// only the queries are read here.
    pub qkv: &'a [f32],
    /// Cached keys, see [`Cache::Keys`].
    pub keys: &'a [f32],
    /// Cached values, see [`Cache::Values`].
    pub values: &'a [f32],
    /// The rows of the batch, each in one piece.
    pub pieces: &'a [Piece<'a>],
    /// The shape of the heads.
    pub heads: Heads,
}

/// Computes `out[rows, heads·dim]`: each row attends to its sequence's cached
/// positions up to its own.
///
/// # Panics
/// If the slices' lengths don't fit each other, or a row looks outside the cache.
pub fn attention(layer: Attention<'_>, out: &mut [f32]) {
    attention_with(Isa::current(), layer, out);
}

/// [`attention`] with a given instruction set, one of [`Isa::available`].
pub fn attention_with(isa: Isa, layer: Attention<'_>, out: &mut [f32]) {
    let width = layer.heads.width();
    let mut rows = 0;
    for piece in layer.pieces {
        assert_eq!(piece.row, rows, "pieces are not in order");
        assert!(piece.count <= PIECE_ROWS, "a piece of {} rows", piece.count);
        rows += piece.count;
    }
    assert_eq!(layer.qkv.len(), rows * 3 * width, "queries");
    assert_eq!(out.len(), rows * width, "outputs");
    let out = SharedMut(out.as_mut_ptr());
    pool::run(layer.pieces.len() * layer.heads.count, |task| {
        let (piece, head) = (task / layer.heads.count, task % layer.heads.count);
        dispatch!(isa, piece_of(layer: Attention<'_>, piece: usize, head: usize, out: SharedMut));
    });
}

/// One head of one piece, in groups of rows that fit the registers.
///
/// # Safety
/// The set of `V` must be there; `out` must hold `[rows, heads·dim]`, and no
/// other thread may touch this head of these rows.
#[inline(always)]
unsafe fn piece_of<V: Vector>(layer: Attention<'_>, piece: usize, head: usize, out: SharedMut) {
    let piece = layer.pieces[piece];
    let mut done = 0;
    while done < piece.count {
        let group = Group {
            row: piece.row + done,
            len: piece.position + done + 1,
            blocks: piece.blocks,
            head,
        };
        // SAFETY: passed on from the caller.
        done += unsafe {
            match V::ROWS.min(piece.count - done) {
                12.. => group.attend::<V, 12>(layer, out),
                4.. => group.attend::<V, 4>(layer, out),
                3 => group.attend::<V, 3>(layer, out),
                2 => group.attend::<V, 2>(layer, out),
                _ => group.attend::<V, 1>(layer, out),
            }
        };
    }
}

/// One head of a few rows.
#[derive(Clone, Copy)]
struct Group<'a> {
    /// The first row.
    row: usize,
    /// Positions that the first row attends to, itself included; each further
    /// row sees one more.
    len: usize,
    blocks: &'a [u32],
    head: usize,
}

/// The softmax of one row so far.
#[derive(Clone, Copy)]
struct Online {
    highest: f32,
    total: f32,
}

impl Group<'_> {
    /// # Safety
    /// As [`piece_of`].
    #[inline(always)]
    unsafe fn attend<V: Vector, const R: usize>(
        self,
        layer: Attention<'_>,
        out: SharedMut,
    ) -> usize {
        let (dim, width) = (layer.heads.dim, layer.heads.width());
        let mut queries = [0; DIM_CHUNK * PIECE_ROWS];
        if dim <= DIM_CHUNK {
            self.lay_out_queries::<R>(layer, 0, dim, &mut queries);
        }
        let start = Online {
            highest: f32::NEG_INFINITY,
            total: 0.0,
        };
        let mut online = [start; R];
        // SAFETY: this head of row `row + r`, which is this task's own.
        let out_row =
            |r: usize| unsafe { out.slice((self.row + r) * width + self.head * dim, dim) };
        (0..R).for_each(|r| out_row(r).fill(0.0));
        let blocks = (self.len + R - 1).div_ceil(BLOCK);
        for (i, &block) in self.blocks[..blocks].iter().enumerate() {
            let keys = layer.heads.keys(layer.keys, block, self.head);
            let values = layer.heads.values(layer.values, block, self.head);
            // SAFETY: the set is the caller's promise; lengths as asked for.
            unsafe {
                if self.len >= (i + 1) * BLOCK {
                    let scores = self.scores::<V, R>(layer, keys, &mut queries);
                    add_block::<V, R>(
                        scores,
                        layer.heads.scale,
                        BLOCK,
                        values,
                        &mut online,
                        out_row,
                    );
                    continue;
                }
                // Here the rows see different numbers of positions.
                for r in 0..R {
                    let count = (self.len + r).saturating_sub(i * BLOCK).min(BLOCK);
                    if count == 0 {
                        continue;
                    }
                    let row = Self {
                        row: self.row + r,
                        ..self
                    };
                    let scores = row.scores_of_one::<V>(layer, keys);
                    let online = std::array::from_mut(&mut online[r]);
                    let out_row = |_| out_row(r);
                    add_block::<V, 1>([scores], layer.heads.scale, count, values, online, out_row);
                }
            }
        }
        for (r, online) in online.iter().enumerate() {
            let scale = 1.0 / online.total;
            for o in out_row(r) {
                *o *= scale;
            }
        }
        R
    }

    /// The queries of the group, dimensions `first..first + count`, as
    /// `[count, R]`.
    #[inline(always)]
    fn lay_out_queries<const R: usize>(
        self,
        layer: Attention<'_>,
        first: usize,
        count: usize,
        queries: &mut [u32],
    ) {
        for r in 0..R {
            let query = &self.query(layer, r)[first..first + count];
            for (to, q) in queries[r..].iter_mut().step_by(R).zip(query) {
                *to = q.to_bits();
            }
        }
    }

    /// The query of row `r` of the group, `[dim]`.
    #[inline(always)]
    fn query<'a>(self, layer: Attention<'a>, r: usize) -> &'a [f32] {
        let Heads { dim, .. } = layer.heads;
        &layer.qkv[(self.row + r) * 3 * layer.heads.width() + self.head * dim..][..dim]
    }

    /// Products of the group's queries with all keys of a block.
    ///
    /// # Safety
    /// The set of `V` must be there; `queries` must hold the group's queries
    /// where their width is at most `DIM_CHUNK`.
    #[inline(always)]
    unsafe fn scores<V: Vector, const R: usize>(
        self,
        layer: Attention<'_>,
        keys: &[f32],
        queries: &mut [u32],
    ) -> [[f32; BLOCK]; R] {
        let dim = layer.heads.dim;
        // SAFETY: the set is the caller's promise; `queries` holds
        // `count · R` words, and `keys` `count · BLOCK` values from `first` on.
        unsafe {
            let mut sums = [[V::splat(0.0); 2]; R];
            for first in (0..dim).step_by(DIM_CHUNK) {
                let count = DIM_CHUNK.min(dim - first);
                if dim > DIM_CHUNK {
                    self.lay_out_queries::<R>(layer, first, count, queries);
                }
                let keys = keys[first * BLOCK..][..count * BLOCK].as_ptr().cast();
                let queries = queries[..count * R].as_ptr();
                F32::multiply::<V, R>(queries, keys, count, Ahead::nothing(keys), &mut sums);
            }
            sums.map(|sum| to_array(sum))
        }
    }

    /// Products of the first row's query with all keys of a block.
    ///
    /// # Safety
    /// The set of `V` must be there.
    #[inline(always)]
    unsafe fn scores_of_one<V: Vector>(self, layer: Attention<'_>, keys: &[f32]) -> [f32; BLOCK] {
        let query = self.query(layer, 0).as_ptr().cast();
        let steps = keys.len() / BLOCK;
        let keys = keys.as_ptr().cast();
        // SAFETY: the set is the caller's promise; a query has as many values
        // as a block of keys has rows.
        unsafe {
            let mut sums = [[V::splat(0.0); 2]];
            F32::multiply::<V, 1>(query, keys, steps, Ahead::nothing(keys), &mut sums);
            to_array(sums[0])
        }
    }
}

/// Adds the first `count` positions of a block to the softmax and the weighted
/// sums of `R` rows.
///
/// # Safety
/// The set of `V` must be there.
#[inline(always)]
unsafe fn add_block<'a, V: Vector, const R: usize>(
    scores: [[f32; BLOCK]; R],
    scale: f32,
    count: usize,
    values: &[f32],
    online: &mut [Online; R],
    out: impl Fn(usize) -> &'a mut [f32],
) {
    let mut weights = [[0u32; R]; BLOCK];
    let mut shrinks = [0.0; R];
    for (r, mut scores) in scores.into_iter().enumerate() {
        let shrink = weigh(&mut scores, scale, count, &mut online[r]);
        for (weights, p) in weights.iter_mut().zip(scores) {
            weights[r] = p.to_bits();
        }
        shrinks[r] = shrink;
    }
    for (panel, values) in values.chunks(BLOCK * PANEL).enumerate() {
        let start = panel * PANEL;
        // SAFETY: the set is the caller's promise; a panel has BLOCK steps and
        // count is at most that many.
        unsafe {
            let mut sums = [[V::splat(0.0); 2]; R];
            for (r, sum) in sums.iter_mut().enumerate() {
                let out = out(r);
                let width = PANEL.min(out.len() - start);
                let mut part = [0.0; PANEL];
                part[..width].copy_from_slice(&out[start..start + width]);
                let shrink = V::splat(shrinks[r]);
                *sum = [
                    V::load(part.as_ptr()).mul(shrink),
                    V::load(part[LANES..].as_ptr()).mul(shrink),
                ];
            }
            let values = values.as_ptr().cast();
            let weights = weights.as_ptr().cast();
            F32::multiply::<V, R>(weights, values, count, Ahead::nothing(values), &mut sums);
            for (r, sum) in sums.into_iter().enumerate() {
                let out = out(r);
                let width = PANEL.min(out.len() - start);
                out[start..start + width].copy_from_slice(&to_array(sum)[..width]);
            }
        }
    }
}

/// Turns scores into weights relative to the highest score so far, and returns
/// what the sums of the blocks before are to be multiplied by.
#[inline(always)]
fn weigh(scores: &mut [f32; BLOCK], scale: f32, count: usize, online: &mut Online) -> f32 {
    for score in scores.iter_mut() {
        *score *= scale;
    }
    // Beyond the row's own position: perhaps other sequences' keys.
    scores[count..].fill(f32::NEG_INFINITY);
    let higher = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [0.0; LANES];
    for (i, lane) in lanes.iter_mut().enumerate() {
        *lane = higher(scores[i], scores[i + LANES]);
    }
    let highest = lanes.into_iter().fold(online.highest, higher);
    let shrink = exp(online.highest - highest);
    for score in scores.iter_mut() {
        *score = exp(*score - highest);
    }
    for (i, lane) in lanes.iter_mut().enumerate() {
        *lane = scores[i] + scores[i + LANES];
    }
    *online = Online {
        highest,
        total: f32::mul_add(online.total, shrink, sum(lanes)),
    };
    shrink
}

/// # Safety
/// The set of `V` must be there.
#[inline(always)]
unsafe fn to_array<V: Vector>(values: [V; 2]) -> [f32; PANEL] {
    let mut array = [0.0; PANEL];
    // SAFETY: the set is the caller's promise; each half takes sixteen values.
    unsafe {
        values[0].store(array.as_mut_ptr());
        values[1].store(array[LANES..].as_mut_ptr());
    }
    array
}

#[cfg(test)]
mod tests;
