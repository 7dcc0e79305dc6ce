//! The transformer: learned positions, pre-LayerNorm blocks, a tied head.
//!
//! Radford et al., "Language Models are Unsupervised Multitask Learners"
//! (2019); names are those of the published checkpoints.

use candle_core::{Device, Tensor};

use super::batch::Batch;
use super::checkpoint::Checkpoint;
use super::config::Config;
use super::files::ModelFiles;
use super::inspection::{Attention, Inspection};
use super::kv_cache::{KvCache, KvDtype, LayerCache};
use super::loader;
use super::logits::Logits;
use super::ops::{self, AttentionView, Linear, Mlp, Then};
use super::weights::Weights;
use super::workspace::{Activations, Workspace};
use super::{Dtype, LoadOptions, ModelError};
use crate::kernels::attention::{CacheFormat, Heads, Piece};
use crate::kernels::linear::Precision;

/// A loaded GPT-2. It holds weights only: the cache is an argument of
/// [`forward`](Self::forward), so one model can serve many caches.
#[derive(Debug)]
pub struct Gpt2 {
    config: Config,
    weights: Weights,
    kv_dtype: KvDtype,
    workspace: Workspace,
}

/// Is shown the activations of a forward pass as they come.
pub trait Recorder {
    /// Whether anything is recorded: what is on a GPU must be copied to be shown.
    const RECORDS: bool = true;

    /// The residual stream: after the embedding (`layer` 0) and after each
    /// block (`layer` 1 to n_layer), before the final LayerNorm;
    /// `[rows, n_embd]`. Its memory is written again once this returns.
    fn hidden(&mut self, layer: usize, x: &Tensor) -> Result<(), ModelError>;

    /// The attention of block `layer`, from 0.
    fn attention(&mut self, _layer: usize, _attention: &dyn Attention) -> Result<(), ModelError> {
        Ok(())
    }

    /// The residual stream between attention and MLP of block `layer`, from 0;
    /// `[rows, n_embd]`.
    fn between(&mut self, _layer: usize, _x: &Tensor) -> Result<(), ModelError> {
        Ok(())
    }
}

/// Records nothing, and costs nothing.
#[derive(Debug, Clone, Copy)]
pub struct NoRecorder;

impl Recorder for NoRecorder {
    const RECORDS: bool = false;

    #[inline(always)]
    fn hidden(&mut self, _layer: usize, _x: &Tensor) -> Result<(), ModelError> {
        Ok(())
    }
}

impl Gpt2 {
    /// Loads a checkpoint: its configuration, then every tensor, checked by
    /// name, shape, dtype and finiteness before anything runs.
    ///
    /// # Errors
    /// [`ModelError`] naming the file and the field or tensor at fault.
    pub fn load(files: &ModelFiles, options: &LoadOptions) -> Result<Self, ModelError> {
        let file = files.config.name();
        let mut config = Config::from_json(&files.config.read()?, &file)?;
        if let Some(generation) = &files.generation_config {
            let eos = Config::eos_from_generation_config(&generation.read()?, &generation.name())?;
            config.eos_token_ids = eos.unwrap_or(config.eos_token_ids);
        }
        let checkpoint = Checkpoint::open(&files.weights)?;
        let weights = loader::load(&checkpoint, &config, options.dtype.precision()?)?;
        Ok(Self::new(config, weights))
    }

    /// A model of this shape with random weights, for measuring speed.
    ///
    /// # Errors
    /// [`ModelError::Memory`] when it cannot be had.
    pub fn random(config: Config, dtype: Dtype, seed: u64) -> Result<Self, ModelError> {
        let weights = Weights::random(&config, dtype.precision()?, seed)?;
        Ok(Self::new(config, weights))
    }

    /// A copy in another precision, the weights of each output of each linear
    /// layer, `[k]`, changed by `change` on the way: for comparing what rounding
    /// costs. The token embedding is such a layer, each token an output.
    ///
    /// # Errors
    /// [`ModelError::Memory`] when it cannot be had.
    pub fn repacked(
        &self,
        dtype: Dtype,
        change: impl Fn(&mut [f32]) + Sync,
    ) -> Result<Self, ModelError> {
        let config = self.config.clone();
        let weights = self.weights.repacked(dtype.precision()?, change)?;
        Ok(Self::new(config, weights))
    }

    fn new(config: Config, weights: Weights) -> Self {
        // In f32 where the weights are, so that all is as transformers
        // computes it.
        let kv_dtype = match weights.wte.precision {
            Precision::F32 => KvDtype::F32,
            Precision::Bf16 | Precision::Q8 | Precision::Q4 => KvDtype::Bf16,
        };
        Self {
            config,
            weights,
            kv_dtype,
            workspace: Workspace::default(),
        }
    }

