//! 4-bit weights, 8-bit inputs in blocks of 32: a step is a block.
//!
//! The inputs' scales are powers of two: an addition to the weights' exponents
//! instead of a product, where products are what the time goes to. What that
//! rounds more is far below what 4 bits round off the weights.

use super::PANEL;
use super::format::{Ahead, Format};
use super::quantize::{self, BLOCK, BLOCK_WORDS, Block, PAIRS, Scale, Weights};
use crate::kernels::vector::{LANES, Vector};

/// Bytes of sixteen columns' weights in two quads.
const HALF: usize = LANES * 4;

/// What is added to a weight, so that it is stored as 0 to 15.
pub const OFFSET: i32 = 8;

/// Weights per panel and block: `[PAIRS, PANEL, 4]` bytes, quad j in the lower
/// four bits and quad j + PAIRS in the upper, then `[PANEL]` half-precision
/// scales, none of them 0.
/// Inputs as [`quantize::pack_block`] lays them out.
pub enum Q4 {}

impl Q4 {
    /// Where a block's scales start.
    pub const SCALES: usize = PAIRS * 2 * HALF;

    /// The byte that holds the weight of `column` and input `i` of a block,
    /// and the bit at which it starts there.
    pub fn offset(column: usize, i: usize) -> (usize, u32) {
        let (half, lane, quad) = (column / LANES, column % LANES, i / 4);
        let byte = ((quad % PAIRS) * 2 + half) * HALF + lane * 4 + i % 4;
        (byte, if quad < PAIRS { 0 } else { 4 })
    }
}

impl Format for Q4 {
    const STEP: usize = BLOCK;
    const STEP_BYTES: usize = Self::SCALES + PANEL * size_of::<u16>();
    const CHUNK_WORDS: usize = BLOCK_WORDS;

    #[inline(always)]
    fn rows<V: Vector>() -> usize {
        V::BYTE_ROWS
    }

    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn pack_chunk<V: Vector>(x: [V; 2], out: &mut [u32]) {
        // SAFETY: passed on from the caller.
        unsafe { quantize::pack_block(x, Scale::power, OFFSET, out) }
    }

    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn multiply<V: Vector, const R: usize>(
        x: *const u32,
        w: *const u8,
        steps: usize,
        ahead: Ahead,
        sums: &mut [[V; 2]; R],
    ) {
        // SAFETY: passed on from the caller.
        unsafe { quantize::multiply::<V, Self, R>(x, w, steps, ahead, sums) }
    }
}

impl Weights for Q4 {
    const SCALES: usize = Self::SCALES;

    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn products<V: Vector, const R: usize>(
        block: Block,
        pair: usize,
        sums: &mut [[V::Ints; 2]; R],
    ) {
        block.ahead::<V, Self, R>(pair);
        // SAFETY: the set and the block are the caller's promise.
        unsafe {
            let w = block.w.add(pair * 2 * HALF);
            let w = [V::load_bytes(w), V::load_bytes(w.add(HALF))];
            let low = w.map(|w| V::low_nibbles(w));
            let high = w.map(|w| V::high_nibbles(w));
            for (w, quad) in [(low, pair), (high, pair + PAIRS)] {
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = *block.x.add(r * BLOCK_WORDS + quad);
                    *sums = [V::dot_q4(sums[0], w[0], x), V::dot_q4(sums[1], w[1], x)];
                }
            }
        }
    }

    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn scaled<V: Vector>(scales: V, word: u32) -> V {
        // SAFETY: the set is the caller's promise.
        unsafe { scales.times_power(word) }
    }
}
