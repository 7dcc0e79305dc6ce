//! Candle custom ops: tensors in, tensors out, computed by `kernels`.
//!
//! Their oracle is the plain candle program in `examples/train_demo/model.rs`;
//! `tests/integration/demo.rs` compares the two.

use std::cell::{Cell, RefCell};
use std::ops::Deref;

use candle_core::{
    CpuStorage, InplaceOp1, InplaceOp2, InplaceOp3, Layout, Result, Storage, Tensor, WithDType,
    bail,
};

use super::ModelError;
use super::batch::Span;
use super::config::Activation;
use super::inspection::Attention;
use super::kv_cache::LayerCache;
use super::weights::{NormWeights, PackedLinear};
use crate::kernels::activation::Function;
use crate::kernels::attention::{self, CacheMut, Heads, PIECE_ROWS, Piece};
use crate::kernels::layer_norm::Norm;
pub(super) use crate::kernels::linear::Then;
use crate::kernels::{linear, pool};

/// A linear layer with its input: `x·W + b`, of x itself or of its LayerNorm.
#[derive(Clone, Copy)]
pub(super) struct Linear<'a> {
    pub(super) layer: &'a PackedLinear,
    /// The norm of the inputs, and its epsilon.
    pub(super) norm: Option<(&'a NormWeights, f32)>,
    pub(super) then: Then,
}

/// `[rows, k]` → `y [rows, n]`.
pub(super) fn linear(x: &Tensor, linear: Linear<'_>, y: &Tensor) -> Result<()> {
    y.inplace_op2(x, &linear)
}

/// [`linear()`] into plain values, `rows · n`.
pub(super) fn linear_values(x: &Tensor, linear: Linear<'_>, y: &mut [f32]) -> Result<()> {
    with_values(x, |x| linear.run(x, y))
}

/// The MLP of a block: `c_proj(activation(c_fc(norm(x))))`.
#[derive(Clone, Copy)]
pub(super) struct Mlp<'a> {
    /// The norm of the inputs, and its epsilon.
    pub(super) norm: (&'a NormWeights, f32),
    pub(super) c_fc: &'a PackedLinear,
    pub(super) activation: Activation,
    pub(super) c_proj: &'a PackedLinear,
}

/// x += mlp(x), `[rows, n_embd]`.
pub(super) fn mlp(x: &Tensor, mlp: Mlp<'_>) -> Result<()> {
    x.inplace_op1(&mlp)
}

/// What computes an activation, element by element.
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

/// Embeddings of `tokens` at `positions`, summed: `x [tokens, n_embd]`. Both
/// must have been checked against the tables, `wte` and `wpe [n_positions, n_embd]`.
pub(super) fn embed(
    (wte, wpe): (&PackedLinear, &Tensor),
    (tokens, positions): (&[u32], &[u32]),
    x: &Tensor,
) -> Result<()> {
    let embed = Embed {
        wte,
        tokens,
        positions,
    };
    x.inplace_op3(&wte.weight, wpe, &embed)
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

/// Puts the new keys and values of qkv into the cache and computes causal
/// attention of each row over its sequence's positions, itself included: `qkv [rows, 3·n_embd]` → `out [rows, n_embd]`.
pub(super) fn attention(
    qkv: &Tensor,
    cache: &LayerCache,
    (pieces, heads): (&[Piece<'_>], Heads),
    out: &Tensor,
) -> Result<()> {
    let attend = Attend {
        pieces,
        heads,
        cache,
    };
    out.inplace_op2(qkv, &attend)
}

/// An attention layer as it is computed.
#[derive(Clone, Copy)]
pub(super) struct AttentionView<'a> {
    pub(super) qkv: &'a Tensor,
    pub(super) cache: &'a LayerCache,
    pub(super) pieces: &'a [Piece<'a>],
    pub(super) heads: Heads,
}

impl Attention for AttentionView<'_> {
    fn weights(
        &self,
        rows: &[(usize, usize)],
        heads: &[usize],
    ) -> std::result::Result<Vec<Vec<Vec<f32>>>, ModelError> {
        let mut all = vec![Vec::new(); heads.len()];
        pool::try_for_each_chunk(&mut all, 1, |i, of_head| {
            let weights = rows
                .iter()
                .map(|&(row, at)| self.weights_of(row, at, heads[i]));
            of_head[0] = weights.collect::<Result<_>>()?;
            Ok::<_, ModelError>(())
        })?;
        Ok(all)
    }
}

impl AttentionView<'_> {
    /// Of one row, at `position`, and one head: `[position + 1]`.
    fn weights_of(&self, row: usize, position: usize, head: usize) -> Result<Vec<f32>> {
        let Self {
            qkv, cache, heads, ..
        } = *self;
        let mut out = vec![0.0; position + 1];
        with_values(qkv, |qkv| {
            with_values(&cache.keys, |keys| {
                let layer = attention::Attention {
                    qkv,
                    format: cache.format,
                    pieces: self.pieces,
                    heads,
                };
                attention::weights(layer, keys, (row, head), &mut out);
                Ok(())
            })
        })?;
        Ok(out)
    }
}

fn slice<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => bail!("expected a contiguous tensor, got {layout:?}"),
    }
}

fn slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match storage {
        CpuStorage::F32(values) => part_mut(values, layout),
        _ => bail!("expected a tensor of f32"),
    }
}

/// Runs `f` on the words of a tensor, which it may change.
fn with_words_mut(tensor: &Tensor, f: impl FnOnce(&mut [u32]) -> Result<()>) -> Result<()> {
    change(tensor, |storage, layout| match storage {
        CpuStorage::U32(words) => f(part_mut(words, layout)?),
        _ => bail!("expected a tensor of u32"),
    })
}

