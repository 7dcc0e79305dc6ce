//! 32-bit floats: a step is one input.

use super::PANEL;
use super::format::{Ahead, Format};
use crate::kernels::vector::{LANES, Vector};

/// Weights `[panel, k, PANEL]`, inputs `[k, rows]`.
pub enum F32 {}

impl Format for F32 {
    const STEP: usize = 1;
    const STEP_BYTES: usize = PANEL * size_of::<f32>();
    const ROW_WORDS: usize = 1;

    #[inline(always)]
    fn rows<V: Vector>() -> usize {
        V::ROWS
    }

    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn pack_rows<V: Vector>(x: &[f32], k: usize, out: &mut [u32]) {
        let rows = x.len() / k;
        for (i, out) in out.chunks_mut(rows).enumerate() {
            for (r, word) in out.iter_mut().enumerate() {
                *word = x[r * k + i].to_bits();
            }
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
        // SAFETY: passed on from the caller; inputs lie as `[steps, R]`.
        unsafe { multiply_rows::<V, R>(x.cast(), (1, R), w, steps, ahead, sums) }
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
