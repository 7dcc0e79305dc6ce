//! 8-bit weights and inputs in blocks of 32: a step is a block.

use super::PANEL;
use super::format::{Ahead, Format};
use super::quantize::{self, BLOCK, BLOCK_WORDS, Block, QUADS, Scale, Weights};
use crate::kernels::vector::{LANES, Vector};

/// Bytes of sixteen columns' weights in a quad.
const HALF: usize = LANES * 4;

/// Weights per panel and block: `[QUADS, PANEL, 4]` bytes q + 128, then
/// `[PANEL]` half-precision scales.
/// Inputs as [`quantize::pack_block`] lays them out.
pub enum Q8 {}

impl Q8 {
    /// Where a block's scales start.
    pub const SCALES: usize = QUADS * 2 * HALF;

    /// Where the weight of `column` and input `i` of a block lies.
    pub fn offset(column: usize, i: usize) -> usize {
        let (half, lane) = (column / LANES, column % LANES);
        ((i / 4) * 2 + half) * HALF + lane * 4 + i % 4
    }
}

impl Format for Q8 {
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
        unsafe { quantize::pack_block(x, Scale::exact, V::Q8_OFFSET, out) }
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

impl Weights for Q8 {
    const SCALES: usize = Self::SCALES;

    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn products<V: Vector, const R: usize>(
        block: Block,
        pair: usize,
        sums: &mut [[V::Ints; 2]; R],
    ) {
        block.ahead::<V, Self, R>(pair);
        for quad in [2 * pair, 2 * pair + 1] {
            // SAFETY: the set and the block are the caller's promise.
            unsafe {
                let w = block.w.add(quad * 2 * HALF);
                let w = [w, w.add(HALF)].map(|w| V::prepare_q8(V::load_bytes(w)));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = *block.x.add(r * BLOCK_WORDS + quad);
                    *sums = [V::dot_q8(sums[0], w[0], x), V::dot_q8(sums[1], w[1], x)];
                }
            }
        }
    }

    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn scaled<V: Vector>(scales: V, word: u32) -> V {
        // SAFETY: the set is the caller's promise.
        unsafe { scales.mul(V::splat(f32::from_bits(word))) }
    }
}
