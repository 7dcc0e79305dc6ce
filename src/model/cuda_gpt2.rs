//! GPT-2 on an NVIDIA GPU: the same weights, batches and caches as
//! [`Gpt2`]'s, which is the oracle; the arithmetic is in [`cuda`].

use super::batch::Batch;
use super::config::{Activation, Config};
use super::files::ModelFiles;
use super::gpt2::{Gpt2, NoRecorder, Recorder};
use super::inspection::{Attention, Inspection};
use super::kv_cache::{CacheFormat, KvCache};
use super::logits::Logits;
use super::ops::with_values;
use super::pick::{Draw, Pick, Picked, Wish};
use super::weights::{NormWeights, PackedLinear, Weights};
use super::{Dtype, LoadOptions, ModelError};
use crate::cuda::{self, Block, Cache, Device, Format, Matrix, Network, Norm};
use crate::cuda::{Pass, Pending, Rows, Shape, Wanted};
use crate::kernels::linear::unpack_column;
use candle_core::Tensor;

/// Rows of a step up to which it is recorded: each size keeps memory of its
/// own, and for more rows the launches take a small part of the time.
const MOST_RECORDED: usize = 256;

/// A forward pass that a GPU computes, [begun](CudaGpt2::begin) and not
/// [finished](CudaGpt2::finish).
#[derive(Debug)]
pub struct CudaPass(Pending);

/// A GPT-2 whose weights are on a GPU.
#[derive(Debug)]
pub struct CudaGpt2 {
    config: Config,
    network: Network,
}

impl CudaGpt2 {
    /// Loads a checkpoint, checked as by [`Gpt2::load`], onto the GPU of this
    /// number. Its weights pass through the memory of the host, in f32.
    ///
    /// # Errors
    /// As [`Gpt2::load`]; [`ModelError::Unsupported`] for q8 and q4, and
    /// [`ModelError::Cuda`].
    pub fn load(files: &ModelFiles, dtype: Dtype, ordinal: usize) -> Result<Self, ModelError> {
        // Before the weights are read, which takes a while.
        dtype.format()?;
        let device = Device::open(ordinal)?;
        let model = Gpt2::load(files, &LoadOptions::default())?;
        Self::from_host(&model, dtype, &device)
    }

    /// A copy of a model on an open GPU.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] for q8 and q4, and [`ModelError::Cuda`].
    pub fn from_host(model: &Gpt2, dtype: Dtype, device: &Device) -> Result<Self, ModelError> {
        let format = dtype.format()?;
        let config = model.config().clone();
        let Weights {
            wte,
            wpe,
            blocks,
            ln_f,
            lm_head,
        } = model.weights();
        let matrix = |layer: &PackedLinear| matrix(layer, format, device);
        let norm = |weights: &NormWeights| norm(weights, device);
        let blocks = blocks.iter().map(|block| {
            Ok(Block {
                ln_1: norm(&block.ln_1)?,
                c_attn: matrix(&block.c_attn)?,
                attn_c_proj: matrix(&block.attn_c_proj)?,
                ln_2: norm(&block.ln_2)?,
                c_fc: matrix(&block.c_fc)?,
                mlp_c_proj: matrix(&block.mlp_c_proj)?,
            })
        });
        let blocks = blocks.collect::<Result<Vec<_>, ModelError>>()?;
        let (ln_f, lm_head) = (norm(ln_f)?, lm_head.as_ref().map(matrix).transpose()?);
        let wpe = values(wpe)?;
        let wte = (matrix(wte)?, &*wpe);
        let shape = shape(&config);
        let network = Network::new(device, format, shape, wte, blocks, (ln_f, lm_head))?;
        Ok(Self { config, network })
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How large keys and values are.
    pub fn cache_format(&self) -> CacheFormat {
        match self.network.format() {
            Format::F32 => CacheFormat::F32,
            Format::Bf16 | Format::F16 => CacheFormat::Bf16,
        }
    }

    /// A cache on the same GPU with room for `tokens` tokens.
    ///
    /// # Errors
    /// [`ModelError::Cuda`] when the memory cannot be had.
    pub fn cache(&self, tokens: usize) -> Result<KvCache, ModelError> {
        let blocks = tokens.div_ceil(KvCache::BLOCK);
        Ok(KvCache::on_device(blocks, self.network.cache(blocks)?))
    }

    /// Bytes of the weights on the GPU.
    pub fn packed_bytes(&self) -> usize {
        self.network.bytes()
    }

    /// Bytes of the GPU's memory that nobody uses.
    ///
    /// # Errors
    /// [`ModelError::Cuda`].
    pub fn free_memory(&self) -> Result<usize, ModelError> {
        Ok(self.network.device().free_memory()?)
    }

    /// The GPU.
    pub fn device(&self) -> super::Device {
        super::Device::Cuda(self.network.device().ordinal())
    }

    /// The GPU's name.
    ///
    /// # Errors
    /// [`ModelError::Cuda`].
    pub fn device_name(&self) -> Result<String, ModelError> {
        Ok(self.network.device().name()?)
    }

    /// As [`Gpt2::forward`]; rows of which a token is wanted get that, and
    /// their logits stay on the device.
    ///
    /// # Errors
    /// As [`Gpt2::forward`], and [`ModelError::Cuda`].
    pub fn forward(&self, batch: &Batch, cache: &mut KvCache) -> Result<Logits, ModelError> {
        self.finish(self.begin(batch, cache)?)
    }

    /// The first half of [`forward`](Self::forward): launches it and doesn't
    /// wait for the GPU.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn begin(&self, batch: &Batch, cache: &mut KvCache) -> Result<CudaPass, ModelError> {
        self.begin_recorded(batch, cache, &mut NoRecorder)
    }

