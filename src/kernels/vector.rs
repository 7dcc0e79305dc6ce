//! Sixteen f32 lanes, whatever the processor has underneath.
//!
//! Every kernel is written once over [`Vector`]. Since each implementation has
//! the same sixteen virtual lanes, fuses every multiply-add and reduces in the
//! same order, all of them compute the same bits.

/// The number of virtual lanes.
pub const LANES: usize = 16;

/// Sixteen f32 lanes.
///
/// # Safety
/// The methods of an implementation may be called only where the processor has
/// the instruction set that it is made for; see `isa.rs`.
pub unsafe trait Vector: Copy {
    /// Rows of the matrix product that fit in this set's registers.
    const ROWS: usize;

    /// All lanes `x`.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn splat(x: f32) -> Self;
    /// Reads sixteen values.
    ///
    /// # Safety
    /// See the trait; `from` must be readable for sixteen values.
    unsafe fn load(from: *const f32) -> Self;
    /// Writes sixteen values.
    ///
    /// # Safety
    /// See the trait; `to` must be writable for sixteen values.
    unsafe fn store(self, to: *mut f32);
    /// `self + a·b`, rounded once.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
}

/// The portable implementation, which compilers vectorise as they can.
#[derive(Clone, Copy)]
pub struct Portable([f32; LANES]);

// SAFETY: plain arrays, no instruction set needed.
unsafe impl Vector for Portable {
    const ROWS: usize = 2;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises sixteen readable values.
        Self(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises sixteen writable values.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn fma(mut self, a: Self, b: Self) -> Self {
        for i in 0..LANES {
            self.0[i] = a.0[i].mul_add(b.0[i], self.0[i]);
        }
        self
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{LANES, Vector};

    /// One 512-bit register.
    #[derive(Clone, Copy)]
    pub struct Avx512(__m512);

    // SAFETY: used only from entries that enable avx512f.
    unsafe impl Vector for Avx512 {
        const ROWS: usize = 12;

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
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: avx512f as above; writable by the trait's contract.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn fma(self, a: Self, b: Self) -> Self {
            // SAFETY: the caller's function enables avx512f.
            Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
        }
    }

    /// Two 256-bit registers.
    #[derive(Clone, Copy)]
    pub struct Avx2(__m256, __m256);

    // SAFETY: used only from entries that enable avx2 and fma.
    unsafe impl Vector for Avx2 {
        const ROWS: usize = 3;

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
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: avx as above; sixteen writable values by the contract.
            unsafe {
                _mm256_storeu_ps(to, self.0);
                _mm256_storeu_ps(to.add(LANES / 2), self.1);
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
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

/// Sum of sixteen lanes, by halves.
#[inline(always)]
pub fn sum(lanes: [f32; LANES]) -> f32 {
    let mut lanes = lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Dot product of two slices of one length: sixteen running sums, the last
/// partial vector filled with zeros, then [`sum`].
///
/// # Safety
/// See [`Vector`].
#[inline(always)]
pub unsafe fn dot<V: Vector>(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    let (a_whole, a_rest) = a.as_chunks::<LANES>();
    let (b_whole, b_rest) = b.as_chunks::<LANES>();
    // SAFETY: each chunk holds sixteen values; the set is the caller's promise.
    unsafe {
        let mut total = V::splat(0.0);
        for (x, y) in a_whole.iter().zip(b_whole) {
            total = total.fma(V::load(x.as_ptr()), V::load(y.as_ptr()));
        }
        if !a_rest.is_empty() {
            let (x, y) = (padded(a_rest), padded(b_rest));
            total = total.fma(V::load(x.as_ptr()), V::load(y.as_ptr()));
        }
        let mut lanes = [0.0; LANES];
        total.store(lanes.as_mut_ptr());
        sum(lanes)
    }
}

/// `y += p·x` for slices of one length.
///
/// # Safety
/// See [`Vector`].
#[inline(always)]
pub unsafe fn axpy<V: Vector>(p: f32, x: &[f32], y: &mut [f32]) {
    debug_assert_eq!(x.len(), y.len());
    let (x_whole, x_rest) = x.as_chunks::<LANES>();
    let (y_whole, y_rest) = y.as_chunks_mut::<LANES>();
    for (x, y) in x_whole.iter().zip(y_whole) {
        // SAFETY: each chunk holds sixteen values; the set is the caller's promise.
        unsafe {
            V::load(y.as_ptr())
                .fma(V::splat(p), V::load(x.as_ptr()))
                .store(y.as_mut_ptr());
        }
    }
    for (x, y) in x_rest.iter().zip(y_rest) {
        *y = p.mul_add(*x, *y);
    }
}

fn padded(rest: &[f32]) -> [f32; LANES] {
    let mut full = [0.0; LANES];
    full[..rest.len()].copy_from_slice(rest);
    full
}
