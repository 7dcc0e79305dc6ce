//! The MLP's activations, element by element, and the exponential they share
//! with attention.

use super::isa::{Isa, dispatch};
use super::vector::Vector;

/// An activation function; the names are those of its formulas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// x·Φ(x), with the error function.
    GeluErf,
    /// x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³))).
    GeluTanh,
    /// x·σ(1.702·x).
    QuickGelu,
    /// max(x, 0).
    Relu,
    /// x·σ(x).
    Silu,
    /// tanh x.
    Tanh,
    /// σ(x) = 1 / (1 + e⁻ˣ).
    Sigmoid,
}

/// Applies `function` to every value of `x`, in place.
pub fn apply(function: Function, x: &mut [f32]) {
    apply_with(Isa::current(), function, x);
}

/// [`apply`] with a given instruction set, one of [`Isa::available`].
pub fn apply_with(isa: Isa, function: Function, x: &mut [f32]) {
    dispatch!(isa, all(function: Function, x: &mut [f32]));
}

/// # Safety
/// None of its own: unsafe only because every dispatched kernel is.
#[inline(always)]
unsafe fn all<V: Vector>(function: Function, x: &mut [f32]) {
    map(function, x);
}

/// [`apply`] within a kernel: compiled for the caller's instruction set.
#[inline(always)]
pub(super) fn map(function: Function, x: &mut [f32]) {
    match function {
        Function::GeluErf => {
            each(x, |x| {
                // 1 + erf z = erfc(−z) = 2 − erfc z.
                let upper = erfc(x.abs() * std::f32::consts::FRAC_1_SQRT_2);
                0.5 * x * (if x < 0.0 { upper } else { 2.0 - upper })
            });
        }
        // (1 + tanh u)/2 = σ(2u): one division instead of two.
        Function::GeluTanh => each(x, |x| {
            const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769;
            x * sigmoid(TWICE_SQRT_2_OVER_PI * (0.044_715 * x * x).mul_add(x, x))
        }),
        Function::QuickGelu => each(x, |x| x * sigmoid(1.702 * x)),
        Function::Relu => each(x, |x| x.max(0.0)),
        Function::Silu => each(x, |x| x * sigmoid(x)),
        Function::Tanh => each(x, tanh),
        Function::Sigmoid => each(x, sigmoid),
    }
}

#[inline(always)]
fn each(x: &mut [f32], f: impl Fn(f32) -> f32) {
    for x in x {
        *x = f(*x);
    }
}

/// 1 − erf z for z ≥ 0, with a relative error of about 2e-7 (a Chebyshev fit in
/// t = 1/(1 + z/2); Press et al., "Numerical Recipes", `erfcc`).
#[inline(always)]
fn erfc(z: f32) -> f32 {
    const C: [f32; 10] = [
        0.170_872_77,
        -0.822_152_23,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ];
    let t = 1.0 / z.mul_add(0.5, 1.0);
    let fit = C.iter().fold(0.0f32, |sum, c| sum.mul_add(t, *c));
    t * exp((-z).mul_add(z, fit))
}

/// Where e⁻ˣ is neither lost beside 1 nor anything beside it, a bound on x
/// changes nothing.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    const HIGHEST: f32 = 87.0;
    1.0 / (1.0 + exp_within((-x).clamp(-HIGHEST, HIGHEST)))
}

/// tanh through e^(−2|x|), which cannot overflow.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    let e = exp(-2.0 * x.abs());
    ((1.0 - e) / (1.0 + e)).copysign(x)
}

/// eˣ to about one unit in the last place. Below −87.3 it is 0, above 88.7
/// infinite.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let value = exp_within(x.clamp(-87.3, 88.7));
    if x < -87.3 {
        0.0
    } else if x > 88.7 {
        f32::INFINITY
    } else {
        value
    }
}

/// [`exp`] of what isn't above 0.
#[inline(always)]
pub(super) fn exp_negative(x: f32) -> f32 {
    const LOWEST: f32 = -87.3;
    // Not `max`, which would lose a NaN.
    let value = exp_within(if x < LOWEST { LOWEST } else { x });
    if x < LOWEST { 0.0 } else { value }
}

/// eˣ from −87.3 to 88.7: x = n·ln 2 + r, and a polynomial in r (Cephes' `expf`
/// coefficients).
#[inline(always)]
fn exp_within(x: f32) -> f32 {
    /// Adding it leaves the nearest integer in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    let mut p = 1.987_569_1e-4f32;
    p = p.mul_add(r, 1.398_2e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 0.5);
    let p = p.mul_add(r * r, r) + 1.0;
    // p·2ⁿ: n is added to the exponent, which has room for it here. The bits
    // of a NaN that arithmetic makes have nothing to add.
    f32::from_bits(p.to_bits().wrapping_add(rounded.to_bits() << 23))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Function; 7] = [
        Function::GeluErf,
        Function::GeluTanh,
        Function::QuickGelu,
        Function::Relu,
        Function::Silu,
        Function::Tanh,
        Function::Sigmoid,
    ];

    fn in_f64(function: Function, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match function {
            Function::GeluErf => 0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2)),
            Function::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                0.5 * x * (1.0 + inner.tanh())
            }
            Function::QuickGelu => x * sigmoid(1.702 * x),
            Function::Relu => x.max(0.0),
            Function::Silu => x * sigmoid(x),
            Function::Tanh => x.tanh(),
            Function::Sigmoid => sigmoid(x),
        }
    }

    #[test]
    fn every_function_is_near_its_formula() {
        let x: Vec<f32> = (-4000..4000).map(|i| i as f32 * 0.005).collect();
        for function in ALL {
            let mut y = x.clone();
            apply(function, &mut y);
            let worst = x.iter().zip(&y).map(|(x, y)| {
                let expected = in_f64(function, f64::from(*x));
                (f64::from(*y) - expected).abs() / expected.abs().max(1.0)
            });
            let worst = worst.fold(0.0, f64::max);
            assert!(worst < 4e-7, "{function:?}: {worst:e}");
        }
    }

    #[test]
    fn every_set_gives_the_same_bits() {
        let x: Vec<f32> = (-700..700).map(|i| i as f32 * 0.173).collect();
        for function in ALL {
            let mut reference = x.clone();
            apply_with(Isa::Scalar, function, &mut reference);
            for &isa in Isa::available() {
                let mut y = x.clone();
                apply_with(isa, function, &mut y);
                assert!(
                    y.iter()
                        .zip(&reference)
                        .all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{isa:?} {function:?}"
                );
            }
        }
    }

    #[test]
    fn exp_at_its_ends() {
        assert_eq!(exp(0.0), 1.0);
        for x in [-0.0, -1e-3, -0.5, -20.0, -87.2, -88.0, f32::NEG_INFINITY] {
            assert_eq!(exp_negative(x), exp(x), "{x}");
        }
        assert!(exp(f32::NAN).is_nan() && exp_negative(f32::NAN).is_nan());
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(1000.0), f32::INFINITY);
        assert!((exp(88.0) / 88.0f32.exp() - 1.0).abs() < 1e-6);
        assert!((exp(-87.0) / (-87.0f32).exp() - 1.0).abs() < 1e-6);
    }
}
