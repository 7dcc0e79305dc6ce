//! GPT-2 on an NVIDIA GPU: plain slices go in and come out, as with
//! [`kernels`](crate::kernels); in between, everything stays on the device.
//!
//! Our own kernels (`kernels/`) do all of the work: no library of
//! matrix products promises that a row's result doesn't depend on its batch.
//! `build.rs` compiles and embeds them. The driver library is looked
//! for when a device is opened, so a binary with this runs without one too.

mod arguments;
mod defined;
mod device;
mod launch;
mod limits;
mod linear;
mod module;
mod network;
mod pass;
mod pending;
mod sample;
mod scratch;
mod step;

use std::fmt;

pub use device::Device;
pub use network::{Block, Cache, Matrix, Network, Norm, Shape};
pub use pass::{Pass, Rows, Wanted};
pub use pending::Pending;
pub use sample::{Draw, Pick, Picked};
pub use scratch::Outcome;

/// Positions in a block of the cache.
pub const BLOCK: usize = defined::defined(defined::COMMON, "BLOCK");

// The engine's block tables are those of the kernels for CPUs.
const _: () = assert!(BLOCK == crate::kernels::attention::BLOCK);

/// The format of weights, of the activations that meet them, and of the cache.
/// Sums, and the residual stream, are f32 in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// 32-bit floats, without TF32.
    F32,
    /// Brain floats: 8 bits of exponent, 8 of precision.
    Bf16,
    /// Half floats: 5 bits of exponent, 11 of precision.
    F16,
}

impl Format {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// The end of its kernels' names.
    fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// What can go wrong with a device.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CudaError {
    /// The driver library isn't there.
    #[error("CUDA: no NVIDIA driver is installed (libcuda was not found); use --device cpu")]
    NoDriver,
    /// The driver refused something.
    #[error("CUDA: {what}: {reason}")]
    Driver {
        /// What was being done.
        what: String,
        /// The driver's own words.
        reason: String,
    },
    /// The model has a shape that the kernels don't have.
    #[error("CUDA: {0}")]
    Unsupported(String),
}

type Result<T> = std::result::Result<T, CudaError>;

/// Says what was being done when the driver refused.
trait During<T> {
    fn during(self, what: impl fmt::Display) -> Result<T>;
}

impl<T> During<T> for std::result::Result<T, cudarc::driver::DriverError> {
    fn during(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| CudaError::Driver {
            what: what.to_string(),
            reason: match error.error_string() {
                Ok(text) => text.to_string_lossy().into_owned(),
                Err(_) => format!("{error:?}"),
            },
        })
    }
}
