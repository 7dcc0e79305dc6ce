//! What both kinds of GPT-2 can do.

use super::{Batch, CacheFormat, Config, Gpt2, Inspection, Inspector, KvCache, Logits, ModelError};

/// A GPT-2, wherever it computes; see [`Gpt2`] for each of these.
pub trait Transformer {
    /// The model's shape.
    fn config(&self) -> &Config;

    /// Bytes of the weights as they are held.
    fn packed_bytes(&self) -> usize;

    /// How keys and values are best kept.
    fn cache_format(&self) -> CacheFormat;

    /// A cache with room for `tokens` tokens.
    ///
    /// # Errors
    /// [`ModelError`] when the memory cannot be had.
    fn cache(&self, tokens: usize) -> Result<KvCache, ModelError>;

    /// The logits that `batch` asks for.
    ///
    /// # Errors
    /// As [`Gpt2::forward`].
    fn forward(&self, batch: &Batch, cache: &mut KvCache) -> Result<Logits, ModelError>;

    /// The same, showing its activations to `inspector`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn forward_inspected(
        &self,
        batch: &Batch,
        cache: &mut KvCache,
        inspector: &mut Inspector<'_>,
    ) -> Result<Logits, ModelError>;

    /// What the model would say at a position if it ended earlier.
    ///
    /// # Errors
    /// As [`Gpt2::logit_lens`].
    fn logit_lens(&self, inspection: &Inspection, position: usize) -> Result<Logits, ModelError>;
}

macro_rules! transformer {
    ($model:ty) => {
        impl Transformer for $model {
            fn config(&self) -> &Config {
                self.config()
            }

            fn packed_bytes(&self) -> usize {
                self.packed_bytes()
            }

            fn cache_format(&self) -> CacheFormat {
                self.cache_format()
            }

            fn cache(&self, tokens: usize) -> Result<KvCache, ModelError> {
                self.cache(tokens)
            }

            fn forward(&self, batch: &Batch, cache: &mut KvCache) -> Result<Logits, ModelError> {
                self.forward(batch, cache)
            }

            fn forward_inspected(
                &self,
                batch: &Batch,
                cache: &mut KvCache,
                inspector: &mut Inspector<'_>,
            ) -> Result<Logits, ModelError> {
                self.forward_recorded(batch, cache, inspector)
            }

            fn logit_lens(
                &self,
                inspection: &Inspection,
                position: usize,
            ) -> Result<Logits, ModelError> {
                self.logit_lens(inspection, position)
            }
        }
    };
}

transformer!(Gpt2);
#[cfg(feature = "cuda")]
transformer!(super::CudaGpt2);
