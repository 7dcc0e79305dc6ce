//! 32-bit floats: a step is one input.

use super::PANEL;
use super::format::{Ahead, CHUNK, Format};
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
        // A copy, so that the sums stay in registers.
        let mut local = *sums;
        for first in (0..steps).step_by(CHUNK) {
            for i in first..steps.min(first + CHUNK) {
                ahead.fetch::<V>(i, 0, 2);
                ahead.fetch::<V>(i, 1, 2);
                // SAFETY: passed on from the caller; each chunk of inputs is
                // `[R, CHUNK]`.
                unsafe {
                    let x = x.add(first * R + i - first).cast::<f32>();
                    let w = w.add(i * Self::STEP_BYTES).cast();
                    let w = [V::load(w), V::load(w.add(LANES))];
                    for (r, sum) in local.iter_mut().enumerate() {
                        let x = V::splat(*x.add(r * CHUNK));
                        *sum = [sum[0].fma(x, w[0]), sum[1].fma(x, w[1])];
                    }
                }
            }
        }
        *sums = local;
    }
}
