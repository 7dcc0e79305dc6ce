//! Causal attention over a KV cache in blocks, with an online softmax (Milakov
//! and Gimelshein, 2018).
//!
//! The softmax goes through blocks of absolute positions, and every score and
//! every output is one running sum, so a row's bits do not depend on how its
//! prompt was chunked, which rows were computed with it, or what else is in
//! the batch.

mod cache;
mod weights;

use super::SharedMut;
use super::activation::exp_negative;
use super::isa::{Isa, dispatch};
use super::linear::{Ahead, PANEL, multiply_rows};
use super::pool;
use super::vector::{LANES, Vector, by_halves, load_two, store_two};
pub use cache::{BLOCK, Cache, write_cache};
pub use weights::weights;

/// Rows in a [`Piece`] at most.
pub const PIECE_ROWS: usize = 12;

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
    let (pieces, heads) = (layer.pieces.len(), layer.heads.count);
    pool::run(pieces * heads, |task| {
        // Pieces of one sequence read the same keys and values: one head of
        // them stays in the second cache, all heads would not. Sequences with
        // a row each read their own, in the order in which they lie.
        let (piece, head) = if rows > pieces {
            (task % pieces, task / pieces)
        } else {
            (task / heads, task % heads)
        };
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

impl Online {
    const START: Self = Self {
        highest: f32::NEG_INFINITY,
        total: 0.0,
    };
}

/// One head of a cache block, and what follows it in time.
#[derive(Clone, Copy)]
struct HeadBlock<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    next: *const u8,
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
        let Heads { dim, scale, .. } = layer.heads;
        let width = layer.heads.width();
        // SAFETY: this head of row `row + r`, which is this task's own.
        let out = |r: usize| unsafe { out.slice((self.row + r) * width + self.head * dim, dim) };
        (0..R).for_each(|r| out(r).fill(0.0));
        let mut online = [Online::START; R];
        let mut scores = [[0.0; BLOCK]; R];
        let blocks = &self.blocks[..(self.len + R - 1).div_ceil(BLOCK)];
        let queries = (self.query(layer).as_ptr(), 3 * width);
        for i in 0..blocks.len() {
            let block = self.block(layer, blocks, i);
            // How much of the block the first row sees; negative where it
            // begins after that row's position.
            let seen = self.len as isize - (i * BLOCK) as isize;
            // SAFETY: the set is the caller's promise.
            unsafe {
                let shrinks =
                    weigh_block::<V, R>(queries, block, (scale, seen), &mut scores, &mut online);
                add_values::<V, R>(&scores, shrinks, block, seen, out);
            }
        }
        for (r, online) in online.iter().enumerate() {
            let scale = 1.0 / online.total;
            for o in out(r) {
                *o *= scale;
            }
        }
        R
    }

    /// The first row's query and what follows it, up to the last row's.
    #[inline(always)]
    fn query<'a>(self, layer: Attention<'a>) -> &'a [f32] {
        &layer.qkv[self.row * 3 * layer.heads.width() + self.head * layer.heads.dim..]
    }

    /// This head of the `i`-th block of the sequence.
    #[inline(always)]
    fn block<'a>(self, layer: Attention<'a>, blocks: &[u32], i: usize) -> HeadBlock<'a> {
        let keys = |i: usize| layer.heads.keys(layer.keys, blocks[i], self.head);
        HeadBlock {
            keys: keys(i),
            values: layer.heads.values(layer.values, blocks[i], self.head),
            next: keys((i + 1).min(blocks.len() - 1)).as_ptr().cast(),
        }
    }
}

