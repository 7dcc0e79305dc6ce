//! Candle custom ops: tensors in, tensors out, computed by `kernels`.
//!
//! Their oracle is the plain candle program in `examples/train_demo/model.rs`;
//! `tests/integration/demo.rs` compares the two.

use std::cell::RefCell;
use std::ops::Deref;

use candle_core::{
    CpuStorage, CustomOp1, CustomOp3, InplaceOp2, Layout, Result, Shape, Storage, Tensor, bail,
};

use super::batch::Span;
use super::config::Activation;
use super::kv_cache::LayerCache;
use super::weights::{NormWeights, PackedLinear};
use crate::kernels::activation::Function;
use crate::kernels::attention::{self, Cache, Heads, PIECE_ROWS, Piece};
use crate::kernels::layer_norm;
use crate::kernels::linear::{self, Epilogue};

/// What follows the product of a linear layer.
#[derive(Clone, Copy)]
pub(super) enum Then<'a> {
    /// Nothing but its bias.
    Nothing,
    /// An activation, element by element.
    Activation(Activation),
    /// The sum with `[rows, n]`.
    Add(&'a Tensor),
}

/// `x·W + b`, and what follows: `[rows, k]` → `[rows, n]`.
pub(super) fn linear(x: &Tensor, layer: &PackedLinear, then: Then<'_>) -> Result<Tensor> {
    x.apply_op1_no_bwd(&Linear { layer, then })
}

/// `x·W` as plain values: `[rows, k]` → `rows · n`.
pub(super) fn linear_values(x: &Tensor, layer: &PackedLinear) -> Result<Vec<f32>> {
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = storage.deref() else {
        bail!("expected a tensor on the CPU");
    };
    let then = Then::Nothing;
    Linear { layer, then }.run(slice(storage, layout)?)
}

/// LayerNorm over the last dimension: `[rows, n_embd]` → the same.
pub(super) fn layer_norm(x: &Tensor, norm: &NormWeights, epsilon: f32) -> Result<Tensor> {
    x.apply_op3_no_bwd(&norm.weight, &norm.bias, &LayerNorm { epsilon })
}

/// Rows of the token embedding: `tokens` → `[tokens, n_embd]`. Ids must have
/// been checked against the vocabulary.
pub(super) fn embedding(wte: &PackedLinear, tokens: &[u32]) -> Result<Tensor> {
    wte.weight.apply_op1_no_bwd(&Embed { wte, tokens })
}

/// The rows of a batch in pieces, as attention takes them.
pub(super) fn pieces(spans: &[Span]) -> Vec<Piece<'_>> {
    let pieces = spans.iter().flat_map(|span| {
        let rows = span.rows.clone();
        rows.clone().step_by(PIECE_ROWS).map(move |row| Piece {
            blocks: &span.blocks,
            row,
            position: span.past + row - rows.start,
            count: PIECE_ROWS.min(rows.end - row),
        })
    });
    pieces.collect()
}

/// Puts the new keys and values of `qkv [rows, 3·n_embd]` into the cache.
pub(super) fn write_cache(
    qkv: &Tensor,
    cache: &LayerCache,
    pieces: &[Piece<'_>],
    heads: Heads,
) -> Result<()> {
    let write = |part| WriteCache {
        part,
        pieces,
        heads,
    };
    cache.keys.inplace_op2(qkv, &write(Cache::Keys))?;
    cache.values.inplace_op2(qkv, &write(Cache::Values))
}

/// Causal attention of each row over its sequence's cached positions, itself
/// included: `qkv [rows, 3·n_embd]` → `[rows, n_embd]`.
pub(super) fn attention(
    qkv: &Tensor,
    cache: &LayerCache,
    pieces: &[Piece<'_>],
    heads: Heads,
) -> Result<Tensor> {
    qkv.apply_op3_no_bwd(&cache.keys, &cache.values, &Attend { pieces, heads })
}

/// An attention layer as it is computed, for a [`Recorder`](super::Recorder)
/// to look into.
#[derive(Debug, Clone, Copy)]
pub struct AttentionView<'a> {
    pub(super) qkv: &'a Tensor,
    pub(super) cache: &'a LayerCache,
    pub(super) pieces: &'a [Piece<'a>],
    pub(super) heads: Heads,
}

impl AttentionView<'_> {
    /// How much a row of the batch attends to each position of its sequence up
    /// to its own, `position`, in one head: `[position + 1]`.
    ///
    /// # Errors
    /// If the tensors aren't on the CPU.
    pub fn weights(&self, row: usize, position: usize, head: usize) -> Result<Vec<f32>> {
        let Self {
            qkv, cache, heads, ..
        } = *self;
        let mut out = vec![0.0; position + 1];
        with_values(qkv, |qkv| {
            with_values(&cache.keys, |keys| {
                let layer = attention::Attention {
                    qkv,
                    keys,
                    values: &[],
                    pieces: self.pieces,
                    heads,
                };
                attention::weights(layer, row, head, &mut out);
                Ok(())
            })
        })?;
        Ok(out)
    }
}

fn slice<'a, T: candle_core::WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => bail!("expected a contiguous tensor, got {layout:?}"),
    }
}

