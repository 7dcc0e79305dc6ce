//! Checkpoint names, shapes and dtypes → packed weights.

use candle_core::{Device, Tensor};

use super::ModelError;
use super::checkpoint::Checkpoint;
use super::config::Config;
use crate::kernels::linear::{PANEL, packed_index, panels};

/// The weights of a linear layer as the kernels read them.
#[derive(Debug, Clone)]
pub(super) struct PackedLinear {
    /// `[panels(n), k, PANEL]`.
    pub(super) weight: Tensor,
    /// `[n]`; the output head has none.
    pub(super) bias: Option<Tensor>,
    /// Inputs.
    pub(super) k: usize,
    /// Outputs.
    pub(super) n: usize,
}

/// Scale and shift of a LayerNorm, `[n_embd]` each.
#[derive(Debug, Clone)]
pub(super) struct NormWeights {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
}

/// One transformer block, under the checkpoint's names.
#[derive(Debug, Clone)]
pub(super) struct BlockWeights {
    pub(super) ln_1: NormWeights,
    pub(super) c_attn: PackedLinear,
    pub(super) attn_c_proj: PackedLinear,
    pub(super) ln_2: NormWeights,
    pub(super) c_fc: PackedLinear,
    pub(super) mlp_c_proj: PackedLinear,
}

/// All weights of a model. `wte` serves embedding and, where it is tied, head.
#[derive(Debug, Clone)]
pub(super) struct Weights {
    /// Token embedding as a linear layer `[n_embd → vocab_size]`.
    pub(super) wte: PackedLinear,
    /// Position embedding, `[n_positions, n_embd]`.
    pub(super) wpe: Tensor,
    pub(super) blocks: Vec<BlockWeights>,
    pub(super) ln_f: NormWeights,
    /// The head, where it isn't `wte`.
    pub(super) lm_head: Option<PackedLinear>,
}

impl Weights {
    /// Checks every tensor's name, shape and dtype, then reads and packs them,
    /// one after another.
    pub(super) fn load(checkpoint: &Checkpoint, config: &Config) -> Result<Self, ModelError> {
        let loader = Loader::new(checkpoint, config);
        loader.check_all()?;
        let e = config.n_embd;
        // The largest first, so that what reading it needs besides is not
        // added to the sum of all others.
        let wte = loader.embedding(&loader.name("wte.weight"))?;
        let lm_head = loader.lm_head(&wte)?;
        let wpe = loader.matrix("wpe.weight", config.n_positions, e)?;
        let blocks = (0..config.n_layer)
            .map(|i| loader.block(i))
            .collect::<Result<_, _>>()?;
        let ln_f = loader.norm("ln_f")?;
        loader.warn_about_others();
        Ok(Self {
            wte,
            wpe,
            blocks,
            ln_f,
            lm_head,
        })
    }

    /// Random weights of the right shapes, for measuring speed: normal-like
    /// with deviation 0.02, as GPT-2 is initialised.
    pub(super) fn random(config: &Config, seed: u64) -> Result<Self, ModelError> {
        let mut noise = Noise(seed);
        let e = config.n_embd;
        let norm = |noise: &mut Noise| -> Result<NormWeights, ModelError> {
            Ok(NormWeights {
                weight: Tensor::ones(e, candle_core::DType::F32, &Device::Cpu)?,
                bias: noise.vector(e)?,
            })
        };
        let wte = noise.linear(e, config.vocab_size, false)?;
        let wpe = noise
            .vector(config.n_positions * e)?
            .reshape((config.n_positions, e))?;
        let blocks = (0..config.n_layer)
            .map(|_| {
                Ok(BlockWeights {
                    ln_1: norm(&mut noise)?,
                    c_attn: noise.linear(e, 3 * e, true)?,
                    attn_c_proj: noise.linear(e, e, true)?,
                    ln_2: norm(&mut noise)?,
                    c_fc: noise.linear(e, config.n_inner, true)?,
                    mlp_c_proj: noise.linear(config.n_inner, e, true)?,
                })
            })
            .collect::<Result<_, ModelError>>()?;
        let ln_f = norm(&mut noise)?;
        Ok(Self {
            wte,
            wpe,
            blocks,
            ln_f,
            lm_head: None,
        })
    }

