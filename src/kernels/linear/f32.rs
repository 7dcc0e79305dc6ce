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
        let (x, w) = (x.cast::<f32>(), w.cast::<f32>());
        // A copy, so that the sums stay in registers.
        let mut local = *sums;
        for i in 0..steps {
            ahead.fetch::<V>(i, 0, 1);
            // SAFETY: the set is the caller's promise, and step `i` lies
            // within what it says is readable.
            unsafe {
                let w = w.add(i * PANEL);
                let w = [V::load(w), V::load(w.add(LANES))];
                for (r, sum) in local.iter_mut().enumerate() {
                    let x = V::splat(*x.add(i * R + r));
                    sum[0] = sum[0].fma(x, w[0]);
                    sum[1] = sum[1].fma(x, w[1]);
                }
            }
        }
        *sums = local;
    }
}