    /// The same model, whose caches keep keys and values in this precision.
    /// Unless set, it is f32 for weights in f32 and bf16 for others.
    pub fn with_kv_dtype(self, kv_dtype: KvDtype) -> Self {
        Self { kv_dtype, ..self }
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    #[cfg(feature = "cuda")]
    pub(super) fn weights(&self) -> &Weights {
        &self.weights
    }

    /// How caches keep keys and values, and what is multiplied with them.
    pub fn cache_format(&self) -> CacheFormat {
        match (self.kv_dtype, self.weights.wte.precision) {
            (KvDtype::F32, _) => CacheFormat::F32,
            (KvDtype::Bf16, Precision::Bf16) => CacheFormat::Bf16Products,
            (KvDtype::Bf16, _) => CacheFormat::Bf16,
        }
    }

    /// A cache of that format with room for `tokens` tokens.
    ///
    /// # Errors
    /// [`ModelError::Memory`] when it cannot be had.
    pub fn cache(&self, tokens: usize) -> Result<KvCache, ModelError> {
        KvCache::new(&self.config, self.cache_format(), tokens)
    }

    /// Bytes of the weights as they are held in memory.
    pub fn packed_bytes(&self) -> usize {
        self.weights.bytes()
    }

    /// Computes the logits that `batch` asks for and adds its tokens to the
    /// cache. The caller commits them to their leases afterwards.
    ///
    /// # Errors
    /// [`ModelError::Batch`] for an id outside the vocabulary, a position
    /// outside the context or a lease on another cache; nothing is written then.
    pub fn forward(&self, batch: &Batch, cache: &mut KvCache) -> Result<Logits, ModelError> {
        self.forward_recorded(batch, cache, &mut NoRecorder)
    }

    /// [`forward`](Self::forward), showing its activations to `recorder`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_recorded(
        &self,
        batch: &Batch,
        cache: &mut KvCache,
        recorder: &mut impl Recorder,
    ) -> Result<Logits, ModelError> {
        batch.check(&self.config, cache)?;
        if cache.layers.len() != self.config.n_layer {
            return Err(ModelError::Batch("a cache of another model".to_owned()));
        }
        let memory = self.workspace.activations(&self.config, batch.len())?;
        let activations = memory.narrow(batch.len())?;
        let pieces = ops::pieces(&batch.spans);

        self.embed(batch, &activations.x)?;
        recorder.hidden(0, &activations.x)?;
        for (i, layer_cache) in cache.layers.iter().enumerate() {
            self.block(i, &activations, (&pieces, layer_cache), recorder)?;
            recorder.hidden(i + 1, &activations.x)?;
        }
        let logits = self.head(&activations.x, batch)?;
        self.workspace.keep(memory);
        Ok(logits)
    }

    /// x = wte(tokens) + wpe(positions): `[rows, n_embd]`.
    fn embed(&self, batch: &Batch, x: &Tensor) -> Result<(), ModelError> {
        let tables = (&self.weights.wte, &self.weights.wpe);
        Ok(ops::embed(tables, (&batch.tokens, &batch.positions), x)?)
    }

    /// x += attn(ln_1(x)), then x += mlp(ln_2(x)).
    fn block(
        &self,
        i: usize,
        activations: &Activations,
        (pieces, cache): (&[Piece<'_>], &LayerCache),
        recorder: &mut impl Recorder,
    ) -> Result<(), ModelError> {
        let block = &self.weights.blocks[i];
        let heads = Heads {
            count: self.config.n_head,
            dim: self.config.head_dim(),
            scale: self.config.attention_scale(i),
        };
        let Activations {
            x, qkv, attended, ..
        } = activations;
        let epsilon = self.config.layer_norm_epsilon;

        let c_attn = Linear {
            layer: &block.c_attn,
            norm: Some((&block.ln_1, epsilon)),
            then: Then::Store,
        };
        ops::linear(x, c_attn, qkv)?;
        ops::attention(qkv, cache, (pieces, heads), attended)?;
        let view = AttentionView {
            qkv,
            cache,
            pieces,
            heads,
        };
        recorder.attention(i, &view)?;
        let c_proj = Linear {
            layer: &block.attn_c_proj,
            norm: None,
            then: Then::Add,
        };
        ops::linear(attended, c_proj, x)?;
        recorder.between(i, x)?;

        let mlp = Mlp {
            norm: (&block.ln_2, epsilon),
            c_fc: &block.c_fc,
            activation: self.config.activation,
            c_proj: &block.mlp_c_proj,
        };
        Ok(ops::mlp(x, mlp)?)
    }

    /// Logits of the rows that are asked for, and of no others.
    fn head(&self, x: &Tensor, batch: &Batch) -> Result<Logits, ModelError> {
        if batch.logit_rows.is_empty() {
            return Logits::new(Vec::new(), self.config.vocab_size);
        }
        let rows = Tensor::new(&*batch.logit_rows, &Device::Cpu)?;
        self.unembed(&x.index_select(&rows, 0)?)
    }

    /// What the model would say at `position` if it ended after the embedding,
    /// or after each block: the logit lens (nostalgebraist, 2020);
    /// `[n_layer + 1, vocab_size]`.
    ///
    /// # Errors
    /// [`ModelError::Batch`] if the stream of that position was not kept.
    pub fn logit_lens(
        &self,
        inspection: &Inspection,
        position: usize,
    ) -> Result<Logits, ModelError> {
        let rows = inspection.stream_of(position)?;
        let shape = (self.config.n_layer + 1, self.config.n_embd);
        self.unembed(&Tensor::from_vec(rows, shape, &Device::Cpu)?)
    }

    /// The logits of rows of the residual stream `[rows, n_embd]`: the final
    /// LayerNorm, then the head.
    fn unembed(&self, x: &Tensor) -> Result<Logits, ModelError> {
        let vocab_size = self.config.vocab_size;
        let head = Linear {
            layer: self.weights.lm_head.as_ref().unwrap_or(&self.weights.wte),
            norm: Some((&self.weights.ln_f, self.config.layer_norm_epsilon)),
            then: Then::Store,
        };
        let mut values = self.workspace.values(x.dim(0)? * vocab_size);
        ops::linear_values(x, head, &mut values)?;
        Ok(Logits::of(values, vocab_size))
    }
}
