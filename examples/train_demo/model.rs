//! A plain GPT-2 forward pass that candle can differentiate: no cache, no
//! kernels of our own, each formula as it is written in the paper.
//!
//! candle-nn's fused LayerNorm and `softmax_last_dim` have no backward and
//! would drop gradients silently, so their slow forms are used.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::ops;

/// The shape of a GPT-2 with four times as wide an MLP and a tied head.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Vocabulary size.
    pub vocab_size: usize,
    /// Context length in tokens.
    pub n_positions: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Number of blocks.
    pub n_layer: usize,
    /// Heads per block.
    pub n_head: usize,
}

impl Shape {
    /// Every tensor's name and shape, as in a published checkpoint.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let e = self.n_embd;
        let mut all = vec![
            ("wte.weight".to_owned(), vec![self.vocab_size, e]),
            ("wpe.weight".to_owned(), vec![self.n_positions, e]),
            ("ln_f.weight".to_owned(), vec![e]),
            ("ln_f.bias".to_owned(), vec![e]),
        ];
        for i in 0..self.n_layer {
            for (name, k, n) in [
                ("attn.c_attn", e, 3 * e),
                ("attn.c_proj", e, e),
                ("mlp.c_fc", e, 4 * e),
                ("mlp.c_proj", 4 * e, e),
            ] {
                all.push((format!("h.{i}.{name}.weight"), vec![k, n]));
                all.push((format!("h.{i}.{name}.bias"), vec![n]));
            }
            for name in ["ln_1", "ln_2"] {
                all.push((format!("h.{i}.{name}.weight"), vec![e]));
                all.push((format!("h.{i}.{name}.bias"), vec![e]));
            }
        }
        all
    }
}

/// A GPT-2 over tensors by checkpoint name.
#[derive(Debug)]
pub struct PlainGpt2 {
    shape: Shape,
    tensors: HashMap<String, Tensor>,
}

impl PlainGpt2 {
    /// Takes f32 tensors under the names of [`Shape::tensors`].
    ///
    /// # Errors
    /// If one is missing or has another shape.
    pub fn new(shape: Shape, tensors: HashMap<String, Tensor>) -> Result<Self> {
        for (name, expected) in shape.tensors() {
            match tensors.get(&name) {
                Some(tensor) if tensor.dims() == expected => {}
                Some(tensor) => bail!("{name}: {:?}, expected {expected:?}", tensor.dims()),
                None => bail!("{name}: missing"),
            }
        }
        Ok(Self { shape, tensors })
    }

    /// Token ids `[batch, tokens]` → logits `[batch, tokens, vocab_size]`.
    ///
    /// # Errors
    /// If candle fails.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let (batch, tokens) = ids.dims2()?;
        let wte = self.get("wte.weight");
        let positions = self.get("wpe.weight").narrow(0, 0, tokens)?;
        let embedded = wte.index_select(&ids.flatten_all()?, 0)?;
        let embedded = embedded.reshape((batch, tokens, self.shape.n_embd))?;
        let mut x = embedded.broadcast_add(&positions)?;
        let mask = causal_mask(tokens, ids.device())?;
        for i in 0..self.shape.n_layer {
            let normed = self.norm(&x, &format!("h.{i}.ln_1"))?;
            x = (x + self.attention(i, &normed, &mask)?)?;
            let normed = self.norm(&x, &format!("h.{i}.ln_2"))?;
            let inner = self.linear(&normed, &format!("h.{i}.mlp.c_fc"))?.gelu()?;
            x = (x + self.linear(&inner, &format!("h.{i}.mlp.c_proj"))?)?;
        }
        let x = self.norm(&x, "ln_f")?.flatten_to(1)?;
        x.matmul(&wte.t()?)?
            .reshape((batch, tokens, self.shape.vocab_size))
    }

    fn attention(&self, i: usize, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let (batch, tokens, width) = x.dims3()?;
        let (heads, dim) = (self.shape.n_head, width / self.shape.n_head);
        let qkv = self.linear(x, &format!("h.{i}.attn.c_attn"))?;
        let part = |p: usize| {
            qkv.narrow(2, p * width, width)?
                .reshape((batch, tokens, heads, dim))?
                .transpose(1, 2)?
                .contiguous() // [batch, heads, tokens, dim]
        };
        let scores = (part(0)?.matmul(&part(1)?.t()?)? / (dim as f64).sqrt())?;
        let weights = ops::softmax(&scores.broadcast_add(mask)?, 3)?;
        let mixed = weights.matmul(&part(2)?)?.transpose(1, 2)?;
        self.linear(
            &mixed.reshape((batch, tokens, width))?,
            &format!("h.{i}.attn.c_proj"),
        )
    }

    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let weight = self.get(&format!("{name}.weight"));
        let (batch, tokens, k) = x.dims3()?;
        x.reshape((batch * tokens, k))?
            .matmul(weight)?
            .broadcast_add(self.get(&format!("{name}.bias")))?
            .reshape((batch, tokens, weight.dim(1)?))
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        ops::layer_norm_slow(x, self.get(&weight), self.get(&bias), 1e-5)
    }

    fn get(&self, name: &str) -> &Tensor {
        &self.tensors[name] // `new` found every name of the shape
    }
}

/// 0 on and below the diagonal, −1e9 above: `[tokens, tokens]`.
fn causal_mask(tokens: usize, device: &Device) -> Result<Tensor> {
    let values: Vec<f32> = (0..tokens * tokens)
        .map(|i| if i % tokens > i / tokens { -1e9 } else { 0.0 })
        .collect();
    Tensor::from_vec(values, (tokens, tokens), device)?.to_dtype(DType::F32)
}
