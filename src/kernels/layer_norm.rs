//! LayerNorm in two passes: the mean first, then the mean squared deviation,
//! which doesn't cancel as `E[x²] − E[x]²` does.

use super::softmax::fold;
use super::vector::{Vector, load_two, sum};

/// `(x − mean) / √(variance + epsilon) · weight + bias` over a row of n values;
/// the variance is the biased one, as in PyTorch.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// Scale, `[n]`.
    pub weight: &'a [f32],
    /// Shift, `[n]`.
    pub bias: &'a [f32],
    /// Added to the variance.
    pub epsilon: f32,
}

/// What a row's values have in common.
#[derive(Clone, Copy)]
pub(super) struct Moments {
    mean: f32,
    /// 1 / √(variance + epsilon).
    scale: f32,
}

impl Norm<'_> {
    /// Those of the row `x`.
    #[inline(always)]
    pub(super) fn moments(self, x: &[f32]) -> Moments {
        let n = x.len() as f32;
        let mean = sum(fold(x, 0.0, |sum, x| sum + x)) / n;
        let squares = fold(x, 0.0, |sum, x| (x - mean).mul_add(x - mean, sum));
        let variance = sum(squares) / n;
        let scale = 1.0 / (variance + self.epsilon).sqrt();
        Moments { mean, scale }
    }

    /// A row's values from column `first` on, normalised; what lies beyond the
    /// row comes out as 0.
    ///
    /// # Safety
    /// The set of `V` must be there.
    #[inline(always)]
    pub(super) unsafe fn apply<V: Vector>(self, of: Moments, first: usize, x: [V; 2]) -> [V; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let weight = load_two::<V>(&self.weight[first..]);
            let bias = load_two::<V>(&self.bias[first..]);
            let (less, one, scale) = (V::splat(-of.mean), V::splat(1.0), V::splat(of.scale));
            let value = |i: usize| bias[i].fma(less.fma(x[i], one).mul(scale), weight[i]);
            [value(0), value(1)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::isa::{Isa, dispatch};
    use crate::kernels::vector::{LANES, store_two};

    /// # Safety
    /// The set of `V` must be there.
    #[inline(always)]
    unsafe fn normalise<V: Vector>(norm: Norm<'_>, x: &mut [f32]) {
        let moments = norm.moments(x);
        for (i, x) in x.chunks_mut(2 * LANES).enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                let values = norm.apply::<V>(moments, i * 2 * LANES, load_two(x));
                store_two(values, x);
            }
        }
    }

    fn normalised(isa: Isa, norm: Norm<'_>, x: &[f32]) -> Vec<f32> {
        let mut y = x.to_vec();
        let x = &mut y[..];
        dispatch!(isa, normalise(norm: Norm<'_>, x: &mut [f32]));
        y
    }

    #[test]
    fn a_large_offset_does_not_cancel() {
        let x: Vec<f32> = (0..37).map(|i| 10_000.0 + i as f32).collect();
        let (weight, bias) = (vec![1.0; 37], vec![0.0; 37]);
        let deviation = ((37.0f64 * 37.0 - 1.0) / 12.0).sqrt();
        let norm = Norm {
            weight: &weight,
            bias: &bias,
            epsilon: 0.0,
        };
        for &isa in Isa::available() {
            let y = normalised(isa, norm, &x);
            for (i, y) in y.iter().enumerate() {
                let expected = (i as f64 - 18.0) / deviation;
                assert!((f64::from(*y) - expected).abs() < 1e-5, "{isa:?} {i}: {y}");
            }
        }
    }

    #[test]
    fn every_set_gives_the_same_bits() {
        for n in 1..=130 {
            let x: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32).sin()).collect();
            let weight: Vec<f32> = (0..n).map(|i| (i as f32).cos()).collect();
            let norm = Norm {
                weight: &weight,
                bias: &weight,
                epsilon: 1e-5,
            };
            let reference = normalised(Isa::Scalar, norm, &x);
            for &isa in Isa::available() {
                assert_eq!(normalised(isa, norm, &x), reference, "{isa:?}, n = {n}");
            }
        }
    }
}
