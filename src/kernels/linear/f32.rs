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
            let count = CHUNK.min(steps - first);
            // SAFETY: passed on from the caller; each chunk of inputs is
            // `[R, CHUNK]`.
            unsafe {
                let (x, w) = (x.add(first * R), w.add(first * Self::STEP_BYTES));
                let ahead = ahead.after(first);
                multiply_rows::<V, R>(x.cast(), (CHUNK, 1), w, count, ahead, &mut local);
            }
        }
        *sums = local;
    }
}

/// Adds to `sums` the products of `R` rows with `steps` steps of a panel. The
/// inputs of a row are `strides.1` values apart, rows `strides.0`.
///
/// # Safety
/// The set of `V` must be there, `x` readable for all rows' inputs and `w` for
/// `steps` times `PANEL` values.
#[inline(always)]
pub unsafe fn multiply_rows<V: Vector, const R: usize>(
    x: *const f32,
    strides: (usize, usize),
    w: *const u8,
    steps: usize,
    ahead: Ahead,
    sums: &mut [[V; 2]; R],
) {
    let w = w.cast::<f32>();
    // A copy, so that the sums stay in registers.
    let mut local = *sums;
    for i in 0..steps {
        ahead.fetch::<V>(i, 0, 2);
        ahead.fetch::<V>(i, 1, 2);
        // SAFETY: the caller's promise.
        unsafe {
            let w = w.add(i * PANEL);
            let w = [V::load(w), V::load(w.add(LANES))];
            for (r, sum) in local.iter_mut().enumerate() {
                let x = V::splat(*x.add(r * strides.0 + i * strides.1));
                sum[0] = sum[0].fma(x, w[0]);
                sum[1] = sum[1].fma(x, w[1]);
            }
        }
    }
    *sums = local;
}
