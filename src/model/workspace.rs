//! Memory that one forward pass leaves to the next. What the system gives anew
//! it maps and clears page by page, which would take a tenth of the time.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result, Tensor};

use super::Config;
use crate::kernels::pool::lock;

/// Values that are kept, of activations and of logits; more is given back.
const KEPT: usize = 8 << 20;

/// Memory for activations and logits while no forward pass uses it. It has no
/// meaning: passes on several threads may share it, and one that finds none
/// makes its own.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    activations: Mutex<Option<Activations>>,
    logits: Arc<Mutex<Vec<f32>>>,
}

impl Workspace {
    /// For `rows` rows or more.
    pub(super) fn activations(&self, config: &Config, rows: usize) -> Result<Activations> {
        let kept = lock(&self.activations).take();
        match kept {
            Some(kept) if kept.rows >= rows => Ok(kept),
            _ => Activations::new(config, rows),
        }
    }

    /// Takes back what [`activations`](Self::activations) gave.
    pub(super) fn keep(&self, activations: Activations) {
        if activations.values() <= KEPT {
            *lock(&self.activations) = Some(activations);
        }
    }

    /// `len` values, which have no meaning yet and come back on Drop.
    pub(super) fn values(&self, len: usize) -> Values {
        let mut values = std::mem::take(&mut *lock(&self.logits));
        values.resize(len, 0.0);
        Values {
            values,
            home: Arc::clone(&self.logits),
        }
    }
}

/// What the blocks of the model hand on: one row for each token of a batch.
#[derive(Debug)]
pub(super) struct Activations {
    rows: usize,
    /// The residual stream, `[rows, n_embd]`.
    pub(super) x: Tensor,
    /// Queries, keys and values, `[rows, 3·n_embd]`.
    pub(super) qkv: Tensor,
    /// What attention gives, `[rows, n_embd]`.
    pub(super) attended: Tensor,
}

impl Activations {
    fn new(config: &Config, rows: usize) -> Result<Self> {
        let zeros = |columns| Tensor::zeros((rows, columns), DType::F32, &Device::Cpu);
        let e = config.n_embd;
        Ok(Self {
            rows,
            x: zeros(e)?,
            qkv: zeros(3 * e)?,
            attended: zeros(e)?,
        })
    }

    /// The first `rows` rows, in the same memory.
    pub(super) fn narrow(&self, rows: usize) -> Result<Self> {
        let first = |tensor: &Tensor| tensor.narrow(0, 0, rows);
        Ok(Self {
            rows,
            x: first(&self.x)?,
            qkv: first(&self.qkv)?,
            attended: first(&self.attended)?,
        })
    }

    fn values(&self) -> usize {
        let tensors = [&self.x, &self.qkv, &self.attended];
        tensors.map(Tensor::elem_count).iter().sum()
    }
}

/// Values whose memory goes back to where it came from.
#[derive(Debug)]
pub(super) struct Values {
    values: Vec<f32>,
    home: Arc<Mutex<Vec<f32>>>,
}

impl From<Vec<f32>> for Values {
    fn from(values: Vec<f32>) -> Self {
        let home = Arc::default();
        Self { values, home }
    }
}

impl Deref for Values {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl DerefMut for Values {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}

impl Clone for Values {
    fn clone(&self) -> Self {
        Self {
            values: self.values.clone(),
            home: Arc::clone(&self.home),
        }
    }
}

impl PartialEq for Values {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        let mut home = lock(&self.home);
        if (home.len()..=KEPT).contains(&self.values.len()) {
            *home = std::mem::take(&mut self.values);
        }
    }
}
