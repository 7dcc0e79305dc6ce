//! bf16 weights and inputs, products summed in f32: a step is two inputs.

use super::PANEL;
use super::format::{Ahead, CHUNK, Format};
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
        // A copy, so that the sums stay in registers.
        let mut local = *sums;
        for i in 0..steps {
            ahead.fetch::<V>(i, 0, 2);
            ahead.fetch::<V>(i, 1, 2);
            // SAFETY: the set is the caller's promise, and step `i` lies
            // within what it says is readable.
            unsafe {
                let (chunk, word) = (i / Self::CHUNK_WORDS, i % Self::CHUNK_WORDS);
                let x = x.add(chunk * R * Self::CHUNK_WORDS + word);
                let w = w.add(i * Self::STEP_BYTES);
                let w = [V::load_bytes(w), V::load_bytes(w.add(64))];
                for (r, sum) in local.iter_mut().enumerate() {
                    let x = *x.add(r * Self::CHUNK_WORDS);
                    sum[0] = sum[0].dot_bf16(w[0], x);
                    sum[1] = sum[1].dot_bf16(w[1], x);
                }
            }
        }
        *sums = local;
    }
}
