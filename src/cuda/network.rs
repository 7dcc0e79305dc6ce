//! What stays on the device: the weights of a model, and caches for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use half::{bf16, f16};

use super::defined::{COMMON, defined};
use super::device::Buffer;
use super::launch::Kernels;
use super::sample::MOST_COLUMNS;
use super::scratch::Scratch;
use super::step::Step;
use super::{BLOCK, CudaError, Device, Format, Result};
use crate::kernels::pool;

/// Inputs of linear layers are padded to a multiple of this.
pub(super) const STEP: usize = defined(COMMON, "STEP");

/// Numbers of a head at most.
const MOST_HEAD: usize = defined(COMMON, "MOST_HEAD");

/// The shape of a model.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Width inside the MLP.
    pub n_inner: usize,
    /// Attention heads; their number divides `n_embd`.
    pub n_head: usize,
    /// Rows of the token embedding, and logits.
    pub vocab_size: usize,
    /// Rows of the position embedding.
    pub n_positions: usize,
    /// What the scores of each block's attention are multiplied with.
    pub scales: Vec<f32>,
    /// Added to variances.
    pub epsilon: f32,
    /// Number of the activation in `linear/layer.cuh`.
    pub activation: i32,
}

impl Shape {
    /// Numbers of a head.
    pub(super) fn head(&self) -> usize {
        self.n_embd / self.n_head
    }

    fn check(&self) -> Result<()> {
        let dim = self.head();
        if dim > MOST_HEAD {
            let message = format!("heads of {dim} numbers; the kernels hold {MOST_HEAD} at most");
            return Err(CudaError::Unsupported(message));
        }
        if self.vocab_size > MOST_COLUMNS {
            let message = format!(
                "a vocabulary of {}; the kernels add up {MOST_COLUMNS} at most",
                self.vocab_size
            );
            return Err(CudaError::Unsupported(message));
        }
        Ok(())
    }
}

/// A matrix `[n, k]`, one row of inputs for each output, on the device.
#[derive(Debug)]
pub struct Matrix {
    pub(super) values: Buffer<u8>,
    pub(super) bias: Option<Buffer<f32>>,
    pub(super) n: usize,
    /// The length of its rows on the device.
    pub(super) padded_k: usize,
}

/// Scale and shift of a LayerNorm.
#[derive(Debug)]
pub struct Norm {
    pub(super) weight: Buffer<f32>,
    pub(super) bias: Buffer<f32>,
}

/// One transformer block.
#[derive(Debug)]
pub struct Block {
    /// Before attention.
    pub ln_1: Norm,
    /// Queries, keys and values.
    pub c_attn: Matrix,
    /// After attention.
    pub attn_c_proj: Matrix,
    /// Before the MLP.
    pub ln_2: Norm,
    /// Into the MLP.
    pub c_fc: Matrix,
    /// Out of it.
    pub mlp_c_proj: Matrix,
}

impl Matrix {
    /// Puts a matrix onto the device: `fill(output, weights)` says the weights
    /// `[k]` of an output, and runs on several threads.
    ///
    /// # Errors
    /// [`CudaError`] when the memory cannot be had.
    pub fn new(
        device: &Device,
        format: Format,
        (k, n): (usize, usize),
        bias: Option<&[f32]>,
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<Self> {
        let padded_k = padded(k);
        let row_bytes = padded_k * format.bytes();
        let mut bytes = vec![0; n * row_bytes];
        pool::for_each_chunk(&mut bytes, row_bytes, |output, bytes| {
            let mut weights = vec![0.0; k];
            fill(output, &mut weights);
            round(format, &weights, bytes);
        });
        Ok(Self {
            values: device.upload(&bytes)?,
            bias: bias.map(|bias| device.upload(bias)).transpose()?,
            n,
            padded_k,
        })
    }
}

impl Norm {
    /// Puts scale and shift onto the device.
    ///
    /// # Errors
    /// [`CudaError`] when the memory cannot be had.
    pub fn new(device: &Device, weight: &[f32], bias: &[f32]) -> Result<Self> {
        Ok(Self {
            weight: device.upload(weight)?,
            bias: device.upload(bias)?,
        })
    }
}

/// A model on a device.
#[derive(Debug)]
pub struct Network {
    pub(super) device: Device,
    pub(super) shape: Shape,
    pub(super) format: Format,
    pub(super) kernels: Kernels,
    pub(super) wte: Matrix,
    pub(super) wpe: Buffer<f32>,
    pub(super) blocks: Vec<Block>,
    pub(super) ln_f: Norm,
    pub(super) lm_head: Option<Matrix>,
    /// Memory of a pass, while there is none.
    pub(super) scratch: Mutex<Option<Scratch>>,
    pub(super) records_steps: bool,
    /// Recorded steps, by the number of rows and of the cache.
    pub(super) steps: Mutex<HashMap<(usize, u64), Step>>,
}

impl Drop for Network {
    fn drop(&mut self) {
        // What nobody waited for still runs. A device that fails no longer does.
        let _ = self.device.wait();
    }
}

impl Network {
    /// A model of these weights: `wpe [n_positions, n_embd]`, and `lm_head`
    /// where the head isn't `wte`.
    ///
    /// # Errors
    /// [`CudaError`]: memory that cannot be had, or a shape that the kernels
    /// don't have.
    pub fn new(
        device: &Device,
        format: Format,
        shape: Shape,
        (wte, wpe): (Matrix, &[f32]),
        blocks: Vec<Block>,
        (ln_f, lm_head): (Norm, Option<Matrix>),
    ) -> Result<Self> {
        shape.check()?;
        Ok(Self {
            kernels: Kernels::new(device, format)?,
            wpe: device.upload(wpe)?,
            device: device.clone(),
            shape,
            format,
            wte,
            blocks,
            ln_f,
            lm_head,
            scratch: Mutex::default(),
            records_steps: Self::records(),
            steps: Mutex::default(),
        })
    }

