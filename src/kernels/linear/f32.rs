//! 32-bit floats: a step is one input.

use super::PANEL;
use super::format::{Ahead, CHUNK, Format};
use super::words::{Floats, multiply_chunks};
use crate::kernels::vector::{LANES, Vector};

/// Weights `[panel, k, PANEL]`, inputs `[k/CHUNK, rows, CHUNK]`.
pub enum F32 {}

impl Format for F32 {
    const STEP: usize = 1;
    const STEP_BYTES: usize = PANEL * size_of::<f32>();
    const CHUNK_WORDS: usize = CHUNK;

    #[inline(always)]
    fn rows<V: Vector>() -> usize {
        V::ROWS
    }

    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn pack_chunk<V: Vector>(x: [V; 2], out: &mut [u32]) {
        let out = out[..CHUNK].as_mut_ptr().cast::<f32>();
        // SAFETY: there is room for two vectors; the set is the caller's promise.
        unsafe {
            x[0].store(out);
            x[1].store(out.add(LANES));
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
            multiply_chunks::<V, Floats, R>((x, CHUNK), w.cast(), steps, ahead, sums);
        }
    }
}
