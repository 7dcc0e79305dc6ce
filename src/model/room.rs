//! Memory for the packed weights of a model.

use std::cell::Cell;

use candle_core::{Device, Tensor};

use super::config::Config;
use super::{ModelError, ops};
use crate::kernels::linear::{Precision, aligned_start, packed_len};
use crate::kernels::memory;

/// Room for matrices, in one piece: many a matrix is smaller than a huge page,
/// and would get none by itself.
#[derive(Debug)]
pub(super) struct Room {
    precision: Precision,
    bytes: Tensor,
    /// Where the next matrix starts.
    next: Cell<usize>,
}

impl Room {
    /// For matrices of these shapes `[k, n]`, packed one after another.
    ///
    /// # Errors
    /// [`ModelError::Memory`].
    pub fn new(
        precision: Precision,
        shapes: impl Iterator<Item = (usize, usize)>,
    ) -> Result<Self, ModelError> {
        let len: usize = shapes.map(|(k, n)| packed_len(precision, k, n)).sum();
        // Room to start at a cache line; packed weights are whole ones.
        let len = len + 64;
        let what = "weights";
        let bytes = memory::zeros::<u8>(len).ok_or(ModelError::Memory { what, bytes: len })?;
        let next = Cell::new(aligned_start(&bytes));
        let bytes = Tensor::from_vec(bytes, len, &Device::Cpu)?;
        Ok(Self {
            precision,
            bytes,
            next,
        })
    }

    /// For all matrices of a model whose head is its embedding.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_model(config: &Config, precision: Precision) -> Result<Self, ModelError> {
        let (e, inner) = (config.n_embd, config.n_inner);
        let block = [(e, 3 * e), (e, e), (e, inner), (inner, e)];
        let blocks = std::iter::repeat_n(block, config.n_layer).flatten();
        Self::new(precision, blocks.chain([(e, config.vocab_size)]))
    }

    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The packed weights of a matrix `[k, n]`, as `fill` leaves them.
    ///
    /// # Errors
    /// Those of `fill`, and [`ModelError::Candle`] where there is no room left.
    pub fn take(
        &self,
        (k, n): (usize, usize),
        fill: impl FnOnce(&mut [u8]) -> Result<(), ModelError>,
    ) -> Result<Tensor, ModelError> {
        let len = packed_len(self.precision, k, n);
        let start = self.next.get();
        let weight = self.bytes.narrow(0, start, len)?;
        self.next.set(start + len);
        let mut filled = Ok(());
        ops::with_bytes_mut(&weight, |bytes| {
            filled = fill(bytes);
            Ok(())
        })?;
        filled.map(|()| weight)
    }
}
