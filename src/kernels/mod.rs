//! CPU kernels: slices in, slices out; no tensors, and no memory but a few
//! lists of tasks and scratch that threads keep.
//!
//! Each algorithm is written once over [`vector::Vector`] and compiled once
//! per instruction set ([`isa`]). A row's result never depends on the rows
//! beside it or on the number of threads, nor, but for bf16, on the set.

#![allow(
    clippy::extra_unused_type_parameters,
    reason = "`dispatch!` compiles each kernel once per vector type, also where the compiler \
              vectorises plain loops by itself"
)]

pub mod activation;
pub mod attention;
pub mod isa;
pub mod layer_norm;
pub mod limits;
pub mod linear;
pub mod memory;
pub mod pool;
pub mod select;
pub mod softmax;
pub mod vector;

pub use isa::Isa;

/// A mutable buffer whose disjoint parts several threads write.
struct SharedMut<T = f32>(*mut T);

impl<T> Clone for SharedMut<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for SharedMut<T> {}

// SAFETY: the kernels that use it give each thread its own part.
unsafe impl<T: Send> Send for SharedMut<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<T> {}

impl<T> SharedMut<T> {
    /// The value at `index`.
    ///
    /// # Safety
    /// It must be in the buffer, and no other thread may touch it.
    #[inline(always)]
    unsafe fn at(self, index: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(index) }
    }

    /// `len` values from `start` on.
    ///
    /// # Safety
    /// They must be in the buffer, no other thread may touch them, and the
    /// caller must not hold them twice at a time.
    #[inline(always)]
    unsafe fn slice<'a>(self, start: usize, len: usize) -> &'a mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}