/// Runs `f` on the bytes of a tensor, which it may change.
pub(super) fn with_bytes_mut(
    tensor: &Tensor,
    f: impl FnOnce(&mut [u8]) -> Result<()>,
) -> Result<()> {
    change(tensor, |storage, layout| match storage {
        CpuStorage::U8(bytes) => f(part_mut(bytes, layout)?),
        _ => bail!("expected a tensor of u8"),
    })
}

fn change(tensor: &Tensor, f: impl FnOnce(&mut CpuStorage, &Layout) -> Result<()>) -> Result<()> {
    tensor.inplace_op1(&Change(Cell::new(Some(f))))
}

/// An operation that is done once.
struct Change<F>(Cell<Option<F>>);

impl<F: FnOnce(&mut CpuStorage, &Layout) -> Result<()>> InplaceOp1 for Change<F> {
    fn name(&self) -> &'static str {
        "change"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match self.0.take() {
            Some(f) => f(storage, layout),
            None => bail!("an operation that has been done"),
        }
    }
}

fn part_mut<'a, T>(values: &'a mut [T], layout: &Layout) -> Result<&'a mut [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&mut values[start..end]),
        None => bail!("expected a contiguous tensor, got {layout:?}"),
    }
}

/// Runs `f` on the values of a tensor.
pub(super) fn with_values<T: WithDType, R>(
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

/// Runs `f` on a layer's weights.
fn with_matrix<R>(
    layer: &PackedLinear,
    f: impl FnOnce(linear::Matrix<'_>) -> Result<R>,
) -> Result<R> {
    with_values(&layer.weight, |weight| {
        with_optional(layer.bias.as_ref(), |bias| {
            f(linear::Matrix {
                weight,
                precision: layer.precision,
                bias,
                k: layer.k,
                n: layer.n,
            })
        })
    })
}

/// Runs `f` on the weights of a LayerNorm, if there is one.
fn with_norm<R>(
    norm: Option<(&NormWeights, f32)>,
    f: impl FnOnce(Option<Norm<'_>>) -> Result<R>,
) -> Result<R> {
    with_optional(norm.map(|(norm, _)| &norm.weight), |weight| {
        with_optional(norm.map(|(norm, _)| &norm.bias), |bias| {
            let parts = weight.zip(bias).zip(norm.map(|(_, epsilon)| epsilon));
            f(parts.map(|((weight, bias), epsilon)| Norm {
                weight,
                bias,
                epsilon,
            }))
        })
    })
}

/// Runs `f` on the memory for inputs as the kernels read them, which is kept
/// for the next product.
fn with_scratch(f: impl FnOnce(&mut Vec<u32>)) {
    thread_local! {
        static SCRATCH: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(f);
}

impl Linear<'_> {
    fn run(&self, x: &[f32], y: &mut [f32]) -> Result<()> {
        with_norm(self.norm, |norm| {
            with_matrix(self.layer, |matrix| {
                let layer = linear::Linear {
                    inputs: linear::Inputs { x, norm },
                    matrix,
                    then: self.then,
                };
                with_scratch(|scratch| linear::linear(layer, scratch, y));
                Ok(())
            })
        })
    }
}

impl InplaceOp1 for Mlp<'_> {
    fn name(&self) -> &'static str {
        "mlp"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let x = slice_mut(x, layout)?;
        with_norm(Some(self.norm), |norm| {
            with_matrix(self.c_fc, |c_fc| {
                with_matrix(self.c_proj, |c_proj| {
                    let layers = linear::Mlp {
                        norm,
                        c_fc,
                        activation: function(self.activation),
                        c_proj,
                    };
                    with_scratch(|scratch| linear::mlp(layers, scratch, x));
                    Ok(())
                })
            })
        })
    }
}

impl InplaceOp2 for Linear<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        y: &mut CpuStorage,
        y_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> Result<()> {
        self.run(slice(x, x_layout)?, slice_mut(y, y_layout)?)
    }
}

struct Embed<'a> {
    wte: &'a PackedLinear,
    tokens: &'a [u32],
    positions: &'a [u32],
}

impl InplaceOp3 for Embed<'_> {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        wte: &CpuStorage,
        wte_layout: &Layout,
        wpe: &CpuStorage,
        wpe_layout: &Layout,
    ) -> Result<()> {
        let (wte, wpe) = (slice(wte, wte_layout)?, slice::<f32>(wpe, wpe_layout)?);
        let PackedLinear { precision, k, .. } = *self.wte;
        pool::for_each_chunk(slice_mut(x, x_layout)?, k, |i, x| {
            linear::unpack_column(precision, wte, self.tokens[i] as usize, x);
            for (x, p) in x.iter_mut().zip(&wpe[self.positions[i] as usize * k..]) {
                *x += p;
            }
        });
        Ok(())
    }
}

struct Attend<'a> {
    pieces: &'a [Piece<'a>],
    heads: Heads,
    cache: &'a LayerCache,
}

impl InplaceOp2 for Attend<'_> {
    fn name(&self) -> &'static str {
        "paged-attention"
    }

    fn cpu_fwd(
        &self,
        out: &mut CpuStorage,
        out_layout: &Layout,
        qkv: &CpuStorage,
        qkv_layout: &Layout,
    ) -> Result<()> {
        let (qkv, out) = (slice(qkv, qkv_layout)?, slice_mut(out, out_layout)?);
        with_words_mut(&self.cache.keys, |keys| {
            with_words_mut(&self.cache.values, |values| {
                let layer = attention::Attention {
                    qkv,
                    format: self.cache.format,
                    pieces: self.pieces,
                    heads: self.heads,
                };
                attention::attention(layer, CacheMut { keys, values }, out);
                Ok(())
            })
        })
    }
}