    /// Bytes of all weights as held in memory.
    pub(super) fn bytes(&self) -> usize {
        let linear = |l: &PackedLinear| {
            l.weight.elem_count() + l.bias.as_ref().map_or(0, Tensor::elem_count)
        };
        let norm = |n: &NormWeights| 2 * n.weight.elem_count();
        let blocks = self.blocks.iter().map(|b| {
            let linears = [&b.c_attn, &b.attn_c_proj, &b.c_fc, &b.mlp_c_proj];
            linears.map(linear).iter().sum::<usize>() + norm(&b.ln_1) + norm(&b.ln_2)
        });
        let elements = linear(&self.wte)
            + self.wpe.elem_count()
            + blocks.sum::<usize>()
            + norm(&self.ln_f)
            + self.lm_head.as_ref().map_or(0, linear);
        elements * size_of::<f32>()
    }
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a Config,
    /// `transformer.` for checkpoints saved from `GPT2LMHeadModel`.
    prefix: &'static str,
}

const LM_HEAD: &str = "lm_head.weight";

impl<'a> Loader<'a> {
    fn new(checkpoint: &'a Checkpoint, config: &'a Config) -> Self {
        let prefixed = checkpoint.contains("transformer.wte.weight");
        let prefix = if prefixed { "transformer." } else { "" };
        Self {
            checkpoint,
            config,
            prefix,
        }
    }

    fn name(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.prefix)
    }

    /// Every tensor before anything large is allocated, so that a wrong
    /// configuration is found at once.
    fn check_all(&self) -> Result<(), ModelError> {
        let (e, inner) = (self.config.n_embd, self.config.n_inner);
        let expect =
            |suffix: &str, shape: &[usize]| self.checkpoint.expect(&self.name(suffix), shape);
        expect("wte.weight", &[self.config.vocab_size, e])?;
        expect("wpe.weight", &[self.config.n_positions, e])?;
        for i in 0..self.config.n_layer {
            let within = |suffix: &str, shape: &[usize]| expect(&format!("h.{i}.{suffix}"), shape);
            for (name, k, n) in [
                ("attn.c_attn", e, 3 * e),
                ("attn.c_proj", e, e),
                ("mlp.c_fc", e, inner),
                ("mlp.c_proj", inner, e),
            ] {
                within(&format!("{name}.weight"), &[k, n])?;
                within(&format!("{name}.bias"), &[n])?;
            }
            for name in ["ln_1", "ln_2"] {
                within(&format!("{name}.weight"), &[e])?;
                within(&format!("{name}.bias"), &[e])?;
            }
        }
        expect("ln_f.weight", &[e])?;
        expect("ln_f.bias", &[e])?;
        if self.checkpoint.contains(LM_HEAD) {
            return self
                .checkpoint
                .expect(LM_HEAD, &[self.config.vocab_size, e]);
        }
        if !self.config.tie_word_embeddings {
            let reason = "missing, and config.json says that it is not tied to wte";
            return Err(ModelError::tensor(&self.checkpoint.name, LM_HEAD, reason));
        }
        Ok(())
    }

    fn block(&self, i: usize) -> Result<BlockWeights, ModelError> {
        let (e, inner) = (self.config.n_embd, self.config.n_inner);
        let at = |suffix: &str| format!("h.{i}.{suffix}");
        Ok(BlockWeights {
            ln_1: self.norm(&at("ln_1"))?,
            c_attn: self.linear(&at("attn.c_attn"), e, 3 * e)?,
            attn_c_proj: self.linear(&at("attn.c_proj"), e, e)?,
            ln_2: self.norm(&at("ln_2"))?,
            c_fc: self.linear(&at("mlp.c_fc"), e, inner)?,
            mlp_c_proj: self.linear(&at("mlp.c_proj"), inner, e)?,
        })
    }

    fn norm(&self, name: &str) -> Result<NormWeights, ModelError> {
        Ok(NormWeights {
            weight: self.vector(&format!("{name}.weight"), self.config.n_embd)?,
            bias: self.vector(&format!("{name}.bias"), self.config.n_embd)?,
        })
    }

    fn vector(&self, name: &str, n: usize) -> Result<Tensor, ModelError> {
        Ok(self.matrix(name, 1, n)?.flatten_all()?)
    }

    fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Tensor, ModelError> {
        let mut values = vec![0.0; rows * columns];
        self.checkpoint
            .stream(&self.name(name), columns, |first, run| {
                values[first..first + run.len()].copy_from_slice(run);
                true
            })?;
        Ok(Tensor::from_vec(values, (rows, columns), &Device::Cpu)?)
    }

    /// A Conv1D: `[k, n]` as stored, y = x·W + b.
    fn linear(&self, name: &str, k: usize, n: usize) -> Result<PackedLinear, ModelError> {
        let mut packed = vec![0.0; panels(n) * k * PANEL];
        let weight = self.name(&format!("{name}.weight"));
        self.checkpoint.stream(&weight, n, |first, run| {
            for (row, values) in run.chunks(n).enumerate() {
                for (panel, columns) in values.chunks(PANEL).enumerate() {
                    let at = packed_index(first / n + row, panel * PANEL, k);
                    packed[at..at + columns.len()].copy_from_slice(columns);
                }
            }
            true
        })?;
        let bias = Some(self.vector(&format!("{name}.bias"), n)?);
        PackedLinear::new(packed, bias, k, n)
    }

    /// `[vocab, n_embd]` as stored: a row is an output column.
    fn embedding(&self, name: &str) -> Result<PackedLinear, ModelError> {
        let (k, n) = (self.config.n_embd, self.config.vocab_size);
        let mut packed = vec![0.0; panels(n) * k * PANEL];
        self.checkpoint.stream(name, k, |first, run| {
            for (row, values) in run.chunks(k).enumerate() {
                let at = packed_index(0, first / k + row, k);
                for (i, value) in values.iter().enumerate() {
                    packed[at + i * PANEL] = *value;
                }
            }
            true
        })?;
        PackedLinear::new(packed, None, k, n)
    }

    /// The head, if there is one that differs from `wte`: then they are not
    /// tied, whatever the configuration says.
    fn lm_head(&self, wte: &PackedLinear) -> Result<Option<PackedLinear>, ModelError> {
        if !self.checkpoint.contains(LM_HEAD) {
            return Ok(None);
        }
        let mut same = true;
        let k = self.config.n_embd;
        let (storage, _) = wte.weight.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else {
            return Err(ModelError::Unsupported(
                "weights are packed on the CPU".to_owned(),
            ));
        };
        let packed = storage.as_slice::<f32>()?;
        self.checkpoint.stream(LM_HEAD, k, |first, run| {
            same = run.chunks(k).enumerate().all(|(row, values)| {
                let at = packed_index(0, first / k + row, k);
                values
                    .iter()
                    .enumerate()
                    .all(|(i, v)| packed[at + i * PANEL] == *v)
            });
            same
        })?;
        if same {
            return Ok(None);
        }
        if self.config.tie_word_embeddings {
            tracing::warn!(
                "{}: lm_head.weight differs from wte.weight, so it is used as the head although \
                 config.json says that they are tied",
                self.checkpoint.name
            );
        }
        self.embedding(LM_HEAD).map(Some)
    }

    /// Tensors that a GPT-2 doesn't have are not an error, but worth a word.
    fn warn_about_others(&self) {
        let known = |name: &str| {
            let name = name.strip_prefix(self.prefix).unwrap_or(name);
            let Some(rest) = name.strip_prefix("h.") else {
                return matches!(
                    name,
                    "wte.weight" | "wpe.weight" | "ln_f.weight" | "ln_f.bias"
                ) || name == LM_HEAD;
            };
            let suffix = rest.split_once('.').map_or("", |(_, suffix)| suffix);
            // Mask buffers that old checkpoints carry.
            matches!(suffix, "attn.bias" | "attn.masked_bias")
                || [
                    "attn.c_attn",
                    "attn.c_proj",
                    "mlp.c_fc",
                    "mlp.c_proj",
                    "ln_1",
                    "ln_2",
                ]
                .iter()
                .any(|layer| suffix.starts_with(layer))
        };
        let mut others: Vec<&str> = self.checkpoint.names().filter(|n| !known(n)).collect();
        others.sort_unstable();
        if !others.is_empty() {
            tracing::warn!("{}: ignored tensors {others:?}", self.checkpoint.name);
        }
    }
}

