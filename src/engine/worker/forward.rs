//! What computes logits, in two halves.

use crate::engine::EngineError;
use crate::engine::inspect::Inspecting;
use crate::model::{Batch, Gpt2, Inspector, KvCache, Logits, ModelError, Transformer};
#[cfg(feature = "cuda")]
use crate::model::{CudaGpt2, CudaPass};

/// When readers are told what was chosen of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tell {
    /// At once. On a processor all threads compute the next pass, and readers
    /// that wake up then would be in their way.
    AtOnce,
    /// Between the halves of the next pass, while a device computes it; at once
    /// where none follows.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "there is none"))]
    BesideNext,
}

/// [`Gpt2`] or, on a GPU, `CudaGpt2`; tests have others.
pub trait Forward: Look {
    /// When readers are told.
    const TELL: Tell;

    /// A pass that has begun. A processor does nothing before the second half.
    type Pass;

    /// Begins a pass, and doesn't wait for it.
    fn begin(&self, batch: &Batch, cache: &mut KvCache) -> Result<Self::Pass, ModelError>;

    /// The logits of a pass, with the batch and the cache that it began with.
    fn finish(
        &self,
        pass: Self::Pass,
        batch: &Batch,
        cache: &mut KvCache,
    ) -> Result<Logits, ModelError>;
}

/// Passes that are looked at: computed in one piece.
pub trait Look {
    /// The logits of a pass; see [`Gpt2::forward_recorded`].
    fn look(
        &self,
        batch: &Batch,
        cache: &mut KvCache,
        inspector: &mut Inspector<'_>,
    ) -> Result<Logits, ModelError>;

    /// See [`Inspecting::answer_if_done`].
    fn answer(&self, inspecting: &mut Inspecting) -> Result<(), EngineError>;
}

impl<M: Transformer> Look for M {
    fn look(
        &self,
        batch: &Batch,
        cache: &mut KvCache,
        inspector: &mut Inspector<'_>,
    ) -> Result<Logits, ModelError> {
        self.forward_inspected(batch, cache, inspector)
    }

    fn answer(&self, inspecting: &mut Inspecting) -> Result<(), EngineError> {
        inspecting.answer_if_done(self)
    }
}

impl Forward for Gpt2 {
    const TELL: Tell = Tell::AtOnce;
    type Pass = ();

    fn begin(&self, _batch: &Batch, _cache: &mut KvCache) -> Result<(), ModelError> {
        Ok(())
    }

    fn finish(&self, (): (), batch: &Batch, cache: &mut KvCache) -> Result<Logits, ModelError> {
        self.forward(batch, cache)
    }
}

#[cfg(feature = "cuda")]
impl Forward for CudaGpt2 {
    const TELL: Tell = Tell::BesideNext;
    type Pass = CudaPass;

    fn begin(&self, batch: &Batch, cache: &mut KvCache) -> Result<CudaPass, ModelError> {
        CudaGpt2::begin(self, batch, cache)
    }

    fn finish(
        &self,
        pass: CudaPass,
        _batch: &Batch,
        _cache: &mut KvCache,
    ) -> Result<Logits, ModelError> {
        CudaGpt2::finish(self, pass)
    }
}