    /// The second half: waits for the GPU.
    ///
    /// # Errors
    /// [`ModelError::Cuda`].
    pub fn finish(&self, pass: CudaPass) -> Result<Logits, ModelError> {
        let outcome = self.network.finish(pass.0)?;
        let tokens = outcome.picked.into_iter().map(|p| p.map(picked));
        Logits::with_tokens(outcome.logits, self.config.vocab_size, tokens.collect())
    }

    /// [`forward`](Self::forward), showing its activations to `recorder`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_recorded<R: Recorder>(
        &self,
        batch: &Batch,
        cache: &mut KvCache,
        recorder: &mut R,
    ) -> Result<Logits, ModelError> {
        self.finish(self.begin_recorded(batch, cache, recorder)?)
    }

    fn begin_recorded<R: Recorder>(
        &self,
        batch: &Batch,
        cache: &mut KvCache,
        recorder: &mut R,
    ) -> Result<CudaPass, ModelError> {
        batch.check(&self.config, cache)?;
        let tables: Vec<&[u32]> = batch.spans.iter().map(|span| &*span.blocks).collect();
        let numbers = batch.spans.iter().zip(0..);
        let sequences: Vec<u32> = numbers
            .flat_map(|(span, number)| span.rows.clone().map(move |_| number))
            .collect();
        let rows = Rows {
            tokens: &batch.tokens,
            positions: &batch.positions,
            sequences: &sequences,
            tables: &tables,
        };
        let vocab_size = self.config.vocab_size;
        let picks: Vec<_> = batch.wishes.iter().map(|w| pick(w, vocab_size)).collect();
        let wanted = Wanted {
            rows: &batch.logit_rows,
            picks: &picks,
        };
        let cache = cache.device()?;
        let is_recorded = batch.is_a_step() && batch.len() <= MOST_RECORDED;
        if !R::RECORDS && is_recorded && self.network.records_steps() {
            return Ok(CudaPass(self.network.decode(rows, cache, wanted)?));
        }
        let mut pass = self.network.begin(rows, cache, wanted)?;
        let stream = |pass: &Pass<'_>| {
            let shape = (batch.len(), self.config.n_embd);
            let x = pass.stream()?;
            Ok::<_, ModelError>(Tensor::from_vec(x, shape, &candle_core::Device::Cpu)?)
        };
        if R::RECORDS {
            recorder.hidden(0, &stream(&pass)?)?;
        }
        for layer in 0..self.config.n_layer {
            pass.attend(layer, cache)?;
            if R::RECORDS {
                let (pass, cache) = (&pass, &*cache);
                recorder.attention(layer, &Attended { pass, cache, layer })?;
                recorder.between(layer, &stream(pass)?)?;
            }
            pass.feed_forward(layer)?;
            if R::RECORDS {
                recorder.hidden(layer + 1, &stream(&pass)?)?;
            }
        }
        Ok(CudaPass(pass.end()?))
    }

    /// As [`Gpt2::logit_lens`].
    ///
    /// # Errors
    /// As [`Gpt2::logit_lens`], and [`ModelError::Cuda`].
    pub fn logit_lens(
        &self,
        inspection: &Inspection,
        position: usize,
    ) -> Result<Logits, ModelError> {
        let logits = self.network.unembed(&inspection.stream_of(position)?)?;
        Logits::new(logits, self.config.vocab_size)
    }

    /// The tokens that `wishes` choose of rows of logits `[wishes, vocab]`, on
    /// an open GPU; for one that wants the logits it means nothing.
    ///
    /// # Errors
    /// [`ModelError::Cuda`]: rows that are not whole, or what the driver says.
    pub fn pick(
        device: &Device,
        logits: &[f32],
        wishes: &[Wish],
    ) -> Result<Vec<Picked>, ModelError> {
        let vocab_size = logits.len() / wishes.len().max(1);
        let picks: Vec<_> = wishes.iter().map(|w| pick(w, vocab_size)).collect();
        Ok(device
            .pick(logits, &picks)?
            .into_iter()
            .map(picked)
            .collect())
    }
}

