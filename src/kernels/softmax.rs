//! Reductions over a row of logits.

use super::activation::exp;
use super::isa::{Isa, dispatch};
use super::vector::{LANES, Vector, sum};

/// Values whose exponentials are summed in f32; blocks are added in f64.
pub const BLOCK: usize = 256;

/// The largest value; −∞ for an empty row.
pub fn max(x: &[f32]) -> f32 {
    dispatch!(Isa::current(), max_of(x: &[f32]) -> f32)
}

/// Divides each value by `divisor`.
pub fn divide(x: &mut [f32], divisor: f32) {
    dispatch!(Isa::current(), divide_all(x: &mut [f32], divisor: f32));
}

/// Writes e^(x − shift) to `exps`, of the same length, and the sum of each
/// block of [`BLOCK`] of them to `sums`.
pub fn exp_sums(x: &[f32], shift: f32, exps: &mut [f32], sums: &mut [f32]) {
    debug_assert_eq!(x.len(), exps.len());
    debug_assert_eq!(sums.len(), x.len().div_ceil(BLOCK));
    dispatch!(
        Isa::current(),
        exp_sums_of(x: &[f32], shift: f32, exps: &mut [f32], sums: &mut [f32])
    );
}

/// Σ e^(x − shift).
pub fn exp_total(x: &[f32], shift: f32) -> f64 {
    dispatch!(Isa::current(), exp_total_of(x: &[f32], shift: f32) -> f64)
}

/// ln Σ eˣ, the number that turns logits into natural-log probabilities.
pub fn log_sum_exp(x: &[f32]) -> f32 {
    let highest = max(x);
    log_total(highest, exp_total(x, highest))
}

/// ln of a `total` of e^(x − highest), for the x themselves.
pub fn log_total(highest: f32, total: f64) -> f32 {
    highest + (total as f32).ln()
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
unsafe fn divide_all<V: Vector>(x: &mut [f32], divisor: f32) {
    for x in x {
        *x /= divisor;
    }
}

/// # Safety
/// As [`max_of`].
#[inline(always)]
unsafe fn exp_sums_of<V: Vector>(x: &[f32], shift: f32, exps: &mut [f32], sums: &mut [f32]) {
    let blocks = x.chunks(BLOCK).zip(exps.chunks_mut(BLOCK)).zip(sums);
    for ((x, exps), total) in blocks {
        for (e, &x) in exps.iter_mut().zip(x) {
            *e = exp(x - shift);
        }
        *total = sum(fold(exps, 0.0, |a, b| a + b));
    }
}

/// # Safety
/// As [`max_of`].
#[inline(always)]
unsafe fn exp_total_of<V: Vector>(x: &[f32], shift: f32) -> f64 {
    let add = |a: f32, b: f32| a + exp(b - shift);
    let block = |x: &[f32]| f64::from(sum(fold(x, 0.0, add)));
    x.chunks(BLOCK).fold(0.0, |total, x| total + block(x))
}

/// Folds every sixteenth value into a lane of its own.
#[inline(always)]
pub(super) fn fold(x: &[f32], start: f32, f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
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
        let (mut exps, mut sums) = (x.clone(), vec![0.0; x.len().div_ceil(BLOCK)]);
        let highest = max(&x);
        exp_sums(&x, highest, &mut exps, &mut sums);
        let total = sums.iter().map(|&s| f64::from(s)).sum();
        assert_eq!(log_total(highest, total), log_sum_exp(&x));
    }

    #[test]
    fn every_set_gives_the_same_bits() {
        let x: Vec<f32> = (0..5000).map(|i| (i as f32).sin() * 40.0).collect();
        let (x, shift) = (&x[..], 40.0);
        let run = |isa| {
            let (mut exps, mut sums) = (x.to_vec(), vec![0.0; x.len().div_ceil(BLOCK)]);
            let (e, s) = (&mut exps[..], &mut sums[..]);
            dispatch!(isa, exp_sums_of(x: &[f32], shift: f32, e: &mut [f32], s: &mut [f32]));
            let total = dispatch!(isa, exp_total_of(x: &[f32], shift: f32) -> f64);
            (exps, sums, total)
        };
        for &isa in Isa::available() {
            assert_eq!(run(isa), run(Isa::Scalar), "{isa:?}");
        }
    }
}
