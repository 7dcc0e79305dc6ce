//! Blocks of 32 values as small integers and a scale.

use std::hint::black_box;

use half::f16;

use super::PANEL;
use super::format::{Ahead, CHUNK, Format, MANY_ROWS};
use crate::kernels::vector::{LANES, ROUND, Vector, nearest};

/// Inputs that share a scale.
pub const BLOCK: usize = CHUNK;

/// Groups of four inputs in a block: what one byte product sums up.
pub const QUADS: usize = BLOCK / 4;

/// Quads that are multiplied one after the other.
pub const PAIRS: usize = QUADS / 2;

/// Bytes that come from memory together.
const CACHE_LINE: usize = 64;

/// Words of one row's inputs in a block: the bytes, their scale, and what the
/// sums of products start from.
pub const BLOCK_WORDS: usize = QUADS + 2;

/// The largest quantised magnitude. −128 is not used, so that the products
/// of two pairs fit into 16 bits where a processor adds them there.
const HIGHEST: f32 = 127.0;

/// The scale of a block of inputs.
pub struct Scale {
    /// One by it: what the inputs are multiplied with.
    pub inverse: f32,
    /// The scale as [`Weights::scaled`] takes it.
    pub word: u32,
}

impl Scale {
    /// What makes a byte's 127 of the largest magnitude, which must be finite.
    #[inline(always)]
    pub fn exact(highest: f32) -> Option<Self> {
        highest.is_finite().then(|| Self {
            // Not 1/scale: two divisions side by side.
            inverse: finite(HIGHEST / highest),
            word: (highest / HIGHEST).to_bits(),
        })
    }

    /// The next power of two, for [`Vector::times_power`], if there is one.
    #[inline(always)]
    pub fn power(highest: f32) -> Option<Self> {
        const LARGEST: f32 = HIGHEST * (1u128 << HIGHEST_POWER) as f32;
        let exponent = (highest / HIGHEST)
            .to_bits()
            .wrapping_add((1 << MANTISSA) - 1)
            >> MANTISSA;
        let exponent = exponent.clamp(BIAS - LOWEST_POWER, BIAS + HIGHEST_POWER);
        (highest <= LARGEST).then_some(Self {
            inverse: f32::from_bits((2 * BIAS - exponent) << MANTISSA),
            word: exponent.wrapping_sub(BIAS) << MANTISSA,
        })
    }
}

/// Bits of a float's mantissa, and what is added to its exponent.
const MANTISSA: u32 = 23;
const BIAS: u32 = 127;

/// Scales that are powers of two go from 2^−`LOWEST_POWER` to 2^`HIGHEST_POWER`:
/// times any half-precision number but 0, from 2⁻²⁴ to 2¹⁶, they are normal.
const LOWEST_POWER: u32 = 102;
const HIGHEST_POWER: u32 = 111;

/// Lays out a block of one row's inputs, x ≈ scale · byte: [`QUADS`] words of
/// four signed bytes, their scale, and what the sums of their products with
/// weights start from, so that [`multiply`] has them as floats: with weights
/// raised by `offset` the products are too high by it. Where there is no scale,
/// each of them is NaN.
///
/// # Safety
/// The set of `V` must be there.
#[inline(always)]
pub unsafe fn pack_block<V: Vector>(
    x: [V; 2],
    scale: impl Fn(f32) -> Option<Scale>,
    offset: i32,
    out: &mut [u32],
) {
    let (bytes, rest) = out.split_at_mut(QUADS);
    // SAFETY: there is room for 32 bytes; the set is the caller's promise.
    unsafe {
        let Some(Scale { inverse, word }) = scale(V::highest(x)) else {
            bytes.fill(0);
            rest.copy_from_slice(&[0, f32::NAN.to_bits()]);
            return;
        };
        let inverse = V::splat(inverse);
        let sum = V::store_bytes(x.map(|x| x.mul(inverse)), bytes.as_mut_ptr().cast());
        rest[0] = word;
        rest[1] = ROUND.to_bits().wrapping_add_signed(-offset * sum);
    }
}

/// How the weights of a block are stored, 8 or 4 bits wide.
pub trait Weights: Format {
    /// Where a block's scales start.
    const SCALES: usize;

