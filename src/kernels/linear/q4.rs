//! 4-bit weights, 8-bit inputs in blocks of 32: a step is a block.

use super::PANEL;
use super::format::{Ahead, Format};
use super::quantize::{self, BLOCK, BLOCK_WORDS, QUADS};
use crate::kernels::vector::{LANES, Vector};

/// Bytes of sixteen columns' weights in a block.
const HALF: usize = LANES * BLOCK / 2;

/// What is added to a weight, so that it is stored as 0 to 15.
pub const OFFSET: i32 = 8;

/// Weights per panel and block: for each half of the columns
/// `[QUADS/2, 16, 4]` bytes, quad j in the lower four bits and quad
/// j + QUADS/2 in the upper, then `[PANEL]` half-precision scales.
/// Inputs as [`quantize::pack_rows`] lays them out.
pub enum Q4 {}

impl Q4 {
    /// Where a block's scales start.
    pub const SCALES: usize = 2 * HALF;

    /// The byte that holds the weight of `column` and input `i` of a block,
    /// and the bit at which it starts there.
    pub fn offset(column: usize, i: usize) -> (usize, u32) {
        let (half, lane, quad) = (column / LANES, column % LANES, i / 4);
        let byte = half * HALF + ((quad % (QUADS / 2)) * LANES + lane) * 4 + i % 4;
        (byte, if quad < QUADS / 2 { 0 } else { 4 })
    }
}

impl Format for Q4 {
    const STEP: usize = BLOCK;
    const STEP_BYTES: usize = Self::SCALES + PANEL * size_of::<u16>();
    const ROW_WORDS: usize = BLOCK_WORDS;

    #[inline(always)]
    fn rows<V: Vector>() -> usize {
        V::BYTE_ROWS
    }

    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn pack_rows<V: Vector>(x: &[f32], k: usize, out: &mut [u32]) {
        quantize::pack_rows(x, k, out);
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
        // A copy, so that the sums stay in registers.
        let mut local = *sums;
        for i in 0..steps {
            // SAFETY: the set is the caller's promise, and step `i` lies
            // within what it says is readable.
            unsafe {
                let (x, w) = (x.add(i * R * BLOCK_WORDS), w.add(i * Self::STEP_BYTES));
                for half in 0..2 {
                    let mut ints = [V::int_splat(0); R];
                    for (r, ints) in ints.iter_mut().enumerate() {
                        let inputs = quantize::input_sum::<R>(x, r);
                        *ints = V::int_splat(-OFFSET * inputs);
                    }
                    for quad in 0..QUADS / 2 {
                        ahead.fetch::<V>(i, half * QUADS / 2 + quad, QUADS);
                        let w = V::load_bytes(w.add(half * HALF + quad * 64));
                        let (low, high) = (V::low_nibbles(w), V::high_nibbles(w));
                        for (r, ints) in ints.iter_mut().enumerate() {
                            *ints = V::dot_q4(*ints, low, *x.add(quad * R + r));
                        }
                        for (r, ints) in ints.iter_mut().enumerate() {
                            let x = *x.add((quad + QUADS / 2) * R + r);
                            *ints = V::dot_q4(*ints, high, x);
                        }
                    }
                    let scales = V::load_f16(w.add(Self::SCALES + half * 2 * LANES));
                    for (r, ints) in ints.into_iter().enumerate() {
                        let scale = scales.mul(V::splat(quantize::input_scale::<R>(x, r)));
                        local[r][half] = local[r][half].fma(scale, V::to_f32(ints));
                    }
                }
            }
        }
        *sums = local;
    }
}
