//! Candle custom ops: tensors in, tensors out, computed by `kernels`.
//!
//! Their oracle is the plain candle program in `examples/train_demo/model.rs`;
//! `tests/integration/demo.rs` compares the two.

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, InplaceOp2, Layout, Result, Shape, Tensor, bail,
};

use super::batch::Span;
use super::config::Activation;
use super::kv_cache::LayerCache;
use super::weights::{NormWeights, PackedLinear};
use crate::kernels::activation::{self, Function};
use crate::kernels::attention::{self, BLOCK, RowContext};
use crate::kernels::layer_norm;
use crate::kernels::linear::{self, PANEL};

/// `x·W + b`: `[rows, k]` → `[rows, n]`.
pub(super) fn linear(x: &Tensor, layer: &PackedLinear) -> Result<Tensor> {
    let op = Linear {
        k: layer.k,
        n: layer.n,
    };
    match &layer.bias {
        Some(bias) => x.apply_op3_no_bwd(&layer.weight, bias, &op),
        None => x.apply_op2_no_bwd(&layer.weight, &op),
    }
}

/// LayerNorm over the last dimension: `[rows, n_embd]` → the same.
pub(super) fn layer_norm(x: &Tensor, norm: &NormWeights, epsilon: f32) -> Result<Tensor> {
    x.apply_op3_no_bwd(&norm.weight, &norm.bias, &LayerNorm { epsilon })
}

/// The MLP's activation, element by element.
pub(super) fn activation(x: &Tensor, activation: Activation) -> Result<Tensor> {
    let function = match activation {
        Activation::Gelu => Function::GeluErf,
        Activation::GeluTanh => Function::GeluTanh,
        Activation::QuickGelu => Function::QuickGelu,
        Activation::Relu => Function::Relu,
        Activation::Silu => Function::Silu,
        Activation::Tanh => Function::Tanh,
        Activation::Sigmoid => Function::Sigmoid,
        Activation::Linear => return Ok(x.clone()),
    };
    x.apply_op1_no_bwd(&Activate { function })
}

/// Rows of the token embedding: `tokens` → `[tokens, n_embd]`. Ids must have
/// been checked against the vocabulary.
pub(super) fn embedding(wte: &PackedLinear, tokens: &[u32]) -> Result<Tensor> {
    wte.weight.apply_op1_no_bwd(&Embed { tokens, k: wte.k })
}

/// The shape of an attention layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) count: usize,
    pub(super) dim: usize,
    /// What scores are multiplied by.
    pub(super) scale: f32,
}

/// Puts the new keys and values of `qkv [rows, 3·n_embd]` into the cache.
pub(super) fn write_cache(qkv: &Tensor, cache: &LayerCache, spans: &[Span]) -> Result<()> {
    cache
        .keys
        .inplace_op2(qkv, &WriteCache { spans, part: 1 })?;
    cache
        .values
        .inplace_op2(qkv, &WriteCache { spans, part: 2 })
}

/// Causal attention of each row over its sequence's cached positions, itself
/// included: `qkv [rows, 3·n_embd]` → `[rows, n_embd]`.
pub(super) fn attention(
    qkv: &Tensor,
    cache: &LayerCache,
    spans: &[Span],
    heads: Heads,
) -> Result<Tensor> {
    qkv.apply_op3_no_bwd(&cache.keys, &cache.values, &Attend { spans, heads })
}

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("expected a contiguous tensor, got {layout:?}"),
    }
}

fn shaped(values: Vec<f32>, rows: usize) -> (CpuStorage, Shape) {
    let columns = values.len() / rows.max(1);
    (CpuStorage::F32(values), Shape::from((rows, columns)))
}

struct Linear {
    k: usize,
    n: usize,
}

impl Linear {
    fn run(&self, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> (CpuStorage, Shape) {
        let rows = x.len() / self.k;
        let mut y = vec![0.0; rows * self.n];
        let layer = linear::Linear {
            x,
            weight,
            bias,
            k: self.k,
            n: self.n,
        };
        linear::linear(layer, &mut y);
        shaped(y, rows)
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok(self.run(slice(x, x_layout)?, slice(weight, weight_layout)?, None))
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
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
        let bias = slice(bias, bias_layout)?;
        Ok(self.run(
            slice(x, x_layout)?,
            slice(weight, weight_layout)?,
            Some(bias),
        ))
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

struct Activate {
    function: Function,
}

impl CustomOp1 for Activate {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut y = slice(x, layout)?.to_vec();
        activation::apply(self.function, &mut y);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }
}

struct Embed<'a> {
    tokens: &'a [u32],
    k: usize,
}

impl CustomOp1 for Embed<'_> {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, wte: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let packed = slice(wte, layout)?;
        let mut rows = Vec::with_capacity(self.tokens.len() * self.k);
        for &token in self.tokens {
            let start = linear::packed_index(0, token as usize, self.k);
            rows.extend(packed[start..].iter().step_by(PANEL).take(self.k));
        }
        Ok(shaped(rows, self.tokens.len()))
    }
}

struct WriteCache<'a> {
    spans: &'a [Span],
    /// 1 for keys, 2 for values: which third of a `qkv` row.
    part: usize,
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
        let qkv = slice(qkv, qkv_layout)?;
        let width = qkv_layout.dims()[1] / 3;
        let CpuStorage::F32(cache) = cache else {
            bail!("expected an f32 cache");
        };
        if cache_layout.contiguous_offsets() != Some((0, cache.len())) {
            bail!("expected a whole, contiguous cache");
        }
        for span in self.spans {
            for (i, row) in span.rows.clone().enumerate() {
                let position = span.past + i;
                let block = span.blocks[position / BLOCK] as usize;
                let to = (block * BLOCK + position % BLOCK) * width;
                let from = (row * 3 + self.part) * width;
                cache[to..to + width].copy_from_slice(&qkv[from..from + width]);
            }
        }
        Ok(())
    }
}

struct Attend<'a> {
    spans: &'a [Span],
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
        let rows: Vec<RowContext<'_>> = self
            .spans
            .iter()
            .flat_map(|span| {
                let past = span.past;
                (0..span.rows.len()).map(move |i| RowContext {
                    blocks: &span.blocks,
                    len: past + i + 1,
                })
            })
            .collect();
        let mut out = vec![0.0; rows.len() * self.heads.count * self.heads.dim];
        let layer = attention::Attention {
            qkv: slice(qkv, qkv_layout)?,
            keys: slice(keys, keys_layout)?,
            values: slice(values, values_layout)?,
            rows: &rows,
            heads: self.heads.count,
            head_dim: self.heads.dim,
            scale: self.heads.scale,
        };
        attention::attention(layer, &mut out);
        Ok(shaped(out, rows.len()))
    }
}