    /// Adds the products of two quads of a block's raised weights with its
    /// inputs: each quad is in one of the [`PAIRS`].
    ///
    /// # Safety
    /// The set of `V` must be there, `block` must be one, and `pair` below
    /// [`PAIRS`].
    unsafe fn products<V: Vector, const R: usize>(
        block: Block,
        pair: usize,
        sums: &mut [[V::Ints; 2]; R],
    );

    /// The weights' scales times that of a row's inputs, a word of [`Scale`].
    ///
    /// # Safety
    /// The set of `V` must be there.
    unsafe fn scaled<V: Vector>(scales: V, word: u32) -> V;
}

/// A block of a panel, and the inputs that meet it.
#[derive(Clone, Copy)]
pub struct Block {
    /// The inputs, `[rows, BLOCK_WORDS]`, the bytes first.
    pub x: *const u32,
    /// The weights.
    pub w: *const u8,
    step: usize,
    ahead: Ahead,
}

impl Block {
    /// Asks for the part of the coming weights that goes with this pair of
    /// quads, of `R` rows.
    #[inline(always)]
    pub fn ahead<V: Vector, W: Weights, const R: usize>(self, pair: usize) {
        // All lines of a step, as one that is left out comes late; fewer rows
        // ask for less.
        let lines = (W::STEP_BYTES / CACHE_LINE).div_ceil(PAIRS);
        let lines = if R < MANY_ROWS {
            lines.div_ceil(2)
        } else {
            lines
        };
        for line in pair * lines..(pair + 1) * lines {
            self.ahead.fetch::<V>(self.step, line, PAIRS * lines);
        }
    }
}

/// [`Format::multiply`] for weights in blocks: products in integers, then
/// both scales.
///
/// # Safety
/// As [`Format::multiply`].
#[inline(always)]
pub unsafe fn multiply<V: Vector, W: Weights, const R: usize>(
    x: *const u32,
    w: *const u8,
    steps: usize,
    ahead: Ahead,
    sums: &mut [[V; 2]; R],
) {
    // A copy, so that the sums stay in registers.
    let mut local = *sums;
    // Unrolled, the products of many rows are more than compilers keep in
    // registers: a number that they don't know keeps the loop a loop.
    let pairs = if R > 1 { black_box(PAIRS) } else { PAIRS };
    for step in 0..steps {
        // SAFETY: the set is the caller's promise, and the block lies within
        // what it says is readable.
        unsafe {
            let (x, w) = (x.add(step * R * BLOCK_WORDS), w.add(step * W::STEP_BYTES));
            let mut ints = [[V::int_splat(0); 2]; R];
            for (r, ints) in ints.iter_mut().enumerate() {
                *ints = [V::int_splat(*x.add(r * BLOCK_WORDS + QUADS + 1) as i32); 2];
            }
            let block = Block { x, w, step, ahead };
            for pair in 0..pairs {
                W::products::<V, R>(block, pair, &mut ints);
            }
            let scales = w.add(W::SCALES);
            let scales = [V::load_f16(scales), V::load_f16(scales.add(2 * LANES))];
            for (r, (sums, ints)) in local.iter_mut().zip(ints).enumerate() {
                let scale_of_x = *x.add(r * BLOCK_WORDS + QUADS);
                for half in 0..2 {
                    let scale = W::scaled(scales[half], scale_of_x);
                    sums[half] = sums[half].fma(scale, V::low_bits(ints[half]));
                }
            }
        }
    }
    *sums = local;
}

/// 1/x, or 0 where that isn't a number to multiply with.
#[inline(always)]
fn inverse(x: f32) -> f32 {
    finite(1.0 / x)
}

#[inline(always)]
fn finite(x: f32) -> f32 {
    if x.is_finite() { x } else { 0.0 }
}

/// The largest weights whose scales are half-precision numbers.
pub const LARGEST_Q8: f32 = HIGHEST * 65504.0;
pub const LARGEST_Q4: f32 = 8.0 * 65504.0;

/// One value for each column of a panel.
pub type Columns<T> = [T; PANEL];

/// A block of a panel's weights: `q [BLOCK, PANEL]` and the scales.
pub struct Quantized {
    pub q: [Columns<i32>; BLOCK],
    pub scales: Columns<f16>,
}

