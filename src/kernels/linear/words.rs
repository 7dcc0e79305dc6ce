//! Steps of a product: words of a panel and the inputs that meet them, for
//! weights and for what attention caches.

use super::PANEL;
use super::format::Ahead;
use crate::kernels::vector::{LANES, Vector, pair};

/// What the words of a panel hold.
///
/// A step of a product is a word of each column of a panel, `[PANEL]`, and the
/// row's inputs that meet it.
pub trait Words {
    /// Values in a word, consecutive ones along the sum.
    const IN_WORD: usize;
    /// Words of a row's inputs in a step.
    const INPUT_WORDS: usize;

    /// A step's words of a panel, ready to be multiplied.
    type Step<V: Vector>: Copy;

    /// Lays out a row's inputs in as many words as their steps have, the last
    /// step filled up with zeros.
    ///
    /// # Safety
    /// The set of `V` must be there.
    unsafe fn pack<V: Vector>(x: &[f32], out: &mut [u32]);

    /// Reads a step, without the second values of its words unless `both`.
    ///
    /// # Safety
    /// The set of `V` must be there, and `w` readable for `PANEL` words.
    unsafe fn load<V: Vector>(w: *const u32, both: bool) -> Self::Step<V>;

    /// `sum` plus the products of one row's inputs with a step.
    ///
    /// # Safety
    /// The set of `V` must be there, and `x` readable for `INPUT_WORDS` words.
    unsafe fn add<V: Vector>(sum: [V; 2], x: *const u32, step: Self::Step<V>) -> [V; 2];
}

/// Words of so many inputs of a row.
pub const fn words_of<W: Words>(inputs: usize) -> usize {
    inputs.div_ceil(W::IN_WORD) * W::INPUT_WORDS
}

/// Adds to `sums` the products of `R` rows, whose inputs are `stride` words
/// apart, with `steps` steps of a panel.
///
/// # Safety
/// The set of `V` must be there, `x` readable for all rows' inputs and `w` for
/// `steps · PANEL` words.
#[inline(always)]
pub unsafe fn multiply<V: Vector, W: Words, const R: usize>(
    (x, stride): (*const u32, usize),
    w: *const u32,
    steps: usize,
    ahead: Ahead,
    sums: &mut [[V; 2]; R],
) {
    // A copy, so that the sums stay in registers.
    let mut local = *sums;
    for i in 0..steps {
        ahead.fetch::<V>(i, 0, 2);
        ahead.fetch::<V>(i, 1, 2);
        // SAFETY: the caller's promise.
        unsafe {
            let step = W::load::<V>(w.add(i * PANEL), true);
            for (r, sum) in local.iter_mut().enumerate() {
                *sum = W::add(*sum, x.add(r * stride + i * W::INPUT_WORDS), step);
            }
        }
    }
    *sums = local;
}

/// [`multiply`] with inputs in chunks of `chunk` steps, `[chunks, R, chunk]`.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
pub unsafe fn multiply_chunks<V: Vector, W: Words, const R: usize>(
    (x, chunk): (*const u32, usize),
    w: *const u32,
    steps: usize,
    ahead: Ahead,
    sums: &mut [[V; 2]; R],
) {
    let stride = chunk * W::INPUT_WORDS;
    // A copy, so that the sums stay in registers.
    let mut local = *sums;
    for first in (0..steps).step_by(chunk) {
        let count = chunk.min(steps - first);
        let ahead = ahead.after(first);
        // SAFETY: passed on from the caller.
        unsafe {
            let (x, w) = (x.add(first * R * W::INPUT_WORDS), w.add(first * PANEL));
            multiply::<V, W, R>((x, stride), w, count, ahead, &mut local);
        }
    }
    *sums = local;
}

/// A float each.
pub enum Floats {}

impl Words for Floats {
    const IN_WORD: usize = 1;
    const INPUT_WORDS: usize = 1;

    type Step<V: Vector> = [V; 2];

    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn pack<V: Vector>(x: &[f32], out: &mut [u32]) {
        copy_bits(x, out);
    }

    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn load<V: Vector>(w: *const u32, _both: bool) -> [V; 2] {
        let w = w.cast::<f32>();
        // SAFETY: the caller's promise.
        unsafe { [V::load(w), V::load(w.add(LANES))] }
    }

    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn add<V: Vector>(sum: [V; 2], x: *const u32, step: [V; 2]) -> [V; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let x = V::splat(*x.cast::<f32>());
            [sum[0].fma(x, step[0]), sum[1].fma(x, step[1])]
        }
    }
}

/// Two bf16 values each, which meet floats.
pub enum Pairs {}

impl Words for Pairs {
    const IN_WORD: usize = 2;
    const INPUT_WORDS: usize = 2;

    /// The first values of the words, then the second.
    type Step<V: Vector> = [[V; 2]; 2];

    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn pack<V: Vector>(x: &[f32], out: &mut [u32]) {
        copy_bits(x, out);
    }

    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn load<V: Vector>(w: *const u32, both: bool) -> [[V; 2]; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let [a, b] = load_pairs::<V>(w, both);
            let (a, b) = (V::widen_bf16(a), V::widen_bf16(b));
            [[a[0], b[0]], [a[1], b[1]]]
        }
    }

    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn add<V: Vector>(sum: [V; 2], x: *const u32, step: [[V; 2]; 2]) -> [V; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let sum = Floats::add(sum, x, step[0]);
            Floats::add(sum, x.add(1), step[1])
        }
    }
}

/// Two bf16 values each, which meet bf16 values.
pub enum PairProducts {}

impl Words for PairProducts {
    const IN_WORD: usize = 2;
    const INPUT_WORDS: usize = 1;

    type Step<V: Vector> = [V::Bytes; 2];

    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn pack<V: Vector>(x: &[f32], out: &mut [u32]) {
        let (whole, rest) = x.as_chunks::<LANES>();
        let (words, last) = out.split_at_mut(whole.len() * LANES / 2);
        for (x, out) in whole.iter().zip(words.chunks_mut(LANES / 2)) {
            // SAFETY: sixteen values, and room for sixteen halves; the set is
            // the caller's promise.
            unsafe { V::load(x.as_ptr()).store_bf16(out.as_mut_ptr().cast()) };
        }
        for (x, out) in rest.chunks(2).zip(last) {
            let second = x.get(1).copied().unwrap_or(0.0);
            *out = pair(x[0], second);
        }
    }

    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn load<V: Vector>(w: *const u32, both: bool) -> [V::Bytes; 2] {
        // SAFETY: the caller's promise.
        unsafe { load_pairs::<V>(w, both) }
    }

    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn add<V: Vector>(sum: [V; 2], x: *const u32, step: [V::Bytes; 2]) -> [V; 2] {
        // SAFETY: the caller's promise.
        unsafe { [sum[0].dot_bf16(step[0], *x), sum[1].dot_bf16(step[1], *x)] }
    }
}

/// A step of pairs.
///
/// # Safety
/// As [`Words::load`].
#[inline(always)]
unsafe fn load_pairs<V: Vector>(w: *const u32, both: bool) -> [V::Bytes; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let [a, b] = [V::load_bytes(w.cast()), V::load_bytes(w.add(LANES).cast())];
        if both {
            [a, b]
        } else {
            [V::first_of_pairs(a), V::first_of_pairs(b)]
        }
    }
}

/// The bits of `x`, then zeros.
#[inline(always)]
fn copy_bits(x: &[f32], out: &mut [u32]) {
    let (out, rest) = out.split_at_mut(x.len());
    for (x, out) in x.iter().zip(out) {
        *out = x.to_bits();
    }
    rest.fill(0);
}
