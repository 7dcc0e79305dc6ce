//! Reductions over a row of logits.

#![allow(
    clippy::extra_unused_type_parameters,
    reason = "`dispatch!` compiles each kernel once per vector type, also where the compiler \
              vectorises plain loops by itself"
)]

use super::activation::exp;
use super::isa::{Isa, dispatch};
use super::vector::{LANES, Vector, sum};

/// The largest value; −∞ for an empty row.
pub fn max(x: &[f32]) -> f32 {
    dispatch!(Isa::current(), max_of(x: &[f32]) -> f32)
}

/// Replaces each value by e^(x − shift) and returns their sum.
pub fn exp_sum(x: &mut [f32], shift: f32) -> f32 {
    dispatch!(Isa::current(), exp_sum_of(x: &mut [f32], shift: f32) -> f32)
}

/// ln Σ eˣ, the number that turns logits into natural-log probabilities.
pub fn log_sum_exp(x: &[f32]) -> f32 {
    let highest = max(x);
    let total = dispatch!(Isa::current(), sum_exp_of(x: &[f32], highest: f32) -> f32);
    highest + total.ln()
}

/// # Safety
/// None of its own: unsafe only because every dispatched kernel is.
#[inline(always)]
unsafe fn max_of<V: Vector>(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in x.chunks(LANES) {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// # Safety
/// As [`max_of`].
#[inline(always)]
unsafe fn exp_sum_of<V: Vector>(x: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    for chunk in x.chunks_mut(LANES) {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *x = exp(*x - shift);
            *lane += *x;
        }
    }
    sum(lanes)
}

/// # Safety
/// As [`max_of`].
#[inline(always)]
unsafe fn sum_exp_of<V: Vector>(x: &[f32], shift: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    for chunk in x.chunks(LANES) {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += exp(*x - shift);
        }
    }
    sum(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_sum_exp_is_near_f64() {
        let x: Vec<f32> = (0..50_257)
            .map(|i| ((i * 7919) % 997) as f32 * 0.03 - 9.0)
            .collect();
        let exact = x.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
        let found = f64::from(log_sum_exp(&x));
        assert!((found - exact).abs() < 2e-6, "{found} {exact}");
        let mut y = x.clone();
        let highest = max(&x);
        let total = exp_sum(&mut y, highest);
        assert_eq!(highest + total.ln(), log_sum_exp(&x));
    }
}
