//! Sixteen f32 lanes, whatever the processor has underneath.
//!
//! Every kernel is written once over [`Vector`]. Since each implementation has
//! the same sixteen virtual lanes, fuses every multiply-add and reduces in the
//! same order, all of them compute the same bits; the one exception is
//! [`Vector::dot_bf16`], which rounds as the hardware's own instruction does.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
pub use avx2::{Avx2, AvxVnni};
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use portable::Portable;

/// The number of virtual lanes.
pub const LANES: usize = 16;

/// Sixteen f32 lanes, with the registers that go with them: 64 bytes, and
/// sixteen i32 lanes.
///
/// # Safety
/// The methods of an implementation may be called only where the processor has
/// the instruction set that it is made for; see `isa.rs`.
pub unsafe trait Vector: Copy {
    /// Rows of a product of floats, two vectors wide, that fit in this set's
    /// registers.
    const ROWS: usize;
    /// Rows of a product of bytes, two vectors wide, that fit.
    const BYTE_ROWS: usize;
    /// What [`dot_q8`](Self::dot_q8) adds to every weight.
    const Q8_OFFSET: i32;

    /// Sixty-four bytes.
    type Bytes: Copy;
    /// Sixteen i32 lanes.
    type Ints: Copy;

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
    /// Reads sixteen half-precision values.
    ///
    /// # Safety
    /// See the trait; `from` must be readable for sixteen values.
    unsafe fn load_f16(from: *const u8) -> Self;
    /// Writes sixteen values.
    ///
    /// # Safety
    /// See the trait; `to` must be writable for sixteen values.
    unsafe fn store(self, to: *mut f32);
    /// `self · a`.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn mul(self, a: Self) -> Self;
    /// `self · 2ⁿ` where that and `self` are normal numbers; `power` is n, in
    /// the bits of a float's exponent.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn times_power(self, power: u32) -> Self;
    /// `self + a·b`, rounded once.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn fma(self, a: Self, b: Self) -> Self;

    /// Reads 64 bytes.
    ///
    /// # Safety
    /// See the trait; `from` must be readable for 64 bytes.
    unsafe fn load_bytes(from: *const u8) -> Self::Bytes;
    /// Each lane plus the products of its two bf16 weights in `w` with the
    /// two bf16 values in `x`, the lower half first.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn dot_bf16(self, w: Self::Bytes, x: u32) -> Self;
    /// The first of the two bf16 values in each lane, and the second.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn widen_bf16(w: Self::Bytes) -> [Self; 2];
    /// The same lanes of two bf16 values, the second 0.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn first_of_pairs(w: Self::Bytes) -> Self::Bytes;

    /// All lanes `x`.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn int_splat(x: i32) -> Self::Ints;
    /// The integers from −2²² to 2²² that were added to the bits of [`ROUND`],
    /// as floats; NaN where they were added to the bits of one.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn low_bits(ints: Self::Ints) -> Self;
    /// The lower four bits of each byte.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn low_nibbles(w: Self::Bytes) -> Self::Bytes;
    /// The upper four bits of each byte.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn high_nibbles(w: Self::Bytes) -> Self::Bytes;
    /// Each lane plus the products of its four bytes in `w`, each 0 to 15,
    /// with the four signed bytes in `x`.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn dot_q4(sums: Self::Ints, w: Self::Bytes, x: u32) -> Self::Ints;
    /// Makes weights, stored as q + 128 with q from −127 to 127, ready for
    /// [`dot_q8`](Self::dot_q8).
    ///
    /// # Safety
    /// See the trait.
    unsafe fn prepare_q8(w: Self::Bytes) -> Self::Bytes;
    /// Each lane plus the products of its four weights, each
    /// q + [`Q8_OFFSET`](Self::Q8_OFFSET), with the four signed bytes in `x`,
    /// from −127 to 127.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn dot_q8(sums: Self::Ints, w: Self::Bytes, x: u32) -> Self::Ints;