fn pick(wish: &Wish, vocab_size: usize) -> cuda::Pick {
    let Wish::Pick(Pick { columns, draw }) = *wish else {
        return cuda::Pick::WHOLE_ROW;
    };
    let columns = columns.min(vocab_size);
    let Some(Draw { filters, u }) = draw else {
        return cuda::Pick::greedy(columns);
    };
    let draw = cuda::Draw {
        temperature: filters.temperature,
        top_k: filters.top_k,
        top_p: filters.top_p,
        min_p: filters.min_p,
        u,
    };
    cuda::Pick::draw(columns, draw)
}

fn picked(picked: cuda::Picked) -> Picked {
    let cuda::Picked { id, logprob } = picked;
    Picked { id, logprob }
}

/// The attention of a layer of a pass.
struct Attended<'a> {
    pass: &'a Pass<'a>,
    cache: &'a Cache,
    layer: usize,
}

impl Attention for Attended<'_> {
    fn weights(
        &self,
        rows: &[(usize, usize)],
        heads: &[usize],
    ) -> Result<Vec<Vec<Vec<f32>>>, ModelError> {
        let most = rows.iter().map(|(_, at)| at + 1).max().unwrap_or(0);
        let list: Vec<u32> = rows.iter().map(|&(row, _)| row as u32).collect();
        let all = (self.pass).attention_weights(self.layer, self.cache, &list, most)?;
        let n_head = all.len() / (rows.len() * most).max(1);
        let of_head = |&head: &usize| {
            let of_row = |(i, &(_, at)): (usize, &(usize, usize))| {
                all[(i * n_head + head) * most..][..=at].to_vec()
            };
            rows.iter().enumerate().map(of_row).collect()
        };
        Ok(heads.iter().map(of_head).collect())
    }
}

/// The device's own cache.
impl KvCache {
    fn device(&mut self) -> Result<&mut Cache, ModelError> {
        let missing = || ModelError::Batch("a cache that is not on the GPU".to_owned());
        self.on_device.as_mut().ok_or_else(missing)
    }
}

fn shape(config: &Config) -> Shape {
    Shape {
        n_embd: config.n_embd,
        n_inner: config.n_inner,
        n_head: config.n_head,
        vocab_size: config.vocab_size,
        n_positions: config.n_positions,
        scales: (0..config.n_layer)
            .map(|layer| config.attention_scale(layer))
            .collect(),
        epsilon: config.layer_norm_epsilon,
        // The order of `enum Activation` in linear/layer.cuh.
        activation: match config.activation {
            Activation::Gelu => 0,
            Activation::GeluTanh => 1,
            Activation::QuickGelu => 2,
            Activation::Relu => 3,
            Activation::Silu => 4,
            Activation::Tanh => 5,
            Activation::Sigmoid => 6,
            Activation::Linear => 7,
        },
    }
}

fn matrix(layer: &PackedLinear, format: Format, device: &Device) -> Result<Matrix, ModelError> {
    let bias = layer.bias.as_ref().map(values).transpose()?;
    let shape = (layer.k, layer.n);
    Ok(with_values(&layer.weight, |packed: &[u8]| {
        let fill = |output: usize, weights: &mut [f32]| {
            unpack_column(layer.precision, packed, output, weights);
        };
        Ok(Matrix::new(device, format, shape, bias.as_deref(), fill))
    })??)
}

fn norm(norm: &NormWeights, device: &Device) -> Result<Norm, ModelError> {
    Ok(Norm::new(
        device,
        &values(&norm.weight)?,
        &values(&norm.bias)?,
    )?)
}

fn values(tensor: &Tensor) -> Result<Vec<f32>, ModelError> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}