/// Runs `f` on the values of a tensor.
pub(super) fn with_values<T: candle_core::WithDType, R>(
    tensor: &Tensor,
    f: impl FnOnce(&[T]) -> Result<R>,
) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match storage.deref() {
        Storage::Cpu(storage) => f(slice(storage, layout)?),
        _ => bail!("expected a tensor on the CPU"),
    }
}

/// [`with_values`] of a tensor that may not be there.
fn with_optional<R>(
    tensor: Option<&Tensor>,
    f: impl FnOnce(Option<&[f32]>) -> Result<R>,
) -> Result<R> {
    match tensor {
        Some(tensor) => with_values(tensor, |values| f(Some(values))),
        None => f(None),
    }
}

fn shaped(values: Vec<f32>, rows: usize) -> (CpuStorage, Shape) {
    let columns = values.len() / rows.max(1);
    (CpuStorage::F32(values), Shape::from((rows, columns)))
}

struct Linear<'a> {
    layer: &'a PackedLinear,
    then: Then<'a>,
}

impl Linear<'_> {
    fn run(&self, x: &[f32]) -> Result<Vec<f32>> {
        thread_local! {
            /// The inputs as the kernels read them, kept for the next product.
            static SCRATCH: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
        }
        let Self { layer, then } = self;
        let (activation, residual) = match then {
            Then::Nothing => (None, None),
            Then::Activation(activation) => (function(*activation), None),
            Then::Add(tensor) => (None, Some(*tensor)),
        };
        let mut y = vec![0.0; x.len() / layer.k * layer.n];
        with_values(&layer.weight, |weight| {
            with_optional(layer.bias.as_ref(), |bias| {
                with_optional(residual, |residual| {
                    let linear = linear::Linear {
                        x,
                        weight,
                        precision: layer.precision,
                        epilogue: Epilogue {
                            bias,
                            activation,
                            residual,
                        },
                        k: layer.k,
                        n: layer.n,
                    };
                    SCRATCH.with_borrow_mut(|scratch| linear::linear(linear, scratch, &mut y));
                    Ok(())
                })
            })
        })?;
        Ok(y)
    }
}

fn function(activation: Activation) -> Option<Function> {
    match activation {
        Activation::Gelu => Some(Function::GeluErf),
        Activation::GeluTanh => Some(Function::GeluTanh),
        Activation::QuickGelu => Some(Function::QuickGelu),
        Activation::Relu => Some(Function::Relu),
        Activation::Silu => Some(Function::Silu),
        Activation::Tanh => Some(Function::Tanh),
        Activation::Sigmoid => Some(Function::Sigmoid),
        Activation::Linear => None,
    }
}

impl CustomOp1 for Linear<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, layout)?;
        Ok(shaped(self.run(x)?, x.len() / self.layer.k))
    }
}

struct LayerNorm {
    epsilon: f32,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (slice(x, x_layout)?, slice(weight, weight_layout)?);
        let mut y = vec![0.0; x.len()];
        layer_norm::layer_norm(x, weight, slice(bias, bias_layout)?, self.epsilon, &mut y);
        Ok(shaped(y, x.len() / weight.len()))
    }
}

struct Embed<'a> {
    wte: &'a PackedLinear,
    tokens: &'a [u32],
}

impl CustomOp1 for Embed<'_> {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, packed: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let packed = slice(packed, layout)?;
        let mut rows = vec![0.0; self.tokens.len() * self.wte.k];
        for (&token, row) in self.tokens.iter().zip(rows.chunks_mut(self.wte.k)) {
            linear::unpack_column(self.wte.precision, packed, token as usize, row);
        }
        Ok(shaped(rows, self.tokens.len()))
    }
}

struct WriteCache<'a> {
    part: Cache,
    pieces: &'a [Piece<'a>],
    heads: Heads,
}

impl InplaceOp2 for WriteCache<'_> {
    fn name(&self) -> &'static str {
        "write-kv-cache"
    }

    fn cpu_fwd(
        &self,
        cache: &mut CpuStorage,
        cache_layout: &Layout,
        qkv: &CpuStorage,
        qkv_layout: &Layout,
    ) -> Result<()> {
        let CpuStorage::F32(cache) = cache else {
            bail!("expected an f32 cache");
        };
        if cache_layout.contiguous_offsets() != Some((0, cache.len())) {
            bail!("expected a whole, contiguous cache");
        }
        let qkv = slice(qkv, qkv_layout)?;
        attention::write_cache(self.part, qkv, self.pieces, self.heads, cache);
        Ok(())
    }
}

struct Attend<'a> {
    pieces: &'a [Piece<'a>],
    heads: Heads,
}

impl CustomOp3 for Attend<'_> {
    fn name(&self) -> &'static str {
        "paged-attention"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        qkv_layout: &Layout,
        keys: &CpuStorage,
        keys_layout: &Layout,
        values: &CpuStorage,
        values_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let qkv = slice(qkv, qkv_layout)?;
        let mut out = vec![0.0; qkv.len() / 3];
        let layer = attention::Attention {
            qkv,
            keys: slice(keys, keys_layout)?,
            values: slice(values, values_layout)?,
            pieces: self.pieces,
            heads: self.heads,
        };
        attention::attention(layer, &mut out);
        Ok(shaped(out, qkv_layout.dims()[0]))
    }
}
