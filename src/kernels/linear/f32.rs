//! 32-bit floats: a step is one input.

use super::PANEL;
use super::format::{Ahead, Format};
use crate::kernels::vector::{LANES, Vector};

/// Weights `[panel, k, PANEL]`, inputs `[k/LANES, rows, LANES]`.
pub enum F32 {}

impl Format for F32 {
    const STEP: usize = 1;
    const STEP_BYTES: usize = PANEL * size_of::<f32>();
    const CHUNK: usize = LANES;
    const CHUNK_WORDS: usize = LANES;

    #[inline(always)]
    fn rows<V: Vector>() -> usize {
        V::ROWS
    }

    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn pack_row<V: Vector>(x: &[f32], rows: usize, out: &mut [u32]) {
        let chunks = out.chunks_mut(rows * LANES);
        let (whole, rest) = x.as_chunks::<LANES>();
        let mut last = [0.0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        for (x, out) in whole.iter().chain([&last]).zip(chunks) {
            out[..LANES].copy_from_slice(&x.map(f32::to_bits));
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
        for first in (0..steps).step_by(LANES) {
            let count = LANES.min(steps - first);
            // SAFETY: passed on from the caller; each chunk of inputs is
            // `[R, LANES]`.
            unsafe {
                let (x, w) = (x.add(first * R), w.add(first * Self::STEP_BYTES));
                let ahead = ahead.after(first);
                multiply_rows::<V, R>(x.cast(), (LANES, 1), w, count, ahead, &mut local);
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
