//! Passes over a row that find the few values that matter.

use super::isa::{Isa, dispatch};
use super::softmax::{BLOCK, fold};
use super::vector::{LANES, Vector, sum};

/// Limits that one pass of [`sums_below`] compares with.
pub const LIMITS: usize = 4;

/// Room that [`between`] needs beyond the values it finds.
pub const SLACK: usize = LANES;

/// Where `value` first occurs.
pub fn position(x: &[f32], value: f32) -> Option<usize> {
    dispatch!(Isa::current(), position_of(x: &[f32], value: f32) -> Option<usize>)
}

/// The maxima of disjoint groups of `size` values or fewer, which are every
/// sixteenth of a run of 16·`size`: that way no group crosses lanes. `maxima`
/// has sixteen values per run, −∞ where a group is empty.
pub fn group_maxima(x: &[f32], size: usize, maxima: &mut [f32]) {
    debug_assert_eq!(maxima.len(), x.len().div_ceil(size * LANES) * LANES);
    dispatch!(Isa::current(), group_maxima_of(x: &[f32], size: usize, maxima: &mut [f32]));
}

/// Writes the places of the values of at least `bound`, in order, to `places`,
/// which is as long as `x`, and returns how many there are.
pub fn at_least(x: &[f32], bound: f32, places: &mut [u32]) -> usize {
    debug_assert_eq!(places.len(), x.len());
    dispatch!(
        Isa::current(),
        at_least_of(x: &[f32], bound: f32, places: &mut [u32]) -> usize
    )
}

/// Copies the values from `low` to below `high`, in order, to `found`, which is
/// longer than `x` by [`SLACK`], and returns how many there are.
pub fn between(x: &[f32], low: f32, high: f32, found: &mut [f32]) -> usize {
    assert!(found.len() >= x.len() + SLACK);
    #[cfg(target_arch = "x86_64")]
    if Isa::current() == Isa::Avx512 {
        // SAFETY: the set is there; `found` has the room.
        return unsafe { between_avx512(x, low, high, found) };
    }
    dispatch!(
        Isa::current(),
        between_of(x: &[f32], low: f32, high: f32, found: &mut [f32]) -> usize
    )
}

/// For each limit the sum of the values below it.
pub fn sums_below(x: &[f32], limits: &[f32; LIMITS]) -> [f64; LIMITS] {
    dispatch!(
        Isa::current(),
        sums_below_of(x: &[f32], limits: &[f32; LIMITS]) -> [f64; LIMITS]
    )
}

/// For each block of [`BLOCK`] values the sum of those of at least `cut`.
pub fn sums_from(x: &[f32], cut: f32, sums: &mut [f32]) {
    debug_assert_eq!(sums.len(), x.len().div_ceil(BLOCK));
    dispatch!(Isa::current(), sums_from_of(x: &[f32], cut: f32, sums: &mut [f32]));
}

/// # Safety
/// None of its own: unsafe only because every dispatched kernel is.
#[inline(always)]
unsafe fn position_of<V: Vector>(x: &[f32], value: f32) -> Option<usize> {
    let has = |block: &[f32]| block.iter().fold(false, |found, &x| found | (x == value));
    let block = x.chunks(BLOCK).position(has)?;
    let within = x[block * BLOCK..].iter().position(|&x| x == value)?;
    Some(block * BLOCK + within)
}

/// # Safety
/// As [`position_of`].
#[inline(always)]
unsafe fn group_maxima_of<V: Vector>(x: &[f32], size: usize, maxima: &mut [f32]) {
    let higher = |a: f32, b: f32| if b > a { b } else { a };
    let runs = x.chunks(size * LANES).zip(maxima.chunks_mut(LANES));
    for (run, maxima) in runs {
        maxima.copy_from_slice(&fold(run, f32::NEG_INFINITY, higher));
    }
}

/// # Safety
/// As [`position_of`].
#[inline(always)]
unsafe fn at_least_of<V: Vector>(x: &[f32], bound: f32, places: &mut [u32]) -> usize {
    let mut count = 0;
    for (i, chunk) in x.chunks(LANES).enumerate() {
        // Most chunks have none.
        if !chunk.iter().fold(false, |any, &x| any | (x >= bound)) {
            continue;
        }
        for (j, &x) in chunk.iter().enumerate() {
            places[count] = (i * LANES + j) as u32;
            count += usize::from(x >= bound);
        }
    }
    count
}

/// # Safety
/// As [`position_of`].
#[inline(always)]
unsafe fn between_of<V: Vector>(x: &[f32], low: f32, high: f32, found: &mut [f32]) -> usize {
    let inside = |x: f32| (x >= low) & (x < high);
    let mut count = 0;
    for chunk in x.chunks(LANES) {
        if !chunk.iter().fold(false, |any, &x| any | inside(x)) {
            continue;
        }
        for &x in chunk {
            found[count] = x;
            count += usize::from(inside(x));
        }
    }
    count
}