    /// Writes sixteen values as bf16, each the [nearest](to_bf16), for
    /// [`dot_bf16`](Self::dot_bf16): what is too small to be normal may be
    /// written as the 0 that it counts for there.
    ///
    /// # Safety
    /// See the trait; `to` must be writable for sixteen values.
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16) {
        let mut lanes = [0.0; LANES];
        // SAFETY: there is room for sixteen values; the set and the room at
        // `to` are the caller's promise.
        unsafe {
            self.store(lanes.as_mut_ptr());
            to.cast::<[u16; LANES]>()
                .write_unaligned(lanes.map(to_bf16));
        }
    }
    /// The largest magnitude of two vectors; NaN counts as the largest.
    ///
    /// # Safety
    /// See the trait.
    #[inline(always)]
    unsafe fn highest(x: [Self; 2]) -> f32 {
        // SAFETY: the set is the caller's promise.
        let lanes = unsafe { both(x) };
        // The bits of magnitudes order as the magnitudes do, NaN above all.
        let bits = lanes.map(|x| x.to_bits() & 0x7fff_ffff);
        f32::from_bits(bits.into_iter().fold(0, u32::max))
    }
    /// Writes 32 values as signed bytes, each the [nearest] and at most 127 in
    /// magnitude, and returns their sum.
    ///
    /// # Safety
    /// See the trait; `to` must be writable for 32 bytes.
    #[inline(always)]
    unsafe fn store_bytes(x: [Self; 2], to: *mut u8) -> i32 {
        // SAFETY: the set and the room are the caller's promise.
        unsafe {
            let whole = both(x).map(nearest);
            to.cast::<[u8; 2 * LANES]>()
                .write_unaligned(whole.map(|x| x as u8));
            whole.iter().sum()
        }
    }

    /// Asks for the cache line at `from`, which may be any address.
    fn prefetch(from: *const u8);
}

/// The 32 lanes of two vectors.
///
/// # Safety
/// See [`Vector`].
#[inline(always)]
unsafe fn both<V: Vector>(x: [V; 2]) -> [f32; 2 * LANES] {
    let mut lanes = [0.0; 2 * LANES];
    // SAFETY: the set is the caller's promise, and there is room for both.
    unsafe {
        x[0].store(lanes.as_mut_ptr());
        x[1].store(lanes[LANES..].as_mut_ptr());
    }
    lanes
}

/// Adding it leaves the nearest integer of a magnitude below 2²² in the low
/// mantissa bits.
pub const ROUND: f32 = 12_582_912.0;

/// The nearest integer, ties to even, of a magnitude below 2²².
#[inline(always)]
pub fn nearest(x: f32) -> i32 {
    ((x + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32)
}

/// The nearest bf16 of two values in a word, the first in the lower half.
#[inline(always)]
pub fn pair(first: f32, second: f32) -> u32 {
    u32::from(to_bf16(first)) | u32::from(to_bf16(second)) << 16
}

/// The nearest bf16, ties to even, as its bits.
#[inline(always)]
pub fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    // A NaN must not round to infinity.
    let quiet = bits | 0x0040_0000;
    ((if x.is_nan() { quiet } else { rounded }) >> 16) as u16
}

/// Sum of sixteen lanes, by halves.
#[inline(always)]
pub fn sum(lanes: [f32; LANES]) -> f32 {
    by_halves(lanes, |a, b| a + b)
}

/// Sixteen lanes into one, by halves: 16 to 8 to 4 to 2 to 1.
#[inline(always)]
pub fn by_halves(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = join(lanes[i], lanes[i + width]);
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

/// Two vectors from up to 32 values, the rest filled with zeros.
///
/// # Safety
/// See [`Vector`].
#[inline(always)]
pub unsafe fn load_two<V: Vector>(from: &[f32]) -> [V; 2] {
    // SAFETY: the set is the caller's promise; each load has sixteen values.
    unsafe {
        if let Some(whole) = from.first_chunk::<{ 2 * LANES }>() {
            let whole = whole.as_ptr();
            return [V::load(whole), V::load(whole.add(LANES))];
        }
        let mut full = [0.0; 2 * LANES];
        full[..from.len()].copy_from_slice(from);
        [V::load(full.as_ptr()), V::load(full[LANES..].as_ptr())]
    }
}

/// The first of two vectors' 32 values, as many as there is room for.
///
/// # Safety
/// See [`Vector`].
#[inline(always)]
pub unsafe fn store_two<V: Vector>(values: [V; 2], to: &mut [f32]) {
    // SAFETY: the set is the caller's promise; each store has room for sixteen.
    unsafe {
        if let Some(whole) = to.first_chunk_mut::<{ 2 * LANES }>() {
            let whole = whole.as_mut_ptr();
            values[0].store(whole);
            values[1].store(whole.add(LANES));
            return;
        }
        let mut full = [0.0; 2 * LANES];
        values[0].store(full.as_mut_ptr());
        values[1].store(full[LANES..].as_mut_ptr());
        to.copy_from_slice(&full[..to.len()]);
    }
}

fn padded(rest: &[f32]) -> [f32; LANES] {
    let mut full = [0.0; LANES];
    full[..rest.len()].copy_from_slice(rest);
    full
}
