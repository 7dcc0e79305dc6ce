//! What the processor itself can do: the limits that benchmarks compare with.

use std::hint::black_box;

use super::isa::{Isa, dispatch};
use super::linear::Precision;
use super::vector::{LANES, Vector, sum};

/// Independent sums while reading.
const STREAMS: usize = 8;

/// Reads all of `values` once, doing as little as possible with them, on the
/// calling thread.
pub fn read_through(values: &[f32]) {
    black_box(dispatch!(Isa::current(), total(values: &[f32]) -> f32));
}

/// Multiplies and adds within the registers, `rounds` times, on the calling
/// thread; returns the number of multiply-adds.
pub fn multiply_add(precision: Precision, rounds: usize) -> u64 {
    let isa = Isa::current();
    match precision {
        Precision::F32 => dispatch!(isa, floats(rounds: usize) -> u64),
        Precision::Bf16 => {
            let isa = isa.with_bf16_products();
            dispatch!("avx512bf16", isa, halves[](rounds: usize) -> u64)
        }
        Precision::Q8 | Precision::Q4 => {
            let isa = isa.with_byte_products();
            dispatch!("avx512vnni", isa, bytes[](rounds: usize) -> u64)
        }
    }
}

/// # Safety
/// The set of `V` must be there.
#[inline(always)]
unsafe fn total<V: Vector>(values: &[f32]) -> f32 {
    // SAFETY: the set is the caller's promise; a chunk holds all that is read.
    unsafe {
        let one = V::splat(1.0);
        let mut sums = [V::splat(0.0); STREAMS];
        for chunk in values.as_chunks::<{ STREAMS * LANES }>().0 {
            for (sum, part) in sums.iter_mut().zip(chunk.as_chunks::<LANES>().0) {
                *sum = sum.fma(V::load(part.as_ptr()), one);
            }
        }
        sums.into_iter().map(|v| first_of(v)).sum()
    }
}

/// # Safety
/// The set of `V` must be there.
#[inline(always)]
unsafe fn floats<V: Vector>(rounds: usize) -> u64 {
    // SAFETY: the set is the caller's promise.
    unsafe {
        let (a, b) = (V::splat(black_box(0.5)), V::splat(black_box(0.25)));
        match V::ROWS {
            12.. => chains::<V, 24>(rounds, 1, |sum| sum.fma(a, b)),
            _ => chains::<V, 6>(rounds, 1, |sum| sum.fma(a, b)),
        }
    }
}

/// # Safety
/// The set of `V` must be there, with products of bf16.
#[inline(always)]
unsafe fn halves<V: Vector>(rounds: usize) -> u64 {
    let w = black_box([0x3f_u8; 4 * LANES]);
    let x = black_box(0x3f00_3f00);
    // SAFETY: the set is the caller's promise; `w` has 64 bytes.
    unsafe {
        let w = V::load_bytes(w.as_ptr());
        match V::ROWS {
            12.. => chains::<V, 24>(rounds, 2, |sum| sum.dot_bf16(w, x)),
            _ => chains::<V, 6>(rounds, 2, |sum| sum.dot_bf16(w, x)),
        }
    }
}

/// # Safety
/// The set of `V` must be there, with products of bytes.
#[inline(always)]
unsafe fn bytes<V: Vector>(rounds: usize) -> u64 {
    let w = black_box([5_u8; 4 * LANES]);
    let x = black_box(0x0102_0304);
    // SAFETY: the set is the caller's promise; `w` has 64 bytes.
    unsafe {
        let w = V::load_bytes(w.as_ptr());
        let mut sums = [V::int_splat(black_box(0)); 12];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = V::dot_q4(*sum, w, x);
            }
        }
        for sum in sums {
            black_box(first_of(V::low_bits(sum)));
        }
        (rounds * sums.len() * 4 * LANES) as u64
    }
}

/// `N` independent chains of one operation, each of `products` per lane.
///
/// # Safety
/// The set of `V` must be there.
#[inline(always)]
unsafe fn chains<V: Vector, const N: usize>(
    rounds: usize,
    products: usize,
    step: impl Fn(V) -> V,
) -> u64 {
    // SAFETY: the set is the caller's promise.
    unsafe {
        let mut sums = [V::splat(black_box(0.0)); N];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = step(*sum);
            }
        }
        for sum in sums {
            black_box(first_of(sum));
        }
        (rounds * N * products * LANES) as u64
    }
}

/// # Safety
/// The set of `V` must be there.
#[inline(always)]
unsafe fn first_of<V: Vector>(v: V) -> f32 {
    let mut lanes = [0.0; LANES];
    // SAFETY: the set is the caller's promise; there is room for sixteen values.
    unsafe { v.store(lanes.as_mut_ptr()) };
    sum(lanes)
}
