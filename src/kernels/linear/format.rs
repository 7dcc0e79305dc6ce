//! What the precisions differ in.

use super::super::vector::{LANES, Vector};

/// Inputs that are laid out together: two vectors of them.
pub const CHUNK: usize = 2 * LANES;

/// Rows that take longer to compute than their weights to be read.
pub const MANY_ROWS: usize = 8;

/// How weights and inputs of one precision are laid out and multiplied.
///
/// A panel holds its weights step by step, a group of rows its inputs chunk by
/// chunk, `[chunks, rows, CHUNK_WORDS]`: the product walks through both once,
/// front to back.
pub trait Format {
    /// Inputs in a step; a divisor of [`CHUNK`].
    const STEP: usize;
    /// Bytes of a panel's weights in a step.
    const STEP_BYTES: usize;
    /// Words of one row's inputs in a chunk.
    const CHUNK_WORDS: usize;

    /// Rows that are computed together at most.
    fn rows<V: Vector>() -> usize;

    /// Lays out a chunk of one row's inputs in `CHUNK_WORDS` words.
    ///
    /// # Safety
    /// The set of `V` must be there.
    unsafe fn pack_chunk<V: Vector>(x: [V; 2], out: &mut [u32]);

    /// Adds to `sums` the products of `steps` steps of `R` rows with a panel.
    ///
    /// # Safety
    /// The set of `V` must be there; `x` must be readable for all chunks of
    /// `R` rows and `w` for `steps · STEP_BYTES` bytes.
    unsafe fn multiply<V: Vector, const R: usize>(
        x: *const u32,
        w: *const u8,
        steps: usize,
        ahead: Ahead,
        sums: &mut [[V; 2]; R],
    );
}

/// Weights to ask for while others are used: `stride` bytes a step, from
/// `from` on, which may be any address.
#[derive(Clone, Copy)]
pub struct Ahead {
    pub from: *const u8,
    pub stride: usize,
}

impl Ahead {
    /// Asks for nothing that isn't there already.
    pub fn nothing(at: *const u8) -> Self {
        Self {
            from: at,
            stride: 0,
        }
    }

    /// What to ask for from step `i` on.
    #[inline(always)]
    pub fn after(self, i: usize) -> Self {
        Self {
            from: self.from.wrapping_add(i * self.stride),
            ..self
        }
    }

    /// Asks for what step `i` stands for, at `part` of `parts` of it.
    #[inline(always)]
    pub fn fetch<V: Vector>(self, i: usize, part: usize, parts: usize) {
        let offset = i * self.stride + part * self.stride / parts;
        V::prefetch(self.from.wrapping_add(offset));
    }
}
