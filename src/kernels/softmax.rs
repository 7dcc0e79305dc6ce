//! Reductions over a row of logits.

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

/// Sum of all values.
pub fn total(x: &[f32]) -> f32 {
    dispatch!(Isa::current(), total_of(x: &[f32]) -> f32)
}

/// # Safety
/// None of its own: unsafe only because every dispatched kernel is.
#[inline(always)]
unsafe fn max_of<V: Vector>(x: &[f32]) -> f32 {
    let higher = |a: f32, b: f32| if b > a { b } else { a };
    fold(x, f32::NEG_INFINITY, higher)
        .into_iter()
        .fold(f32::NEG_INFINITY, higher)
}

/// # Safety
/// As [`max_of`].
#[inline(always)]
unsafe fn exp_sum_of<V: Vector>(x: &mut [f32], shift: f32) -> f32 {
    for x in x.iter_mut() {
        *x = exp(*x - shift);
    }
    sum(fold(x, 0.0, |a, b| a + b))
}

/// # Safety
/// As [`max_of`].
#[inline(always)]
unsafe fn sum_exp_of<V: Vector>(x: &[f32], shift: f32) -> f32 {
    sum(fold(x, 0.0, |a, b| a + exp(b - shift)))
}

/// # Safety
/// As [`max_of`].
#[inline(always)]
unsafe fn total_of<V: Vector>(x: &[f32]) -> f32 {
    sum(fold(x, 0.0, |a, b| a + b))
}

/// Folds every sixteenth value into a lane of its own.
#[inline(always)]
fn fold(x: &[f32], start: f32, f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let mut lanes = [start; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = f(*lane, x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = f(*lane, x);
    }
    lanes
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