/// 8 bits: the scale is a 127th of the largest magnitude, and the weights are
/// rounded with the scale as it is stored.
#[inline(always)]
pub fn weights_q8(w: &[Columns<f32>; BLOCK]) -> Quantized {
    let mut highest = [0.0f32; PANEL];
    for row in w {
        for (highest, w) in highest.iter_mut().zip(row) {
            *highest = if w.abs() > *highest {
                w.abs()
            } else {
                *highest
            };
        }
    }
    let scales = highest.map(|highest| f16::from_f32(highest / HIGHEST));
    let inverses = scales.map(|scale| inverse(scale.to_f32()));
    let mut q = [[0; PANEL]; BLOCK];
    round_to(w, &inverses, -HIGHEST, HIGHEST, &mut q);
    Quantized { q, scales }
}

/// 4 bits, −8 to 7: of several scales around "the largest weight becomes −8"
/// (llama.cpp's Q4_0), each refined to the least-squares one for the integers
/// that it gives, the one with the smallest squared error.
#[inline(always)]
pub fn weights_q4(w: &[Columns<f32>; BLOCK]) -> Quantized {
    /// What the largest weight is divided by.
    const LEVELS: [f32; 8] = [-8.0, -8.6, -7.6, -7.2, 7.4, 6.9, -6.7, 8.0];
    let mut largest = [0.0f32; PANEL];
    for row in w {
        for (largest, w) in largest.iter_mut().zip(row) {
            *largest = if w.abs() > largest.abs() {
                *w
            } else {
                *largest
            };
        }
    }
    let mut best = [0.0f32; PANEL];
    let mut least = [f32::INFINITY; PANEL];
    let mut q = [[0; PANEL]; BLOCK];
    for level in LEVELS {
        let mut scales = largest.map(|largest| to_half(largest / level));
        for refined in [false, true] {
            if refined {
                scales = least_squares(w, &q, &scales);
            }
            let error = error_with(w, &scales, &mut q);
            for c in 0..PANEL {
                let better = error[c] < least[c];
                least[c] = if better { error[c] } else { least[c] };
                best[c] = if better { scales[c] } else { best[c] };
            }
        }
    }
    error_with(w, &best, &mut q);
    // `best` holds values that `to_half` rounded.
    let scales = best.map(|scale| {
        let scale = f16::from_f32(scale);
        // 0 is no power of two times another; what it scales is 0 anyway.
        if scale == f16::ZERO {
            f16::MIN_POSITIVE_SUBNORMAL
        } else {
            scale
        }
    });
    Quantized { q, scales }
}

/// Quantises with these scales; the squared error of each column.
#[inline(always)]
fn error_with(
    w: &[Columns<f32>; BLOCK],
    scales: &Columns<f32>,
    q: &mut [Columns<i32>; BLOCK],
) -> Columns<f32> {
    let inverses = scales.map(inverse);
    round_to(w, &inverses, -8.0, 7.0, q);
    let mut error = [0.0f32; PANEL];
    for (w, q) in w.iter().zip(q) {
        for c in 0..PANEL {
            let e = scales[c].mul_add(-(q[c] as f32), w[c]);
            error[c] = e.mul_add(e, error[c]);
        }
    }
    error
}

/// The scales with which `q` comes nearest to `w`, as they can be stored;
/// where `q` is all zero, those there were.
#[inline(always)]
fn least_squares(
    w: &[Columns<f32>; BLOCK],
    q: &[Columns<i32>; BLOCK],
    scales: &Columns<f32>,
) -> Columns<f32> {
    let (mut products, mut squares) = ([0.0f32; PANEL], [0.0f32; PANEL]);
    for (w, q) in w.iter().zip(q) {
        for c in 0..PANEL {
            let q = q[c] as f32;
            products[c] = w[c].mul_add(q, products[c]);
            squares[c] = q.mul_add(q, squares[c]);
        }
    }
    let mut refined = *scales;
    for c in 0..PANEL {
        if squares[c] > 0.0 {
            refined[c] = to_half(products[c] / squares[c]);
        }
    }
    refined
}

#[inline(always)]
fn round_to(
    w: &[Columns<f32>; BLOCK],
    inverses: &Columns<f32>,
    lowest: f32,
    highest: f32,
    q: &mut [Columns<i32>; BLOCK],
) {
    for (w, q) in w.iter().zip(q) {
        for c in 0..PANEL {
            q[c] = nearest((w[c] * inverses[c]).clamp(lowest, highest));
        }
    }
}

fn to_half(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}
