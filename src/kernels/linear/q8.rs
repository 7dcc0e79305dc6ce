//! 8-bit weights and inputs in blocks of 32: a step is a block.

use super::PANEL;
use super::format::{Ahead, Format};
use super::quantize::{self, BLOCK, BLOCK_WORDS, QUADS};
use crate::kernels::vector::{LANES, Vector};

/// Bytes of sixteen columns' weights in a block.
const HALF: usize = LANES * BLOCK;

/// Weights per panel and block: for each half of the columns
/// `[QUADS, 16, 4]` bytes q + 128, then `[PANEL]` half-precision scales.
/// Inputs as [`quantize::pack_rows`] lays them out.
pub enum Q8 {}

impl Q8 {
    /// Where a block's scales start.
    pub const SCALES: usize = 2 * HALF;

    /// Where the weight of `column` and input `i` of a block lies.
    pub fn offset(column: usize, i: usize) -> usize {
        let (half, lane) = (column / LANES, column % LANES);
        half * HALF + ((i / 4) * LANES + lane) * 4 + i % 4
    }
}

impl Format for Q8 {
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
                        *ints = V::int_splat(-V::Q8_OFFSET * inputs);
                    }
                    for quad in 0..QUADS {
                        ahead.fetch::<V>(i, half * QUADS + quad, 2 * QUADS);
                        let w = V::load_bytes(w.add(half * HALF + quad * 64));
                        let w = V::prepare_q8(w);
                        for (r, ints) in ints.iter_mut().enumerate() {
                            *ints = V::dot_q8(*ints, w, *x.add(quad * R + r));
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
