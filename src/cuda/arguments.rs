//! What kernels are told: their parameters as C has them.

use cudarc::driver::DeviceRepr;

use super::defined::{ATTENTION, defined};

/// `struct Rows` of `common.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RowsArgument {
    pub tokens: u64,
    pub positions: u64,
    pub sequences: u64,
    pub tables: u64,
    pub stride: i32,
}

/// `struct Norm` of `norm.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct NormArgument {
    pub x: u64,
    pub weight: u64,
    pub bias: u64,
    pub index: u64,
    pub epsilon: f32,
    pub width: i32,
}

/// `struct Linear` of `linear/layer.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct LinearArgument {
    pub y: u64,
    /// 0 where `norm` has the rows.
    pub x: u64,
    pub w: u64,
    pub bias: u64,
    pub rows: i32,
    pub k: i32,
    pub n: i32,
    pub y_stride: i32,
    pub then: i32,
    pub activation: i32,
    pub norm: NormArgument,
}

/// `struct Heads` of `attention.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadsArgument {
    pub count: i32,
    pub dim: i32,
    pub padded: i32,
    pub scale: f32,
}

/// Rows of a tile, which one warp has.
pub(super) const TILE_ROWS: usize = defined(ATTENTION, "TILE_ROWS");

/// How a batch's rows are shared out for attention.
#[derive(Debug, Clone, Copy)]
pub(super) enum Spread {
    /// No sequence has two rows: each is computed alone.
    OneEach,
    /// Lists on the device, and their lengths.
    Lists {
        /// Rows that are computed alone.
        alone: (u64, usize),
        /// First rows of tiles of [`TILE_ROWS`] rows of a sequence, or of what
        /// is left of it.
        tiles: (u64, usize),
    },
}

// SAFETY: the same fields in the same order as in C; any bits are a value.
unsafe impl DeviceRepr for RowsArgument {}
// SAFETY: as above.
unsafe impl DeviceRepr for NormArgument {}
// SAFETY: as above.
unsafe impl DeviceRepr for LinearArgument {}
// SAFETY: as above.
unsafe impl DeviceRepr for HeadsArgument {}

/// What becomes of a linear layer's sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// They are rounded to the format.
    Store = 0,
    /// They are added to f32 values.
    Add = 1,
    /// They are stored in f32.
    Logits = 2,
    /// They go through the activation and are rounded to the format.
    Activate = 3,
}