/// Scores of `R` queries with all keys of a block, then their weights relative
/// to the highest score so far, of which the first row has `seen` and each
/// further row one more. Returns what the sums of the blocks before are to be
/// multiplied by.
///
/// # Safety
/// The set of `V` must be there; `queries` is the first query and the distance
/// to the next, all of them readable.
#[inline(always)]
unsafe fn weigh_block<V: Vector, const R: usize>(
    queries: (*const f32, usize),
    block: HeadBlock<'_>,
    (scale, seen): (f32, isize),
    scores: &mut [[f32; BLOCK]; R],
    online: &mut [Online; R],
) -> [f32; R] {
    let dim = block.keys.len() / BLOCK;
    // The values are next, in as many steps as there are keys.
    let ahead = Ahead {
        from: block.values.as_ptr().cast(),
        stride: size_of_val(block.values) / dim,
    };
    // SAFETY: the set and the queries are the caller's promise; there are
    // `dim` steps of keys.
    unsafe {
        let mut sums = [[V::splat(0.0); 2]; R];
        let keys = block.keys.as_ptr().cast();
        multiply_rows::<V, R>(queries.0, (queries.1, 1), keys, dim, ahead, &mut sums);
        for (sum, scores) in sums.into_iter().zip(scores.iter_mut()) {
            store_two(sum, scores);
        }
    }
    let mut shrinks = [1.0; R];
    for r in 0..R {
        let seen = seen + r as isize;
        if seen > 0 {
            shrinks[r] = weigh(&mut scores[r], scale, seen as usize, &mut online[r]);
        }
    }
    shrinks
}

/// Adds the values of a block, weighted, to the outputs, which are shrunk
/// first: `seen` of them to the first row, and one more to each further row.
///
/// # Safety
/// The set of `V` must be there.
#[inline(always)]
unsafe fn add_values<'a, V: Vector, const R: usize>(
    weights: &[[f32; BLOCK]; R],
    shrinks: [f32; R],
    block: HeadBlock<'_>,
    seen: isize,
    out: impl Fn(usize) -> &'a mut [f32],
) {
    let panels = block.values.chunks(BLOCK * PANEL);
    let stride = size_of_val(block.keys) / panels.len() / BLOCK;
    // What all rows see, and what the last one sees.
    let all = seen.clamp(0, BLOCK as isize) as usize;
    let some = (seen + R as isize - 1).clamp(0, BLOCK as isize) as usize;
    for (panel, values) in panels.enumerate() {
        let start = panel * PANEL;
        let ahead = Ahead {
            from: block.next.wrapping_add(panel * BLOCK * stride),
            stride,
        };
        // SAFETY: the set is the caller's promise; weights and panel have
        // BLOCK steps.
        unsafe {
            let mut sums = [[V::splat(0.0); 2]; R];
            for (r, sum) in sums.iter_mut().enumerate() {
                let before = load_two::<V>(&out(r)[start..]);
                let shrink = V::splat(shrinks[r]);
                *sum = [before[0].mul(shrink), before[1].mul(shrink)];
            }
            let from: *const f32 = weights.as_ptr().cast();
            let bytes = values.as_ptr().cast();
            multiply_rows::<V, R>(from, (BLOCK, 1), bytes, all, ahead, &mut sums);
            for i in all..some {
                let values = load_two::<V>(&values[i * PANEL..]);
                for (r, sum) in sums.iter_mut().enumerate() {
                    // A row that doesn't see it must not even add 0 of it.
                    if (i as isize) < seen + r as isize {
                        let weight = V::splat(weights[r][i]);
                        *sum = [sum[0].fma(weight, values[0]), sum[1].fma(weight, values[1])];
                    }
                }
            }
            for (r, sum) in sums.into_iter().enumerate() {
                store_two(sum, &mut out(r)[start..]);
            }
        }
    }
}

/// Turns scores into weights relative to the highest score so far, and returns
/// what the sums of the blocks before are to be multiplied by.
#[inline(always)]
fn weigh(scores: &mut [f32; BLOCK], scale: f32, seen: usize, online: &mut Online) -> f32 {
    for score in scores.iter_mut() {
        *score *= scale;
    }
    // Beyond the row's own position: perhaps other sequences' keys.
    if seen < BLOCK {
        scores[seen..].fill(f32::NEG_INFINITY);
    }
    let mut lanes = [0.0; LANES];
    for (i, lane) in lanes.iter_mut().enumerate() {
        *lane = higher(scores[i], scores[i + LANES]);
    }
    let highest = higher(online.highest, by_halves(lanes, higher));
    let shrink = exp_negative(online.highest - highest);
    for score in scores.iter_mut() {
        *score = exp_negative(*score - highest);
    }
    for (i, lane) in lanes.iter_mut().enumerate() {
        *lane = scores[i] + scores[i + LANES];
    }
    *online = Online {
        highest,
        total: f32::mul_add(online.total, shrink, by_halves(lanes, |a, b| a + b)),
    };
    shrink
}

#[inline(always)]
fn higher(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

#[cfg(test)]
mod tests;
