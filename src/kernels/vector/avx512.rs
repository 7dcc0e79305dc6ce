//! One 512-bit register.

use std::arch::x86_64::*;

use super::{ROUND, Vector};

/// Sixteen lanes in a register. [`Vector::dot_bf16`] needs AVX512-BF16 besides,
/// [`Vector::dot_q4`] and [`Vector::dot_q8`] need AVX512-VNNI.
#[derive(Clone, Copy)]
pub struct Avx512(__m512);

// SAFETY: used only from entries that enable what each method needs.
unsafe impl Vector for Avx512 {
    const ROWS: usize = 12;
    const BYTE_ROWS: usize = 8;
    const Q8_OFFSET: i32 = 128;

    type Bytes = __m512i;
    type Ints = __m512i;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller's function enables avx512f.
        Self(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: avx512f as above; readable by the trait's contract.
        Self(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: avx512f as above; readable by the trait's contract.
        Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: avx512f as above; writable by the trait's contract.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn mul(self, a: Self) -> Self {
        // SAFETY: the caller's function enables avx512f.
        Self(unsafe { _mm512_mul_ps(self.0, a.0) })
    }
    #[inline(always)]
    unsafe fn times_power(self, power: u32) -> Self {
        // SAFETY: the caller's function enables avx512f.
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let power = _mm512_set1_epi32(power as i32);
            Self(_mm512_castsi512_ps(_mm512_add_epi32(bits, power)))
        }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller's function enables avx512f.
        Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> __m512i {
        // SAFETY: avx512f as above; readable by the trait's contract.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn dot_bf16(self, w: __m512i, x: u32) -> Self {
        // SAFETY: the caller's function enables avx512bf16; the casts between
        // vector types of one size keep the bits.
        unsafe {
            let w = std::mem::transmute::<__m512i, __m512bh>(w);
            let x = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(x as i32));
            Self(_mm512_dpbf16_ps(self.0, w, x))
        }
    }
    #[inline(always)]
    unsafe fn widen_bf16(w: __m512i) -> [Self; 2] {
        // SAFETY: the caller's function enables avx512f. A bf16 is the upper
        // half of the f32 of the same value.
        unsafe {
            let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            [
                Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(w))),
                Self(_mm512_castsi512_ps(_mm512_and_si512(w, upper))),
            ]
        }
    }
    #[inline(always)]
    unsafe fn first_of_pairs(w: __m512i) -> __m512i {
        // SAFETY: the caller's function enables avx512f.
        unsafe { _mm512_and_si512(w, _mm512_set1_epi32(0xffff)) }
    }

    #[inline(always)]
    unsafe fn int_splat(x: i32) -> __m512i {
        // SAFETY: the caller's function enables avx512f.
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn low_bits(ints: __m512i) -> Self {
        // SAFETY: the caller's function enables avx512f.
        Self(unsafe { _mm512_sub_ps(_mm512_castsi512_ps(ints), _mm512_set1_ps(ROUND)) })
    }
    #[inline(always)]
    unsafe fn low_nibbles(w: __m512i) -> __m512i {
        // SAFETY: the caller's function enables avx512f.
        unsafe { _mm512_and_si512(w, _mm512_set1_epi8(15)) }
    }
    #[inline(always)]
    unsafe fn high_nibbles(w: __m512i) -> __m512i {
        // SAFETY: the caller's function enables avx512bw.
        unsafe { _mm512_and_si512(_mm512_srli_epi16::<4>(w), _mm512_set1_epi8(15)) }
    }
    #[inline(always)]
    unsafe fn dot_q4(sums: __m512i, w: __m512i, x: u32) -> __m512i {
        // SAFETY: the caller's function enables avx512vnni.
        unsafe { _mm512_dpbusd_epi32(sums, w, _mm512_set1_epi32(x as i32)) }
    }
    #[inline(always)]
    unsafe fn prepare_q8(w: __m512i) -> __m512i {
        w
    }
    #[inline(always)]
    unsafe fn dot_q8(sums: __m512i, w: __m512i, x: u32) -> __m512i {
        // SAFETY: the caller's function enables avx512vnni.
        unsafe { _mm512_dpbusd_epi32(sums, w, _mm512_set1_epi32(x as i32)) }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16) {
        // SAFETY: the caller's function enables avx512bf16; writable by the
        // trait's contract; the cast between vector types of one size keeps
        // the bits.
        unsafe {
            let halves = _mm512_cvtneps_pbh(self.0);
            _mm256_storeu_si256(to.cast(), std::mem::transmute::<__m256bh, __m256i>(halves));
        }
    }
    #[inline(always)]
    unsafe fn highest(x: [Self; 2]) -> f32 {
        // SAFETY: the caller's function enables avx512f.
        unsafe {
            let mask = _mm512_set1_epi32(0x7fff_ffff);
            let [a, b] = x.map(|x| _mm512_and_si512(_mm512_castps_si512(x.0), mask));
            f32::from_bits(_mm512_reduce_max_epu32(_mm512_max_epu32(a, b)))
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(x: [Self; 2], to: *mut u8) -> i32 {
        // SAFETY: the caller's function enables avx512f; writable by the
        // trait's contract.
        unsafe {
            let round = _mm512_set1_ps(ROUND);
            let whole = x.map(|x| {
                let sum = _mm512_castps_si512(_mm512_add_ps(x.0, round));
                _mm512_sub_epi32(sum, _mm512_castps_si512(round))
            });
            _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(whole[0]));
            _mm_storeu_si128(to.add(16).cast(), _mm512_cvtepi32_epi8(whole[1]));
            _mm512_reduce_add_epi32(_mm512_add_epi32(whole[0], whole[1]))
        }
    }

    #[inline(always)]
    fn prefetch(from: *const u8) {
        // Into the second cache: the first has the inputs and the panel in use.
        // SAFETY: a prefetch never faults; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }
}
