//! How much each position counts: for those who want to see, not for speed.

use super::{Attention, BLOCK, Cache};
use crate::kernels::softmax;

/// The weights with which a row attends to its sequence's positions in one
/// head: the softmax of its scores, `out[position + 1]`, where `position` is
/// the row's own. `keys` are those of the cache.
///
/// # Panics
/// If `row` is in no piece, or `out` has another length.
pub fn weights(layer: Attention<'_>, keys: &[u32], (row, head): (usize, usize), out: &mut [f32]) {
    let mut pieces = layer.pieces.iter();
    let piece = pieces.find(|piece| (piece.row..piece.row + piece.count).contains(&row));
    let piece = piece.expect("the caller names a row of the batch");
    assert_eq!(out.len(), piece.position + row - piece.row + 1, "weights");
    let heads = layer.heads;
    let query = &layer.qkv[row * 3 * heads.width() + head * heads.dim..][..heads.dim];
    for (scores, &block) in out.chunks_mut(BLOCK).zip(piece.blocks) {
        scores.fill(0.0);
        let keys = &keys[heads.of_block((Cache::Keys, layer.format), block, head)];
        for (q, keys) in query
            .chunks(layer.format.values_in_word())
            .zip(keys.chunks(BLOCK))
        {
            for (score, &word) in scores.iter_mut().zip(keys) {
                for (q, key) in q.iter().zip(layer.format.values(word)) {
                    // Not fused: without the instruction that would be a call.
                    *score += q * key;
                }
            }
        }
    }
    for score in out.iter_mut() {
        *score *= heads.scale;
    }
    let log_total = softmax::log_sum_exp(out);
    for score in out {
        *score = (*score - log_total).exp();
    }
}
