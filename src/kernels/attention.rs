//! Causal attention over a KV cache in blocks, one row and head at a time,
//! with an online softmax (Milakov and Gimelshein, 2018).
//!
//! The softmax goes through blocks of absolute positions, so a row's bits do
//! not depend on how its prompt was chunked or what else is in the batch.

use rayon::prelude::*;

use super::activation::exp;
use super::isa::{Isa, dispatch};
use super::vector::{LANES, Vector, axpy, dot, sum};

/// Positions in a cache block and in a step of the softmax.
pub const BLOCK: usize = 32;

/// Where one row of the batch looks.
#[derive(Clone, Copy)]
pub struct RowContext<'a> {
    /// The cache blocks of its sequence, in the order of positions.
    pub blocks: &'a [u32],
    /// Positions it attends to, itself included: at least 1.
    pub len: usize,
}

/// An attention layer to compute.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// Queries, keys and values of the new tokens, `[rows, 3·heads·head_dim]`;
    /// only the queries are read here.
    pub qkv: &'a [f32],
    /// Cached keys, `[blocks, BLOCK, heads·head_dim]`.
    pub keys: &'a [f32],
    /// Cached values, in the same layout.
    pub values: &'a [f32],
    /// One context per row.
    pub rows: &'a [RowContext<'a>],
    /// Number of heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// What scores are multiplied by.
    pub scale: f32,
}

/// Computes `out[rows, heads·head_dim]`.
///
/// # Panics
/// If the slices' lengths don't fit each other, or a row looks outside the cache.
pub fn attention(layer: Attention<'_>, out: &mut [f32]) {
    attention_with(Isa::current(), layer, out);
}

/// [`attention`] with a given instruction set, one of [`Isa::available`].
pub fn attention_with(isa: Isa, layer: Attention<'_>, out: &mut [f32]) {
    let width = layer.heads * layer.head_dim;
    assert_eq!(layer.qkv.len(), layer.rows.len() * 3 * width);
    assert_eq!(out.len(), layer.rows.len() * width);
    let tasks = layer.rows.len() * layer.heads;
    let share = (tasks / (8 * rayon::current_num_threads())).max(1);
    out.par_chunks_mut(layer.head_dim)
        .enumerate()
        .with_min_len(share)
        .for_each(|(task, out)| {
            let (row, head) = (task / layer.heads, task % layer.heads);
            dispatch!(isa, one_head(layer: Attention<'_>, row: usize, head: usize, out: &mut [f32]));
        });
}

/// # Safety
/// The set of `V` must be there.
#[inline(always)]
unsafe fn one_head<V: Vector>(layer: Attention<'_>, row: usize, head: usize, out: &mut [f32]) {
    let dim = layer.head_dim;
    let width = layer.heads * dim;
    let query = &layer.qkv[row * 3 * width + head * dim..][..dim];
    let RowContext { blocks, len } = layer.rows[row];
    out.fill(0.0);
    let mut highest = f32::NEG_INFINITY;
    let mut total = 0.0;
    for (i, &block) in blocks[..len.div_ceil(BLOCK)].iter().enumerate() {
        let count = BLOCK.min(len - i * BLOCK);
        let start = block as usize * BLOCK * width + head * dim;
        let at = |position: usize| start + position * width;
        let mut scores = [f32::NEG_INFINITY; BLOCK];
        for (position, score) in scores[..count].iter_mut().enumerate() {
            // SAFETY: the set is the caller's promise.
            *score = layer.scale * unsafe { dot::<V>(query, &layer.keys[at(position)..][..dim]) };
        }
        let new_highest = scores.iter().fold(highest, |m, &s| m.max(s));
        let shrink = exp(highest - new_highest);
        for score in &mut scores {
            *score = exp(*score - new_highest);
        }
        let mut lanes = [0.0; LANES];
        for chunk in scores.chunks(LANES) {
            for (lane, p) in lanes.iter_mut().zip(chunk) {
                *lane += p;
            }
        }
        total = f32::mul_add(total, shrink, sum(lanes));
        highest = new_highest;
        for o in out.iter_mut() {
            *o *= shrink;
        }
        for (position, &p) in scores[..count].iter().enumerate() {
            // SAFETY: the set is the caller's promise.
            unsafe { axpy::<V>(p, &layer.values[at(position)..][..dim], out) };
        }
    }
    let scale = 1.0 / total;
    for o in out {
        *o *= scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, seed: usize) -> Vec<f32> {
        (0..len)
            .map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 500.0 - 2.0)
            .collect()
    }

    /// Softmax of all scores at once, in f64, positions gathered through the table.
    fn naive(layer: &Attention<'_>, row: usize, head: usize) -> Vec<f64> {
        let (dim, width) = (layer.head_dim, layer.heads * layer.head_dim);
        let RowContext { blocks, len } = layer.rows[row];
        let at = |p: usize| (blocks[p / BLOCK] as usize * BLOCK + p % BLOCK) * width + head * dim;
        let query = &layer.qkv[row * 3 * width + head * dim..][..dim];
        let weights: Vec<f64> = (0..len)
            .map(|p| {
                let key = &layer.keys[at(p)..][..dim];
                let product = |(q, k): (&f32, &f32)| f64::from(*q) * f64::from(*k);
                (f64::from(layer.scale) * query.iter().zip(key).map(product).sum::<f64>()).exp()
            })
            .collect();
        let total: f64 = weights.iter().sum();
        (0..dim)
            .map(|d| {
                let value = |p: usize| f64::from(layer.values[at(p) + d]);
                (0..len).map(|p| weights[p] * value(p)).sum::<f64>() / total
            })
            .collect()
    }

    #[test]
    fn equals_the_naive_softmax_and_every_set_gives_the_same_bits() {
        for (heads, head_dim) in [(1, 1), (3, 7), (2, 16), (2, 40)] {
            let width = heads * head_dim;
            let tables = [vec![4, 0, 2], vec![1], vec![3, 5]];
            let lens = [70, 1, 33];
            let rows: Vec<RowContext<'_>> = tables
                .iter()
                .zip(lens)
                .map(|(blocks, len)| RowContext { blocks, len })
                .collect();
            let (qkv, cache) = (noise(3 * 3 * width, 1), 6 * BLOCK * width);
            let (keys, values) = (noise(cache, 2), noise(cache, 3));
            let layer = Attention {
                qkv: &qkv,
                keys: &keys,
                values: &values,
                rows: &rows,
                heads,
                head_dim,
                scale: 0.3,
            };
            let mut reference = vec![f32::NAN; 3 * width];
            attention_with(Isa::Scalar, layer, &mut reference);
            for (task, found) in reference.chunks(head_dim).enumerate() {
                let expected = naive(&layer, task / heads, task % heads);
                for (f, e) in found.iter().zip(expected) {
                    assert!((f64::from(*f) - e).abs() < 1e-5, "{f} {e}");
                }
            }
            for &isa in Isa::available() {
                let mut out = vec![f32::NAN; 3 * width];
                attention_with(isa, layer, &mut out);
                assert_eq!(out, reference, "{isa:?} {heads} x {head_dim}");
            }
        }
    }
}
