//! Two 256-bit registers.

use std::arch::x86_64::*;

use super::{LANES, ROUND, Vector};

/// Sixteen lanes in two registers; byte products by `maddubs`.
pub type Avx2 = Avx<false>;

/// The same with AVX-VNNI's byte products.
pub type AvxVnni = Avx<true>;

/// Sixteen lanes in two registers.
#[derive(Clone, Copy)]
pub struct Avx<const VNNI: bool>(__m256, __m256);

/// 64 bytes, or sixteen i32.
#[derive(Clone, Copy)]
pub struct Two(__m256i, __m256i);

// SAFETY: used only from entries that enable avx2, fma and f16c, and avxvnni
// where VNNI is set.
unsafe impl<const VNNI: bool> Vector for Avx<VNNI> {
    const ROWS: usize = 3;
    const BYTE_ROWS: usize = 2;
    const Q8_OFFSET: i32 = if VNNI { 128 } else { 0 };

    type Bytes = Two;
    type Ints = Two;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller's function enables avx.
        let x = unsafe { _mm256_set1_ps(x) };
        Self(x, x)
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: avx as above; sixteen readable values by the contract.
        unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(LANES / 2))) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller's function enables f16c; sixteen readable values
        // by the contract.
        unsafe {
            Self(
                _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(from.add(LANES).cast())),
            )
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: avx as above; sixteen writable values by the contract.
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(LANES / 2), self.1);
        }
    }
    #[inline(always)]
    unsafe fn mul(self, a: Self) -> Self {
        // SAFETY: the caller's function enables avx.
        unsafe { Self(_mm256_mul_ps(self.0, a.0), _mm256_mul_ps(self.1, a.1)) }
    }
    #[inline(always)]
    unsafe fn times_power(self, power: u32) -> Self {
        // SAFETY: the caller's function enables avx2.
        unsafe {
            let power = _mm256_set1_epi32(power as i32);
            let [a, b] = [self.0, self.1].map(|x| _mm256_add_epi32(_mm256_castps_si256(x), power));
            Self(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b))
        }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller's function enables fma.
        unsafe {
            Self(
                _mm256_fmadd_ps(a.0, b.0, self.0),
                _mm256_fmadd_ps(a.1, b.1, self.1),
            )
        }
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Two {
        // SAFETY: avx as above; 64 readable bytes by the contract.
        unsafe {
            Two(
                _mm256_loadu_si256(from.cast()),
                _mm256_loadu_si256(from.add(2 * LANES).cast()),
            )
        }
    }
    #[inline(always)]
    unsafe fn dot_bf16(self, w: Two, x: u32) -> Self {
        // SAFETY: passed on from the caller.
        unsafe { Self(fma_bf16(self.0, w.0, x), fma_bf16(self.1, w.1, x)) }
    }
    #[inline(always)]
    unsafe fn widen_bf16(w: Two) -> [Self; 2] {
        // SAFETY: passed on from the caller.
        let [a, b] = unsafe { [widen_bf16(w.0), widen_bf16(w.1)] };
        [Self(a[0], b[0]), Self(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn first_of_pairs(w: Two) -> Two {
        // SAFETY: the caller's function enables avx2.
        unsafe {
            let lower = _mm256_set1_epi32(0xffff);
            Two(_mm256_and_si256(w.0, lower), _mm256_and_si256(w.1, lower))
        }
    }

    #[inline(always)]
    unsafe fn int_splat(x: i32) -> Two {
        // SAFETY: the caller's function enables avx.
        let x = unsafe { _mm256_set1_epi32(x) };
        Two(x, x)
    }
    #[inline(always)]
    unsafe fn low_bits(ints: Two) -> Self {
        // SAFETY: the caller's function enables avx.
        unsafe {
            let round = _mm256_set1_ps(ROUND);
            let [a, b] = [ints.0, ints.1].map(|x| _mm256_sub_ps(_mm256_castsi256_ps(x), round));
            Self(a, b)
        }
    }
    #[inline(always)]
    unsafe fn low_nibbles(w: Two) -> Two {
        // SAFETY: the caller's function enables avx2.
        unsafe {
            let mask = _mm256_set1_epi8(15);
            Two(_mm256_and_si256(w.0, mask), _mm256_and_si256(w.1, mask))
        }
    }
    #[inline(always)]
    unsafe fn high_nibbles(w: Two) -> Two {
        // SAFETY: the caller's function enables avx2.
        unsafe {
            let mask = _mm256_set1_epi8(15);
            Two(
                _mm256_and_si256(_mm256_srli_epi16::<4>(w.0), mask),
                _mm256_and_si256(_mm256_srli_epi16::<4>(w.1), mask),
            )
        }
    }
    #[inline(always)]
    unsafe fn dot_q4(sums: Two, w: Two, x: u32) -> Two {
        // SAFETY: passed on from the caller.
        unsafe {
            let x = _mm256_set1_epi32(x as i32);
            Two(
                dot_unsigned::<VNNI>(sums.0, w.0, x),
                dot_unsigned::<VNNI>(sums.1, w.1, x),
            )
        }
    }
    #[inline(always)]
    unsafe fn prepare_q8(w: Two) -> Two {
        if VNNI {
            return w;
        }
        // SAFETY: the caller's function enables avx2.
        unsafe {
            let sign = _mm256_set1_epi8(-128);
            Two(_mm256_xor_si256(w.0, sign), _mm256_xor_si256(w.1, sign))
        }
    }
    #[inline(always)]
    unsafe fn dot_q8(sums: Two, w: Two, x: u32) -> Two {
        // SAFETY: passed on from the caller.
        unsafe {
            let x = _mm256_set1_epi32(x as i32);
            Two(
                dot_signed::<VNNI>(sums.0, w.0, x),
                dot_signed::<VNNI>(sums.1, w.1, x),
            )
        }
    }

    #[inline(always)]
    fn prefetch(from: *const u8) {
        // SAFETY: a prefetch never faults; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }
}

/// Sums plus the products of four unsigned bytes of `w` with four signed of `x`.
///
/// # Safety
/// The caller's function enables avx2, and avxvnni where VNNI is set.
#[inline(always)]
unsafe fn dot_unsigned<const VNNI: bool>(sums: __m256i, w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        if VNNI {
            return _mm256_dpbusd_avx_epi32(sums, w, x);
        }
        let pairs = _mm256_maddubs_epi16(w, x);
        _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

/// Sums plus the products of four weights of `w`, as `prepare_q8` leaves them,
/// with four signed bytes of `x`.
///
/// # Safety
/// The caller's function enables avx2, and avxvnni where VNNI is set.
#[inline(always)]
unsafe fn dot_signed<const VNNI: bool>(sums: __m256i, w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        if VNNI {
            return dot_unsigned::<VNNI>(sums, w, x);
        }
        // `maddubs` wants one side unsigned: the weight's sign moves over to
        // x. Two products of at most 127² then fit into its i16.
        dot_unsigned::<VNNI>(sums, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
    }
}

/// Sums plus the products of two bf16 of `w` with the two of `x`.
///
/// # Safety
/// The caller's function enables avx2 and fma.
#[inline(always)]
unsafe fn fma_bf16(sums: __m256, w: __m256i, x: u32) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        let low = _mm256_set1_ps(f32::from_bits(x << 16));
        let high = _mm256_set1_ps(f32::from_bits(x & 0xffff_0000));
        let [even, odd] = widen_bf16(w);
        _mm256_fmadd_ps(odd, high, _mm256_fmadd_ps(even, low, sums))
    }
}

/// The first of the two bf16 in each lane, and the second.
///
/// # Safety
/// The caller's function enables avx2.
#[inline(always)]
unsafe fn widen_bf16(w: __m256i) -> [__m256; 2] {
    // SAFETY: the caller's promise. A bf16 is the upper half of the f32 of the
    // same value.
    unsafe {
        let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
        [
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(w)),
            _mm256_castsi256_ps(_mm256_and_si256(w, upper)),
        ]
    }
}
