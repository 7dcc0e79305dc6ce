//! Checkpoint names, shapes and dtypes → packed weights.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};

use super::ModelError;
use super::checkpoint::Checkpoint;
use super::config::Config;
use super::room::Room;
use super::weights::{BlockWeights, NormWeights, PackedLinear, Weights};
use crate::kernels::linear::{PANEL, Precision};
use crate::kernels::pool;

/// Elements that one thread reads at a time.
const PART: usize = 1 << 18;

/// Checks every tensor's name, shape and dtype, then reads and packs them, one
/// after another, each on all threads.
pub(super) fn load(
    checkpoint: &Checkpoint,
    config: &Config,
    precision: Precision,
) -> Result<Weights, ModelError> {
    let loader = Loader::new(checkpoint, config, precision);
    loader.check_all()?;
    let e = config.n_embd;
    let room = Room::of_model(config, precision)?;
    let wte = loader.embedding(&room, &loader.name("wte.weight"))?;
    let lm_head = loader.lm_head()?;
    let wpe = loader
        .vector("wpe.weight", config.n_positions * e)?
        .reshape((config.n_positions, e))?;
    let blocks = (0..config.n_layer)
        .map(|i| loader.block(&room, i))
        .collect::<Result<_, _>>()?;
    let ln_f = loader.norm("ln_f")?;
    loader.warn_about_others();
    Ok(Weights {
        wte,
        wpe,
        blocks,
        ln_f,
        lm_head,
    })
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a Config,
    precision: Precision,
    /// `transformer.` for checkpoints saved from `GPT2LMHeadModel`.
    prefix: &'static str,
    progress: Progress,
}

const LM_HEAD: &str = "lm_head.weight";

