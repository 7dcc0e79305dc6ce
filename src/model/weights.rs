//! The weights of a model, packed as the kernels read them.

use candle_core::{DType, Device, Tensor};

use super::ModelError;
use super::config::Config;
use super::ops;
use super::room::Room;
use crate::kernels::linear::{PANEL, Precision, pack_panel, packed_len, unpack_column};
use crate::kernels::pool;

/// The weights of a linear layer.
#[derive(Debug, Clone)]
pub(super) struct PackedLinear {
    /// Panel by panel, `packed_len` bytes.
    pub(super) weight: Tensor,
    /// How they are packed.
    pub(super) precision: Precision,
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

impl PackedLinear {
    /// Packs a matrix panel by panel, on all threads: `fill(panel, values)`
    /// puts the weights of the panel's columns into `values [k, PANEL]`, which
    /// comes filled with zeros.
    pub(super) fn pack(
        room: &Room,
        (k, n): (usize, usize),
        bias: Option<Tensor>,
        fill: impl Fn(usize, &mut [f32]) -> Result<(), ModelError> + Sync,
    ) -> Result<Self, ModelError> {
        let precision = room.precision();
        let panel_len = packed_len(precision, k, 1);
        let weight = room.take((k, n), |packed| {
            pool::try_for_each_chunk(packed, panel_len, |panel, out| {
                let mut values = vec![0.0; k * PANEL];
                fill(panel, &mut values)?;
                pack_panel(precision, &values, out);
                Ok::<_, ModelError>(())
            })
        })?;
        Ok(Self {
            weight,
            precision,
            bias,
            k,
            n,
        })
    }

    /// The same weights packed anew, those of each output, `[k]`, changed on
    /// the way.
    fn repacked(
        &self,
        room: &Room,
        change: &(impl Fn(&mut [f32]) + Sync),
    ) -> Result<Self, ModelError> {
        let (k, n) = (self.k, self.n);
        ops::with_values(&self.weight, |packed| {
            let fill = |panel: usize, values: &mut [f32]| {
                let mut weights = vec![0.0; k];
                for (c, column) in (panel * PANEL..n).take(PANEL).enumerate() {
                    unpack_column(self.precision, packed, column, &mut weights);
                    change(&mut weights);
                    for (w, to) in weights.iter().zip(values[c..].iter_mut().step_by(PANEL)) {
                        *to = *w;
                    }
                }
                Ok(())
            };
            Ok(Self::pack(room, (k, n), self.bias.clone(), fill))
        })?
    }
}

impl Weights {
    /// All linear layers [repacked](PackedLinear::repacked).
    pub(super) fn repacked(
        &self,
        precision: Precision,
        change: impl Fn(&mut [f32]) + Sync,
    ) -> Result<Self, ModelError> {
        let room = Room::new(precision, self.matrices().map(|layer| (layer.k, layer.n)))?;
        let again = |layer: &PackedLinear| layer.repacked(&room, &change);
        let block = |block: &BlockWeights| {
            Ok(BlockWeights {
                ln_1: block.ln_1.clone(),
                c_attn: again(&block.c_attn)?,
                attn_c_proj: again(&block.attn_c_proj)?,
                ln_2: block.ln_2.clone(),
                c_fc: again(&block.c_fc)?,
                mlp_c_proj: again(&block.mlp_c_proj)?,
            })
        };
        Ok(Self {
            wte: again(&self.wte)?,
            wpe: self.wpe.clone(),
            blocks: self
                .blocks
                .iter()
                .map(block)
                .collect::<Result<_, ModelError>>()?,
            ln_f: self.ln_f.clone(),
            lm_head: self.lm_head.as_ref().map(again).transpose()?,
        })
    }

    /// Random weights of the right shapes, for measuring speed: normal-like
    /// with deviation 0.02, as GPT-2 is initialised.
    pub(super) fn random(
        config: &Config,
        precision: Precision,
        seed: u64,
    ) -> Result<Self, ModelError> {
        let room = Room::of_model(config, precision)?;
        let mut noise = Noise(seed);
        let e = config.n_embd;
        let norm = |noise: &mut Noise| -> Result<NormWeights, ModelError> {
            Ok(NormWeights {
                weight: Tensor::ones(e, DType::F32, &Device::Cpu)?,
                bias: noise.vector(e)?,
            })
        };
        let linear = |noise: &mut Noise, k: usize, n: usize, bias: bool| {
            let bias = bias.then(|| noise.vector(n)).transpose()?;
            let seed = noise.bits();
            PackedLinear::pack(&room, (k, n), bias, |panel, values| {
                let mut noise = Noise(seed ^ (panel as u64) << 32);
                let columns = PANEL.min(n - panel * PANEL);
                for row in values.chunks_mut(PANEL) {
                    row[..columns].fill_with(|| noise.next());
                }
                Ok(())
            })
        };
        let wte = linear(&mut noise, e, config.vocab_size, false)?;
        let wpe = noise
            .vector(config.n_positions * e)?
            .reshape((config.n_positions, e))?;
        let blocks = (0..config.n_layer)
            .map(|_| {
                Ok(BlockWeights {
                    ln_1: norm(&mut noise)?,
                    c_attn: linear(&mut noise, e, 3 * e, true)?,
                    attn_c_proj: linear(&mut noise, e, e, true)?,
                    ln_2: norm(&mut noise)?,
                    c_fc: linear(&mut noise, e, config.n_inner, true)?,
                    mlp_c_proj: linear(&mut noise, config.n_inner, e, true)?,
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
        let floats = |t: &Tensor| t.elem_count() * size_of::<f32>();
        let linear = |l: &PackedLinear| l.weight.elem_count() + l.bias.as_ref().map_or(0, floats);
        let norm = |n: &NormWeights| floats(&n.weight) + floats(&n.bias);
        let norms = self.blocks.iter().flat_map(|b| [&b.ln_1, &b.ln_2]);
        let norms = norms.chain([&self.ln_f]).map(norm).sum::<usize>();
        self.matrices().map(linear).sum::<usize>() + floats(&self.wpe) + norms
    }

    fn matrices(&self) -> impl Iterator<Item = &PackedLinear> {
        let blocks = self.blocks.iter();
        let blocks = blocks.flat_map(|b| [&b.c_attn, &b.attn_c_proj, &b.c_fc, &b.mlp_c_proj]);
        blocks.chain([&self.wte]).chain(&self.lm_head)
    }
}

/// A small generator for benchmark weights (SplitMix64).
struct Noise(u64);

impl Noise {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn next(&mut self) -> f32 {
        let z = self.bits();
        // The sum of four uniform 16-bit parts is near enough to normal.
        let sum: u64 = (0..4).map(|i| (z >> (16 * i)) & 0xffff).sum();
        (sum as f32 / 65_535.0 - 2.0) * (0.02 * 1.732)
    }

    fn vector(&mut self, n: usize) -> Result<Tensor, ModelError> {
        let values: Vec<f32> = (0..n).map(|_| self.next()).collect();
        Ok(Tensor::from_vec(values, n, &Device::Cpu)?)
    }
}
