//! The weight formulas of llama.cpp's Q8_0 and Q4_0, to compare ours with
//! (`quantize_row_q8_0_ref` and `quantize_row_q4_0_ref` in ggml-quants.c).

use half::f16;

use crate::model::Dtype;

/// Weights that share a scale.
const BLOCK: usize = 32;

/// A formula of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ggml {
    /// −127 to 127 of a 127th of the largest magnitude.
    Q8_0,
    /// −8 to 7 of an eighth of the largest weight, which becomes −8.
    Q4_0,
}

impl Ggml {
    /// What reports call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Q8_0 => "llama.cpp's Q8_0",
            Self::Q4_0 => "llama.cpp's Q4_0",
        }
    }

    /// Ours of the same width, which can hold what it rounds to.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::Q8_0 => Dtype::Q8,
            Self::Q4_0 => Dtype::Q4,
        }
    }

    /// Rounds the weights of one output to what is left of them once they are
    /// stored.
    pub fn round(self, weights: &mut [f32]) {
        for block in weights.chunks_mut(BLOCK) {
            // The first of the largest magnitudes, with its sign.
            let larger = |m: f32, w: &f32| if w.abs() > m.abs() { *w } else { m };
            let largest = block.iter().fold(0.0, larger);
            let scale = match self {
                Self::Q8_0 => largest.abs() / 127.0,
                Self::Q4_0 => largest / -8.0,
            };
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            let stored = f16::from_f32(scale).to_f32();
            for w in block {
                let q = *w * inverse;
                *w = stored
                    * match self {
                        Self::Q8_0 => q.round(),
                        Self::Q4_0 => (q + 8.5).trunc().min(15.0) - 8.0,
                    };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::linear::{PANEL, pack_panel, packed_len, unpack_column};

    #[test]
    fn a_block_becomes_what_the_formula_says() {
        let mut weights = [0.0; BLOCK];
        weights[..4].copy_from_slice(&[-4.0, 2.3, 1.2, 3.9]);
        let mut eight = weights;
        Ggml::Q8_0.round(&mut eight);
        let scale = f16::from_f32(4.0 / 127.0).to_f32();
        assert_eq!(eight[..4], [-127.0, 73.0, 38.0, 124.0].map(|q| q * scale));
        Ggml::Q4_0.round(&mut weights);
        // 3.9 would be 7.8, but there is no 8.
        assert_eq!(weights[..4], [-4.0, 2.5, 1.0, 3.5]);
        assert!(weights[4..].iter().all(|w| *w == 0.0));
    }

    /// So a model of ours can stand for theirs.
    #[test]
    fn our_packing_keeps_what_their_formula_gives() {
        let noise = |i: usize| (i as f32 * 12.9898).sin() * (i as f32 * 0.37).cos() * 0.05;
        for ggml in [Ggml::Q8_0, Ggml::Q4_0] {
            let k = 20 * BLOCK;
            let mut values = vec![0.0; k * PANEL];
            let mut rounded = vec![vec![0.0; k]; PANEL];
            for (c, column) in rounded.iter_mut().enumerate() {
                (0..k).for_each(|i| column[i] = noise(1 + i * PANEL + c));
                ggml.round(column);
                (0..k).for_each(|i| values[i * PANEL + c] = column[i]);
            }
            let precision = ggml.dtype().precision().unwrap();
            let mut packed = vec![0; packed_len(precision, k, PANEL)];
            pack_panel(precision, &values, &mut packed);
            for (c, expected) in rounded.iter().enumerate() {
                let mut found = vec![0.0; k];
                unpack_column(precision, &packed, c, &mut found);
                let worst = found.iter().zip(expected).map(|(f, e)| (f - e).abs());
                let worst = worst.fold(0.0, f32::max);
                assert!(worst <= 0.05 / 8.0 * 2e-3, "{ggml:?}: {worst:e}");
            }
        }
    }
}
