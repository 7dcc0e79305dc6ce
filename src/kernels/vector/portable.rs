//! Plain arrays, which compilers vectorise as they can.

use half::{bf16, f16};

use super::{LANES, ROUND, Vector};

/// Sixteen lanes as an array.
#[derive(Clone, Copy)]
pub struct Portable([f32; LANES]);

// SAFETY: plain arrays, no instruction set needed.
unsafe impl Vector for Portable {
    const ROWS: usize = 2;
    const BYTE_ROWS: usize = 1;
    const Q8_OFFSET: i32 = 0;

    type Bytes = [u8; 4 * LANES];
    type Ints = [i32; LANES];

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
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller promises sixteen readable values.
        let halves = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        Self(halves.map(|h| f16::from_bits(h).to_f32()))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises sixteen writable values.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn mul(mut self, a: Self) -> Self {
        for i in 0..LANES {
            self.0[i] *= a.0[i];
        }
        self
    }
    #[inline(always)]
    unsafe fn times_power(self, power: u32) -> Self {
        Self(
            self.0
                .map(|x| f32::from_bits(x.to_bits().wrapping_add(power))),
        )
    }
    #[inline(always)]
    unsafe fn fma(mut self, a: Self, b: Self) -> Self {
        for i in 0..LANES {
            self.0[i] = a.0[i].mul_add(b.0[i], self.0[i]);
        }
        self
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self::Bytes {
        // SAFETY: the caller promises 64 readable bytes.
        unsafe { from.cast::<Self::Bytes>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn dot_bf16(mut self, w: Self::Bytes, x: u32) -> Self {
        let x = widen(x.to_le_bytes());
        for (lane, w) in self.0.iter_mut().zip(w.as_chunks::<4>().0) {
            let w = widen(*w);
            *lane = w[0].mul_add(x[0], *lane);
            *lane = w[1].mul_add(x[1], *lane);
        }
        self
    }
    #[inline(always)]
    unsafe fn widen_bf16(w: Self::Bytes) -> [Self; 2] {
        let mut lanes = [[0.0; LANES]; 2];
        for (i, w) in w.as_chunks::<4>().0.iter().enumerate() {
            [lanes[0][i], lanes[1][i]] = widen(*w);
        }
        lanes.map(Self)
    }
    #[inline(always)]
    unsafe fn first_of_pairs(mut w: Self::Bytes) -> Self::Bytes {
        for w in w.as_chunks_mut::<4>().0 {
            w[2..].fill(0);
        }
        w
    }

    #[inline(always)]
    unsafe fn int_splat(x: i32) -> Self::Ints {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn low_bits(ints: Self::Ints) -> Self {
        Self(ints.map(|i| f32::from_bits(i as u32) - ROUND))
    }
    #[inline(always)]
    unsafe fn low_nibbles(w: Self::Bytes) -> Self::Bytes {
        w.map(|b| b & 15)
    }
    #[inline(always)]
    unsafe fn high_nibbles(w: Self::Bytes) -> Self::Bytes {
        w.map(|b| b >> 4)
    }
    #[inline(always)]
    unsafe fn dot_q4(sums: Self::Ints, w: Self::Bytes, x: u32) -> Self::Ints {
        dot(sums, w.map(|b| b as i8), x)
    }
    #[inline(always)]
    unsafe fn prepare_q8(w: Self::Bytes) -> Self::Bytes {
        w.map(|b| b ^ 128)
    }
    #[inline(always)]
    unsafe fn dot_q8(sums: Self::Ints, w: Self::Bytes, x: u32) -> Self::Ints {
        dot(sums, w.map(|b| b as i8), x)
    }

    #[inline(always)]
    fn prefetch(_from: *const u8) {}
}

/// Two bf16 values.
#[inline(always)]
fn widen(w: [u8; 4]) -> [f32; 2] {
    [[w[0], w[1]], [w[2], w[3]]].map(|half| bf16::from_le_bytes(half).to_f32())
}

#[inline(always)]
fn dot(mut sums: [i32; LANES], w: [i8; 4 * LANES], x: u32) -> [i32; LANES] {
    let x = x.to_le_bytes().map(|b| i32::from(b as i8));
    for (sum, w) in sums.iter_mut().zip(w.as_chunks::<4>().0) {
        for (w, x) in w.iter().zip(x) {
            *sum += i32::from(*w) * x;
        }
    }
    sums
}
