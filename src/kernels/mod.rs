//! CPU kernels: slices in, slices out; no tensors, no allocation.
//!
//! Each algorithm is written once over [`vector::Vector`] and compiled once
//! per instruction set ([`isa`]). A row's result never depends on the rows
//! beside it, on the number of threads or on the set.

pub mod activation;
pub mod attention;
pub mod isa;
pub mod layer_norm;
pub mod linear;
pub mod softmax;
pub mod vector;

pub use isa::Isa;

/// A mutable buffer whose disjoint parts several threads write.
#[derive(Clone, Copy)]
struct SharedMut(*mut f32);

// SAFETY: the kernels that use it give each thread its own columns.
unsafe impl Send for SharedMut {}
// SAFETY: as above.
unsafe impl Sync for SharedMut {}