    /// The device that it is on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The format of its weights.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes of its weights on the device.
    pub fn bytes(&self) -> usize {
        let floats = |buffer: &Buffer<f32>| buffer.len() * size_of::<f32>();
        let matrix = |m: &Matrix| m.values.len() + m.bias.as_ref().map_or(0, floats);
        let norm = |n: &Norm| floats(&n.weight) + floats(&n.bias);
        let blocks = self.blocks.iter().map(|b| {
            let matrices = [&b.c_attn, &b.attn_c_proj, &b.c_fc, &b.mlp_c_proj];
            matrices.map(matrix).iter().sum::<usize>() + norm(&b.ln_1) + norm(&b.ln_2)
        });
        matrix(&self.wte)
            + floats(&self.wpe)
            + blocks.sum::<usize>()
            + norm(&self.ln_f)
            + self.lm_head.as_ref().map_or(0, matrix)
    }

    /// A cache of `blocks` blocks of [`BLOCK`] positions.
    ///
    /// # Errors
    /// [`CudaError`] when the memory cannot be had.
    pub fn cache(&self, blocks: usize) -> Result<Cache> {
        let bytes = blocks * Cache::block_bytes(&self.shape, self.format);
        let layers = self.blocks.iter().map(|_| self.device.zeros(bytes));
        Ok(Cache {
            layers: layers.collect::<Result<_>>()?,
            blocks,
            number: Arc::new(CACHES.fetch_add(1, Ordering::Relaxed)),
        })
    }
}

/// Keys and values on the device, in the blocks of one pool; a layer is
/// `[blocks, n_head]` of keys `[BLOCK, padded head]` and values
/// `[padded head, BLOCK]`.
#[derive(Debug)]
pub struct Cache {
    pub(super) layers: Vec<Buffer<u8>>,
    pub(super) blocks: usize,
    /// No other cache has it, so that what was recorded for one is not taken
    /// for another; held by it alone, so that it is known when that is gone.
    pub(super) number: Arc<u64>,
}

static CACHES: AtomicU64 = AtomicU64::new(0);

impl Cache {
    /// Bytes that one block takes in each layer.
    pub fn block_bytes(shape: &Shape, format: Format) -> usize {
        2 * BLOCK * shape.n_head * padded(shape.head()) * format.bytes()
    }
}

/// Inputs that a row of a matrix has room for.
pub(super) fn padded(k: usize) -> usize {
    k.next_multiple_of(STEP)
}

/// Values in a format; what follows them stays as it is.
fn round(format: Format, values: &[f32], bytes: &mut [u8]) {
    let pairs = values.iter().zip(bytes.chunks_exact_mut(format.bytes()));
    pairs.for_each(|(&value, to)| match format {
        Format::F32 => to.copy_from_slice(&value.to_ne_bytes()),
        Format::Bf16 => to.copy_from_slice(&bf16::from_f32(value).to_ne_bytes()),
        Format::F16 => to.copy_from_slice(&f16::from_f32(value).to_ne_bytes()),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_with_zeros() {
        assert_eq!([padded(1), padded(32), padded(33)], [32, 32, 64]);
        let mut bytes = [0; 8];
        round(Format::Bf16, &[1.0, -2.0], &mut bytes);
        assert_eq!(bytes, [0x80, 0x3f, 0x00, 0xc0, 0, 0, 0, 0]);
    }
}