impl<'a> Loader<'a> {
    fn new(checkpoint: &'a Checkpoint, config: &'a Config, precision: Precision) -> Self {
        let prefixed = checkpoint.contains("transformer.wte.weight");
        let prefix = if prefixed { "transformer." } else { "" };
        Self {
            checkpoint,
            config,
            precision,
            prefix,
            progress: Progress::new(checkpoint.elements()),
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

    fn block(&self, room: &Room, i: usize) -> Result<BlockWeights, ModelError> {
        let (e, inner) = (self.config.n_embd, self.config.n_inner);
        let at = |suffix: &str| format!("h.{i}.{suffix}");
        let linear = |suffix: &str, k, n| self.linear(room, &at(suffix), (k, n));
        Ok(BlockWeights {
            ln_1: self.norm(&at("ln_1"))?,
            c_attn: linear("attn.c_attn", e, 3 * e)?,
            attn_c_proj: linear("attn.c_proj", e, e)?,
            ln_2: self.norm(&at("ln_2"))?,
            c_fc: linear("mlp.c_fc", e, inner)?,
            mlp_c_proj: linear("mlp.c_proj", inner, e)?,
        })
    }

    fn norm(&self, name: &str) -> Result<NormWeights, ModelError> {
        Ok(NormWeights {
            weight: self.vector(&format!("{name}.weight"), self.config.n_embd)?,
            bias: self.vector(&format!("{name}.bias"), self.config.n_embd)?,
        })
    }

    fn vector(&self, name: &str, n: usize) -> Result<Tensor, ModelError> {
        let values = self.values(&self.name(name), f32::MAX)?;
        Ok(Tensor::from_vec(values, n, &Device::Cpu)?)
    }

    /// All values of a tensor, of at most `largest` in magnitude, read on all
    /// threads.
    fn values(&self, name: &str, largest: f32) -> Result<Vec<f32>, ModelError> {
        let tensor = self.checkpoint.tensor(name)?;
        let mut values = vec![0.0; tensor.len()];
        pool::try_for_each_chunk(&mut values, PART, |i, out| {
            tensor.read(i * PART, out, largest)
        })?;
        self.progress.add(values.len());
        Ok(values)
    }

    /// A Conv1D: `[k, n]` as stored, y = x·W + b.
    fn linear(
        &self,
        room: &Room,
        name: &str,
        (k, n): (usize, usize),
    ) -> Result<PackedLinear, ModelError> {
        let bias = self.vector(&format!("{name}.bias"), n)?;
        let name = self.name(&format!("{name}.weight"));
        let stored = self.values(&name, self.precision.largest())?;
        PackedLinear::pack(room, (k, n), Some(bias), |panel, values| {
            let first = panel * PANEL;
            let columns = PANEL.min(n - first);
            for (row, values) in stored.chunks(n).zip(values.chunks_mut(PANEL)) {
                values[..columns].copy_from_slice(&row[first..first + columns]);
            }
            Ok(())
        })
    }

    /// `[vocab, n_embd]` as stored: a row is an output column.
    fn embedding(&self, room: &Room, name: &str) -> Result<PackedLinear, ModelError> {
        let (k, n) = (self.config.n_embd, self.config.vocab_size);
        let tensor = self.checkpoint.tensor(name)?;
        PackedLinear::pack(room, (k, n), None, |panel, values| {
            let first = panel * PANEL;
            let mut rows = vec![0.0; PANEL.min(n - first) * k];
            tensor.read(first * k, &mut rows, self.precision.largest())?;
            for (column, row) in rows.chunks(k).enumerate() {
                for (value, to) in row.iter().zip(values[column..].iter_mut().step_by(PANEL)) {
                    *to = *value;
                }
            }
            self.progress.add(rows.len());
            Ok(())
        })
    }

    /// The head, if there is one that differs from `wte`: then they are not
    /// tied, whatever the configuration says.
    fn lm_head(&self) -> Result<Option<PackedLinear>, ModelError> {
        if !self.checkpoint.contains(LM_HEAD) || self.head_is_wte()? {
            return Ok(None);
        }
        if self.config.tie_word_embeddings {
            tracing::warn!(
                "{}: lm_head.weight differs from wte.weight, so it is used as the head although \
                 config.json says that they are tied",
                self.checkpoint.name
            );
        }
        let shape = (self.config.n_embd, self.config.vocab_size);
        let room = Room::new(self.precision, std::iter::once(shape))?;
        self.embedding(&room, LM_HEAD).map(Some)
    }

    fn head_is_wte(&self) -> Result<bool, ModelError> {
        let head = self.checkpoint.tensor(LM_HEAD)?;
        let wte = self.checkpoint.tensor(&self.name("wte.weight"))?;
        let same = AtomicBool::new(true);
        pool::try_run(head.len().div_ceil(PART), |i| -> Result<(), ModelError> {
            if !same.load(Ordering::Relaxed) {
                return Ok(());
            }
            let count = PART.min(head.len() - i * PART);
            let (mut a, mut b) = (vec![0.0; count], vec![0.0; count]);
            head.read(i * PART, &mut a, f32::MAX)?;
            wte.read(i * PART, &mut b, f32::MAX)?;
            if a != b {
                same.store(false, Ordering::Relaxed);
            }
            Ok(())
        })?;
        Ok(same.into_inner())
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

/// Says how far the loading is, once a second after the first.
struct Progress {
    total: usize,
    done: AtomicUsize,
    started: Instant,
    /// Seconds after which the last word was said.
    said: AtomicUsize,
}

impl Progress {
    fn new(total: usize) -> Self {
        Self {
            total,
            done: AtomicUsize::new(0),
            started: Instant::now(),
            said: AtomicUsize::new(0),
        }
    }

    fn add(&self, elements: usize) {
        let done = self.done.fetch_add(elements, Ordering::Relaxed) + elements;
        let seconds = self.started.elapsed().as_secs() as usize;
        if self.started.elapsed() > Duration::from_secs(1)
            && self.said.fetch_max(seconds, Ordering::Relaxed) < seconds
        {
            let percent = done as f64 / self.total.max(1) as f64 * 100.0;
            tracing::info!("loading weights: {percent:.0}% after {seconds} s");
        }
    }
}
