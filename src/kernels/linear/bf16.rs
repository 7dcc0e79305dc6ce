//! bf16 weights and inputs, products summed in f32: a step is two inputs.

use super::PANEL;
use super::format::{Ahead, Format};
use crate::kernels::vector::{LANES, Vector};

/// Weights `[panel, k/2, PANEL, 2]`, inputs `[k/(2·LANES), rows, LANES, 2]`; an
/// odd last input is paired with zero.
pub enum Bf16 {}

impl Format for Bf16 {
    const STEP: usize = 2;
    const STEP_BYTES: usize = PANEL * 2 * size_of::<u16>();
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
        let (whole, rest) = x.as_chunks::<{ 2 * LANES }>();
        let mut last = [0.0; 2 * LANES];
        last[..rest.len()].copy_from_slice(rest);
        for (x, out) in whole.iter().chain([&last]).zip(chunks) {
            for (i, word) in out[..LANES].iter_mut().enumerate() {
                *word = pair(x[2 * i], x[2 * i + 1]);
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
        // A copy, so that the sums stay in registers.
        let mut local = *sums;
        for i in 0..steps {
            ahead.fetch::<V>(i, 0, 2);
            ahead.fetch::<V>(i, 1, 2);
            // SAFETY: the set is the caller's promise, and step `i` lies
            // within what it says is readable.
            unsafe {
                let x = x.add(i / LANES * (R * LANES) + i % LANES);
                let w = w.add(i * Self::STEP_BYTES);
                let w = [V::load_bytes(w), V::load_bytes(w.add(64))];
                for (r, sum) in local.iter_mut().enumerate() {
                    let x = *x.add(r * LANES);
                    sum[0] = sum[0].dot_bf16(w[0], x);
                    sum[1] = sum[1].dot_bf16(w[1], x);
                }
            }
        }
        *sums = local;
    }
}

/// The nearest bf16, ties to even, as its bits.
#[inline(always)]
pub fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    // A NaN must not round to infinity.
    let quiet = bits | 0x0040_0000;
    ((if x.is_nan() { quiet } else { rounded }) >> 16) as u16
}

/// Two values in a word, the first in the lower half.
#[inline(always)]
pub fn pair(first: f32, second: f32) -> u32 {
    u32::from(round(first)) | u32::from(round(second)) << 16
}
