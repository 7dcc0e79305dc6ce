//! bf16 weights and inputs, products summed in f32: a step is two inputs.

use super::PANEL;
use super::format::{Ahead, CHUNK, Format};
use super::words::{PairProducts, multiply_chunks};
use crate::kernels::vector::{LANES, Vector};

/// Weights `[panel, k/2, PANEL, 2]`, inputs `[k/CHUNK, rows, CHUNK]`,
/// two in a word; an odd last input is paired with zero.
pub enum Bf16 {}

impl Format for Bf16 {
    const STEP: usize = 2;
    const STEP_BYTES: usize = PANEL * 2 * size_of::<u16>();
    const CHUNK_WORDS: usize = CHUNK / 2;

    #[inline(always)]
    fn rows<V: Vector>() -> usize {
        V::ROWS
    }

    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn pack_chunk<V: Vector>(x: [V; 2], out: &mut [u32]) {
        let out = out[..CHUNK / 2].as_mut_ptr().cast::<u16>();
        // SAFETY: there is room for 32 halves; the set is the caller's promise.
        unsafe {
            x[0].store_bf16(out);
            x[1].store_bf16(out.add(LANES));
        }
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
        // SAFETY: passed on from the caller; a step is a word of each column.
        unsafe {
            multiply_chunks::<V, PairProducts, R>((x, CHUNK / 2), w.cast(), steps, ahead, sums);
        }
    }
}