impl PackedLinear {
    fn new(packed: Vec<f32>, bias: Option<Tensor>, k: usize, n: usize) -> Result<Self, ModelError> {
        let weight = Tensor::from_vec(packed, (panels(n), k, PANEL), &Device::Cpu)?;
        Ok(Self { weight, bias, k, n })
    }
}

/// A small generator for benchmark weights (SplitMix64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // The sum of four uniform 16-bit parts is near enough to normal.
        let sum: u64 = (0..4).map(|i| (z >> (16 * i)) & 0xffff).sum();
        (sum as f32 / 65_535.0 - 2.0) * (0.02 * 1.732)
    }

    fn vector(&mut self, n: usize) -> Result<Tensor, ModelError> {
        let values: Vec<f32> = (0..n).map(|_| self.next()).collect();
        Ok(Tensor::from_vec(values, n, &Device::Cpu)?)
    }

    fn linear(&mut self, k: usize, n: usize, bias: bool) -> Result<PackedLinear, ModelError> {
        let mut packed = vec![0.0; panels(n) * k * PANEL];
        for i in 0..k {
            for j in 0..n {
                packed[packed_index(i, j, k)] = self.next();
            }
        }
        let bias = bias.then(|| self.vector(n)).transpose()?;
        PackedLinear::new(packed, bias, k, n)
    }
}
