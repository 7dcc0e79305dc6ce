//! LayerNorm in two passes: the mean first, then the mean squared deviation,
//! which doesn't cancel as `E[x²] − E[x]²` does.

use super::isa::{Isa, dispatch};
use super::pool;
use super::vector::{LANES, Vector, dot, sum};

/// Rows that one thread takes at least: below, forking costs more than it saves.
const MIN_ROWS: usize = 16;

/// `y = (x − mean) / √(variance + epsilon) · weight + bias` for each row.
///
/// `x` and `y` are `[rows, n]`, `weight` and `bias` `[n]`; the variance is the
/// biased one, as in PyTorch.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, y: &mut [f32]) {
    layer_norm_with(Isa::current(), x, weight, bias, epsilon, y);
}

/// [`layer_norm`] with a given instruction set, one of [`Isa::available`].
pub fn layer_norm_with(
    isa: Isa,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    epsilon: f32,
    y: &mut [f32],
) {
    let n = weight.len();
    assert!(n > 0 && x.len().is_multiple_of(n) && x.len() == y.len() && bias.len() == n);
    pool::for_each_chunk(y, n * MIN_ROWS, |i, y| {
        let x = &x[i * n * MIN_ROWS..][..y.len()];
        dispatch!(isa, rows(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, y: &mut [f32]));
    });
}

/// # Safety
/// The set of `V` must be there.
#[inline(always)]
unsafe fn rows<V: Vector>(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, y: &mut [f32]) {
    let n = weight.len();
    for (y, x) in y.chunks_mut(n).zip(x.chunks(n)) {
        // SAFETY: the set is the caller's promise.
        unsafe { row::<V>(x, weight, bias, epsilon, y) };
    }
}

/// # Safety
/// The set of `V` must be there.
#[inline(always)]
unsafe fn row<V: Vector>(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, y: &mut [f32]) {
    let n = x.len() as f32;
    let mut lanes = [0.0; LANES];
    for chunk in x.chunks(LANES) {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    let mean = sum(lanes) / n;
    for (y, x) in y.iter_mut().zip(x) {
        *y = x - mean;
    }
    // SAFETY: the set is the caller's promise.
    let variance = unsafe { dot::<V>(y, y) } / n;
    let scale = 1.0 / (variance + epsilon).sqrt();
    for ((y, w), b) in y.iter_mut().zip(weight).zip(bias) {
        *y = (*y * scale).mul_add(*w, *b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_offset_does_not_cancel() {
        let x: Vec<f32> = (0..37).map(|i| 10_000.0 + i as f32).collect();
        let (weight, bias) = (vec![1.0; 37], vec![0.0; 37]);
        let deviation = ((37.0f64 * 37.0 - 1.0) / 12.0).sqrt();
        for &isa in Isa::available() {
            let mut y = vec![0.0; 37];
            layer_norm_with(isa, &x, &weight, &bias, 0.0, &mut y);
            for (i, y) in y.iter().enumerate() {
                let expected = (i as f64 - 18.0) / deviation;
                assert!((f64::from(*y) - expected).abs() < 1e-5, "{isa:?} {i}: {y}");
            }
        }
    }

    #[test]
    fn every_set_gives_the_same_bits() {
        for n in 1..=130 {
            let x: Vec<f32> = (0..3 * n).map(|i| ((i * 37 % 101) as f32).sin()).collect();
            let weight: Vec<f32> = (0..n).map(|i| (i as f32).cos()).collect();
            let mut reference = vec![0.0; 3 * n];
            layer_norm_with(Isa::Scalar, &x, &weight, &weight, 1e-5, &mut reference);
            for &isa in Isa::available() {
                let mut y = vec![0.0; 3 * n];
                layer_norm_with(isa, &x, &weight, &weight, 1e-5, &mut y);
                assert_eq!(y, reference, "{isa:?}, n = {n}");
            }
        }
    }
}
