//! `y = x·W + b` over packed weights, for one row or many, in each precision.
//!
//! Each output element is one running sum over the inputs in order, so its
//! bits don't depend on how many rows are computed together, on the blocking
//! or on the threads. What the precisions differ in is in `format.rs`.

mod bf16;
mod blocking;
mod f32;
mod format;
mod pack;
mod q4;
mod q8;
mod quantize;
mod tile;
mod words;

pub use blocking::{Inputs, Linear, Matrix, Mlp, Then, linear, linear_with, mlp, mlp_with};
pub(super) use format::Ahead;
pub use pack::{aligned_start, pack_panel, packed_len, panels, unpack_column};
pub(super) use words::{Floats, PairProducts, Pairs, Words, multiply, multiply_chunks, words_of};

use super::vector::LANES;

/// Output columns in a panel. Packed weights are a row of panels, the last
/// filled up with zeros; each is read front to back, once per group of rows.
pub const PANEL: usize = 2 * LANES;

/// Precision of weights, and of the activations that meet them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// Both rounded to bf16, products summed in f32.
    Bf16,
    /// 8-bit weights in blocks of 32 inputs with a half-precision scale,
    /// activations quantised to 8 bits per row and block.
    Q8,
    /// The same with 4-bit weights.
    Q4,
}

impl Precision {
    /// The largest magnitude of a weight: that of a block must have a
    /// half-precision scale.
    pub fn largest(self) -> f32 {
        match self {
            Self::F32 | Self::Bf16 => f32::MAX,
            Self::Q8 => quantize::LARGEST_Q8,
            Self::Q4 => quantize::LARGEST_Q4,
        }
    }
}

#[cfg(test)]
mod tests;
