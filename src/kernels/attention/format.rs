//! How keys and values are kept, and what is multiplied with them.

use crate::kernels::linear::{Floats, PairProducts, Pairs, Words};

/// The numbers of a KV cache, and of the products with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheFormat {
    /// 32-bit floats throughout.
    F32,
    /// Kept as bf16; products are of 32-bit floats.
    Bf16,
    /// Kept as bf16; the queries, and the weights of attention, are rounded to
    /// bf16 where they meet them. Sums are 32-bit floats.
    Bf16Products,
}

impl CacheFormat {
    /// Values in a word of the cache.
    pub fn values_in_word(self) -> usize {
        match self {
            Self::F32 => Floats::IN_WORD,
            Self::Bf16 => Pairs::IN_WORD,
            Self::Bf16Products => PairProducts::IN_WORD,
        }
    }

    /// The values of a word, the second 0 where it holds one.
    pub(super) fn values(self, word: u32) -> [f32; 2] {
        match self {
            Self::F32 => [f32::from_bits(word), 0.0],
            _ => [word << 16, word & UPPER].map(f32::from_bits),
        }
    }
}

/// The bits of a pair's second value.
const UPPER: u32 = 0xffff_0000;