/// [`between_of`] with the instruction that packs the lanes of a mask, which
/// no other set has.
///
/// # Safety
/// Needs AVX-512 F, and `found` to be longer than `x` by [`SLACK`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn between_avx512(x: &[f32], low: f32, high: f32, found: &mut [f32]) -> usize {
    use std::arch::x86_64::*;
    let (whole, rest) = x.as_chunks::<LANES>();
    let (lowest, end) = (_mm512_set1_ps(low), _mm512_set1_ps(high));
    let mut count = 0;
    for chunk in whole {
        // SAFETY: a chunk holds sixteen values; at most as many values as were
        // read are kept, so that the slack has room for a whole vector.
        unsafe {
            let x = _mm512_loadu_ps(chunk.as_ptr());
            let inside = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, lowest)
                & _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, end);
            let packed = _mm512_maskz_compress_ps(inside, x);
            _mm512_storeu_ps(found.as_mut_ptr().add(count), packed);
            count += inside.count_ones() as usize;
        }
    }
    for &x in rest.iter().filter(|x| (low..high).contains(*x)) {
        found[count] = x;
        count += 1;
    }
    count
}

/// # Safety
/// As [`position_of`].
#[inline(always)]
unsafe fn sums_below_of<V: Vector>(x: &[f32], limits: &[f32; LIMITS]) -> [f64; LIMITS] {
    /// Values that are summed in f32.
    const RUN: usize = 2048;
    let mut totals = [0.0; LIMITS];
    for run in x.chunks(RUN) {
        for (total, &limit) in totals.iter_mut().zip(limits) {
            let lanes = fold(run, 0.0, |a, b| a + if b < limit { b } else { 0.0 });
            *total += f64::from(sum(lanes));
        }
    }
    totals
}

/// # Safety
/// As [`position_of`].
#[inline(always)]
unsafe fn sums_from_of<V: Vector>(x: &[f32], cut: f32, sums: &mut [f32]) {
    for (block, total) in x.chunks(BLOCK).zip(sums) {
        *total = sum(fold(block, 0.0, |a, b| a + if b >= cut { b } else { 0.0 }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from 0 to 1, most of them small, with zeros and repetitions.
    fn weights(n: usize) -> Vec<f32> {
        let value = |i: usize| ((i * 7919) % 997) as f32 / 996.0;
        (0..n).map(|i| value(i).powi(5)).collect()
    }

    const SIZES: [usize; 7] = [0, 1, 15, 16, 257, 5000, 50_257];

    #[test]
    fn places_and_values_are_those_of_a_filter() {
        for n in SIZES {
            let x = weights(n);
            for (low, high) in [(0.0, 2.0), (0.3, 0.6), (0.999, 2.0), (3.0, 4.0)] {
                let mut places = vec![0; n];
                let count = at_least(&x, low, &mut places);
                let expected = (0..n as u32).filter(|&i| x[i as usize] >= low);
                assert!(expected.eq(places[..count].iter().copied()), "{low} of {n}");

                let mut found = vec![0.0; n + SLACK];
                let count = between(&x, low, high, &mut found);
                let expected = x.iter().filter(|x| (low..high).contains(*x));
                assert!(expected.eq(&found[..count]), "{low} to {high} of {n}");
            }
            for value in [1.0, 0.0, 5.0] {
                assert_eq!(position(&x, value), x.iter().position(|&x| x == value));
            }
        }
    }

    #[test]
    fn groups_cover_every_value_once() {
        for n in SIZES {
            let x = weights(n);
            for size in [1, 3, 64] {
                let mut maxima = vec![0.0; n.div_ceil(size * LANES) * LANES];
                group_maxima(&x, size, &mut maxima);
                for (i, &max) in maxima.iter().enumerate() {
                    let start = i / LANES * size * LANES + i % LANES;
                    let group = x.iter().skip(start).step_by(LANES).take(size);
                    let expected = group.copied().fold(f32::NEG_INFINITY, f32::max);
                    assert_eq!(max, expected, "group {i} of {size} in {n}");
                }
            }
        }
    }

    #[test]
    fn sums_are_near_f64() {
        let total = |values: &mut dyn Iterator<Item = &f32>| values.map(|&x| f64::from(x)).sum();
        for n in SIZES {
            let x = weights(n);
            let limits = [0.0, 1e-6, 0.3, 2.0];
            for (limit, found) in limits.into_iter().zip(sums_below(&x, &limits)) {
                let exact: f64 = total(&mut x.iter().filter(|&&x| x < limit));
                assert!(
                    (found - exact).abs() <= exact * 1e-6,
                    "below {limit} of {n}"
                );
            }
            let mut sums = vec![0.0; n.div_ceil(BLOCK)];
            sums_from(&x, 0.3, &mut sums);
            for (block, found) in x.chunks(BLOCK).zip(sums) {
                let exact: f64 = total(&mut block.iter().filter(|&&x| x >= 0.3));
                assert!((f64::from(found) - exact).abs() <= exact * 1e-6);
            }
        }
    }

    #[test]
    fn every_set_gives_the_same_sums() {
        let x = weights(50_257);
        let (x, limits) = (&x[..], &[1e-6, 0.01, 0.3, 2.0]);
        let below = |isa| {
            dispatch!(
                isa,
                sums_below_of(x: &[f32], limits: &[f32; LIMITS]) -> [f64; LIMITS]
            )
        };
        let from = |isa| {
            let mut sums = vec![0.0; x.len().div_ceil(BLOCK)];
            let (cut, out) = (0.3, &mut sums[..]);
            dispatch!(isa, sums_from_of(x: &[f32], cut: f32, out: &mut [f32]));
            sums
        };
        for &isa in Isa::available() {
            assert_eq!(below(isa), below(Isa::Scalar), "{isa:?}");
            assert_eq!(from(isa), from(Isa::Scalar), "{isa:?}");
        }
    }
}
